"""Files that survive a power cut, and files from strangers.

What is written here is on the disk when the function returns. What is read
here is a plain file of bounded size: never a link out of its folder, a device
or a pipe that nobody writes to.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, TextIO

from charlstm.errors import CheckpointError, printable

_CHUNK = 1 << 20
PARTIAL = ".partial"


def shown(path: Path) -> str:
    """Write a path so that a terminal cannot be steered by it."""
    return printable(str(path))


# --- reading ------------------------------------------------------------------


def is_plain(path: Path) -> bool:
    """Tell whether a path is a file itself: no link to one, device, pipe or folder.

    Args:
        path: What is there.

    Returns:
        True for a plain file.

    Raises:
        OSError: If there is nothing, or it cannot be looked at.
    """
    return stat.S_ISREG(path.lstat().st_mode)


@contextlib.contextmanager
def open_plain(path: Path, *, limit: int | None = None) -> Iterator[BufferedReader]:
    """Open a file for reading if it is a plain one.

    Args:
        path: The file; a symbolic link is refused, wherever it points.
        limit: Largest size in bytes; None for any.

    Yields:
        The open file.

    Raises:
        CheckpointError: If it is missing, not a plain file, too large, or
            cannot be read.
    """
    try:
        # Looked at before it is opened: a device may act on being opened.
        if not is_plain(path):
            raise CheckpointError(f"{shown(path)} is missing or not a plain file")
        # Opening a pipe waits for its writer, unless told not to. The flags
        # are Unix's; the check above serves where they are missing.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{shown(path)} is missing or not a plain file")
            if limit is not None and status.st_size > limit:
                raise CheckpointError(
                    f"{shown(path)} has {status.st_size:,} bytes; at most {limit:,} are read"
                )
            yield file
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise CheckpointError(f"{shown(path)} is missing or not a plain file") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {error.strerror}") from error


def read_plain(path: Path, *, limit: int) -> bytes:
    """Read a plain file whole.

    Args:
        path: The file.
        limit: Largest size in bytes.

    Returns:
        Its content.

    Raises:
        CheckpointError: As `open_plain`.
    """
    with open_plain(path, limit=limit) as file:
        return file.read(limit + 1)[:limit]


def read_verified(
    path: Path,
    *,
    n_bytes: int,
    sha256: str,
    limit: int,
    check_start: Callable[[bytes], None] = lambda start: None,
) -> bytes:
    """Read a plain file whole if it is what its writer said.

    It is hashed first and read after, so that no more memory than a chunk is
    spent on what is not.

    Args:
        path: The file.
        n_bytes: The size it must have.
        sha256: The hash it must have, hexadecimal.
        limit: Largest size that makes sense, in bytes.
        check_start: Given the first megabyte of a larger file before that is
            hashed; what it raises saves the time and the memory for the rest.

    Returns:
        Its content.

    Raises:
        CheckpointError: If it is anything else, or as `open_plain`.
    """
    if n_bytes > limit:
        raise CheckpointError(f"{shown(path)} has {n_bytes:,} bytes; at most {limit:,} are read")
    damaged = CheckpointError(f"{shown(path)} is damaged: it is not what was saved")
    with open_plain(path, limit=n_bytes) as file:
        if os.fstat(file.fileno()).st_size != n_bytes:
            raise damaged
        if n_bytes > _CHUNK:
            check_start(file.read(_CHUNK))
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise damaged
            file.seek(0)
        data = file.read(n_bytes + 1)
    if len(data) != n_bytes or hashlib.sha256(data).hexdigest() != sha256:
        raise damaged
    return data


# --- writing ------------------------------------------------------------------


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Args:
        path: The file.
        data: Its content.

    Raises:
        OSError: If it cannot be written.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_text(path: Path) -> Iterator[TextIO]:
    """Write a text file that appears whole, as `atomic_file` does.

    Args:
        path: The file; a link's target is replaced, not the link.

    Yields:
        The file to write to, UTF-8.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors="backslashreplace", newline="")
        try:
            yield text
        finally:
            text.flush()
            text.detach()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole, in place of what was there.

    Until then what was there is untouched. What an interruption left is kept
    beside it, with `.partial` after its name, unless it is empty.

    Args:
        path: The file; a link's target is replaced, not the link.

    Yields:
        The file to write to.

    Raises:
        OSError: If it cannot be written.
    """
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:100]}-", dir=target.parent)
    interrupted: KeyboardInterrupt | None = None
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                yield file
            except KeyboardInterrupt as interrupt:
                interrupted = interrupt
            file.flush()
            os.fsync(file.fileno())
        if interrupted is not None:
            if not Path(name).stat().st_size:
                raise interrupted
            target = target.with_name(target.name + PARTIAL)
        Path(name).chmod(_mode_of(target))
        put_in_place(Path(name), target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    if interrupted is not None:
        raise interrupted


def _mode_of(path: Path) -> int:
    """Return a file's permissions, or those that a new one would get."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Args:
        path: The folder.

    Raises:
        OSError: If that cannot be done.
    """
    if os.name == "nt":  # folders cannot be opened there, and need not be
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Keep out other processes that hold the same folder, for a few renames.

    Where a folder cannot be locked, as on Windows, nobody is kept out.

    Args:
        path: The folder.

    Yields:
        Nothing, as soon as no other process holds it.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            number = os.open(path, os.O_RDONLY)
            stack.callback(os.close, number)  # which lets go
            fcntl.flock(number, fcntl.LOCK_EX)
        yield


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, for good.

    Args:
        path: The folder, which may exist.

    Raises:
        OSError: If it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def make_writable_folder(path: Path) -> None:
    """Make a folder that is missing, and find out now whether it can be written.

    Args:
        path: The folder, which may exist.

    Raises:
        OSError: If it cannot be made or written.
    """
    make_folder(path)
    with tempfile.TemporaryFile(dir=path):
        pass


def put_in_place(source: Path, target: Path) -> None:
    """Rename a whole file or folder to where it belongs, for good.

    Args:
        source: What was written, on the same file system.
        target: Where it goes; a file there is replaced.

    Raises:
        OSError: If it cannot be renamed.
    """
    source.replace(target)
    sync_folder(target.parent)


def make_hidden_folder(parent: Path, *, prefix: str) -> Path:
    """Make a folder that no reader looks into.

    Args:
        parent: Where.
        prefix: How its name begins: with a dot, and so that the next writer
            knows what was left over.

    Returns:
        The folder.

    Raises:
        OSError: If it cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def replace_folder(source: Path, target: Path, *, prefix: str) -> Path | None:
    """Rename a whole folder to where it belongs, in place of what may be there.

    Args:
        source: What was written, on the same file system.
        target: Where it goes.
        prefix: As `make_hidden_folder`, for what was there.

    Returns:
        The hidden folder with what was there, for the caller to remove; None
        if there was nothing.

    Raises:
        OSError: If it cannot be renamed; what was there is there again.
    """
    if not os.path.lexists(target):
        put_in_place(source, target)
        return None
    aside = make_hidden_folder(target.parent, prefix=prefix)
    try:
        target.replace(aside / "replaced")
        put_in_place(source, target)
    except BaseException:
        if not os.path.lexists(target):
            (aside / "replaced").replace(target)
            aside.rmdir()
        raise
    return aside


# What Windows takes for a device, whatever follows the first dot.
_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)


def portable_name(name: str) -> str:
    """Make a folder's name of any text that works on every system.

    Args:
        name: For instance the stem of a file.

    Returns:
        The name in NFC with everything but letters, digits, dot, dash and
        underscore replaced, and no device of Windows; "text" if nothing is left.
    """
    safe = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", name)).strip("-. ")
    safe = safe or "text"
    return f"text-{safe}" if _DEVICES.fullmatch(safe) else safe


def is_portable_name(name: str) -> bool:
    """Tell whether a folder of that name can be moved to any system.

    Args:
        name: A single name, without separators.

    Returns:
        False for devices of Windows, names that end in a dot or a space, and
        characters that some system refuses or does not print.
    """
    is_clean = name.isprintable() and not set(name) & set('<>:"/\\|?*')
    is_short = 0 < len(name.encode("utf-8", "surrogatepass")) <= 255
    return is_clean and is_short and name[-1] not in ". " and not _DEVICES.fullmatch(name)


def remove(entry: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder with all in it.

    Args:
        entry: What goes.

    Raises:
        OSError: If it cannot be removed.
    """
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
