"""Thousands of random option combinations: no traceback, no hang, the contract kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import run
from helpers import make_config, make_network, random_weights, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.vocabulary import Vocabulary


def mostly(usual: st.SearchStrategy[str], *odd: str) -> st.SearchStrategy[str]:
    """Draw what is usual nine times in ten."""
    return st.integers(0, 9).flatmap(lambda n: usual if n else st.sampled_from(odd))


TEXT = mostly(
    st.text(st.sampled_from("\n bcdé"), max_size=12), "", "abc", "AÀ", "’…", "☃", "\x1b[2J", "\0"
)
ODD_NUMBERS = ("0", "-1", "nan", "inf", "1e-30", "1e30", "x", "", "1,5", "０")
POSITIVE = mostly(st.floats(0.0625, 3, width=32).map(lambda x: f"{x:.3g}"), *ODD_NUMBERS)
SHARE = mostly(st.floats(0.01, 1).map(lambda x: f"{x:.3f}"), *ODD_NUMBERS, "1.5")
COUNT = mostly(st.integers(1, 9).map(str), *ODD_NUMBERS, "2.5")
MODEL = mostly(st.sampled_from(["tale", "other", "article", "./checkpoints/tale"]), "no", "", ".")
VALUES = {
    "--seed": TEXT,
    "--unknown": mostly(st.sampled_from(["error", "skip", "nearest", "nearest"]), "guess"),
    "--stop": TEXT,
    "--lines": COUNT,
    "--samples": mostly(st.sampled_from(["1", "2", "3"]), "0", "x"),
    "--separator": TEXT,
    "--temperature": POSITIVE,
    "--top-k": COUNT,
    "--top-p": SHARE,
    "--min-p": SHARE,
    "--typical-p": SHARE,
    "--repetition-penalty": mostly(st.floats(1, 3).map(lambda x: f"{x:.3g}"), *ODD_NUMBERS),
    "--mirostat": POSITIVE,
    "--beams": COUNT,
    "--random-seed": mostly(st.sampled_from(["0", "7", str(2**63 - 1)]), str(2**63), "-1"),
    "--checkpoint": mostly(st.sampled_from(["best", "last", "30"]), "31", "x"),
    "--model": MODEL,
    "--mix": st.tuples(MODEL, POSITIVE).map(":".join),
}
FLAGS = ["--until-sentence", "--no-echo", "--report-copying", "--probabilities", "--json", "-q"]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Up to four options with a value and two flags, most of them possible."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=4))
    args = ["-n", draw(st.integers(0, 40).map(str))] if draw(st.integers(0, 9)) else []
    for name in names:
        args += [name, draw(VALUES[name])]
    return args + draw(st.lists(st.sampled_from(FLAGS), max_size=2, unique=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three models: one more with other characters, one without carried state."""
    folder = tmp_path_factory.mktemp("options")
    before = Path.cwd()
    os.chdir(folder)
    other = "\n !bcdéz"
    network = make_network(vocabulary_size=len(other), units=4)
    save(
        Path("checkpoints/other"),
        30,
        network=network,
        vocabulary=Vocabulary(other),
        weights=random_weights(network, 5),
        config=make_config(network, seed_windows=["bcd zé!b", "b!\n"]),
    )
    network = make_network(carries_state=False, input="scaled", seq_length=4)
    save(
        Path("checkpoints/article"),
        30,
        network=network,
        weights=random_weights(network),
        config=make_config(network, seed_windows=[]),
    )
    save(Path("checkpoints/tale"), 30)
    os.chdir(before)
    return folder


def check(arguments: list[str]) -> None:
    result = run("generate", *arguments)
    said = f"{arguments}\n{result.output}"
    assert isinstance(result.exception, SystemExit | None), said
    assert "fault of charlstm" not in result.stderr, said
    assert result.exit_code in (0, 1, 2), said
    if result.exit_code:
        lines = result.stderr.splitlines()
        n_notes = sum(not line.startswith(("Error: ", "hint: ")) for line in lines)
        assert lines[n_notes].startswith("Error: "), said
        assert len(lines) <= n_notes + 2, said
        assert result.stdout == "", said
    elif "--json" in arguments:
        for line in result.stdout.splitlines():
            sample = json.loads(line)
            assert len(sample["text"]) == sample["length"], said
            if "--probabilities" in arguments:
                assert len(sample["probabilities"]) == sample["length"], said


# The folder is the same for all examples, and only read.
relaxed = settings(
    deadline=20_000, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


@settings(relaxed, max_examples=300)
@given(arguments=command_lines())
def test_option_combinations(models: Path, arguments: list[str]) -> None:
    os.chdir(models)
    check(arguments)


@pytest.mark.slow
@settings(relaxed, max_examples=10_000)
@given(arguments=command_lines())
def test_ten_thousand_option_combinations(models: Path, arguments: list[str]) -> None:
    os.chdir(models)
    check(arguments)


@pytest.fixture(autouse=True)
def same_folder_after() -> object:
    before = Path.cwd()
    yield
    os.chdir(before)
