"""Texts in, prepared folders out: finding, splitting, the memory map of ids.

A prepared folder holds `vocabulary.json`, `corpus.json` and the ids it lists.
A text is read twice in pieces (once for its characters,
once for its ids), so memory does not grow with the text. Windows are views
over the memory map; nothing here copies them out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.resources
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.config import SEQ_LENGTH, VAL_FRACTION, check_float, check_int
from charlstm.errors import CharlstmError, CheckpointError, CorpusError, OutputError, printable
from charlstm.reading import (
    CorpusOptions,
    TextReader,
    empty_text,
    open_text,
    readable_again,
)
from charlstm.storage import (
    make_folder,
    portable_name,
    put_in_place,
    read_plain,
    sync_folder,
    write_synced,
)
from charlstm.vocabulary import NEWER_FORMAT, Vocabulary, check_format_version, code_points_of

FORMAT_VERSION = 1
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
        sha256: Of the source as it came, before any cleaning.
        vocabulary: Its characters.
        ids: `(characters,)` unsigned ids, a read-only memory map.
        options: How it was read.
        removed_characters: Project Gutenberg boilerplate left out.
    """

    path: Path
    name: str
    sha256: str
    vocabulary: Vocabulary
    ids: npt.NDArray[np.unsignedinteger]
    options: CorpusOptions
    removed_characters: int = 0

    @property
    def boilerplate_note(self) -> str:
        """What a person should know where boilerplate was left out, one line."""
        return (
            f"left out {self.removed_characters:,} characters of Project Gutenberg header "
            "and licence (--keep-boilerplate keeps them)"
        )

    def windows(self, seq_length: int = SEQ_LENGTH) -> npt.NDArray[np.unsignedinteger]:
        """All windows with a character to predict after them, without a copy.

        Args:
            seq_length: Characters in a window.

        Returns:
            `(characters - seq_length, seq_length)` view over the memory map:
            row i is characters i … i + seq_length - 1.
        """
        return np.lib.stride_tricks.sliding_window_view(self.ids, seq_length)[:-1]

    def text(self, start: int, stop: int) -> str:
        """Decode a stretch of the corpus.

        Args:
            start: First character.
            stop: One past the last.

        Returns:
            The text.
        """
        return self.vocabulary.decode(self.ids[start:stop])

    def seed_windows(self, *, n_train: int, seq_length: int, random_seed: int) -> list[str]:
        """Draw windows for a model to begin from where it is given no seed text.

        Args:
            n_train: Characters of the training part, from which they are.
            seq_length: Characters in a window.
            random_seed: Fixes which.

        Returns:
            As many as a checkpoint has room for, in the order of the text.
        """
        rng = np.random.default_rng(random_seed)
        # As many as fit the limit on config.json, whatever their characters.
        n_windows = max(1, min(N_SEED_WINDOWS, MAX_SEED_CHARACTERS // seq_length))
        starts = rng.integers(n_train - seq_length + 1, size=n_windows)
        return [self.text(start, start + seq_length) for start in sorted(set(starts.tolist()))]

    def describe(self, split: Split) -> dict[str, Any]:
        """Say what a checkpoint remembers of its text, `corpus` in its `config.json`.

        Args:
            split: Where the held-out tail begins.

        Returns:
            Plain values.
        """
        return {
            "name": self.name,
            "sha256": self.sha256,
            "path": str(self.path.resolve()),
            "characters": len(self.ids),
            "train_characters": split.train_characters,
            "val_characters": split.val_characters,
            "options": dataclasses.asdict(self.options),
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


def find_corpus(name: str) -> Path:
    """Find a text or a prepared folder.

    Looked up as a path, then in `./corpora/`, then among the shipped texts,
    with and without `.txt`.

    Args:
        name: What was typed.

    Returns:
        A readable file or a prepared folder.

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
                if is_prepared(candidate):
                    return candidate
                folder = folder or candidate
            elif candidate.exists():
                return candidate
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


def corpus_name(source: Path | None) -> str:
    """Name a corpus after its file, in a form that is safe as a folder name.

    Args:
        source: The file or prepared folder; None for stdin.

    Returns:
        The stem as `portable_name` has it; "stdin" for None.
    """
    if source is None:
        return "stdin"
    return portable_name(source.resolve().name if source.is_dir() else source.stem)


# --- preparing --------------------------------------------------------------


def prepare_corpus(
    source: Path | None,
    *,
    options: CorpusOptions,
    output: Path | None = None,
    name: str | None = None,
    keeps_others: bool = False,
    seq_length: int = SEQ_LENGTH,
    val_fraction: float = VAL_FRACTION,
    progress: Progress | None = None,
) -> Corpus:
    """Build the char↔int maps and the ids of a text, or reuse them.

    An existing prepared folder serves again when the source's hash and the
    options are the same. The new folder is made beside its place and renamed,
    so an interruption leaves nothing half-made.

    Args:
        source: The text file; None reads stdin.
        options: How to read it.
        output: Folder to write; `prepared/<name>` by default.
        name: What to call the corpus; after its file by default.
        keeps_others: Take a folder beside, named by a hash, if `output` has
            another text or other options: a model may need that one yet.
        seq_length: Window length recorded for the summary.
        val_fraction: Validation share recorded for the summary.
        progress: Called with (bytes done, bytes in all) over both passes.

    Returns:
        The prepared corpus.

    Raises:
        CorpusError: If the text cannot be read, is binary, too short, or of a
            single repeated character.
        OutputError: If the folder cannot be written.
    """
    name = name or corpus_name(source)
    target = output or Path(PREPARED_FOLDER) / name
    try:
        if target.exists() and not is_prepared(target) and not _is_empty_folder(target):
            raise CorpusError(
                f"{printable(str(target))} exists and is not a prepared corpus",
                hint="choose another folder with --output",
            )
        if source is not None and source.is_file() and source.stat().st_size == 0:
            raise empty_text(source.name)
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(
            prefix=".prepare-", dir=target.parent, ignore_cleanup_errors=True
        ) as temporary:
            return _prepare_in(
                Path(temporary),
                source,
                target=target,
                name=name,
                keeps_others=keeps_others,
                options=options,
                seq_length=seq_length,
                val_fraction=val_fraction,
                progress=progress,
            )
    except OSError as error:
        raise OutputError(
            f"cannot write {printable(str(target))}: {error.strerror or error}",
            hint="choose a folder that can be written with --output",
        ) from error


def _prepare_in(
    temporary: Path,
    source: Path | None,
    *,
    target: Path,
    name: str,
    keeps_others: bool,
    options: CorpusOptions,
    seq_length: int,
    val_fraction: float,
    progress: Progress | None,
) -> Corpus:
    shown = "stdin" if source is None else source.name
    path = readable_again(source, temporary / "spooled", name=shown)
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise empty_text(shown)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, 2 * n_bytes)

    text = TextReader(path, name=shown, options=options)
    reusable = _reusable(target, path, options=options, text=text)
    if reusable is None and keeps_others and is_prepared(target):
        digest = hashlib.sha256(repr(options).encode())
        with open_text(path, shown) as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
        target = target.with_name(f"{target.name}-{digest.hexdigest()[:8]}")
        reusable = _reusable(target, path, options=options, text=text)
    if reusable is not None:
        split = split_corpus(
            len(reusable.ids), seq_length=seq_length, val_fraction=val_fraction, name=shown
        )
        content = _corpus_json(reusable, split, seq_length, val_fraction, n_bytes)
        _write_json(temporary / "corpus.json", content)
        put_in_place(temporary / "corpus.json", target / "corpus.json")
        return reusable

    if is_prepared(target):
        strange = {p.name for p in target.iterdir()} - _FILES
        if strange:
            raise CorpusError(
                f"{printable(str(target))} holds {printable(min(strange))}, "
                "which is no part of a prepared corpus",
                hint="move it, or choose another folder with --output",
            )
    seen, n_chars = _distinct_characters(text.pieces(advance))
    if n_chars == 0:
        raise empty_text(shown)
    split = split_corpus(n_chars, seq_length=seq_length, val_fraction=val_fraction, name=shown)
    if len(seen) < 2:
        raise CorpusError(
            f"{printable(shown)} is a single repeated character, {seen[0]!r}: nothing to learn",
            hint="give a text with at least two different characters",
        )
    vocabulary = Vocabulary(seen)
    dtype = id_dtype(len(vocabulary))
    encode = _encoder(vocabulary, dtype)
    sha256, removed = text.sha256.hexdigest(), text.removed_characters

    folder = temporary / "prepared"
    folder.mkdir()
    n_written = 0
    with (folder / "ids.bin").open("wb") as file:
        for piece in text.pieces(advance):
            n_written += len(piece)
            file.write(encode(piece))
        file.flush()
        os.fsync(file.fileno())
    if n_written != n_chars or text.sha256.hexdigest() != sha256:
        raise CorpusError(f"{printable(shown)} changed while it was read", hint="try again")
    vocabulary.save(folder / "vocabulary.json")
    corpus = Corpus(
        path=target,
        name=name,
        sha256=sha256,
        vocabulary=vocabulary,
        ids=np.empty(0, dtype=dtype),
        options=options,
        removed_characters=removed,
    )
    content = _corpus_json(corpus, split, seq_length, val_fraction, n_bytes, n_chars=n_chars)
    _write_json(folder / "corpus.json", content)
    sync_folder(folder)
    replaced = temporary / "replaced"
    if target.exists():
        target.replace(replaced)
    try:
        put_in_place(folder, target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.replace(target)
        raise
    return dataclasses.replace(corpus, ids=_map_ids(target, "ids.bin", dtype, n_chars))


def _distinct_characters(pieces: Iterator[str]) -> tuple[list[str], int]:
    """Collect the characters of a text and count its length."""
    is_seen = np.zeros(0x110000, dtype=bool)
    seen_ascii = b""
    n_chars = 0
    for piece in pieces:
        n_chars += len(piece)
        if piece.isascii():
            # Deleting what is known leaves almost always nothing: several
            # times faster than marking each character.
            new = piece.encode("ascii").translate(None, seen_ascii)
            seen_ascii += bytes(set(new))
        else:
            is_seen[code_points_of(piece)] = True
    is_seen[list(seen_ascii)] = True
    return [chr(c) for c in np.flatnonzero(is_seen)], n_chars


def _encoder(vocabulary: Vocabulary, dtype: np.dtype[Any]) -> Callable[[str], bytes]:
    """Make the function that turns text into the bytes of `ids.bin`."""
    table = vocabulary.id_table(dtype)
    ascii_table = bytes(256) if dtype.itemsize > 1 else table[:256].tobytes()

    def encode(piece: str) -> bytes:
        if dtype.itemsize == 1 and piece.isascii():
            return piece.encode("ascii").translate(ascii_table)
        return table[code_points_of(piece)].tobytes()

    return encode


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _reusable(
    target: Path, path: Path, *, options: CorpusOptions, text: TextReader
) -> Corpus | None:
    """Return the corpus in `target` if it is this source, read the same way."""
    if not is_prepared(target):
        return None
    try:
        corpus = load_corpus(target)
    except CharlstmError as error:
        if error.hint == NEWER_FORMAT:
            raise
        return None
    if corpus.options != options:
        return None
    with open_text(path, text.name) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return corpus if digest == corpus.sha256 else None


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


def _corpus_json(
    corpus: Corpus,
    split: Split,
    seq_length: int,
    val_fraction: float,
    n_bytes: int,
    *,
    n_chars: int | None = None,
) -> dict[str, Any]:
    n_chars = len(corpus.ids) if n_chars is None else n_chars
    return {
        "format_version": FORMAT_VERSION,
        "name": corpus.name,
        "sha256": corpus.sha256,
        "n_bytes": n_bytes,
        "characters": n_chars,
        "removed_characters": corpus.removed_characters,
        "vocabulary_size": len(corpus.vocabulary),
        "seq_length": seq_length,
        "windows": n_chars - seq_length,
        "val_fraction": val_fraction,
        "train_characters": split.train_characters,
        "val_characters": split.val_characters,
        "dtype": corpus.ids.dtype.name,
        "options": dataclasses.asdict(corpus.options),
        "ids": [{"file": "ids.bin", "characters": n_chars}],
    }


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
        dtype = id_dtype(len(vocabulary))
        (entry,) = content["ids"]
        ids = _map_ids(path, str(entry["file"]), dtype, int(entry["characters"]))
        return Corpus(
            path=path,
            name=str(content["name"]),
            sha256=str(content["sha256"]),
            vocabulary=vocabulary,
            ids=ids,
            options=options,
            removed_characters=int(content.get("removed_characters", 0)),
        )
    except CharlstmError as error:
        raise CorpusError(error.message, hint=error.hint or _PREPARE_AGAIN) from error
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise CorpusError(
            f"the prepared corpus {printable(str(path))} is damaged: {error}", hint=_PREPARE_AGAIN
        ) from error


_FILES = frozenset({"corpus.json", "ids.bin", "vocabulary.json"})
_MAX_SUMMARY_BYTES = 1 << 20
_PREPARE_AGAIN = "prepare the text again"


def _map_ids(
    folder: Path, name: str, dtype: np.dtype[Any], n_chars: int
) -> npt.NDArray[np.unsignedinteger]:
    if Path(name).name != name:
        raise CorpusError(f"{printable(name)} is not a file name in the prepared folder")
    path = folder / name
    if path.stat().st_size != n_chars * dtype.itemsize or n_chars < 1:
        raise CorpusError(
            f"{printable(str(path))} has {path.stat().st_size:,} bytes; "
            f"{n_chars:,} characters need {n_chars * dtype.itemsize:,}"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(n_chars,))
