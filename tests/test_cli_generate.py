"""`charlstm generate` and `evaluate --per-character`: what a person or a script sees.

The models are tiny and random: what matters is which characters go where.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from helpers import CHARACTERS, make_config, make_network, naive_network, random_weights, save

from charlstm.corpus import prepare_corpus
from charlstm.reading import CorpusOptions
from charlstm.vocabulary import Vocabulary

COMMAND = [sys.executable, "-m", "charlstm"]
# Knows é but no a, and has two characters that the other has not.
OTHER = "\n !bcdéz"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the models `tale` (the newer) and `other`."""
    monkeypatch.chdir(tmp_path)
    network = make_network(vocabulary_size=len(OTHER), units=4)
    save(
        Path("checkpoints/other"),
        9,
        now=1.0,
        network=network,
        vocabulary=Vocabulary(OTHER),
        weights=random_weights(network, 5),
        config=make_config(network, seed_windows=["bcd zé!b", "b!b cdé\n"]),
    )
    network = make_network()
    lower = {"encoding": "utf-8", "normalize": "NFC", "lowercase": False}
    about = {"name": "tale", "sha256": "5f" * 32, "characters": 99, "options": lower}
    save(Path("checkpoints/tale"), 30, network=network, config=make_config(network, corpus=about))
    return tmp_path


def texts(*args: str) -> list[dict[str, object]]:
    """Run `generate --json` and return its objects."""
    result = run("generate", *args, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def text(*args: str) -> str:
    result = run("generate", *args, "--no-echo")
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: object, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output  # type: ignore[attr-defined]
    assert result.stdout == ""  # type: ignore[attr-defined]
    lines = result.stderr.splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("Error: ")
    assert len(lines) <= 2, lines
    for part in parts:
        assert part in result.stderr  # type: ignore[attr-defined]


# --- choosing characters --------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--temperature", "0.8", 0.8),
        ("--top-k", "3", 3),
        ("--top-p", "0.7", 0.7),
        ("--min-p", "0.1", 0.1),
        ("--typical-p", "0.6", 0.6),
        ("--repetition-penalty", "1.7", 1.7),
        ("--mirostat", "1.5", 1.5),
        ("--beams", "3", 3),
    ],
)
def test_each_way_of_picking_is_used_and_told(models, option, value, field):
    args = ("--seed", "abcd", "-n", "300", "--random-seed", "4")
    (sample,) = texts(*args, option, value)
    assert sample[option.strip("-").replace("-", "_")] == field
    assert len(sample["text"]) == sample["length"] == 300
    if option != "--temperature":
        (plain,) = texts(*args)
        assert plain["text"] != sample["text"]


def test_top_k_of_one_is_argmax(models):
    args = ("--seed", "dab", "-n", "50", "--random-seed", "8")
    assert text(*args, "--top-k", "1", "--temperature", "2") == text(*args, "--temperature", "0")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--top-p", "0"], ["--top-p", "0"]),
        (["--top-p", "nan"], ["--top-p", "finite"]),
        (["--min-p", "1.5"], ["--min-p", "1.5"]),
        (["--typical-p", "-1"], ["--typical-p"]),
        (["--top-k", "2.5"], ["--top-k"]),
        (["--repetition-penalty", "0.5"], ["--repetition-penalty"]),
        (["--mirostat", "0"], ["--mirostat"]),
        (["--mirostat", "2", "--top-p", "0.5"], ["mirostat", "top-p"]),
        (["--mirostat", "2", "--temperature", "0"], ["mirostat"]),
        (["--beams", "3", "--temperature", "0.5"], ["beam", "0.5"]),
        (["--beams", "0"], ["--beams"]),
        (["--samples", "0"], ["--samples"]),
        (["--lines", "0"], ["--lines"]),
        (["--stop", ""], ["--stop", "at least one character"]),
        (["--mix", "tale"], ["--mix", "MODEL:WEIGHT"]),
        (["--mix", "tale:0"], ["--mix", "0"]),
        (["--mix", "tale:inf"], ["--mix", "inf"]),
        (["--mix", "tale:1", "--model", "tale"], ["--model", "--mix", "exclude"]),
        (["--probabilities"], ["--probabilities", "--json"]),
        (["--interactive", "--json"], ["--interactive", "--json"]),
        (["--interactive", "--samples", "2"], ["--interactive", "--samples"]),
        (["--interactive", "--output", "x"], ["--interactive", "--output"]),
        (["--interactive", "--beams", "2"], ["--interactive", "--beams"]),
        (["--until-sentence", "--lines", "2"], ["until-sentence", "lines"]),
        (["--unknown", "guess"], ["--unknown", "guess"]),
    ],
)
def test_what_makes_no_sense_is_refused(models, args, parts):
    refused(run("generate", *args), 2, *parts)


