"""The hidden folder in which a prepared corpus is made.

It lies beside the place of what is made in it, is locked while a process works
there, and is removed with the work. What a killed process left is gone on from,
if it is worth it, or swept by the next one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlstm.storage import make_hidden_folder, remove

if TYPE_CHECKING:
    from filelock import FileLock

PREFIX = ".prepare-"
JOURNAL = "journal"
_LOCK = "lock"
_DAY = 86_400.0
_KEPT_DAYS = 7


@contextlib.contextmanager
def work_folder(
    parent: Path, *, target: str, key: str | None, now: float | None = None
) -> Iterator[Path]:
    """Give a folder to work in, and remove it afterwards.

    After an interruption it stays if `key` was given and it has a journal.

    Args:
        parent: Where.
        target: Name of what is made; what was left of another request for it
            is swept, of others after a week.
        key: Names the request, so that a later process finds the same folder;
            None, or where another process works in it, for one of its own.
        now: Seconds since 1970; the system's clock by default.

    Yields:
        The folder.

    Raises:
        OSError: If it cannot be made.
    """
    # Loaded before there is anything to leave behind.
    importlib.import_module("filelock")
    folder, lock = _locked(parent, key)
    try:
        sweep(parent, target=target, but=folder, now=time.time() if now is None else now)
        yield folder
    except BaseException as error:
        is_kept = folder.name == f"{PREFIX}{key}" and not isinstance(error, Exception)
        is_kept = is_kept and (folder / JOURNAL).exists()
        _leave(folder, lock, is_kept=is_kept)
        if is_kept:
            error.add_note("the same command goes on from here")
        raise
    else:
        _leave(folder, lock, is_kept=False)


def _locked(parent: Path, key: str | None) -> tuple[Path, FileLock | None]:
    if key is not None:
        folder = parent / f"{PREFIX}{key}"
        folder.mkdir(exist_ok=True)
        lock = _lock(folder)
        if lock is not None:
            return folder, lock
    # Where a lock cannot be had at all, nobody else can take the folder either.
    folder = make_hidden_folder(parent, prefix=PREFIX)
    return folder, _lock(folder)


def _lock(folder: Path) -> FileLock | None:
    """Take a folder, if nobody has it; the lock is free when its holder ends, however."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return None
    if (folder / _LOCK).exists():
        return lock
    lock.release()  # it was swept away just now
    return None


def _leave(folder: Path, lock: FileLock | None, *, is_kept: bool) -> None:
    if not is_kept:
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():
                if entry.name != _LOCK:
                    remove(entry)
    if lock is not None:
        lock.release()
    if not is_kept:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path, *, target: str, but: Path, now: float) -> None:
    """Remove what killed processes left and nobody will go on from.

    Args:
        parent: Where.
        target: What is made there now.
        but: Its folder.
        now: Seconds since 1970.
    """
    with contextlib.suppress(OSError):
        left = [entry for entry in parent.iterdir() if entry.name.startswith(PREFIX)]
        for folder in left:
            if folder != but and folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    _sweep(folder, target=target, now=now)


def _sweep(folder: Path, *, target: str, now: float) -> None:
    names = os.listdir(folder)  # noqa: PTH208
    paths = [folder, *(folder / name for name in names)]
    age = now - max(path.stat().st_mtime for path in paths)
    if _LOCK not in names:
        # An older charlstm's, which may be at work: it had no lock.
        if age > _DAY:
            shutil.rmtree(folder, ignore_errors=True)
        return
    lock = _lock(folder)
    if lock is None:
        return
    is_kept = age < _KEPT_DAYS * _DAY and _target(folder) not in (target, None)
    _leave(folder, lock, is_kept=is_kept)


def _target(folder: Path) -> Any:
    """Return what was made in a folder, if it can be gone on with."""
    try:
        with (folder / JOURNAL).open(encoding="utf-8") as file:
            return json.loads(file.readline(1 << 16))["target"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
