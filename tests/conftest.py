"""What all tests share: a clean environment and tiny trained models."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from charlstm.backend import available_cores
from charlstm.cli import cli

# 2,000 characters in which every letter can be told from those before it.
PATTERN = "The king is dead. Long live the king!\n"
TINY_TEXT = PATTERN * 60
TINY = ["--units", "6", "--seq-length", "9", "--batch-size", "4", "--sample-every", "0"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run as many tests at once as there are cores for; each may take 1 GB."""
    return min(8, available_cores())


@pytest.fixture(scope="session", autouse=True)
def signals_are_heeded() -> Iterator[None]:
    """Let the processes that tests start heed Ctrl-C, also where nohup or & has us ignore it."""
    before = {}
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)  # not all of them on Windows
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            before[number] = signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CHARLSTM"):
            monkeypatch.delenv(name)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with `king.txt`, a text of 2,280 characters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "king.txt").write_text(TINY_TEXT, encoding="utf-8", newline="")
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Where a model will be."""
    return tmp_path / "tale"


@pytest.fixture
def empty_workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where `checkpoints/` would be."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(*args: str, **extra: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(args), prog_name="charlstm", **extra)  # type: ignore[arg-type]


def _train(folder: Path, *options: str) -> Path:
    (folder / "king.txt").write_text(TINY_TEXT, encoding="utf-8", newline="")
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = run("train", "king.txt", *TINY, *options)
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("default"), "--epochs", "4")


@pytest.fixture(scope="session")
def article_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("article"), "--recipe", "article", "--epochs", "0.1")


def _copy(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    monkeypatch.chdir(target)
    return target


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `king`, recipe default, trained for 4 epochs."""
    return _copy(trained_once, tmp_path / "work", monkeypatch)


@pytest.fixture
def article(article_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `king`, recipe article."""
    return _copy(article_once, tmp_path / "work", monkeypatch)
