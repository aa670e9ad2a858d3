"""Every one-liner of `docs/shell.md` is run as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import make_config, make_network, random_weights, save

from charlstm.vocabulary import Vocabulary

PAGE = (Path(__file__).parent.parent / "docs" / "shell.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TOOLS = ("awk", "jq", "xargs", "watch", "sort", "bash")
POEM = "Roses are red,\nviolets are blue.\nSugar is sweet, the king is dead.\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `poems` and the texts that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    vocabulary = Vocabulary(set(POEM + "abcdefghijklmnopqrstuvwxyz"))
    network = make_network(vocabulary_size=len(vocabulary), units=4)
    save(
        Path("checkpoints/poems"),
        3,
        network=network,
        vocabulary=vocabulary,
        weights=random_weights(network),
        config=make_config(network, seed_windows=[POEM[:20]]),
    )
    Path("notes.txt").write_text(POEM * 3, encoding="utf-8")
    Path("story.txt").write_text(POEM, encoding="utf-8")
    return tmp_path


def shell(command: str) -> subprocess.CompletedProcess[str]:
    bin_folder = Path(sys.executable).parent  # where the console script is
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_there_are_ten() -> None:
    assert len(BLOCKS) >= 10
    assert all(len(block.splitlines()) == 1 for block in BLOCKS)


@pytest.mark.parametrize("command", BLOCKS, ids=lambda block: block[:40])
def test_one_liner(folder: Path, command: str) -> None:
    needed = [tool for tool in TOOLS if re.search(rf"\b{tool}\b", command)]
    if command.startswith("watch"):
        # It needs a screen; what it repeats does not.
        command = re.findall(r"'(.*)'", command)[0]
        needed = []
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing or shutil.which("bash") is None:
        pytest.skip(f"needs {' '.join(missing)}")
    before = Path("story.txt").read_text(encoding="utf-8")
    done = shell(command)
    assert done.returncode == 0, done.stderr
    if "--interactive" not in command:
        assert done.stderr == ""
    if "story.txt" in command:
        after = Path("story.txt").read_text(encoding="utf-8")
        assert after.startswith(before)
        assert len(after) > len(before) + 100
    elif "--output" in command:
        assert {p.name for p in folder.glob("[A-Z]*.txt")} == {
            "Fire.txt", "Water.txt", "Air.txt", "Earth.txt",
        }  # fmt: skip
    else:
        assert done.stdout.strip()


def test_a_verse_a_day_is_the_same_all_day(folder: Path) -> None:
    assert shell(BLOCKS[0]).stdout == shell(BLOCKS[0]).stdout


def test_the_most_surprising_line_is_found(folder: Path) -> None:
    Path("notes.txt").write_text(
        "What is the night?\nxqzj vvkq wwx zzq\nIt is the night.\n", encoding="utf-8"
    )
    command = next(block for block in BLOCKS if "sort -rn" in block)
    assert shell(command).stdout.splitlines()[0].endswith("line 2")


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_lines_give_a_script(folder: Path, shell_name: str) -> None:
    assert f"_CHARLSTM_COMPLETE={shell_name}_source charlstm" in PAGE
    done = shell(f"_CHARLSTM_COMPLETE={shell_name}_source charlstm")
    assert done.returncode == 0
    assert "_CHARLSTM_COMPLETE" in done.stdout
