"""Texts in, prepared folders out: reading, cleaning and the memory map of ids.

A prepared folder holds `vocabulary.json`, `corpus.json` and the ids it lists.
A text is read twice in pieces of a few megabytes (once for its characters,
once for its ids), so memory does not grow with the text. Windows are views
over the memory map; nothing here copies them out.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import importlib.resources
import json
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from charlstm.config import SEQ_LENGTH, VAL_FRACTION, check_float, check_int
from charlstm.errors import CharlstmError, CorpusError, OutputError, printable
from charlstm.vocabulary import NEWER_FORMAT, Vocabulary, check_format_version, code_points_of

FORMAT_VERSION = 1
PREPARED_FOLDER = "prepared"
CORPORA_FOLDER = "corpora"
MIN_VAL_CHARACTERS = 2  # the first is never scored

# Small enough that a piece, as code points of four bytes, stays in the cache.
_PIECE_BYTES = 256 << 10
# Where no whitespace or plain letter ever comes, a piece is cut at this size.
_MAX_PIECE_CHARACTERS = 16 << 20
_GUTENBERG_SEARCH_CHARACTERS = 100_000
_GUTENBERG_START = re.compile(
    r"^(?:\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG.*"
    r"|\*END\*? ?THE SMALL PRINT!.*\*END\*)[ \t]*\n",
    re.MULTILINE | re.IGNORECASE,
)
_GUTENBERG_END = re.compile(
    r"^(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|End of (?:the |this )?Project Gutenberg(?:'s|’s| EBook| Etext))",
    re.MULTILINE | re.IGNORECASE,
)

Normalization = Literal["NFC", "none"]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """How a text is read. Two texts prepared alike have equal options.

    Attributes:
        encoding: Python codec of the file; "utf-8" takes a BOM too.
        normalize: "NFC" (Unicode canonical composition) or "none".
        lowercase: Whether to lower-case the text.
        keep_boilerplate: Whether a Project Gutenberg header and licence stay.
    """

    encoding: str = "utf-8"
    normalize: Normalization = "NFC"
    lowercase: bool = False
    keep_boilerplate: bool = False

    def clean(self, text: str) -> str:
        """Bring a short text, such as a seed, to the form the corpus has.

        Args:
            text: Any text.

        Returns:
            The text with LF line ends, folded and normalised as the corpus.
        """
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if self.lowercase:
            text = text.lower()
        return text if self.normalize == "none" else unicodedata.normalize("NFC", text)


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
        The stem with everything but letters, digits, dot, dash and underscore
        replaced; "stdin" for None.
    """
    if source is None:
        return "stdin"
    stem = source.resolve().name if source.is_dir() else source.stem
    safe = re.sub(r"[^\w.-]+", "-", stem).strip("-. ")
    return safe or "text"


# --- reading ----------------------------------------------------------------


