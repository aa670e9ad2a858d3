"""Reading a text: encodings, newlines, Unicode, Project Gutenberg's boilerplate.

A text comes in pieces of some hundred kilobytes, each cleaned on its own, so
that memory does not grow with it; the pieces are cut where cleaning them
equals cleaning the whole. What a corpus is made of texts is in `corpus`.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import hashlib
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Literal, get_args

from charlstm.errors import CorpusError, printable

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

    def __post_init__(self) -> None:
        """Check what a file may have said, and bring the codec's name to its one spelling."""
        is_sound = (
            isinstance(self.encoding, str)
            and self.normalize in get_args(Normalization)
            and isinstance(self.lowercase, bool)
            and isinstance(self.keep_boilerplate, bool)
        )
        if not is_sound:
            raise CorpusError(f"these are no options for reading a text: {self!r:.200}")
        if not self.encoding.isprintable():
            raise _unknown_encoding(self.encoding)
        with contextlib.suppress(LookupError, ValueError):  # told when it is used
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)

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


class TextReader:
    """A text file's bytes, decoded and cleaned piece by piece.

    Args:
        path: The file; it is read once for each call of `pieces`.
        name: What it is called in messages.
        options: How to read it.

    Attributes:
        n_bytes: Read so far.
        sha256: Of those bytes.
        removed_characters: Boilerplate left out, once all is read.
    """

    def __init__(self, path: Path, *, name: str, options: CorpusOptions) -> None:
        """Read nothing yet."""
        self.path = path
        self.name = name
        self.options = options
        self.n_bytes = 0
        self.removed_characters = 0
        self.sha256 = hashlib.sha256()

    def pieces(self, progress: Callable[[int], None]) -> Iterator[str]:
        """Yield the cleaned text.

        Args:
            progress: Called with the number of bytes of each block.

        Yields:
            Pieces that are normalised on their own.

        Raises:
            CorpusError: If the file cannot be read, is binary or not in its
                encoding.
        """
        text = _cut_safely(self._decoded(progress), shapes_sigma=self.options.lowercase)
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
        with open_text(self.path, self.name) as file:
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
                    is_cut_off = not block and error.reason == "unexpected end of data"
                    raise self._undecodable(bad, is_cut_off=is_cut_off) from error
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

    def _undecodable(self, offset: int, *, is_cut_off: bool = False) -> CorpusError:
        if is_cut_off:
            return CorpusError(
                f"{printable(self.name)} ends in the middle of a character "
                f"(offset {offset:,}, {self.options.encoding})",
                hint="the file was cut off; take the whole one, or remove the last bytes",
            )
        with open_text(self.path, self.name) as file:
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

    matches = from_bytes(sample)
    best = matches.best()
    if best is None or best.encoding in ("ascii", "utf_8"):
        return None
    # Where the Windows page for Western Europe fits as well as any, it is what
    # people have; the guesser's other names for the same letters only confuse.
    for match in matches:
        names = {match.encoding, *match.could_be_from_charset}
        if names & {"cp1252", "latin_1", "iso8859_15"} and match.chaos <= best.chaos:
            return "cp1252"
    return best.encoding.replace("_", "-")


def open_text(path: Path, name: str) -> BufferedReader:
    """Open a text's bytes; what cannot be opened is a `CorpusError`."""
    try:
        return path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {printable(name)}: {error.strerror}") from error


def _cut_safely(texts: Iterator[str], *, shapes_sigma: bool) -> Iterator[str]:
    """Cut decoded text where cleaning the pieces equals cleaning the whole.

    That is after whitespace, or before a character that cannot combine with
    the one before it. Where a final sigma is to be lower-cased, what decides
    its form stays with it too.
    """
    held = ""
    for text in texts:
        n_seen = len(held)  # no place before this was good to cut
        held += text
        cut = max(held.rfind("\n", n_seen), held.rfind(" ", n_seen)) + 1
        if cut == 0:
            for i in range(len(held) - 1, max(0, n_seen - 1), -1):
                if not _may_combine(held[i]) and not (
                    shapes_sigma and any(map(_shapes_sigma, held[i - 1 : i + 1]))
                ):
                    cut = i
                    break
        if cut == 0 and len(held) > _MAX_PIECE_CHARACTERS:
            cut = len(held)
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


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
        name = "stdin" if source is None else source.name
        path = readable_again(source, Path(temporary) / "spooled", name=name)
        text = "".join(TextReader(path, name=name, options=options).pieces(lambda n: None))
    if not text:
        raise empty_text(name)
    return text


def empty_text(name: str) -> CorpusError:
    """Make the error for a text of no characters."""
    return CorpusError(f"{printable(name)} is empty", hint="give a text with some characters in it")


def readable_again(source: Path | None, path: Path, *, name: str) -> Path:
    """Return a file that can be read twice; a pipe is copied into one.

    Args:
        source: A file or a pipe, such as a FIFO or /dev/stdin; None for stdin.
        path: Where a copy goes.
        name: The source's name, for messages.

    Returns:
        The source itself, if it is a plain file, else the copy.

    Raises:
        CorpusError: If the source cannot be read.
    """
    if source is not None and source.is_file():
        return source
    with path.open("wb") as file:
        if source is None:
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with open_text(source, name) as pipe:
                shutil.copyfileobj(pipe, file)
    return path


def sha256_of(path: Path) -> str | None:
    """Return the hash of a file as it is, None for a pipe.

    Args:
        path: The file.

    Returns:
        Hexadecimal digits.
    """
    if not path.is_file():
        return None
    with open_text(path, path.name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