# --- where a text ends ----------------------------------------------------------


def test_a_stop_text_ends_the_text_and_is_no_part_of_it(models):
    args = ("--seed", "abc", "-n", "400", "--random-seed", "2")
    whole = text(*args)
    stop = whole[150:153]
    (sample,) = texts(*args, "--stop", "never", "--stop", stop)
    assert sample["text"] == whole[: whole.index(stop)]
    assert sample["stopped"] == "stop"
    assert sample["length"] == len(sample["text"])


def test_a_stop_text_that_cannot_be_written_is_told(models):
    result = run("generate", "-n", "3", "--stop", "xyz")
    assert result.exit_code == 0
    assert "can never write" in result.stderr
    assert "'xyz'" in result.stderr


def test_lines_are_counted_as_head_does(models):
    (sample,) = texts("--seed", "a", "--lines", "4", "--random-seed", "1", "--temperature", "2")
    assert sample["stopped"] == "lines"
    assert sample["text"].count("\n") == 4
    assert sample["text"].endswith("\n")


def test_an_environment_variable_is_one_stop_text(models, monkeypatch):
    args = ("--seed", "abc", "-n", "400", "--random-seed", "2", "--temperature", "3")
    whole = text(*args)
    stop = re.search(r"\S \S", whole)
    assert stop is not None
    monkeypatch.setenv("CHARLSTM_GENERATE_STOP", stop.group())
    assert text(*args) == whole[: whole.index(stop.group())]


# --- samples --------------------------------------------------------------------


def test_samples_are_apart_and_each_can_be_asked_for_alone(models):
    args = ("--seed", "abcd", "-n", "25")
    together = texts(*args, "--samples", "5", "--random-seed", "40")
    assert [sample["random_seed"] for sample in together] == [40, 41, 42, 43, 44]
    for sample in together:
        (alone,) = texts(*args, "--random-seed", str(sample["random_seed"]))
        assert alone == sample
    assert len({sample["text"] for sample in together}) == 5
    printed = run("generate", *args, "--samples", "5", "--random-seed", "40").stdout
    assert printed == "\n---\n".join("abcd" + sample["text"] for sample in together)
    zero = run(
        "generate", *args, "--samples", "5", "--random-seed", "40", "--separator", r"\0\\n",
        "--no-echo",
    )  # fmt: skip
    assert zero.stdout == "\0\\n".join(sample["text"] for sample in together)


def test_without_a_seed_each_sample_has_its_own_window(models):
    together = texts("-n", "5", "--samples", "8", "--random-seed", "3")
    assert {sample["seed"] for sample in together} == {"abcd abc", "dé\nabcab"}
    for sample in together:
        assert texts("-n", "5", "--random-seed", str(sample["random_seed"])) == [sample]


def test_samples_that_end_at_different_places_stay_themselves(models):
    args = ("--seed", "a", "-n", "90", "--stop", "b", "--temperature", "3")
    together = texts(*args, "--samples", "7", "--random-seed", "0")
    assert len({sample["length"] for sample in together}) > 3
    for sample in together:
        (alone,) = texts(*args, "--random-seed", str(sample["random_seed"]))
        assert alone == sample


