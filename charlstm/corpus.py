"""Texts in, prepared folders out: finding, splitting, the memory map of ids.

A prepared folder holds `vocabulary.json`, `corpus.json` and the ids it lists.
How texts become ids is in `preparing`, which files are meant in `sources`.
Windows are views over the memory map; nothing here copies them out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm import __version__
from charlstm.config import SEQ_LENGTH, VAL_FRACTION, check_float, check_int
from charlstm.errors import CharlstmError, CheckpointError, CorpusError, OutputError, printable
from charlstm.preparing import (
    ChangedError,
    Journal,
    Prepared,
    Scale,
    id_dtype,
    prepare_texts,
    sha256_of_sources,
)
from charlstm.reading import CorpusOptions, empty_text
from charlstm.shards import Ids, ShardedIds, Windows
from charlstm.sources import STDIN, Sources, collect, is_pattern
from charlstm.storage import (
    hold_folder,
    make_folder,
    put_in_place,
    read_plain,
    sync_folder,
    write_synced,
)
from charlstm.vocabulary import NEWER_FORMAT, Vocabulary, check_format_version
from charlstm.workfolder import JOURNAL, work_folder

# 2: several files of ids, 3: a limited vocabulary, which older programs cannot
# read; else 1 is written.
FORMAT_VERSION = 3
PREPARED_FOLDER = "prepared"
CORPORA_FOLDER = "corpora"
MIN_VAL_CHARACTERS = 2  # the first is never scored
N_SEED_WINDOWS = 100
MAX_SEED_CHARACTERS = 200_000

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A prepared text.

    Attributes:
        path: The prepared folder.
        name: What the text is called.
        source_name: How a command line would name it, without the folder that it
            is in, - for stdin; None of several texts.
        sha256: Of the source as it came, before any cleaning.
        vocabulary: Its characters.
        ids: `(characters,)` unsigned ids, a read-only memory map, or several
            that are indexed as one.
        options: How it was read.
        removed_characters: Project Gutenberg boilerplate left out.
        unknown_characters: Those that became the unknown symbol.
        unknown_kinds: How many different ones.
        documents: `(texts,)` uint64, the character at which each of the texts
            that it was made of begins, a memory map where there are several.
        notes: What a person should know about the texts, a line each; of a
            corpus just prepared.
    """

    path: Path
    name: str
    sha256: str
    vocabulary: Vocabulary
    ids: Ids
    options: CorpusOptions
    removed_characters: int = 0
    unknown_characters: int = 0
    unknown_kinds: int = 0
    documents: npt.NDArray[np.uint64] = dataclasses.field(
        default_factory=lambda: np.zeros(1, dtype=np.uint64)
    )
    source_name: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def boilerplate_note(self) -> str:
        """What a person should know where boilerplate was left out, one line."""
        return (
            f"left out {self.removed_characters:,} characters of Project Gutenberg header "
            "and licence (--keep-boilerplate keeps them)"
        )

    @property
    def unknown_note(self) -> str:
        """What a person should know where characters became the unknown symbol, one line."""
        characters = "character" if self.unknown_characters == 1 else "characters"
        kinds = "kind" if self.unknown_kinds == 1 else "kinds"
        verb = "is" if self.unknown_characters == 1 else "are"
        return (
            f"{self.unknown_characters:,} {characters} of {self.unknown_kinds:,} rare {kinds} "
            f"{verb} one unknown symbol, which is read and never written "
            f"(--max-vocab {self.options.max_vocab})"
        )

    def windows(self, seq_length: int = SEQ_LENGTH) -> npt.NDArray[np.unsignedinteger] | Windows:
        """All windows with a character to predict after them, without a copy.

        Args:
            seq_length: Characters in a window.

        Returns:
            `(characters - seq_length, seq_length)` view over the memory map:
            row i is characters i … i + seq_length - 1. Over several files,
            rows that are made when they are asked for.
        """
        if isinstance(self.ids, ShardedIds):
            return Windows(self.ids, seq_length)
        return np.lib.stride_tricks.sliding_window_view(self.ids, seq_length)[:-1]

    def text(self, start: int, stop: int) -> str:
        """Decode a stretch of the corpus.

        Args:
            start: First character.
            stop: One past the last.

        Returns:
            The text.

        Raises:
            IndexError: If the unknown symbol is in it.
        """
        return self.vocabulary.decode(np.asarray(self.ids[start:stop]))

    def seed_text(self, start: int, stop: int) -> str:
        """Decode the longest part of a stretch that a text can begin with.

        Args:
            start: First character.
            stop: One past the last.

        Returns:
            The whole stretch where it is of one document and has no unknown
            symbol; else its longest part of which that is true, if any.
        """
        ids = np.asarray(self.ids[start:stop])
        places = np.array([start, stop], np.uint64)
        first, last = np.searchsorted(self.documents, places, side="right")
        cuts = np.asarray(self.documents[first:last]).astype(np.int64) - start
        unknown = np.zeros(0, np.int64)
        if self.vocabulary.has_unknown:
            unknown = np.flatnonzero(ids == self.vocabulary.unknown_id)
        begins = np.sort(np.concatenate([[0], cuts, unknown + 1]))
        ends = np.sort(np.concatenate([cuts, unknown, [len(ids)]]))
        longest = int((ends - begins).argmax())
        return self.vocabulary.decode(ids[begins[longest] : ends[longest]])

    def seed_windows(self, *, n_train: int, seq_length: int, random_seed: int) -> list[str]:
        """Draw windows for a model to begin from where it is given no seed text.

        Args:
            n_train: Characters of the training part, from which they are.
            seq_length: Characters in a window.
            random_seed: Fixes which.

        Returns:
            As many as a checkpoint has room for, in the order of the text; of
            each what is of one document and free of the unknown symbol.
        """
        rng = np.random.default_rng(random_seed)
        # As many as fit the limit on config.json, whatever their characters.
        n_windows = max(1, min(N_SEED_WINDOWS, MAX_SEED_CHARACTERS // seq_length))
        starts = rng.integers(n_train - seq_length + 1, size=n_windows)
        texts = [
            self.seed_text(start, start + seq_length) for start in sorted(set(starts.tolist()))
        ]
        return [text for text in texts if text]

    def describe(self, split: Split) -> dict[str, Any]:
        """Say what a checkpoint remembers of its text, `corpus` in its `config.json`.

        Args:
            split: Where the held-out tail begins.

        Returns:
            Plain values.
        """
        return {
            "name": self.name,
            "source_name": self.source_name,
            "sha256": self.sha256,
            "path": str(self.path.resolve()),
            "characters": len(self.ids),
            "train_characters": split.train_characters,
            "val_characters": split.val_characters,
            "options": self.options.to_json(),
            **_unknown_counts(self),
        }


def _unknown_counts(made: Corpus | Prepared) -> dict[str, int]:
    """Tell of the unknown symbol, where there is one."""
    if not made.unknown_characters:
        return {}
    return {
        "unknown_characters": made.unknown_characters,
        "unknown_kinds": made.unknown_kinds,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """Where training ends and the held-out tail begins.

    Attributes:
        train_characters: Length of the training part, from the start.
        val_characters: Length of the contiguous tail; 0 for none.
    """

    train_characters: int
    val_characters: int


def split_corpus(n_chars: int, *, seq_length: int, val_fraction: float, name: str) -> Split:
    """Cut a text into a training part and a contiguous tail for validation.

    Args:
        n_chars: Characters of the text.
        seq_length: Window length; training needs one window and its target.
        val_fraction: Share of the text for the tail, in [0, 0.9]; 0 for none.
        name: The text's name, for the message.

    Returns:
        The two lengths, which add up to `n_chars`.

    Raises:
        CorpusError: If the text is too short; says how long it must be.
        ConfigError: If a number is out of range.
    """
    check_int("seq-length", seq_length, low=1, high=100_000)
    check_float("val-fraction", val_fraction, low=0, high=0.9)

    def tail(n: int) -> int:
        return max(MIN_VAL_CHARACTERS, int(n * val_fraction)) if val_fraction else 0

    if n_chars - tail(n_chars) < seq_length + 1:
        needed = seq_length + 1
        while needed - tail(needed) < seq_length + 1:
            needed += 1
        what = "with its validation tail " if val_fraction else ""
        raise CorpusError(
            f"{printable(name)} has {n_chars:,} characters; a window of {seq_length} "
            f"{what}needs at least {needed:,}",
            hint="give a longer text or a smaller --seq-length",
        )
    return Split(train_characters=n_chars - tail(n_chars), val_characters=tail(n_chars))


# --- finding a text ---------------------------------------------------------


def shipped_texts() -> dict[str, Path]:
    """Return the texts that come with the package, by file name."""
    installed = Path(str(importlib.resources.files("charlstm"))) / CORPORA_FOLDER
    # An editable install or a checkout has them beside the package instead.
    for folder in (installed, installed.parent.parent / CORPORA_FOLDER):
        if folder.is_dir():
            return {p.name: p for p in sorted(folder.glob("*.txt"))}
    return {}


def corpus_names() -> list[str]:
    """List the texts that need no path: those in `./corpora/`, and those that ship.

    Returns:
        File names, in order, each once.
    """
    names = set(shipped_texts())
    with contextlib.suppress(OSError):
        names |= {path.name for path in Path(CORPORA_FOLDER).glob("*.txt")}
    return sorted(names)


def is_prepared(path: Path) -> bool:
    """Tell whether a folder looks like a prepared corpus."""
    return (path / "corpus.json").is_file()


def find_corpus(name: str, *, takes_many: bool = False) -> Path:
    """Find a text or a prepared folder.

    Looked up as a path, then in `./corpora/`, then among the shipped texts,
    with and without `.txt`.

    Args:
        name: What was typed.
        takes_many: Whether a folder of texts, or a pattern, will do.

    Returns:
        A readable file or a prepared folder, or a folder or pattern.

    Raises:
        CorpusError: If there is none, or it is a folder of another kind.
    """
    if not name:
        raise CorpusError("the text's name is empty", hint="give a path to a text file")
    given = Path(name)
    shown = printable(name)
    shipped = shipped_texts()
    with contextlib.suppress(ValueError, OSError):  # NUL bytes, names too long
        candidates = [given]
        if given.name == name:
            local = Path(CORPORA_FOLDER)
            candidates += [local / name, local / f"{name}.txt"]
            candidates += [shipped[n] for n in (name, f"{name}.txt") if n in shipped]
        folder = None
        for candidate in candidates:
            if candidate.is_dir():
                if is_prepared(candidate) or takes_many:
                    return candidate
                folder = folder or candidate
            elif candidate.exists():
                return candidate
        if takes_many and "://" not in name and is_pattern(given):
            return given
        if folder is not None:
            raise CorpusError(
                f"{shown} is a folder without a prepared corpus (it has no corpus.json)",
                hint="give a text file, or a folder that `charlstm prepare` made",
            )
    if "://" in name:
        raise CorpusError(
            f"{shown} is an address, not a file",
            hint="charlstm fetches nothing: download the text first",
        )
    known = ", ".join(shipped) or "none"
    raise CorpusError(
        f"there is no text {shown}",
        hint=f"give a path to a text file, - for stdin, or a text that ships: {known}",
    )


def find_sources(names: Sequence[str], *, name: str | None = None) -> Sources | Path:
    """Find the texts of a corpus, or a prepared folder.

    Args:
        names: What was typed: files, folders, patterns, `-` for stdin, names
            of texts that need no path; or one prepared folder.
        name: What the corpus is called; by default after the first of them.

    Returns:
        The texts, or the prepared folder.

    Raises:
        CorpusError: If one is not there, or a prepared folder is one of several.
    """
    found = [None if n == STDIN else find_corpus(n, takes_many=True) for n in names]
    for path in found:
        if path is not None and path.is_dir() and is_prepared(path):
            if len(found) == 1:
                return path
            raise CorpusError(
                f"{printable(str(path))} is prepared already, and no text to prepare with others",
                hint="give the texts that it was made of",
            )
    return collect(found, name=name)


# --- preparing --------------------------------------------------------------


def prepare_corpus(
    source: Path | Sources | None,
    *,
    options: CorpusOptions,
    output: Path | None = None,
    name: str | None = None,
    keeps_others: bool = False,
    seq_length: int = SEQ_LENGTH,
    val_fraction: float = VAL_FRACTION,
    scale: Scale | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Build the char↔int maps and the ids of texts, or reuse them.

    An existing prepared folder serves again when the texts' hash and the
    options are the same. The new folder is made beside its place and renamed,
    so an interruption leaves nothing half-made; from what it leaves of a large
    corpus, the same request goes on.

    Args:
        source: The text file, or several; None reads stdin.
        options: How to read it.
        output: Folder to write; `prepared/<name>` by default.
        name: What to call the corpus; after its file by default.
        keeps_others: Take a folder beside, named by a hash, if `output` has
            another text or other options: a model may need that one yet.
        seq_length: Window length recorded for the summary.
        val_fraction: Validation share recorded for the summary.
        scale: How the work is divided, which changes nothing in the result but
            the number of files.
        progress: Called with (bytes done, bytes in all) over both passes.

    Returns:
        The prepared corpus.

    Raises:
        CorpusError: If a text cannot be read, is binary, the corpus is too
            short, or of a single repeated character.
        OutputError: If the folder cannot be written.
    """
    sources = source if isinstance(source, Sources) else collect([source])
    request = _Request(
        sources=sources,
        options=options,
        name=name or sources.name,
        target=output or Path(PREPARED_FOLDER) / (name or sources.name),
        keeps_others=keeps_others,
        seq_length=seq_length,
        val_fraction=val_fraction,
        scale=scale or Scale(),
    )
    target = request.target
    try:
        _refuse_foreign_folder(target)
        request.refuse_empty()
        make_folder(target.parent)
        with work_folder(target.parent, target=target.name, key=request.key()) as work:
            spooled = dataclasses.replace(request, sources=sources.spool(work))
            spooled.refuse_empty()
            return spooled.prepare(work, progress)
    except OSError as error:
        raise OutputError(
            f"cannot write {printable(str(target))}: {error.strerror or error}",
            hint="choose a folder that can be written with --output",
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """What `prepare_corpus` was asked for."""

    sources: Sources
    options: CorpusOptions
    name: str
    target: Path
    keeps_others: bool
    seq_length: int
    val_fraction: float
    scale: Scale

    @property
    def shown(self) -> str:
        return self.sources.shown

    def key(self) -> str | None:
        """Name the work of this request, if it is worth going on with."""
        scale, sources = self.scale, self.sources
        if int(sources.sizes.sum()) < scale.min_kept_bytes or not sources.can_be_read_again:
            return None
        return hashlib.sha256(json.dumps(self.content(self.target)).encode()).hexdigest()[:16]

    def content(self, target: Path) -> dict[str, Any]:
        """Tell all that the files of a prepared folder, and half-made ones, follow from."""
        return {
            "target": target.name,
            "texts": self.sources.fingerprint(),
            "options": self.options.to_json(),
            "shard_bytes": self.scale.shard_bytes,
            "part_bytes": self.scale.part_bytes,
            "charlstm_version": __version__,
        }

    def refuse_empty(self) -> None:
        """Refuse a text of no bytes, unless a folder or pattern brought it in."""
        sources = self.sources
        is_file = sources.status.any(axis=1)
        for number in ((sources.sizes == 0) & is_file & ~sources.is_found).nonzero()[0].tolist():
            raise empty_text(sources.label(number))

    def split(self, n_chars: int) -> Split:
        return split_corpus(
            n_chars, seq_length=self.seq_length, val_fraction=self.val_fraction, name=self.shown
        )

    def check(self, characters: str, n_chars: int) -> None:
        """Refuse what nothing can be learned from."""
        if n_chars == 0:
            raise empty_text(self.shown)
        self.split(n_chars)
        if len(characters) < 2:
            raise CorpusError(
                f"{printable(self.shown)} is a single repeated character, {characters!r}: "
                "nothing to learn",
                hint="give a text with at least two different characters",
            )

    def prepare(self, work: Path, progress: Progress | None) -> Corpus:
        """Make the prepared folder, or find that it is there."""
        sha256 = functools.cache(lambda: sha256_of_sources(self.sources, self.options))
        target, reusable = self.place(sha256)
        prepared = None
        if reusable is None:
            _refuse_strange_files(target)
            prepared = self.make(work, target, progress)
        with hold_folder(self.target.parent):
            # Meanwhile another process may have put its own text there.
            target, reusable = self.place(sha256)
            if reusable is not None:
                return self.reuse(target, reusable, work)
            if prepared is not None:
                _refuse_strange_files(target)
                return self.put(work, target, prepared)
        return self.prepare(work, progress)  # what was there has been replaced

    def put(self, work: Path, target: Path, prepared: Prepared) -> Corpus:
        """Put what was made in its place."""
        replaced = work / "replaced"
        if target.exists():
            target.replace(replaced)
        try:
            put_in_place(work / "prepared", target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.replace(target)
            raise
        return dataclasses.replace(load_corpus(target), notes=prepared.notes)

    def place(self, sha256: Callable[[], str]) -> tuple[Path, Corpus | None]:
        """Choose the folder, and open the corpus that is there if it will do."""
        target = self.target
        reusable = self.reusable(target, sha256)
        if reusable is None and self.keeps_others and is_prepared(target):
            digest = hashlib.sha256(repr(self.options).encode())
            if self.options.max_vocab is not None:
                digest.update(f"max_vocab={self.options.max_vocab}".encode())
            digest.update(bytes.fromhex(sha256()))
            target = target.with_name(f"{target.name}-{digest.hexdigest()[:8]}")
            reusable = self.reusable(target, sha256)
        return target, reusable

    def reuse(self, target: Path, corpus: Corpus, work: Path) -> Corpus:
        """Take a corpus that is there, and note what was asked for last."""
        content = read_summary(target) | self.summary(len(corpus.ids))
        _write_json(work / "corpus.json", content)
        put_in_place(work / "corpus.json", target / "corpus.json")
        return dataclasses.replace(corpus, name=self.name, source_name=self.sources.source_name)

    def reusable(self, target: Path, sha256: Callable[[], str]) -> Corpus | None:
        """Return the corpus in `target` if it is of these texts, read the same way."""
        if not is_prepared(target):
            return None
        try:
            corpus = load_corpus(target)
        except CharlstmError as error:
            if error.hint == NEWER_FORMAT:
                raise
            return None
        is_same = corpus.options == self.options and corpus.sha256 == sha256()
        return corpus if is_same else None

    def summary(self, n_chars: int) -> dict[str, Any]:
        """Return the part of `corpus.json` that is of what was asked for last."""
        split = self.split(n_chars)
        return {
            "name": self.name,
            "source_name": self.sources.source_name,
            "seq_length": self.seq_length,
            "windows": n_chars - self.seq_length,
            "val_fraction": self.val_fraction,
            "train_characters": split.train_characters,
            "val_characters": split.val_characters,
        }

    def make(self, work: Path, target: Path, progress: Progress | None) -> Prepared:
        """Write all files of a prepared folder into `work`."""
        folder = work / "prepared"
        with contextlib.ExitStack() as stack:
            journal = None
            if self.key() is not None:
                journal = Journal(work / JOURNAL, self.content(target))
                stack.enter_context(journal)
            is_resumed = journal is not None and journal.has_entries
            if folder.exists() and not is_resumed:
                _remove_all(folder)
            folder.mkdir(exist_ok=True)
            try:
                prepared = prepare_texts(
                    self.sources,
                    options=self.options,
                    folder=folder,
                    scale=self.scale,
                    check=self.check,
                    journal=journal,
                    progress=progress,
                )
            except ChangedError:
                if not is_resumed:
                    raise
                stack.close()
                (work / JOURNAL).unlink()
                return self.make(work, target, progress)
        self.describe(folder, prepared)
        return prepared

    def describe(self, folder: Path, prepared: Prepared) -> None:
        """Write what belongs beside the ids."""
        prepared.vocabulary.save(folder / "vocabulary.json")
        n_chars = sum(length for _, length in prepared.shards)
        version = 1 if len(prepared.shards) == 1 else 2
        content: dict[str, Any] = {
            "format_version": version if self.options.max_vocab is None else FORMAT_VERSION,
            "name": self.name,
            "sha256": prepared.sha256,
            "n_bytes": prepared.n_bytes,
            "characters": n_chars,
            "removed_characters": prepared.removed_characters,
            "vocabulary_size": prepared.vocabulary.n_ids,
            **_unknown_counts(prepared),
            **self.summary(n_chars),
            "dtype": prepared.dtype.name,
            "options": self.options.to_json(),
            "ids": [{"file": name, "characters": n} for name, n in prepared.shards],
        }
        if len(prepared.documents) > 1:
            write_synced(folder / _DOCUMENTS, prepared.documents.astype("<u8").tobytes())
            content["documents"] = {"file": _DOCUMENTS, "count": len(prepared.documents)}
        _write_json(folder / "corpus.json", content)
        sync_folder(folder)


def _refuse_foreign_folder(target: Path) -> None:
    """Refuse what is there and not ours."""
    if target.exists() and not is_prepared(target) and not _is_empty_folder(target):
        raise CorpusError(
            f"{printable(str(target))} exists and is not a prepared corpus",
            hint="choose another folder with --output",
        )


def _refuse_strange_files(target: Path) -> None:
    """Refuse to replace a folder in which someone has put something else."""
    _refuse_foreign_folder(target)
    if not is_prepared(target):
        return
    strange = {p.name for p in target.iterdir() if not _is_ours(p.name)}
    if strange:
        raise CorpusError(
            f"{printable(str(target))} holds {printable(min(strange))}, "
            "which is no part of a prepared corpus",
            hint="move it, or choose another folder with --output",
        )


def _remove_all(folder: Path) -> None:
    for entry in folder.iterdir():
        entry.unlink()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_synced(path, (json.dumps(content, indent=2) + "\n").encode())


def read_summary(path: Path) -> dict[str, Any]:
    """Read a prepared folder's `corpus.json`.

    Args:
        path: The prepared folder.

    Returns:
        Its content, of a known format version.

    Raises:
        CorpusError: If it is missing, damaged or newer than this program.
    """
    file = path / "corpus.json"
    try:
        content = json.loads(read_plain(file, limit=_MAX_SUMMARY_BYTES))
    except CheckpointError as error:
        raise CorpusError(error.message) from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"cannot read {printable(str(file))}: {error}") from error
    if not isinstance(content, dict):
        raise CorpusError(f"{printable(str(file))} is not a prepared corpus")
    try:
        check_format_version(content, known=FORMAT_VERSION, source=printable(str(file)))
    except CharlstmError as error:
        raise CorpusError(error.message, hint=error.hint) from error
    return content


def load_corpus(path: Path) -> Corpus:
    """Open a prepared folder.

    Args:
        path: The folder.

    Returns:
        The corpus, its ids memory-mapped.

    Raises:
        CorpusError: If a file is missing, damaged or newer than this program.
    """
    content = read_summary(path)
    try:
        vocabulary = Vocabulary.load(path / "vocabulary.json")
        options = CorpusOptions(**content["options"])
        dtype = id_dtype(vocabulary.n_ids)
        ids = _map_shards(path, content["ids"], dtype)
        return Corpus(
            path=path,
            name=str(content["name"]),
            source_name=_text_or_none(source_argument(content)),
            sha256=str(content["sha256"]),
            vocabulary=vocabulary,
            ids=ids,
            options=options,
            removed_characters=int(content.get("removed_characters", 0)),
            unknown_characters=int(content.get("unknown_characters", 0)),
            unknown_kinds=int(content.get("unknown_kinds", 0)),
            documents=_map_documents(path, content.get("documents"), n_chars=len(ids)),
        )
    except CharlstmError as error:
        raise CorpusError(error.message, hint=error.hint or _PREPARE_AGAIN) from error
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise CorpusError(
            f"the prepared corpus {printable(str(path))} is damaged: {error}", hint=_PREPARE_AGAIN
        ) from error


def _text_or_none(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError("'source_name' is no text")
    return value


def source_argument(about: Mapping[str, Any]) -> str | None:
    """Name a model's text on a command line.

    Args:
        about: What `Corpus.describe` gave, or a `corpus.json`; early ones have
            no `source_name`.

    Returns:
        The name of a file or folder, without the folder that it is in; "-" for
        stdin; None of several texts.
    """
    source_name: str | None = about.get("source_name", _usual_name(about))
    return source_name


def _usual_name(about: Mapping[str, Any]) -> str | None:
    """Guess the name of a text of which an earlier program kept none."""
    if "documents" in about:
        return None
    return STDIN if about["name"] == "stdin" else f"{about['name']}.txt"


_DOCUMENTS = "documents.bin"
_FILES = frozenset({"corpus.json", "ids.bin", "vocabulary.json", _DOCUMENTS})
_SHARD = re.compile(r"ids-\d{5,}\.bin")
_MAX_SUMMARY_BYTES = 1 << 20
_PREPARE_AGAIN = "prepare the text again"


def _is_ours(name: str) -> bool:
    return name in _FILES or _SHARD.fullmatch(name) is not None


def _map_shards(folder: Path, entries: Any, dtype: np.dtype[Any]) -> Ids:
    if not isinstance(entries, list) or not entries:
        raise ValueError("'ids' must be a list of files")
    names = [str(entry["file"]) for entry in entries]
    if len(set(names)) != len(names):
        raise ValueError("'ids' names a file twice")
    shards = [
        _map_ids(folder, name, dtype, int(entry["characters"]))
        for name, entry in zip(names, entries, strict=True)
    ]
    return shards[0] if len(shards) == 1 else ShardedIds(shards)


def _map_documents(folder: Path, about: Any, *, n_chars: int) -> npt.NDArray[np.uint64]:
    if about is None:
        return np.zeros(1, dtype=np.uint64)
    starts = _map_ids(folder, str(about["file"]), np.dtype("<u8"), int(about["count"]))
    is_sound = starts[0] == 0 and starts[-1] <= n_chars and bool((starts[1:] >= starts[:-1]).all())
    if not is_sound:
        raise ValueError("the documents do not follow one another through the text")
    return starts


def _map_ids(folder: Path, name: str, dtype: np.dtype[Any], n_chars: int) -> npt.NDArray[Any]:
    if Path(name).name != name:
        raise CorpusError(f"{printable(name)} is not a file name in the prepared folder")
    path = folder / name
    if path.stat().st_size != n_chars * dtype.itemsize or n_chars < 1:
        raise CorpusError(
            f"{printable(str(path))} has {path.stat().st_size:,} bytes; "
            f"{n_chars:,} {'documents' if dtype.itemsize == 8 else 'characters'} "
            f"need {n_chars * dtype.itemsize:,}"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(n_chars,))
