"""Which files a corpus is made of, and in which order.

Files, folders and patterns become one list of files; none of them is opened
for that. What a name that is no path stands for, and what becomes of the files, is
in `corpus`; how they are read is in `reading`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import os
import re
import stat
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from charlstm.compression import SUFFIXES
from charlstm.errors import CorpusError, printable
from charlstm.reading import CorpusOptions, read_whole, readable_again
from charlstm.storage import portable_name

STDIN = "-"
_CHECKPOINT = re.compile(rb"step-\d{8}/")
_TEXT_SUFFIXES = frozenset({".txt", ".text", ".md"})
_STATUS = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of a corpus, in order.

    Attributes:
        name: What the corpus is called.
        shown: What it is called in messages.
        source_name: How a command line would name it, without the folder that it
            is in, - for stdin; None for several.
        paths: The files; `-` is stdin.
        is_found: `(files,)`; a file that a folder or a pattern brought in is
            left out if it is binary, one that was named is not.
        status: `(files, 5)` int64: device, inode, size, and when it was
            modified and changed, in ns; zeros for what is no plain file.
    """

    name: str
    shown: str
    source_name: str | None
    paths: Sequence[str]
    is_found: npt.NDArray[np.bool_]
    status: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def label(self, number: int) -> str:
        """Name a file in messages: one alone by its name, one of several by its path."""
        path = self.paths[number]
        if path == STDIN:
            return "stdin"
        return Path(path).name if len(self) == 1 else path

    def read(self, number: int, *, options: CorpusOptions) -> str:
        """Read one of the texts whole, cleaned as a corpus is.

        Args:
            number: Which, in [0, len).
            options: How to read it.

        Returns:
            The text, which may be empty.

        Raises:
            CorpusError: If it cannot be read or is binary.
        """
        source = None if self.paths[number] == STDIN else Path(self.paths[number])
        return read_whole(source, name=self.label(number), options=options)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """`(files,)` bytes."""
        return self.status[:, 2]

    @property
    def can_be_read_again(self) -> bool:
        """Whether all are plain files."""
        return bool(self.status.any(axis=1).all())

    def fingerprint(self) -> str:
        """Tell whether these are the files that were there before, unchanged.

        Returns:
            Hexadecimal digits.
        """
        digest = hashlib.sha256(self.status.astype("<i8").tobytes())
        for path in self.paths:
            digest.update(os.fsencode(path) + b"\0")
        return digest.hexdigest()

    def is_unchanged(self, number: int) -> bool:
        """Tell whether a file is what it was, by its size, its times and its place."""
        return _status_of(self.paths[number]) == tuple(self.status[number].tolist())

    def spool(self, folder: Path) -> Sources:
        """Copy what can be read once only, stdin and pipes, into files.

        Args:
            folder: Where the copies go.

        Returns:
            The same texts, all of them in plain files.

        Raises:
            CorpusError: If one cannot be read.
        """
        if self.can_be_read_again:
            return self
        paths, labels = list(self.paths), {}
        for number in np.flatnonzero(~self.status.any(axis=1)).tolist():
            label = self.label(number)
            source = None if paths[number] == STDIN else Path(paths[number])
            copy = readable_again(source, folder / f"spooled-{number}", name=label)
            paths[number] = str(copy)
            labels[number] = label
        status = [_status_of(path) for path in paths]
        return _Spooled(
            name=self.name,
            shown=self.shown,
            source_name=self.source_name,
            paths=paths,
            is_found=self.is_found,
            status=np.array(status, np.int64).reshape(-1, 5),
            labels=labels,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spooled(Sources):
    """Files of which some are copies of what has another name."""

    labels: dict[int, str]

    def label(self, number: int) -> str:
        return self.labels.get(number) or super().label(number)


def collect(given: Sequence[Path | None], *, name: str | None = None) -> Sources:
    """List the files that were asked for.

    Folders are searched through and patterns are matched; what they find is in
    the order of the paths' bytes. Left out are hidden files and folders, links
    that lead nowhere, devices, and what charlstm makes: prepared corpora and
    models. A file that is found twice, or named and found, is read once, where
    it is named or first found; one that is named twice is read twice.

    Args:
        given: Files, folders, patterns such as `texts/**/*.txt`; None is stdin.
        name: What the corpus is called; by default after the first of them.

    Returns:
        The files, at least one.

    Raises:
        CorpusError: If a folder or pattern holds none, stdin is named twice,
            or one is not there.
    """
    if sum(path is None for path in given) > 1:
        raise CorpusError("stdin (-) was given twice", hint="it can be read once")
    paths: list[str] = []
    status = array("q")
    is_found = bytearray()
    for path in given:
        n_before = len(paths)
        files: Iterator[tuple[str, tuple[int, ...]]]
        is_named = path is None or not (is_pattern(path) or path.is_dir())
        if path is None:
            files = iter([(STDIN, (0,) * 5)])
        elif is_named:
            files = iter([(str(path), _status_of(str(path)))])
        elif path.is_dir():
            files = _walk(str(path), set())
        else:
            files = _match(str(path))
        for file, about in files:
            paths.append(file)
            status.extend(about)
            is_found.append(not is_named)
        if len(paths) == n_before:
            what = (
                "a folder without a text" if path and path.is_dir() else "a pattern without match"
            )
            raise CorpusError(
                f"{printable(str(path))} is {what}",
                hint="give text files, folders of them, or patterns such as 'texts/**/*.txt'",
            )
    rows = np.frombuffer(status, dtype=np.int64).reshape(-1, len(_STATUS))
    found = np.frombuffer(is_found, dtype=np.bool_)
    kept = _without_doubles(rows, found)
    if not kept.all():
        paths = [path for path, stays in zip(paths, kept.tolist(), strict=True) if stays]
    first = given[0]
    shown = "stdin" if first is None else str(first)
    if len(given) == 1 and first is not None and not found[0]:
        shown = first.name
    if len(given) > 1:
        shown = f"{shown} and {len(given) - 1} more" if len(given) > 2 else f"{shown} and another"
    return Sources(
        name=name or corpus_name(_folder_of(first) if first and is_pattern(first) else first),
        shown=shown,
        source_name=_source_name(first) if len(given) == 1 else None,
        paths=paths,
        is_found=found[kept],
        status=rows[kept],
    )


def _source_name(given: Path | None) -> str:
    """Name a text on a command line: a file, a folder, a pattern or stdin."""
    if given is None:
        return STDIN
    if is_pattern(given):
        return str(given.relative_to(_folder_of(given).parent))
    return given.name or given.resolve().name or str(given)


def _without_doubles(
    rows: npt.NDArray[np.int64], found: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Tell which files stay: those named, and of others the first of its kind."""
    kept = np.ones(len(rows), dtype=bool)
    if found.any():
        # Named ones first, then in order: who comes first in a group stays.
        order = np.lexsort((found, rows[:, 1], rows[:, 0]))
        same = np.zeros(len(rows), dtype=bool)
        same[1:] = (rows[order[1:], :2] == rows[order[:-1], :2]).all(axis=1)
        is_file = rows[order].any(axis=1)
        kept[order[same & is_file & found[order]]] = False
    return kept


def is_pattern(path: Path) -> bool:
    """Tell whether a path that is not there is a pattern.

    Args:
        path: As typed.

    Returns:
        True if it holds `*`, `?` or `[` and there is no such file.
    """
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def corpus_name(source: Path | None) -> str:
    """Name a corpus after its file, in a form that is safe as a folder name.

    Args:
        source: A file or folder; None for stdin.

    Returns:
        The stem, without what tells of compression, or the folder's name, as
        `portable_name` has it; "stdin" for None.
    """
    if source is None:
        return "stdin"
    if source.is_dir():
        return portable_name(source.resolve().name)
    if source.suffix.lower() in SUFFIXES and source.stem:
        inner = Path(source.stem)
        return portable_name(inner.stem if inner.suffix.lower() in _TEXT_SUFFIXES else inner.name)
    return portable_name(source.stem)


def _folder_of(pattern: Path) -> Path:
    """Return the folder that a pattern looks into."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
    return Path(*fixed)


def _status_of(path: str) -> tuple[int, ...]:
    """Return what tells a file from others and from itself later; zeros for a pipe."""
    try:
        return _row(Path(path).stat())
    except (OSError, ValueError):
        return (0,) * len(_STATUS)


def _row(status: os.stat_result) -> tuple[int, ...]:
    if not stat.S_ISREG(status.st_mode):
        return (0,) * len(_STATUS)
    # Inodes and devices may need all 64 bits, without a sign.
    return tuple((getattr(status, name) + (1 << 63)) % (1 << 64) - (1 << 63) for name in _STATUS)


def _walk(folder: str, entered: set[tuple[int, int]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the files below a folder in the order of their paths' bytes.

    Args:
        folder: Where to begin.
        entered: Folders that were, and now are, looked into: none is twice, so
            that links cannot lead round in circles.
    """
    pending = [iter([folder])]
    while pending:
        path = next(pending[-1], None)
        if path is None:
            pending.pop()
            continue
        try:
            about = os.stat(path)  # noqa: PTH116 (there may be a million)
            if stat.S_ISREG(about.st_mode):
                yield path, _row(about)
            elif stat.S_ISDIR(about.st_mode) and (about.st_dev, about.st_ino) not in entered:
                entered.add((about.st_dev, about.st_ino))
                pending.append(_entries(path))
        except FileNotFoundError:  # a link that leads nowhere, or removed just now
            continue
        except OSError as error:
            if path == folder or not Path(path).is_symlink():
                raise CorpusError(f"cannot read {printable(path)}: {error.strerror}") from error


def _entries(folder: str) -> Iterator[str]:
    """Return the paths in a folder that a corpus may be made of, in order."""
    with os.scandir(folder) as entries:
        # A folder's name as it is in the paths of all files below.
        names = [os.fsencode(e.name) + (b"/" if _is_folder(e) else b"") for e in entries]
    if _is_made_here(names):
        return iter(())
    names = sorted(name for name in names if not name.startswith(b"."))
    return (os.path.join(folder, os.fsdecode(name.rstrip(b"/"))) for name in names)  # noqa: PTH118


def _is_made_here(names: Sequence[bytes]) -> bool:
    """Tell by what is in it whether a folder is a prepared corpus or a model."""
    is_prepared = b"corpus.json" in names and b"vocabulary.json" in names
    return is_prepared or any(_CHECKPOINT.fullmatch(name) for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _match(pattern: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the files that a pattern matches, and those in folders that it does, in order."""
    entered: set[tuple[int, int]] = set()
    found: dict[str, tuple[int, ...]] = {}
    given = _folder_of(Path(pattern))
    is_passed_by = dict.fromkeys([given, *given.parents], False)

    def passes_by(folder: Path) -> bool:
        if folder not in is_passed_by:
            names: list[bytes] = []
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                names = [os.fsencode(e.name) + (b"/" if _is_folder(e) else b"") for e in entries]
            is_passed_by[folder] = _is_made_here(names) or passes_by(folder.parent)
        return is_passed_by[folder]

    for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        path = path.rstrip("/") or "/"
        if not passes_by(Path(path).parent):
            found.update(_walk(path, entered))
    yield from sorted(found.items(), key=lambda item: os.fsencode(item[0]))
