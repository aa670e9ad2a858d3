"""From texts to ids: two passes over many files, by several processes.

The first pass collects the characters and counts them, the second writes each
part's ids to where they belong. The parts (some small files, or a stretch of a
large one) depend on the files alone, so the result is the same for any number
of processes. What is done is noted in a journal, from which a later process can
go on. Which files there are, and what a prepared folder looks like, is in
`sources` and `corpus`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import signal
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.errors import CharlstmError, CorpusError, NotTextError, printable
from charlstm.reading import CorpusOptions, TextReader, can_be_cut, find_cuts
from charlstm.sources import Sources
from charlstm.vocabulary import Vocabulary, code_points_of

_MAX_PART_FILES = 2_048
_DIGEST_BYTES = 32
_NAMED_SKIPPED = 3
_WRITE_BYTES = 1 << 20

Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """How the work is divided; none of it changes the ids.

    Attributes:
        threads: Processes that work side by side; 1 works in this one.
        shard_bytes: Largest size of a file of ids.
        part_bytes: Size of what one process reads at a time, about.
        min_parallel_bytes: Texts below this are read by one process: to start
            others takes as long.
        min_kept_bytes: Work on texts from this size on is kept when it is
            interrupted, to go on from.
    """

    threads: int = 1
    shard_bytes: int = 1 << 30
    part_bytes: int = 16 << 20
    min_parallel_bytes: int = 48 << 20
    min_kept_bytes: int = 256 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What one process reads at a time: files one after the other, or a stretch of one.

    Attributes:
        first: Number of the first file.
        last: Number after the last.
        start: Offset where a stretch begins.
        stop: Offset where it ends; None for whole files.
    """

    first: int
    last: int
    start: int = 0
    stop: int | None = None

    @property
    def is_stretch(self) -> bool:
        """Whether this is a stretch of a file."""
        return self.stop is not None

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return f"{self.first}-{self.last}" + (f":{self.start}" if self.is_stretch else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Text:
    """One file, or a stretch of one, on the way to a process."""

    path: str
    name: str
    is_found: bool
    start: int = 0
    stop: int | None = None

    def reader(self, options: CorpusOptions) -> TextReader:
        return TextReader(
            Path(self.path), name=self.name, options=options, start=self.start, stop=self.stop
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the first pass learns of a part.

    Attributes:
        characters: The distinct ones, in order.
        occurrences: How often each of them occurs; empty unless the
            vocabulary is limited.
        counts: Of each text, characters, bytes and characters left out.
        digests: Of each text the sha256, one after the other.
        skipped: Numbers, within the part, and reasons of those that are binary.
        needs_whole: The file has to be read whole, and nothing else counts.
    """

    characters: str
    counts: list[tuple[int, int, int]]
    digests: str
    skipped: list[tuple[int, str]]
    needs_whole: bool
    occurrences: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was made of the texts.

    Attributes:
        vocabulary: Their characters.
        dtype: Of the ids.
        shards: Name and characters of each file of ids.
        documents: `(texts,)` uint64, the character at which each text begins.
        sha256: Of the one text, or of their hashes, one after the other.
        n_bytes: Of the texts, decompressed.
        removed_characters: Project Gutenberg boilerplate left out.
        unknown_characters: Those that became the unknown symbol.
        unknown_kinds: How many different ones.
        notes: What a person should know, a line each.
    """

    vocabulary: Vocabulary
    dtype: np.dtype[Any]
    shards: tuple[tuple[str, int], ...]
    documents: npt.NDArray[np.uint64]
    sha256: str
    n_bytes: int
    removed_characters: int
    unknown_characters: int
    unknown_kinds: int
    notes: tuple[str, ...]


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Choose the smallest little-endian unsigned type that holds every id.

    Args:
        vocabulary_size: Number of ids.

    Returns:
        1, 2 or 4 bytes a character.
    """
    if vocabulary_size <= 1 << 8:
        return np.dtype("u1")
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def joined_sha256(digests: bytes) -> str:
    """Return what identifies a list of texts.

    Args:
        digests: The sha256 of each, 32 bytes, one after the other.

    Returns:
        The one text's own hash, or that of the list; hexadecimal.
    """
    return (digests if len(digests) == _DIGEST_BYTES else hashlib.sha256(digests).digest()).hex()


def sha256_of_sources(sources: Sources, options: CorpusOptions) -> str:
    """Return the hash that a corpus of these texts would have.

    Args:
        sources: The texts, all in plain files.
        options: How they are read, which decides what is binary.

    Returns:
        Hexadecimal digits.

    Raises:
        CorpusError: If one cannot be read.
    """
    digests = bytearray()
    for number in range(len(sources)):
        text = _text(sources, number)
        reader = text.reader(options)
        try:
            for _ in reader.blocks(lambda n: None):
                pass
        except NotTextError:
            if not text.is_found:
                raise
        else:
            digests += reader.sha256.digest()
    return joined_sha256(bytes(digests))


# --- the plan -----------------------------------------------------------------


def plan_parts(sources: Sources, options: CorpusOptions, *, part_bytes: int) -> list[Part]:
    """Divide the texts into parts.

    Args:
        sources: The texts, all in plain files.
        options: How they are read, which decides what can be cut.
        part_bytes: Size of a part, about.

    Returns:
        The parts, in order. They depend on nothing else.

    Raises:
        CorpusError: If a file cannot be read.
    """
    parts: list[Part] = []
    first = n_bytes = 0
    for number, size in enumerate(sources.sizes.tolist()):
        is_full = number - first >= _MAX_PART_FILES or n_bytes + size > part_bytes
        if number > first and is_full:
            parts.append(Part(first=first, last=number))
            first, n_bytes = number, 0
        n_bytes += size
        if size <= part_bytes:
            continue
        path = Path(sources.paths[number])
        try:
            is_cut = can_be_cut(path, options)
            cuts = find_cuts(path, size=size, every=part_bytes) if is_cut else []
        except OSError as error:
            label = printable(sources.label(number))
            raise CorpusError(f"cannot read {label}: {error.strerror}") from error
        bounds = [0, *cuts, size]
        parts += [
            Part(first=number, last=number + 1, start=start, stop=stop if cuts else None)
            for start, stop in itertools.pairwise(bounds)
        ]
        first, n_bytes = number + 1, 0
    if first < len(sources):
        parts.append(Part(first=first, last=len(sources)))
    return parts


def _text(sources: Sources, number: int, part: Part | None = None) -> _Text:
    return _Text(
        path=sources.paths[number],
        name=sources.label(number),
        is_found=bool(sources.is_found[number]),
        start=part.start if part else 0,
        stop=part.stop if part else None,
    )


def _texts(sources: Sources, part: Part) -> list[_Text]:
    return [_text(sources, number, part) for number in range(part.first, part.last)]


# --- what a process does with a part ------------------------------------------


def _survey(texts: list[_Text], options: CorpusOptions, tick: Tick) -> _Survey:
    """Read a part for the first time."""
    # Counting takes longer than noting which there are.
    kind = _Characters if options.max_vocab is None else _CountedCharacters
    seen = kind()
    counts: list[tuple[int, int, int]] = []
    digests = ""
    skipped: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        reader = text.reader(options)
        # Of a file that is left out the characters are none of the corpus.
        own = kind() if text.is_found else seen
        try:
            n_chars = own.add(reader.pieces(tick))
        except NotTextError as error:
            if not text.is_found:
                raise
            if not reader.is_whole:
                return _NEEDS_WHOLE
            skipped.append((number, error.message))
            counts.append((0, 0, 0))
            digests += "00" * _DIGEST_BYTES
            continue
        if text.is_found:
            seen.update(own)
        if reader.needs_whole and not reader.is_whole:
            return _NEEDS_WHOLE
        counts.append((n_chars, reader.n_bytes - reader.start, reader.removed_characters))
        digests += reader.sha256.hexdigest()
    return _Survey(
        characters=seen.ordered(),
        counts=counts,
        digests=digests,
        skipped=skipped,
        needs_whole=False,
        occurrences=seen.occurrences(),
    )


_NEEDS_WHOLE = _Survey(characters="", counts=[], digests="", skipped=[], needs_whole=True)


class _Characters:
    """The distinct characters of what was read."""

    def __init__(self) -> None:
        self.ascii = b""
        self.others = np.zeros(0, dtype=bool)

    def add(self, pieces: Iterable[str]) -> int:
        """Note the characters of a text and return their number."""
        n_chars = 0
        for piece in pieces:
            n_chars += len(piece)
            if piece.isascii():
                # Deleting what is known leaves almost always nothing: several
                # times faster than marking each character.
                new = piece.encode("ascii").translate(None, self.ascii)
                self.ascii += bytes(set(new))
            else:
                if not self.others.size:
                    self.others = np.zeros(sys.maxunicode + 1, dtype=bool)
                self.others[code_points_of(piece)] = True
        return n_chars

    def update(self, other: _Characters) -> None:
        self.ascii = bytes(set(self.ascii) | set(other.ascii))
        if other.others.size:
            if not self.others.size:
                self.others = np.zeros_like(other.others)
            self.others |= other.others

    def ordered(self) -> str:
        marked = {chr(c) for c in np.flatnonzero(self.others)}
        return "".join(sorted(marked | set(self.ascii.decode("ascii"))))

    def occurrences(self) -> list[int]:
        """Return how often each character occurs, in order; nothing where none were counted."""
        return []


class _CountedCharacters(_Characters):
    """The distinct characters of what was read, and how often each occurs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = np.zeros(0, dtype=np.int64)  # by code point, up to the highest seen

    def add(self, pieces: Iterable[str]) -> int:
        n_chars = 0
        for piece in pieces:
            n_chars += len(piece)
            self._add(np.bincount(code_points_of(piece)))
        return n_chars

    def _add(self, counts: npt.NDArray[np.int64]) -> None:
        longer, shorter = sorted((self.counts, counts), key=len, reverse=True)
        longer[: len(shorter)] += shorter
        self.counts = longer

    def update(self, other: _Characters) -> None:
        assert isinstance(other, _CountedCharacters)
        self._add(other.counts)

    def ordered(self) -> str:
        return "".join(map(chr, np.flatnonzero(self.counts).tolist()))

    def occurrences(self) -> list[int]:
        counts: list[int] = self.counts[self.counts > 0].tolist()
        return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a part's ids go.

    Attributes:
        folder: Of the files of ids.
        names: Theirs.
        shard_characters: Of each but the last.
        start: The part's first character.
        n_chars: Its characters.
        digests: Of its texts, as the first pass found them.
        characters: Of the vocabulary, in order.
        has_unknown: Whether it has the unknown symbol.
    """

    folder: str
    names: tuple[str, ...]
    shard_characters: int
    start: int
    n_chars: int
    digests: str
    characters: str
    has_unknown: bool

    @property
    def itemsize(self) -> int:
        return id_dtype(len(self.characters) + self.has_unknown).itemsize


def _write(texts: list[_Text], options: CorpusOptions, place: _Place, tick: Tick) -> int:
    """Read a part for the second time and write its ids.

    Returns:
        The CRC-32 of what was written.
    """
    encode = _encoder(place.characters, place.has_unknown)
    checksum = n_written = 0
    with _Shards(place, encode.itemsize) as shards:
        for number, text in enumerate(texts):
            reader = text.reader(options)
            digest = place.digests[2 * _DIGEST_BYTES * number :][: 2 * _DIGEST_BYTES]
            if not int(digest, 16):
                continue  # left out
            for piece in reader.pieces(tick):
                n_written += len(piece)
                if n_written > place.n_chars:
                    break
                data = encode(piece)
                checksum = zlib.crc32(data, checksum)
                shards.write(data)
            if reader.sha256.hexdigest() != digest:
                raise _changed(text.name)
        if n_written != place.n_chars:
            raise _changed(texts[0].name)
    return checksum


def _changed(name: str) -> CorpusError:
    return ChangedError(f"{printable(name)} changed while it was read", hint="try again")


class ChangedError(CorpusError):
    """A text is not what it was when it was read first."""


class _Shards:
    """The files of ids, open at one place, for writing or reading on from there."""

    def __init__(self, place: _Place, itemsize: int, *, mode: str = "r+b") -> None:
        self.place = place
        self.shard_bytes = place.shard_characters * itemsize
        self.position = place.start * itemsize
        self.mode = mode
        self.file: Any = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            n = self._at(len(view))
            self.file.write(view[:n])
            self.position += n
            view = view[n:]

    def checksum(self, n_bytes: int) -> int:
        checksum = 0
        while n_bytes:
            n = self._at(min(n_bytes, _WRITE_BYTES))
            data = self.file.read(n)
            if not data:
                break
            checksum = zlib.crc32(data, checksum)
            self.position += len(data)
            n_bytes -= len(data)
        return checksum

    def _at(self, n_bytes: int) -> int:
        """Open the file of the present place; return how many of the bytes are in it."""
        shard, offset = divmod(self.position, self.shard_bytes)
        if self.file is None or offset == 0:
            self.stack.close()
            path = Path(self.place.folder) / self.place.names[shard]
            self.file = self.stack.enter_context(path.open(self.mode))
            self.file.seek(offset)
        return min(n_bytes, self.shard_bytes - offset)


class _Encoder:
    """Turns text into the bytes of its ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        dtype = id_dtype(vocabulary.n_ids)
        self.itemsize = dtype.itemsize
        self.table = vocabulary.id_table(dtype)
        self.ascii_table = bytes(256) if dtype.itemsize > 1 else self.table[:256].tobytes()

    def __call__(self, piece: str) -> bytes:
        if self.itemsize == 1 and piece.isascii():
            return piece.encode("ascii").translate(self.ascii_table)
        return self.table[code_points_of(piece)].tobytes()


@functools.lru_cache(maxsize=1)
def _encoder(characters: str, has_unknown: bool) -> _Encoder:
    return _Encoder(Vocabulary(characters, has_unknown=has_unknown))


# --- both passes --------------------------------------------------------------


class Journal:
    """What is done, a line each, so that a later process can go on from it.

    Args:
        path: The file; what is in it counts if it is of the same request.
        request: What was asked for, as JSON can hold it.
    """

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        """Find the whole lines and cut off what a kill may have left of another."""
        self._places: dict[str, int] = {}
        path.touch()
        self._file = path.open("r+b")
        if self._file.readline() != _line(request):
            self._file.seek(0)
            self._file.truncate()
            self._file.write(_line(request))
        place = self._file.tell()
        for line in iter(self._file.readline, b""):
            if not line.endswith(b"\n"):
                break
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._places[json.loads(line)["key"]] = place
            place += len(line)
        self._file.seek(place)
        self._file.truncate()
        self._file.flush()
        self.has_entries = bool(self._places)

    def __enter__(self) -> Journal:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._file.close()

    def note(self, key: str, content: Any) -> None:
        """Write what was done.

        Args:
            key: Names it.
            content: As JSON can hold it.
        """
        self._file.seek(0, os.SEEK_END)
        self._file.write(_line({"key": key, "content": content}))
        self._file.flush()
        self.has_entries = True

    def find(self, key: str) -> Any:
        """Return what was noted by an earlier process; None if nothing was.

        Args:
            key: Names it.
        """
        if key not in self._places:
            return None
        self._file.seek(self._places[key])
        return json.loads(self._file.readline())["content"]


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True) + "\n").encode()