class _Source:
    """A text file's bytes, decoded piece by piece, with errors made readable."""

    def __init__(self, path: Path, *, name: str, options: CorpusOptions) -> None:
        self.path = path
        self.name = name
        self.options = options
        self.n_bytes = 0
        self.removed_characters = 0
        self.sha256 = hashlib.sha256()

    def pieces(self, progress: Callable[[int], None]) -> Iterator[str]:
        """Yield the cleaned text in pieces that are normalised on their own."""
        text = _cut_safely(self._decoded(progress))
        if not self.options.keep_boilerplate:
            text = self._without_boilerplate(text)
        for piece in text:
            if self.options.lowercase and not piece.islower():
                piece = piece.lower()
            if (
                self.options.normalize == "NFC"
                and not piece.isascii()
                and not unicodedata.is_normalized("NFC", piece)
            ):
                piece = unicodedata.normalize("NFC", piece)
            if piece:
                yield piece

    def _decoded(self, progress: Callable[[int], None]) -> Iterator[str]:
        encoding = self.options.encoding
        try:
            name = codecs.lookup(encoding).name
            decoder = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)()
            is_text = isinstance(decoder.decode(b""), str)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise _unknown_encoding(encoding) from error
        if not is_text:
            raise _unknown_encoding(encoding)
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0
        is_multibyte = name.startswith(("utf-16", "utf-32"))
        pending_cr = False
        with _open(self.path, self.name) as file:
            while True:
                block = file.read(_PIECE_BYTES)
                if self.n_bytes == 0:
                    self._refuse_binary_start(block, is_multibyte)
                offset = self.n_bytes
                self.sha256.update(block)
                self.n_bytes += len(block)
                if not is_multibyte and b"\0" in block:
                    raise self._binary(f"a NUL byte at offset {offset + block.index(0):,}")
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    # What was decoded ends here; it may begin after a mark.
                    bad = self.n_bytes - len(error.object) + error.start
                    raise self._undecodable(bad) from error
                except UnicodeError as error:
                    raise self._undecodable(offset) from error
                if pending_cr:
                    text = "\r" + text
                pending_cr = bool(block) and text.endswith("\r")
                if pending_cr:
                    text = text[:-1]
                if "\r" in text:
                    text = text.replace("\r\n", "\n").replace("\r", "\n")
                progress(len(block))
                if text:
                    yield text
                if not block:
                    return

    def _without_boilerplate(self, pieces: Iterator[str]) -> Iterator[str]:
        """Leave out what stands before a start line and after an end line.

        A file may hold several Project Gutenberg texts, one after the other.
        """
        boilerplate = _Boilerplate()
        n_chars = n_kept = 0
        held = ""
        for piece in pieces:
            held += piece
            n_chars += len(piece)
            if n_chars < _GUTENBERG_SEARCH_CHARACTERS:
                continue
            # Only whole lines can be told to be a marker or not, and the blank
            # lines before an end line go with it.
            stop = held.rfind("\n") + 1
            written = len(held[:stop].rstrip("\n"))
            stop = written + 1 if written else 0
            if stop == 0 and len(held) > 1_000:
                stop = len(held)
            kept = boilerplate.strip(held[:stop])
            held = held[stop:]
            n_kept += len(kept)
            yield kept
        kept = boilerplate.strip(held)
        self.removed_characters = n_chars - n_kept - len(kept)
        yield kept

    def _refuse_binary_start(self, block: bytes, is_multibyte: bool) -> None:
        for bom, encoding in (
            (codecs.BOM_UTF32_LE, "utf-32"),
            (codecs.BOM_UTF32_BE, "utf-32"),
            (codecs.BOM_UTF16_LE, "utf-16"),
            (codecs.BOM_UTF16_BE, "utf-16"),
        ):
            if block.startswith(bom) and not is_multibyte:
                raise CorpusError(
                    f"{printable(self.name)} is not {self.options.encoding}: it begins with "
                    f"the byte order mark of {encoding}",
                    hint=f"try --encoding {encoding}",
                )
        for magic, kind in _MAGIC.items():
            if block.startswith(magic):
                raise self._binary(f"it begins like {kind}")

    def _binary(self, why: str) -> CorpusError:
        return CorpusError(
            f"{printable(self.name)} is a binary file, not a text: {why}",
            hint="give plain text; text in UTF-16 needs --encoding utf-16",
        )

    def _undecodable(self, offset: int) -> CorpusError:
        with _open(self.path, self.name) as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(max(0, offset - 16_384))
            sample = file.read(32_768)
        shown = f"0x{byte[0]:02x}" if byte else "end of file"
        name = printable(self.name)
        message = f"{name} is not {self.options.encoding}: bad byte {shown} at offset {offset:,}"
        guess = likely_encoding(sample)
        if guess is None:
            return CorpusError(message, hint="name the text's encoding with --encoding")
        return CorpusError(message, hint=f"it is likely {guess}: try --encoding {guess}")


class _Boilerplate:
    """Takes the licence of Project Gutenberg out of a text that comes in parts."""

    def __init__(self) -> None:
        self.is_start = True
        self.is_inside = True
        self.is_line_start = True
        self.is_after_marker = False

    def strip(self, text: str) -> str:
        """Return what stays of the next part, which ends with a line where it can."""
        kept: list[str] = []
        position = 0
        if not self.is_line_start:
            # The rest of a very long line is no marker, whatever it says.
            position = text.find("\n") + 1 or len(text)
            if self.is_inside:
                kept.append(text[:position])
        elif self.is_start:
            end = _GUTENBERG_END.search(text)
            stop = min(_GUTENBERG_SEARCH_CHARACTERS, end.start() if end else len(text))
            header = _GUTENBERG_START.search(text, 0, stop)
            if header:
                position, self.is_after_marker = header.end(), True
        while True:
            if self.is_inside:
                end = _GUTENBERG_END.search(text, position)
                body = text[position : end.start() if end else len(text)]
                # Where a marker was cut off, so are the blank lines beside it.
                if self.is_after_marker:
                    body = body.lstrip("\n")
                    self.is_after_marker = not body
                if end:
                    body = body.rstrip("\n")
                    body += "\n" if body else ""
                kept.append(body)
                if not end:
                    break
                position, self.is_inside = end.end(), False
            start = _GUTENBERG_START.search(text, position)
            if not start:
                break
            position, self.is_inside, self.is_after_marker = start.end(), True, True
        self.is_start = False
        if text:
            self.is_line_start = text.endswith("\n")
        return "".join(kept)


_MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a ZIP archive (or an .odt, .docx or .epub)",
    b"\x1f\x8b": "gzip data",
    **{b"BZh%d1AY&SY" % level: "bzip2 data" for level in range(1, 10)},
    b"\xfd7zXZ": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"\x7fELF": "a program",
    b"{\\rtf": "an RTF document",
}


def _unknown_encoding(encoding: str) -> CorpusError:
    return CorpusError(
        f"there is no text encoding {encoding!r}",
        hint="give one that Python knows, such as utf-8, latin-1, cp1252 or utf-16",
    )


