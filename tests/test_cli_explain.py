"""`charlstm explain` and `charlstm neurons` as a person types them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run

from charlstm.activations import GATES


def test_lines_by_default(trained: Path) -> None:
    result = run("explain", "--seed", "The king is dead.\nLong", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("king, step ")
    assert "22 characters" in lines[0]
    assert any(line.strip() == "The king is dead.↵" for line in lines)
    assert sum(line.startswith("surprise  ") for line in lines) == 2


@pytest.mark.parametrize("ending", ["html", "png", "svg"])
def test_a_file_appears_whole(trained: Path, ending: str) -> None:
    result = run("explain", "--seed", "The king", "-o", f"page.{ending}")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert f"written: page.{ending}" in result.stderr
    content = Path(f"page.{ending}").read_bytes()
    assert {"html": b"<!DOCTYPE html>", "png": b"\x89PNG", "svg": b"<?xml"}[ending] in content[:20]
    assert [p.name for p in Path().iterdir() if "page" in p.name] == [f"page.{ending}"]


def test_json(trained: Path) -> None:
    result = run("explain", "--seed", "The king", "-n", "5", "--random-seed", "3", "--json", "-q")
    content = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert content["text"].startswith("The king")
    assert len(content["text"]) == 13
    assert content["seed_characters"] == 8
    assert content["random_seed"] == 3
    assert np.array(content["forget"]).shape == (2, 13, 6)
    written = run("generate", "--seed", "The king", "-n", "5", "--random-seed", "3", "-q").stdout
    assert content["text"] == written


def test_without_a_seed_it_writes_on_from_a_window(trained: Path) -> None:
    content = json.loads(run("explain", "--random-seed", "1", "--json", "-q").stdout)
    assert len(content["text"]) == 9 + 100  # the window's length, and what it wrote
    assert content["seed_characters"] == 9


def test_what_is_too_long_is_cut_and_said(trained: Path) -> None:
    result = run("explain", "--seed", "The king " * 40, "--json")
    assert len(json.loads(result.stdout)["text"]) == 300
    assert "the first 300 of 360 characters are shown" in result.stderr
    result = run("explain", "--seed", "The king", "-n", "20", "--max-characters", "10", "--json")
    assert len(json.loads(result.stdout)["text"]) == 10
    assert "the first 10 of 28 characters are shown" in result.stderr


def test_gates_can_be_held(trained: Path) -> None:
    options = [part for gate in GATES for part in ("--ablate", gate)]
    result = run("explain", "--seed", "The king", *options, "-q")
    assert result.exit_code == 0
    for gate in GATES:
        assert f"--- {gate} gate held open: " in result.stdout
        assert f"--- {gate} gate held shut: " in result.stdout


def test_seeds_from_files_and_stdin(trained: Path) -> None:
    Path("seed.txt").write_text("The dead king", encoding="utf-8")
    for name, stdin in (("seed.txt", None), ("-", "The dead king")):
        result = run("explain", "--seed-file", name, "--json", "-q", input=stdin)
        assert json.loads(result.stdout)["text"] == "The dead king"


def test_a_typed_seed_wins_over_the_environment(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("seed.txt").write_text("The dead king", encoding="utf-8")
    monkeypatch.setenv("CHARLSTM_EXPLAIN_SEED", "Long")
    result = run("explain", "--seed-file", "seed.txt", "--json", "-q")
    assert json.loads(result.stdout)["text"] == "The dead king"
    result = run("explain", "--seed-file", "seed.txt", "--seed", "The")
    assert result.exit_code == 2
    assert "--seed and --seed-file exclude each other" in result.stderr


def test_an_empty_seed_is_what_writing_begins_with(trained: Path) -> None:
    way = ("--seed", "", "-n", "9", "--temperature", "0", "--json", "-q")
    explained = json.loads(run("explain", *way).stdout)
    written = json.loads(run("generate", *way, "--probabilities").stdout)
    assert explained["text"] == "\n" + written["text"]
    bits = [-math.log2(c["probability"]) for c in written["probabilities"]]
    assert explained["surprise_bits"][1:] == pytest.approx(bits, abs=1e-3)


def test_recipe_article_is_explained_too(article: Path) -> None:
    result = run("explain", "--seed", "the king is dead.", "-o", "page.html")
    assert result.exit_code == 0
    assert "reads its last 9 characters anew" in Path("page.html").read_text(encoding="utf-8")


def test_the_shipped_model_is_explained_in_an_empty_folder(workplace: Path) -> None:
    result = run("explain", "--seed", "MACBETH.", "-q")
    assert result.exit_code == 0
    assert "of macbeth" in result.stdout


def test_another_text_to_find_units_in(trained: Path) -> None:
    Path("other.txt").write_text("Long dead. " * 50, encoding="utf-8", newline="")
    result = run("explain", "--seed", "The king", "--corpus", "other.txt", "--json", "-q")
    assert json.loads(result.stdout)["scan"] == {"source": "all of other.txt", "characters": 550}
    result = run("neurons", "--corpus", "other.txt", "--json", "-q")
    assert json.loads(result.stdout)["source"] == "all of other.txt"


def test_neurons_prints_the_units(trained: Path) -> None:
    result = run("neurons", "king", "-q")
    assert result.exit_code == 0
    assert "units by what they follow in all of king" in result.stdout
    assert "position in the line" in result.stdout
    assert "untrained 0." in result.stdout
    assert "not in this text: " in result.stdout


def test_neurons_as_json_and_as_files(trained: Path) -> None:
    result = run("neurons", "--json", "-q", "--units", "4", "--characters", "1000")
    content = json.loads(result.stdout)
    assert content["characters"] == 1_000
    assert content["source"] == "the last 1,000 characters of king"
    for feature in content["features"]:
        assert len(feature["units"]) == 4
        assert all(-1 <= unit["correlation"] <= 1 for unit in feature["units"])
        assert len(feature["values"]) == len(feature["excerpt"])
    for name in ("units.html", "units.png"):
        assert run("neurons", "-o", name).exit_code == 0
        assert Path(name).stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "exit_code", "expected"),
    [
        (["explain", "--seed", "The kiñg"], 2, "'ñ' (U+00F1, position 7)"),
        (["explain", "--seed", "The", "-o", "page.gif"], 2, "does not end in one of .html, .png"),
        (["explain", "--seed", "", "-n", "0"], 2, "there is no character to explain"),
        (["explain", "--seed", "a", "--seed-file", "x"], 2, "exclude each other"),
        (["explain", "--ablate", "candidate"], 2, "'candidate'"),
        (["explain", "--seed", "The", "--corpus", "nothing.txt"], 2, "nothing.txt"),
        (["explain", "--seed", "The", "--corpus", "checkpoints"], 2, "is a folder"),
        (["explain", "--seed", "The", "-o", "nowhere/page.html"], 1, "cannot write nowhere/page"),
        (["explain", "--max-characters", "0"], 2, "0"),
        (["explain", "--temperature", "nan"], 2, "nan"),
        (["neurons", "nobody"], 1, "no model nobody"),
        (["neurons", "--corpus", "short.txt"], 2, "at least 200 are needed"),
        (["neurons", "-o", "units"], 2, "does not end in one of"),
    ],
)
def test_what_is_wrong_is_said(
    trained: Path, arguments: list[str], exit_code: int, expected: str
) -> None:
    Path("short.txt").write_text("The king", encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) <= 3  # a note may come first


def test_a_picture_without_matplotlib_says_what_to_install(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in ("explain", "neurons"):
        result = run(command, "-o", "page.png")
        assert result.exit_code == 1
        assert "hint: pip install 'charlstm[plot]'" in result.stderr
    assert run("explain", "--seed", "The", "-o", "page.html").exit_code == 0


def test_a_page_that_cannot_be_written_leaves_the_old_one(trained: Path) -> None:
    page = Path("page.html")
    page.write_text("old", encoding="utf-8")
    result = run("explain", "--seed", "The kiñg", "-o", "page.html")
    assert result.exit_code == 2
    assert page.read_text(encoding="utf-8") == "old"


def test_a_closed_pipe_is_no_error(trained: Path) -> None:
    command = f"{sys.executable} -m charlstm explain --seed 'The king' --json -q | head -c 50"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.startswith(b'{"model": ')