def prepare_texts(
    sources: Sources,
    *,
    options: CorpusOptions,
    folder: Path,
    scale: Scale,
    check: Callable[[str, int], None],
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write the ids of texts, and all that is to be known of them.

    Args:
        sources: The texts, all in plain files.
        options: How they are read.
        folder: Where the files of ids go; what an interrupted run of the same
            request left there is gone on from.
        scale: How the work is divided.
        check: Given the characters and their number after the first pass; may
            raise.
        journal: What of the same request is done already; None for nothing.
        progress: Called with (bytes done, bytes in all) over both passes.

    Returns:
        What was made; the ids are on the disk.

    Raises:
        CorpusError: If a text cannot be used, or changes meanwhile.
        CharlstmError: If a process dies.
        OSError: If the ids cannot be written.
    """
    parts = plan_parts(sources, options, part_bytes=scale.part_bytes)
    n_bytes = int(sources.sizes.sum())
    is_parallel = scale.threads > 1 and len(parts) > 1 and n_bytes >= scale.min_parallel_bytes
    with _Processes(min(scale.threads, len(parts)) if is_parallel else 1) as processes:
        passes = _Passes(sources, options, folder, scale, journal, progress, processes)
        passes.survey(parts)
        check(passes.characters, passes.n_chars)
        prepared = passes.write()
    for number in passes.cut:  # the others were hashed twice
        if not sources.is_unchanged(number):
            raise _changed(sources.label(number))
    return prepared


class _Passes:
    """Both passes over the parts of one request."""

    def __init__(
        self,
        sources: Sources,
        options: CorpusOptions,
        folder: Path,
        scale: Scale,
        journal: Journal | None,
        progress: Callable[[int, int], None] | None,
        processes: _Processes,
    ) -> None:
        self.sources = sources
        self.options = options
        self.folder = folder
        self.scale = scale
        self.journal = journal
        self.progress = progress
        self.processes = processes
        self.total = 2 * int(sources.sizes.sum())
        self.done = 0
        self.seen: set[str] = set()
        self.occurrences: Counter[str] = Counter()  # where the vocabulary is limited
        self.lengths = np.zeros(len(sources), dtype=np.int64)  # in characters
        self.is_skipped = np.zeros(len(sources), dtype=bool)
        self.skipped: list[str] = []
        self.n_bytes = self.removed = 0
        self.noted: dict[Part, tuple[int, str]] = {}  # characters, digests
        self.hashes: dict[int, Any] = {}  # of files in stretches, as far as they go
        self.whole: set[int] = set()  # files that could not be read in stretches
        self.cut: list[int] = []  # files that could

    @property
    def characters(self) -> str:
        return "".join(sorted(self.seen))

    @property
    def n_chars(self) -> int:
        return int(self.lengths.sum())

    def survey(self, parts: list[Part]) -> None:
        """Read all for the first time."""
        stretches: list[tuple[Part, _Survey]] = []
        for part, survey in self._in_order(self._tasks(parts), "survey", _survey):
            if stretches and stretches[-1][0].first != part.first:
                self._note_stretches(stretches)
            if not part.is_stretch:
                self._note(part, survey)
            elif survey.needs_whole:
                self.whole.add(part.first)
            else:
                stretches.append((part, survey))
                self._hash(part)
        self._note_stretches(stretches)
        # Whether a stretch needs the whole file is known when it is read.
        whole = [Part(first=number, last=number + 1) for number in sorted(self.whole)]
        for part, survey in self._in_order(self._tasks(whole), "survey", _survey):
            self._note(part, survey)
        self.cut = sorted(self.hashes)

    def _note_stretches(self, stretches: list[tuple[Part, _Survey]]) -> None:
        """Note those of one file, unless it has to be read whole."""
        for part, survey in stretches:
            if part.first in self.whole:
                self.hashes.pop(part.first, None)
            else:
                self._note(part, survey)
        stretches.clear()

    def _tasks(self, parts: list[Part]) -> Iterator[tuple[Part, tuple[Any, ...]]]:
        for part in parts:
            if not (part.is_stretch and part.first in self.whole):
                yield part, (_texts(self.sources, part), self.options)

    def _note(self, part: Part, survey: _Survey) -> None:
        self.seen.update(survey.characters)
        if self.options.max_vocab is not None:
            pairs = zip(survey.characters, survey.occurrences, strict=True)
            self.occurrences.update(dict(pairs))
        for number, (n_chars, n_bytes, removed) in enumerate(survey.counts, part.first):
            self.lengths[number] += n_chars
            self.n_bytes += n_bytes
            self.removed += removed
        for number, why in survey.skipped:
            self.is_skipped[part.first + number] = True
            if len(self.skipped) < _NAMED_SKIPPED:
                self.skipped.append(why)
        self.noted[part] = sum(counts[0] for counts in survey.counts), survey.digests

    def _hash(self, part: Part) -> None:
        """Hash a stretch once more, as part of its file: what identifies that is one hash."""
        digest = self.hashes.setdefault(part.first, hashlib.sha256())
        path = Path(self.sources.paths[part.first])
        with path.open("rb") as file:
            file.seek(part.start)
            wanted = (part.stop or 0) - part.start
            while wanted and (block := file.read(min(wanted, _WRITE_BYTES))):
                digest.update(block)
                wanted -= len(block)

    def write(self) -> Prepared:
        """Read all for the second time and write the ids."""
        limit = self.options.max_vocab
        if limit is None:
            vocabulary = Vocabulary(self.seen)
        else:
            vocabulary = Vocabulary.most_frequent(self.occurrences, limit=limit)
        unknown = [n for c, n in self.occurrences.items() if c not in vocabulary]
        dtype = id_dtype(vocabulary.n_ids)
        n_chars = self.n_chars
        per_shard = max(1, self.scale.shard_bytes // dtype.itemsize)
        lengths = [min(per_shard, n_chars - start) for start in range(0, n_chars, per_shard)]
        names = [f"ids-{i:05d}.bin" for i in range(len(lengths))] if lengths[1:] else ["ids.bin"]
        for name, length in zip(names, lengths, strict=True):
            with (self.folder / name).open("ab") as made:
                made.truncate(length * dtype.itemsize)
        common: dict[str, Any] = {
            "folder": str(self.folder),
            "names": tuple(names),
            "shard_characters": per_shard,
            "characters": "".join(vocabulary.characters),
            "has_unknown": vocabulary.has_unknown,
        }

        def tasks() -> Iterator[tuple[Part, tuple[Any, ...]]]:
            start = 0
            for part in sorted(self.noted, key=lambda part: (part.first, part.start)):
                n, digests = self.noted[part]
                place = _Place(start=start, n_chars=n, digests=digests, **common)
                start += n
                yield part, (_texts(self.sources, part), self.options, place)

        for _ in self._in_order(tasks(), "write", _write):
            pass
        for name in names:
            with (self.folder / name).open("rb+") as file:
                os.fsync(file.fileno())
        starts = np.concatenate([[0], np.cumsum(self.lengths)])[:-1]
        return Prepared(
            vocabulary=vocabulary,
            dtype=dtype,
            shards=tuple(zip(names, lengths, strict=True)),
            documents=starts[~self.is_skipped].astype("<u8"),
            sha256=joined_sha256(self._digests()),
            n_bytes=self.n_bytes,
            removed_characters=self.removed,
            unknown_characters=sum(unknown),
            unknown_kinds=len(unknown),
            notes=self._notes(),
        )

    def _digests(self) -> bytes:
        digests = bytearray()
        for part in sorted(self.noted, key=lambda part: (part.first, part.start)):
            if not part.is_stretch:
                for digest in _split(self.noted[part][1]):
                    digests += digest if any(digest) else b""
            elif part.start == 0:
                digests += self.hashes[part.first].digest()
        return bytes(digests)

    def _notes(self) -> tuple[str, ...]:
        n = int(self.is_skipped.sum())
        notes = [f"left out: {why}" for why in self.skipped]
        if n > len(notes):
            notes.append(f"left out {n - len(notes):,} more binary files")
        return tuple(notes)

    def _in_order(
        self,
        tasks: Iterable[tuple[Part, tuple[Any, ...]]],
        step: str,
        function: Callable[..., Any],
    ) -> Iterator[tuple[Part, Any]]:
        """Yield each part's result, in order; from the journal what it has."""
        for part, arguments, promise in self.processes.map(function, self._looked_up(tasks, step)):
            n_before = self.done
            if isinstance(promise, Future):
                result = result_of(promise)
            elif promise is None:
                result = function(*arguments, self._tick)
            else:
                result = promise.content
            n_bytes = self._size(part)
            if self.done == n_before:
                self._tick(n_bytes)
            if self.journal is not None and not isinstance(promise, _Known):
                noted = dataclasses.asdict(result) if isinstance(result, _Survey) else result
                self.journal.note(f"{step} {part.key}", noted)
            yield part, result

    def _looked_up(
        self, tasks: Iterable[tuple[Part, tuple[Any, ...]]], step: str
    ) -> Iterator[tuple[Part, tuple[Any, ...], _Known | None]]:
        for part, arguments in tasks:
            known = None
            noted = None if self.journal is None else self.journal.find(f"{step} {part.key}")
            if noted is not None and step == "survey":
                with contextlib.suppress(TypeError):
                    known = _Known(_Survey(**noted))
            elif noted is not None and _checksum(arguments[2]) == noted:
                # Written before, and on the disk still: after a power cut it may not be.
                known = _Known(noted)
            yield part, arguments, known

    def _size(self, part: Part) -> int:
        if part.stop is not None:
            return part.stop - part.start
        return int(self.sources.sizes[part.first : part.last].sum())

    def _tick(self, n_bytes: int) -> None:
        self.done += n_bytes
        if self.progress is not None:
            # A file that had to be read again as a whole counts once.
            self.progress(min(self.done, self.total), self.total)


@dataclasses.dataclass(frozen=True)
class _Known:
    """A result from the journal."""

    content: Any


def _checksum(place: _Place) -> int:
    with _Shards(place, place.itemsize, mode="rb") as shards:
        return shards.checksum(place.n_chars * place.itemsize)


def _split(digests: str) -> Iterator[bytes]:
    whole = bytes.fromhex(digests)
    for start in range(0, len(whole), _DIGEST_BYTES):
        yield whole[start : start + _DIGEST_BYTES]


# --- processes ----------------------------------------------------------------


class _Processes:
    """Some processes, or none where one is enough: then work is left to the caller.

    Threads would not do: decoding, cleaning and encoding hold Python's lock.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Processes:
        if self.n > 1:
            import multiprocessing

            # A fork would copy locks that other threads hold, TensorFlow's or a
            # progress bar's; a fresh process has none.
            self.pool = ProcessPoolExecutor(
                self.n, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Part, tuple[Any, ...], _Known | None]],
    ) -> Iterator[tuple[Part, tuple[Any, ...], Any]]:
        """Begin tasks a little ahead of the caller, and yield them in order."""
        waiting: deque[tuple[Part, tuple[Any, ...], Any]] = deque()
        for part, arguments, known in tasks:
            promise: Any = known
            if known is None and self.pool is not None:
                try:
                    promise = self.pool.submit(_do, function, arguments)
                except BrokenProcessPool as error:
                    raise _died() from error
            waiting.append((part, arguments, promise))
            if self.pool is None or len(waiting) > 2 * self.n:
                yield waiting.popleft()
        yield from waiting


def result_of(promise: Future[Any]) -> Any:
    """Wait for what a process makes.

    Args:
        promise: Of its result.

    Returns:
        The result.

    Raises:
        CharlstmError: If the process died; else what went wrong in it.
    """
    try:
        return promise.result()
    except BrokenProcessPool as error:
        raise _died() from error


def _died() -> CharlstmError:
    return CharlstmError(
        "a process that reads the text has died", hint="fewer --threads need less memory"
    )


def _do(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments, _ignore)


def _ignore(n_bytes: int) -> None:
    pass


def _begin() -> None:
    """Begin a process: Ctrl-C is the first one's business, whose end is also its own."""
    import multiprocessing
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with(sentinel: int) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=end_with, args=[parent.sentinel], daemon=True).start()