# --- seeds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "read"),
    [("ABC", "abc"), ("bàd", "bad"), ("É", "é"), ("a\u00a0b", "a b"), ("a☃b", "ab")],
)
def test_the_nearest_characters_are_read(models, typed, read):
    got = texts("--seed", typed, "--unknown", "nearest", "-n", "9", "--random-seed", "1")
    assert got[0]["seed"] == read
    assert got == texts("--seed", read, "-n", "9", "--random-seed", "1")


def test_a_seed_of_any_length_is_read_whole(models):
    for seed in ("", "a", "ab" * 500):
        (sample,) = texts("--seed", seed, "-n", "4")
        assert sample["seed"] == seed
        assert sample["length"] == 4


# --- mixing ---------------------------------------------------------------------


def test_a_mix_writes_what_both_know(models):
    args = ("--mix", "tale:2", "--mix", "other:1", "--seed", "bcd", "--temperature", "1")
    (sample,) = texts(*args, "-n", "400", "--random-seed", "1")
    assert set(sample["text"]) <= set("\n bcdé")
    assert [(Path(m["model"]).name, m["checkpoint"]) for m in sample["mix"]] == [
        ("tale", 30),
        ("other", 9),
    ]
    assert [m["weight"] for m in sample["mix"]] == [2, 1]
    refused(run("generate", *args[:-4], "--seed", "abc"), 2, "'a'", "position 1")


def test_a_mix_of_one_is_that_model(models):
    args = ("--seed", "bcd", "-n", "40", "--random-seed", "6")
    assert text(*args, "--mix", "tale:3") == text(*args, "--model", "tale")


def test_a_path_with_colons_can_be_mixed(models):
    Path("checkpoints/other").rename("od:d")
    assert len(text("--mix", "./od:d:1", "--mix", "tale:1", "--seed", "b", "-n", "7")) == 7


# --- telling more ---------------------------------------------------------------


def test_probabilities_are_those_of_the_model(models):
    (sample,) = texts(
        "--model", "tale", "--seed", "ab", "-n", "30", "--probabilities", "--top-k", "3",
        "--temperature", "0.7",
    )  # fmt: skip
    told = sample["probabilities"]
    assert "".join(t["character"] for t in told) == sample["text"]
    ids = [CHARACTERS.index(c) for c in "ab" + sample["text"]]
    logits = naive_network(make_network(), random_weights(make_network()), [ids]).logits[0]
    for n, about in enumerate(told):
        row = logits[n + 1]
        exact = np.exp(row - row.max())
        exact /= exact.sum()
        assert about["probability"] == pytest.approx(exact[ids[n + 2]], rel=1e-4)
        likeliest = np.argsort(-exact)[:5]
        assert [a[0] for a in about["alternatives"]] == [CHARACTERS[i] for i in likeliest]
        np.testing.assert_allclose(
            [a[1] for a in about["alternatives"]], exact[likeliest], rtol=1e-4
        )


def test_copying_is_reported(models):
    Path("tale.txt").write_text("abcd" * 40 + "\n é" * 9, encoding="utf-8", newline="")
    prepared = prepare_corpus(Path("tale.txt"), options=CorpusOptions())
    network = make_network()
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    # A model that writes "dé" for ever; "d" and "é" stand in the text, "dé" does not.
    weights["lstm_1/kernel"][:] = 0
    weights["dense/bias"][:] = -50
    weights["dense/bias"][CHARACTERS.index("d")] = 9
    about = {
        "name": "tale",
        "sha256": prepared.sha256,
        "characters": len(prepared.ids),
        "options": {"encoding": "utf-8", "normalize": "NFC", "lowercase": False},
    }
    save(
        Path("checkpoints/copy"),
        2,
        network=network,
        weights=weights,
        config=make_config(network, corpus=about),
    )
    (sample,) = texts("--model", "copy", "--seed", "a", "-n", "6", "--report-copying")
    assert sample["text"] == "dddddd"
    assert sample["copied"] == {
        "length": 1,
        "start": 0,
        "text": "d",
        "corpus": "tale",
        "corpus_position": 3,
    }
    result = run("generate", "--model", "copy", "--seed", "a", "-n", "6", "--report-copying")
    assert result.stdout == "adddddd"
    assert "1 of 6 characters" in result.stderr


