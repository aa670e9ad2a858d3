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
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlstm.storage import remove

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
    held = _Held()
    try:
        held.take(parent, key)
        sweep(parent, target=target, but=held.folder, now=time.time() if now is None else now)
        yield held.folder
    except BaseException as error:
        is_kept = held.folder.name == f"{PREFIX}{key}" and not isinstance(error, Exception)
        is_kept = is_kept and (held.folder / JOURNAL).exists()
        held.leave(is_kept=is_kept)
        if is_kept:
            error.add_note("the same command goes on from here")
        raise
    else:
        held.leave(is_kept=False)


class _Held:
    """The folder that a process works in, from before it is made.

    An interruption may come between any two lines; its name is known first, so
    that none leaves a folder that nobody will remove.
    """

    folder = Path(os.devnull)
    lock: FileLock | None = None
    is_own = False  # nobody else can know its name

    def take(self, parent: Path, key: str | None) -> None:
        if key is not None:
            self.folder = parent / f"{PREFIX}{key}"
            self.folder.mkdir(exist_ok=True)
            self.lock = _lock(self.folder)
            if self.lock is not None:
                return
        # Where a lock cannot be had at all, nobody else can take the folder either.
        self.folder, self.is_own = parent / f"{PREFIX}{secrets.token_hex(6)}", True
        self.folder.mkdir(mode=0o700)
        self.lock = _lock(self.folder)

    def leave(self, *, is_kept: bool) -> None:
        if self.lock is not None or self.is_own:
            _leave(self.folder, self.lock, is_kept=is_kept)
        else:  # another process may work there; if none does, the next one sweeps it
            with contextlib.suppress(OSError):
                self.folder.rmdir()


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
