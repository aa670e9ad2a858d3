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
from pathlib import Path
from typing import Any, Literal, get_args

from charlstm.compression import kind_of, open_source
from charlstm.config import MAX_VOCAB
from charlstm.errors import CorpusError, NotTextError, printable

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

# How every line begins that one of the two above matches. It begins with one
# fixed character, which is what makes looking for it ten times faster.
_MAY_BE_MARKER = re.compile(
    r"\n(?:\*\*\* ?(?:START|END) OF T|\*END\*? ?THE SMALL|End of (?:the |this )?Project G)",
    re.IGNORECASE,
)
_MARKER_CHARACTERS = 32  # at most, of the above

Normalization = Literal["NFC", "none"]


def as_typed(name: str, value: object) -> str:
    """Say which option was given, or that it was not.

    Args:
        name: As Python has it.
        value: None and False for an option that was not given.

    Returns:
        Such as "with --max-vocab 90", "without --lowercase".
    """
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return f"without {option}"
    return f"with {option}" if value is True else f"with {option} {value}"


def difference(name: str, has: object, wants: object) -> str:
    """Say how an option differs from what is wanted.

    Args:
        name: As Python has it.
        has: What it was.
        wants: What it should be.

    Returns:
        The end of a sentence: "with --lowercase, not without --lowercase".
    """
    return f"{as_typed(name, has)}, not {as_typed(name, wants)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusOptions:
    """How a text is read. Two texts prepared alike have equal options.

    Attributes:
        encoding: Python codec of the file; "utf-8" takes a BOM too.
        normalize: "NFC" (Unicode canonical composition) or "none".
        lowercase: Whether to lower-case the text.
        keep_boilerplate: Whether a Project Gutenberg header and licence stay.
        max_vocab: How many characters are kept, the most frequent; the others
            become one unknown symbol. None for all.
    """

    encoding: str = "utf-8"
    normalize: Normalization = "NFC"
    lowercase: bool = False
    keep_boilerplate: bool = False
    # Folders are named by a hash of the representation: those made before there
    # was this option keep their names.
    max_vocab: int | None = dataclasses.field(default=None, repr=False)

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
        limit = self.max_vocab
        if limit is not None and (
            not isinstance(limit, int) or isinstance(limit, bool) or not 2 <= limit <= MAX_VOCAB
        ):
            raise CorpusError(
                f"--max-vocab is a whole number from 2 to {MAX_VOCAB:,}, not {limit!r:.40}"
            )
        if not self.encoding.isprintable():
            raise _unknown_encoding(self.encoding)
        with contextlib.suppress(LookupError, ValueError):  # told when it is used
            object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)

    def to_json(self) -> dict[str, Any]:
        """Return the options as files keep them: no cap is not mentioned.

        So a file without one is what it was before there was this option, and
        older programs read it.
        """
        content = dataclasses.asdict(self)
        if self.max_vocab is None:
            del content["max_vocab"]
        return content

    def differences(self, wanted: CorpusOptions) -> list[str]:
        """Say how these options differ from those that are wanted.

        Args:
            wanted: The others.

        Returns:
            A `difference` for each option that differs.
        """
        pairs = (
            (field.name, getattr(self, field.name), getattr(wanted, field.name))
            for field in dataclasses.fields(CorpusOptions)
        )
        return [difference(name, has, wants) for name, has, wants in pairs if has != wants]

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

    A stretch of a file, between two line ends, can be read by itself
    (`can_be_cut` tells of which files). Joined, the stretches of a file are
    the text that reading it whole gives, unless one of them `needs_whole`:
    Project Gutenberg's markers, by which other parts of the text are left out,
    and millions of combining characters in a row, which are cut by their place.

    Args:
        path: The file; it is read once for each call of `pieces`.
        name: What it is called in messages.
        options: How to read it.
        start: Offset where the stretch begins: 0, or just after a line feed.
        stop: Offset just after the line feed that ends it; None for the file's end.

    Attributes:
        n_bytes: Offset up to which the text was read, decompressed.
        sha256: Of the bytes that were read.
        removed_characters: Boilerplate left out, once all is read.
        needs_whole: Whether the file has to be read whole; known once all is
            read, and its pieces then end early.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        options: CorpusOptions,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        """Read nothing yet."""
        self.path = path
        self.name = name
        self.options = options
        self.start = start
        self.stop = stop
        self.n_bytes = start
        self.removed_characters = 0
        self.needs_whole = False
        self.sha256 = hashlib.sha256()

    @property
    def is_whole(self) -> bool:
        """Whether this is a whole file."""
        return self.start == 0 and self.stop is None

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
        text = _cut_safely(
            self._decoded(progress),
            shapes_sigma=self.options.lowercase,
            warn=self._have_whole,
        )
        if not self.options.keep_boilerplate:
            text = self._without_boilerplate(text) if self.is_whole else self._watched(text)
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
            has_mark = name == "utf-8" and self.start == 0
            decoder = codecs.getincrementaldecoder("utf-8-sig" if has_mark else name)()
            is_text = isinstance(decoder.decode(b""), str)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise _unknown_encoding(encoding) from error
        if not is_text:
            raise _unknown_encoding(encoding)
        pending_cr = False
        for block in self.blocks(progress):
            offset = self.n_bytes - len(block)
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
            if text:
                yield text

    def blocks(self, progress: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the bytes of the text, decompressed, and hash them.

        Args:
            progress: Called with the number of bytes read from the file.

        Yields:
            Blocks; an empty one at the end.

        Raises:
            CorpusError: If the file cannot be read or is binary.
        """
        is_multibyte = self.options.encoding.startswith(("utf-16", "utf-32"))
        self.sha256 = hashlib.sha256()
        self.n_bytes = self.start
        with open_source(self.path, self.name) as file:
            if self.start:
                file.seek(self.start)
            position = self.start
            while True:
                size = _PIECE_BYTES
                if self.stop is not None:
                    size = min(size, self.stop - self.n_bytes)
                block = file.read(size)
                if self.n_bytes == 0:
                    self._refuse_binary_start(block, is_multibyte)
                offset = self.n_bytes
                self.sha256.update(block)
                self.n_bytes += len(block)
                if not is_multibyte and b"\0" in block:
                    raise self._binary(f"a NUL byte at offset {offset + block.index(0):,}")
                yield block
                progress(file.position - position)
                position = file.position
                if not block:
                    return

    def _have_whole(self) -> None:
        self.needs_whole = True

    def _watched(self, pieces: Iterator[str]) -> Iterator[str]:
        """Pass a stretch on until something in it asks for the whole file."""
        seen = "\n"  # every stretch begins where a line does
        for piece in pieces:
            if _MAY_BE_MARKER.search(seen + piece):
                self.needs_whole = True
            if self.needs_whole:
                return
            seen = (seen + piece)[-_MARKER_CHARACTERS:]
            yield piece

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
        return NotTextError(
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
        start = max(0, offset - 16_384)
        with open_source(self.path, self.name) as file:  # going back would be slow in some
            file.seek(start)
            sample = file.read(32_768)
        byte = sample[offset - start :][:1]
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
        is_body = self.is_inside and not self.is_after_marker
        if (
            is_body
            and not _MAY_BE_MARKER.search(text)
            and not _MAY_BE_MARKER.match("\n" + text[:64])
        ):
            self.is_start = False
            if text:
                self.is_line_start = text.endswith("\n")
            return text
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
    b"\x1f\x8b": "gzip data",  # within other gzip data, as the next two
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


def can_be_cut(path: Path, options: CorpusOptions) -> bool:
    """Tell whether stretches of a file can be read by themselves.

    Args:
        path: The file.
        options: How it is read.

    Returns:
        True for plain files in encodings in which a line feed is always the
        byte 10, and no character depends on those before it.

    Raises:
        OSError: If the file cannot be read.
    """
    return options.encoding in _CUTTABLE and kind_of(path) is None


_CUTTABLE = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252"})


def find_cuts(path: Path, *, size: int, every: int) -> list[int]:
    """Find places where a file can be cut: after line feeds, some way apart.

    Args:
        path: A file that `can_be_cut`.
        size: Its bytes.
        every: Bytes from a place to the next, about. Where no line ends within
            as many, but at most a megabyte, there is none.

    Returns:
        Offsets, in order, 0 and `size` not among them.

    Raises:
        OSError: If the file cannot be read.
    """
    cuts: list[int] = []
    with path.open("rb") as file:
        for nominal in range(every, size, every):
            file.seek(nominal)
            found = file.read(min(every, 1 << 20)).find(b"\n")
            if found >= 0 and nominal + found + 1 < size:
                cuts.append(nominal + found + 1)
    return sorted(set(cuts))


def _cut_safely(
    texts: Iterator[str], *, shapes_sigma: bool, warn: Callable[[], None]
) -> Iterator[str]:
    """Cut decoded text where cleaning the pieces equals cleaning the whole.

    That is after whitespace, or before a character that cannot combine with
    the one before it. Where a final sigma is to be lower-cased, what decides
    its form stays with it too. `warn` is called before a piece may have to be
    cut elsewhere.
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
        # From half the limit on: where a text was cut before shifts the place
        # by no more than a block.
        if cut == 0 and len(held) > _MAX_PIECE_CHARACTERS // 2:
            warn()
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
    name = "stdin" if source is None else source.name
    text = read_whole(source, name=name, options=options)
    if not text:
        raise empty_text(name)
    return text


def read_whole(source: Path | None, *, name: str, options: CorpusOptions) -> str:
    """Read a whole text, which may be empty, cleaned as a corpus is.

    Args:
        source: The file; None reads stdin.
        name: What it is called in messages.
        options: How to read it.

    Returns:
        The text.

    Raises:
        CorpusError: If it cannot be read or is binary.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = readable_again(source, Path(temporary) / "spooled", name=name)
        return "".join(TextReader(path, name=name, options=options).pieces(lambda n: None))


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
            try:
                pipe = source.open("rb")
            except OSError as error:
                raise CorpusError(f"cannot read {printable(name)}: {error.strerror}") from error
            with pipe:
                shutil.copyfileobj(pipe, file)
    return path


def sha256_of(path: Path) -> str | None:
    """Return the hash of a text as it is, decompressed; None for a pipe.

    Args:
        path: The file.

    Returns:
        Hexadecimal digits.
    """
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with open_source(path, path.name) as file:
        while block := file.read(_PIECE_BYTES):
            digest.update(block)
    return digest.hexdigest()