def test_copying_needs_the_prepared_text_and_says_so(models):
    result = run("generate", "--model", "tale", "--report-copying")
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert "tale" in result.stderr
    assert "charlstm prepare" in result.stderr


# --- where it goes --------------------------------------------------------------


def test_output_is_a_file_that_appears_whole(models):
    args = ("--seed", "abé", "-n", "50", "--random-seed", "1")
    target = Path("out.txt")
    target.write_text("what was there", encoding="utf-8")
    target.chmod(0o640)
    result = run("generate", *args, "--output", "out.txt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text(encoding="utf-8") == run("generate", *args).stdout
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", "out.txt"]
    lines = run("generate", *args, "--json", "--samples", "2", "--output", "out.jsonl")
    assert (lines.exit_code, lines.stdout) == (0, "")
    assert len(Path("out.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_output_that_cannot_be_written_is_an_error(models):
    refused(run("generate", "--output", "nowhere/out.txt"), 1, "nowhere/out.txt")
    refused(run("generate", "--output", "checkpoints"), 2, "checkpoints", "folder")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_not_a_traceback(models):
    done = subprocess.run(
        [*COMMAND, "generate", "--model", "tale", "--output", "/dev/full", "-n", "100000"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "generate", "--model", "tale", "-n", "100000"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr


def interrupted(command: list[str], is_ready: Callable[[], bool], number: int) -> str:
    """Start a writer, send it a signal when it is ready, and return what it says."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not is_ready():
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    return err


ENDLESS = [*COMMAND, "generate", "--model", "tale", "--seed", "a", "-n", "1000000000"]


@pytest.mark.skipif(os.name == "nt", reason="other signals there")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_text_is_kept_beside_the_file(models, name):
    Path("out.txt").write_text("old", encoding="utf-8")
    err = interrupted(
        [*ENDLESS, "--output", "out.txt"],
        lambda: any(p.stat().st_size for p in models.glob(".out.txt-*")),
        getattr(signal, name),
    )
    assert Path("out.txt").read_text(encoding="utf-8") == "old"
    kept = Path("out.txt.partial").read_text(encoding="utf-8")
    assert kept[0] == "a"
    assert len(kept) > 1_000
    assert "out.txt.partial" in err
    assert not list(models.glob(".out.txt-*"))


@pytest.mark.skipif(os.name == "nt", reason="other signals there")
def test_an_interrupt_before_the_first_character_keeps_nothing(models):
    # A file was once replaced by an empty one while a long seed was read.
    Path("out.txt").write_text("old", encoding="utf-8")
    Path("seed.txt").write_text("abcd" * 500_000, encoding="utf-8")
    command = [*COMMAND, "generate", "--model", "tale", "--seed-file", "seed.txt", "--no-echo"]
    interrupted(
        [*command, "--output", "out.txt"],
        lambda: bool(list(models.glob(".out.txt-*"))),
        signal.SIGINT,
    )
    assert Path("out.txt").read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", "out.txt", "seed.txt"]


@pytest.mark.skipif(os.name == "nt", reason="other signals there")
def test_an_interrupt_of_a_pipe_is_said(models):
    child = subprocess.Popen(ENDLESS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert len(child.stdout.read(200)) == 200
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.strip() == "Error: interrupted"


def test_utf8_comes_out_whatever_the_locale(models):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*COMMAND, "generate", "--model", "tale", "--seed", "é", "-n", "300"],
        capture_output=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0
    assert len(done.stdout.decode("utf-8")) == 301
    assert done.stdout.startswith("é".encode())


# --- completion -----------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "found", "not_found"),
    [
        ("charlstm generate --model ", ["tale", "other", "macbeth"], []),
        ("charlstm generate --model o", ["other"], ["tale"]),
        ("charlstm info ta", ["tale"], ["other"]),
        ("charlstm train x --from ta", ["tale"], ["other"]),
        ("charlstm prepare mac", ["macbeth.txt"], []),
        ("charlstm generate --temp", ["--temperature"], []),
    ],
)
def test_shells_complete_names(models, shell, words, found, not_found):
    arguments = words.split(" ")
    if shell == "fish":
        environment = {"COMP_WORDS": words, "COMP_CWORD": arguments[-1]}
    else:
        environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(arguments) - 1)}
    done = subprocess.run(
        COMMAND,
        env=os.environ | environment | {"_CHARLSTM_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    offered = re.split(r"[\n,\t]", done.stdout)
    assert set(found) <= set(offered)
    assert not set(not_found) & set(offered)


# --- evaluate -------------------------------------------------------------------


def test_every_character_is_told(models):
    content = "abc\\d é\nab\tca\n"
    vocabulary = "\t\n \\abcdé"
    network = make_network(vocabulary_size=len(vocabulary))
    save(
        Path("checkpoints/odd"),
        1,
        network=network,
        vocabulary=Vocabulary(vocabulary),
        weights=random_weights(network, 1),
        config=make_config(network, seed_windows=[]),
    )
    Path("text.txt").write_text(content, encoding="utf-8", newline="")
    result = run("evaluate", "text.txt", "--model", "odd", "--per-character")
    assert result.exit_code == 0
    header, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert header == ["line", "column", "character", "nats", "probability"]
    expected = []
    for n, line in enumerate(content.splitlines(keepends=True), 1):
        expected += [(str(n), str(k), c) for k, c in enumerate(line, 1)]
    shown = {"\n": r"\n", "\t": r"\t", "\\": r"\\"}
    assert [tuple(row[:3]) for row in rows] == [
        (line, column, shown.get(c, c)) for line, column, c in expected[1:]
    ]
    ids = [vocabulary.index(c) for c in content]
    logits = naive_network(network, random_weights(network, 1), [ids]).logits[0]
    for n, row in enumerate(rows):
        log_total = np.log(np.exp(logits[n] - logits[n].max()).sum()) + logits[n].max()
        nats = log_total - logits[n][ids[n + 1]]
        assert float(row[3]) == pytest.approx(nats, abs=1e-3)
        assert float(row[4]) == pytest.approx(math.exp(-nats), abs=1e-3)
    summary = json.loads(run("evaluate", "text.txt", "--model", "odd", "--json").stdout)
    assert summary["loss"] == pytest.approx(np.mean([float(row[3]) for row in rows]), abs=1e-3)
    whole = run("evaluate", "text.txt", "--model", "odd", "--json", "--per-character")
    about = json.loads(whole.stdout)
    assert "".join(c["character"] for c in about["per_character"]) == content[1:]
    assert about["loss"] == summary["loss"]


def test_places_are_those_of_the_text_as_it_came(models):
    Path("a.txt").write_text("aÀ☃b\nC…d\n", encoding="utf-8", newline="")
    result = run("evaluate", "a.txt", "--model", "tale", "--unknown", "nearest", "--per-character")
    rows = [line.split("\t")[:3] for line in result.stdout.splitlines()[1:]]
    assert rows == [["1", "2", "a"], ["1", "4", "b"], ["1", "5", r"\n"], ["2", "1", "c"],
                    ["2", "3", "d"], ["2", "4", r"\n"]]  # fmt: skip
    assert "left out 2 characters" in result.stderr


def test_evaluate_reads_the_nearest(models):
    Path("a.txt").write_text("ABC É bàd", encoding="utf-8")
    Path("b.txt").write_text("abc é bad", encoding="utf-8")
    first, second = (
        json.loads(
            run("evaluate", name, "--model", "tale", "--unknown", "nearest", "--json").stdout
        )
        for name in ("a.txt", "b.txt")
    )
    assert first == second


# --- what a reader of this program found ------------------------------------------


def test_what_is_typed_wins_over_the_environment(models, monkeypatch):
    # An exported model once made --mix impossible.
    monkeypatch.setenv("CHARLSTM_GENERATE_MODEL", "other")
    args = ("--seed", "bcd", "-n", "9", "--random-seed", "1")
    assert text("--mix", "tale:1", *args) == text("--model", "tale", *args)
    monkeypatch.setenv("CHARLSTM_GENERATE_TOP_P", "0.5")
    assert texts("--model", "tale", "--mirostat", "1.5", *args)[0]["top_p"] == 1
    monkeypatch.setenv("CHARLSTM_GENERATE_TEMPERATURE", "0.5")
    assert texts("--model", "tale", "--beams", "2", *args)[0]["temperature"] == 0
    monkeypatch.setenv("CHARLSTM_GENERATE_REPETITION_PENALTY", "2")
    assert texts("--model", "tale", "--beams", "2", *args)[0]["repetition_penalty"] == 1
    # Of most options 1 is a value like any other.
    monkeypatch.setenv("CHARLSTM_GENERATE_TEMPERATURE", "1")
    assert texts("--model", "tale", "--beams", "2", *args)[0]["temperature"] == 0
    monkeypatch.setenv("CHARLSTM_GENERATE_TOP_K", "5")
    assert texts("--model", "tale", "--mirostat", "1", *args)[0]["top_k"] == 0
    monkeypatch.setenv("CHARLSTM_GENERATE_LINES", "1")
    assert run("generate", "--model", "tale", "--until-sentence", *args).exit_code == 0
    for name in ("LINES", "TOP_K", "TEMPERATURE", "REPETITION_PENALTY"):
        monkeypatch.delenv(f"CHARLSTM_GENERATE_{name}")
    monkeypatch.setenv("CHARLSTM_GENERATE_MIX", "tale:1")
    refused(run("generate", "-n", "3"), 2, "--model and --mix exclude")


def test_a_sentence_of_the_seed_may_be_ended(models):
    # Its end was missed, and another sentence written.
    network = make_network()
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    weights["dense/bias"][1] = 50
    characters = "\n .abcd"
    save(
        Path("checkpoints/dots"),
        3,
        network=network,
        vocabulary=Vocabulary(characters),
        weights=weights,
        config=make_config(network, seed_windows=[]),
    )
    args = ("--model", "dots", "-n", "0", "--until-sentence")
    (sample,) = texts(*args, "--seed", "abc.")  # only spaces follow
    assert (sample["text"], sample["stopped"]) == ("", "sentence")


def test_stop_texts_are_read_as_other_texts_are(models):
    args = ("--seed", "abc", "-n", "400", "--random-seed", "2", "--temperature", "3")
    whole = text(*args)
    assert text(*args, "--stop", r"\n") == whole[: whole.index("\n")]


def test_minus_is_stdout(models):
    args = ("--seed", "abc", "-n", "40", "--random-seed", "2")
    assert run("generate", *args, "-o", "-").stdout == run("generate", *args).stdout
    assert not Path("-").exists()


def test_a_seed_and_lines_cannot_both_come_from_stdin(models):
    refused(run("generate", "--interactive", "--seed-file", "-", input="ab"), 2, "stdin")


def test_what_has_no_likeness_is_told(models):
    result = run("generate", "--seed", "a☃b☃", "--unknown", "nearest", "-n", "3")
    assert "left out 2 unknown characters" in result.stderr


def test_lines_without_line_feeds_are_warned_of(models):
    network = make_network()
    save(
        Path("checkpoints/flat"),
        3,
        network=network,
        vocabulary=Vocabulary("abcdefg"),
        config=make_config(network, seed_windows=[]),
    )
    assert "no line feed" in run("generate", "--model", "flat", "--lines", "1", "-n", "5").stderr


def test_filters_that_do_nothing_are_told(models):
    result = run("generate", "--temperature", "0", "--top-p", "0.5", "-n", "5")
    assert "top-p change nothing" in result.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("charlstm evaluate mac", "macbeth.txt"),
        ("charlstm generate --mix o", "other:1"),
        ("charlstm generate --checkpoint b", "best"),
    ],
)
def test_more_is_completed(models, words, found):
    arguments = words.split(" ")
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(arguments) - 1)}
    done = subprocess.run(
        COMMAND,
        env=os.environ | environment | {"_CHARLSTM_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found in re.split(r"[\n,]", done.stdout)
