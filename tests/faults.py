"""Faults at will: a process that dies, a disk that fills, a power cut.

`Faults` counts every operation that changes a disk (write, fsync, rename,
mkdir, unlink, rmdir) and strikes at one of them. `Disk` watches what was
flushed, and can show what would be left if nothing else had reached the disk.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

CALLS = {
    "fsync": ("fsync",),
    "rename": ("replace", "rename"),
    "make": ("mkdir",),
    "remove": ("unlink", "rmdir"),
}
KINDS = ("write", *CALLS)


class Killed(BaseException):
    """The process ends here: nothing after it runs."""


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Faults:
    """Lets operations pass until their number is up, and then fails.

    Args:
        at: How many pass; None for all.
        error: What the next one raises.
        is_final: Whether all that come after it fail too, as a dead process
            does nothing more.
        kinds: Which operations count.
        disk: Told of what is flushed.
    """

    def __init__(
        self,
        at: int | None = None,
        error: BaseException | None = None,
        *,
        is_final: bool = True,
        kinds: tuple[str, ...] = KINDS,
        disk: Disk | None = None,
    ) -> None:
        self.at = at
        self.error = error or Killed()
        self.is_final = is_final
        self.kinds = kinds
        self.disk = disk
        self.calls = 0

    @property
    def has_struck(self) -> bool:
        return self.at is not None and self.calls > self.at

    def count(self, kind: str) -> None:
        if kind not in self.kinds:
            return
        if self.has_struck and not self.is_final:
            return
        if self.has_struck:
            raise self.error
        self.calls += 1
        if self.has_struck:
            raise self.error

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the program and its disk."""
        for kind, names in CALLS.items():
            for name in names:
                patch.setattr(os, name, self._counted(kind, getattr(os, name)))
        real_open, real_path_open = builtins.open, Path.open

        def open_path(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real_path_open(path, mode, *args, **options)
            return file if "r" in mode else TornFile(file, self)

        def open_log(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            return TornFile(real_open(path, mode, *args, **options), self)

        patch.setattr(Path, "open", open_path)
        patch.setattr("charlstm.logs.open", open_log, raising=False)

    def _counted(self, kind: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.count(kind)
            if kind == "remove" and self.disk is not None:
                self.disk.keep(args[0], options.get("dir_fd"))
            result = real(*args, **options)
            if kind == "fsync" and self.disk is not None:
                self.disk.flushed(args[0])
            return result

        return call


class TornFile:
    """A file that takes half of what it is given when the fault strikes."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self._file = file
        self._faults = faults

    def __enter__(self) -> TornFile:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        try:
            self._faults.count("write")
        except BaseException:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        written: int = self._file.write(data)
        return written


class Disk:
    """What is on the disk for certain: flushed files, and names in flushed folders.

    A folder's names count as they were when it was last flushed, a file's
    content likewise; all else is lost, the worst that POSIX allows.
    """

    def __init__(self) -> None:
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._content: dict[int, bytes] = {}
        self._kept: list[int] = []

    def keep(self, path: Any, folder: int | None) -> None:
        """Hold on to what is removed, or another file would get its inode number.

        On a disk that happens only when the removal is certain.
        """
        with contextlib.suppress(OSError):
            self._kept.append(os.open(path, os.O_RDONLY, dir_fd=folder))

    def close(self) -> None:
        while self._kept:
            os.close(self._kept.pop())

    def flushed(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        here = Path(f"/proc/self/fd/{descriptor}")
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(here) as entries:
                self._names[status.st_ino] = {
                    entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
                    for entry in entries
                }
        else:
            self._content[status.st_ino] = here.read_bytes()

    def restore(self, folder: Path, target: Path) -> None:
        """Make `target` what is left of `folder` after a power cut."""
        self._restore(folder.stat().st_ino, target)

    def _restore(self, inode: int, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name, (child, is_folder) in self._names.get(inode, {}).items():
            if is_folder:
                self._restore(child, target / name)
            else:
                (target / name).write_bytes(self._content.get(child, b""))
