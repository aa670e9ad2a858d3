"""The documents say what the program does: reference, README commands, layout."""

from __future__ import annotations

import gzip
import importlib.util
import re
import shlex
import warnings
from pathlib import Path

import pytest
from conftest import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_command_reference_is_current():
    path = ROOT / "docs" / "make_cli.py"
    spec = importlib.util.spec_from_file_location("make_cli", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.reference(), (
        "run: python docs/make_cli.py"
    )


def test_readme_has_the_two_set_up_commands():
    start, tests = blocks("bash")[:2]
    assert "charlstm train macbeth.txt --minutes 3" in start
    assert "charlstm generate" in start
    assert "[test]" in tests
    assert "pytest" in tests
    assert README.index("## Start") < README.index("## Tests")


def readme_commands() -> list[str]:
    """Return each `charlstm …` line of the README's `sh` blocks."""
    return [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith(("charlstm ", "cat "))
    ]


def test_the_readme_shows_commands():
    assert len(readme_commands()) >= 8


def save_with_keras(path: Path) -> None:
    """Save the article's network, small and untrained, as its script would."""
    import keras

    text = (ROOT / "corpora" / "macbeth.txt").read_text(encoding="utf-8").lower()
    model = keras.Sequential(
        [
            keras.Input((9, 1)),
            keras.layers.LSTM(6, return_sequences=True),
            keras.layers.Dropout(0.2),
            keras.layers.LSTM(6),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(len(set(text)), activation="softmax"),
        ]
    )
    with warnings.catch_warnings():
        # Keras reads its variables in a way that NumPy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        model.save(path)


@pytest.mark.slow
@pytest.mark.tf
def test_readme_commands_run_in_order(trained, monkeypatch):
    """Each is run as it stands, with a tiny network and budget slipped in by environment."""
    for name, value in {
        "UNITS": "6",
        "SEQ_LENGTH": "9",
        "EPOCHS": "0.02",
        "SAMPLE_EVERY": "0",
    }.items():
        monkeypatch.setenv(f"CHARLSTM_TRAIN_{name}", value)
    (trained / "poems.txt").write_text("Roses are red, violets are blue.\n" * 40, encoding="utf-8")
    (trained / "sonnets.txt").write_text("Shall I compare thee to a day?\n" * 9, encoding="utf-8")
    for name, data in (
        ("letters/1.txt", b"Dear friend, all is well.\n" * 40),
        ("novels/a/one.txt.gz", gzip.compress(b"It was a dark and stormy night.\n" * 40)),
    ):
        (trained / name).parent.mkdir(parents=True)
        (trained / name).write_bytes(data)
    latin = "Schöne Grüße aus dem Süden, müde Füße.\n" * 60
    (trained / "brief.txt").write_bytes(latin.encode("latin-1"))
    save_with_keras(trained / "lstm.keras")
    for command in readme_commands():
        command, _, pipe = command.partition(" | ")
        stdin = None
        if command.startswith("cat "):
            stdin = "".join(
                Path(name).read_text(encoding="utf-8") for name in shlex.split(command)[1:]
            )
            command = pipe
        words = shlex.split(command.partition(" > ")[0])
        if "--resume" in words:  # comes after a run that the environment made short
            monkeypatch.delenv("CHARLSTM_TRAIN_UNITS")
            monkeypatch.delenv("CHARLSTM_TRAIN_SEQ_LENGTH")
        result = run(*words[1:], input=stdin)
        assert result.exit_code == 0, (command, result.output)
        if "--resume" in words:
            monkeypatch.setenv("CHARLSTM_TRAIN_UNITS", "6")
            monkeypatch.setenv("CHARLSTM_TRAIN_SEQ_LENGTH", "9")


@pytest.mark.tf
def test_readme_python_runs(empty_workplace, capsys):
    (code,) = blocks("python")
    exec(code, {})
    assert len(capsys.readouterr().out) == 200 + 1


@pytest.mark.slow
def test_the_commands_of_the_guide_to_explaining_run(empty_workplace):
    guide = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    for command in block.splitlines():
        result = run(*shlex.split(command)[1:])
        assert result.exit_code == 0, (command, result.output)
    assert {path.name for path in empty_workplace.iterdir()} == {
        "page.html",
        "held.html",
        "units.html",
    }


def test_every_module_is_named_in_the_readme():
    modules = {p.name for p in (ROOT / "charlstm").glob("*.py")} - {"__init__.py", "__main__.py"}
    missing = {m for m in modules if f"`{m.removesuffix('.py')}`" not in README}
    assert not missing