def likely_encoding(sample: bytes) -> str | None:
    """Guess the encoding of bytes that are not UTF-8.

    Args:
        sample: A few kilobytes around the first bad byte.

    Returns:
        A Python codec name, or None when nothing fits.
    """
    # Sixteen-bit text without a mark has a zero in every second byte.
    zeros = sample.count(0)
    if zeros > len(sample) // 4:
        return "utf-16-le" if sample[1::2].count(0) > zeros // 2 else "utf-16-be"
    from charset_normalizer import from_bytes

    match = from_bytes(sample).best()
    if match is None or match.encoding in ("ascii", "utf_8"):
        return None
    # The Windows page for Western Europe is a superset of what people type as
    # Latin-1; the guesser's other names for the same letters only confuse.
    if match.encoding in _WESTERN or "cp1252" in match.could_be_from_charset:
        return "cp1252"
    return match.encoding.replace("_", "-")


_WESTERN = frozenset({"latin_1", "cp1252", "iso8859_15", "cp1250", "iso8859_2", "mac_roman"})


def _open(path: Path, name: str) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {printable(name)}: {error.strerror}") from error


def _cut_safely(texts: Iterator[str]) -> Iterator[str]:
    """Cut decoded text where normalising the pieces equals normalising the whole.

    That is after whitespace, or before a character that cannot combine with
    the one before it.
    """
    held = ""
    for text in texts:
        held += text
        cut = max(held.rfind("\n"), held.rfind(" ")) + 1
        if cut == 0:
            cut = next((i for i in range(len(held) - 1, 0, -1) if _is_cut_safe(held, i)), 0)
        if cut == 0 and len(held) > _MAX_PIECE_CHARACTERS:
            cut = len(held)
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _is_cut_safe(text: str, i: int) -> bool:
    """Tell whether normalising and lower-casing both parts equals doing it to the whole."""
    return not _may_combine(text[i]) and not any(map(_shapes_sigma, text[i - 1 : i + 1]))


def _shapes_sigma(character: str) -> bool:
    """Tell whether a character is a capital sigma or looked past for its final form."""
    return character == "Σ" or unicodedata.category(character) in _LOOKED_PAST


# Unicode's Case_Ignorable characters are all of these kinds.
_LOOKED_PAST = frozenset({"Mn", "Me", "Cf", "Lm", "Sk", "Po", "Pi", "Pf"})


def _may_combine(character: str) -> bool:
    """Tell whether a character can change when one before it does (UAX #15)."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def read_text(source: Path | None, *, options: CorpusOptions) -> str:
    """Read a whole text, cleaned as a corpus is.

    Args:
        source: The file; None reads stdin.
        options: How to read it.

    Returns:
        The text.

    Raises:
        CorpusError: If it cannot be read, is binary or empty.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = source or _spool_stdin(Path(temporary) / "stdin")
        name = "stdin" if source is None else source.name
        text = "".join(_Source(path, name=name, options=options).pieces(lambda n: None))
    if not text:
        raise _empty(name)
    return text


# --- preparing --------------------------------------------------------------


def prepare_corpus(
    source: Path | None,
    *,
    options: CorpusOptions,
    output: Path | None = None,
    name: str | None = None,
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
            raise _empty(source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".prepare-", dir=target.parent, ignore_cleanup_errors=True
        ) as temporary:
            return _prepare_in(
                Path(temporary),
                source,
                target=target,
                name=name,
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
    options: CorpusOptions,
    seq_length: int,
    val_fraction: float,
    progress: Progress | None,
) -> Corpus:
    path = source if source is not None else _spool_stdin(temporary / "stdin")
    shown = "stdin" if source is None else source.name
    # A pipe such as /dev/stdin or <(…) can be read once only, too.
    if not path.is_file():
        path = _spool(path, temporary / "pipe", shown)
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise _empty(shown)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, 2 * n_bytes)

    text = _Source(path, name=shown, options=options)
    reusable = _reusable(target, path, options=options, text=text)
    if reusable is not None:
        split = split_corpus(
            len(reusable.ids), seq_length=seq_length, val_fraction=val_fraction, name=shown
        )
        content = _corpus_json(reusable, split, seq_length, val_fraction, n_bytes)
        _write_json(temporary / "corpus.json", content)
        (temporary / "corpus.json").replace(target / "corpus.json")
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
        raise _empty(shown)
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
    replaced = temporary / "replaced"
    if target.exists():
        target.replace(replaced)
    try:
        folder.replace(target)
    except BaseException:
        if replaced.exists():
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


def _empty(name: str) -> CorpusError:
    return CorpusError(f"{printable(name)} is empty", hint="give a text with some characters in it")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _spool_stdin(path: Path) -> Path:
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _spool(pipe: Path, path: Path, name: str) -> Path:
    with _open(pipe, name) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
    return path


def _reusable(target: Path, path: Path, *, options: CorpusOptions, text: _Source) -> Corpus | None:
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
    with _open(path, text.name) as file:
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
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
