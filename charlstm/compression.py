"""Compressed texts, opened as if they were plain: gzip, xz, zstd.

What a file is, its first bytes tell. It is decompressed as a stream, however
much comes out of it, and damage is an error that names the place. What the
text inside is, and how it is decoded, belongs to `reading`.
"""

from __future__ import annotations

import importlib
import importlib.util
import lzma
import sys
import zlib
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from charlstm.errors import CorpusError, printable

INSTALL = "pip install 'charlstm[zstd]'"
MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}
_CHUNK = 64 << 10
# More than `xz -9` and `zstd -19` ask for, less than a worker may take.
_MEMORY = 128 << 20


def kind_of(path: Path) -> str | None:
    """Tell how a file is compressed.

    Args:
        path: The file.

    Returns:
        "gzip", "xz" or "zstd"; None if it is none of them.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return _kind(file.read(6))


def _kind(start: bytes) -> str | None:
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def open_source(path: Path, name: str) -> Source:
    """Open a text's bytes, decompressed if they are compressed.

    Args:
        path: The file.
        name: What it is called in messages.

    Returns:
        The bytes as a stream.

    Raises:
        CorpusError: If it cannot be opened, is not what its name says, or
            needs a package that is missing.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CorpusError(f"cannot read {printable(name)}: {error.strerror}") from error
    try:
        start = file.peek(6)
        kind = _kind(start)
        named = SUFFIXES.get(path.suffix.lower())
        if kind is None and named is not None and start:
            raise CorpusError(
                f"{printable(name)} is not the {named} data that its name says",
                hint="give it another name if it is plain text",
            )
        return Source(file, name) if kind is None else _Compressed(file, name, kind)
    except OSError as error:
        file.close()
        raise CorpusError(f"cannot read {printable(name)}: {error.strerror}") from error
    except BaseException:
        file.close()
        raise


class Source:
    """The bytes of a text.

    Args:
        file: Open, at its start.
        name: What it is called in messages.

    Attributes:
        kind: How it is compressed, or None.
    """

    kind: str | None = None

    def __init__(self, file: BufferedReader, name: str) -> None:
        """Read nothing yet."""
        self.file = file
        self.name = printable(name)

    def __enter__(self) -> Source:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.file.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes of the text, less than `size` only at its end.

        Args:
            size: How many.

        Raises:
            CorpusError: If they cannot be read.
        """
        try:
            return self.file.read(size)
        except OSError as error:
            raise CorpusError(f"cannot read {self.name}: {error.strerror}") from error

    def seek(self, offset: int) -> None:
        """Go on from another place, forwards.

        Args:
            offset: In the text.
        """
        self.file.seek(offset)

    @property
    def position(self) -> int:
        """Bytes of the file that were read, compressed if it is."""
        return self.file.tell()


class _Compressed(Source):
    """Decompresses what is asked for and no more: a bomb is merely long."""

    def __init__(self, file: BufferedReader, name: str, kind: str) -> None:
        super().__init__(file, name)
        self.kind = kind
        self.decoder: _Decoder = {"gzip": _Gzip, "xz": _Xz, "zstd": _zstd_decoder(self.name)}[
            kind
        ]()

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        wanted = size
        while wanted:
            try:
                part = self.decoder.read(self.file, wanted)
            except self.decoder.errors as error:
                if isinstance(error, MemoryError) or "emory" in str(error):
                    raise CorpusError(
                        f"{self.name} needs more than {_MEMORY >> 20} MB to decompress",
                        hint="decompress it first",
                    ) from error
                raise self._damaged(f"cannot be read: {error}") from error
            except EOFError as error:
                raise self._damaged("ends too soon") from error
            except OSError as error:
                raise CorpusError(f"cannot read {self.name}: {error.strerror}") from error
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def seek(self, offset: int) -> None:
        while offset > 0:
            offset -= len(self.read(min(offset, _CHUNK))) or offset

    def _damaged(self, what: str) -> CorpusError:
        offset = self.file.tell() - self.decoder.n_pending
        return CorpusError(
            f"{self.name} is damaged: its {self.kind} data {what} (near offset {offset:,})",
            hint="take the whole file again, from where it came",
        )


class _Decoder(Protocol):
    """Attributes: what it raises at damage, and bytes of the file it has not used yet."""

    errors: tuple[type[Exception], ...]

    @property
    def n_pending(self) -> int: ...

    def read(self, file: BufferedReader, size: int) -> bytes:
        """Return at most `size` bytes, none only at the end; EOFError if that comes too soon."""


class _Members:
    """What files of several members, one after the other, have in common."""

    errors: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, MemoryError)

    def __init__(self) -> None:
        self.member: Any = None
        self.pending = b""
        self.is_first = True

    @property
    def n_pending(self) -> int:
        return len(self.pending)

    def read(self, file: BufferedReader, size: int) -> bytes:
        while True:
            if self.member is None and not self._begin(file):
                return b""
            part = self._decompress(file, size)
            if self.member.eof:
                self.pending, self.member = self.member.unused_data, None
            if part:
                return part

    def _begin(self, file: BufferedReader) -> bool:
        """Begin a member; False at the file's end, up to which zeros may stand."""
        while True:
            if not self.is_first:
                self.pending = self.pending.lstrip(b"\0")
            if self.pending:
                break
            self.pending = file.read(_CHUNK)
            if not self.pending:
                return False
        self.is_first = False
        self.member = self._new()
        return True

    def _new(self) -> Any:
        raise NotImplementedError

    def _decompress(self, file: BufferedReader, size: int) -> bytes:
        raise NotImplementedError


class _Gzip(_Members):
    def _new(self) -> Any:
        return zlib.decompressobj(wbits=31)

    def _decompress(self, file: BufferedReader, size: int) -> bytes:
        if not self.pending:
            self.pending = file.read(_CHUNK)
            if not self.pending:
                raise EOFError
        part: bytes = self.member.decompress(self.pending, size)
        self.pending = self.member.unconsumed_tail
        return part


class _Limited(_Members):
    """Decoders that keep what they were given until they have used it."""

    def _decompress(self, file: BufferedReader, size: int) -> bytes:
        data = b""
        if self.member.needs_input:
            data = self.pending or file.read(_CHUNK)
            self.pending = b""
            if not data:
                raise EOFError
        part: bytes = self.member.decompress(data, size)
        return part


class _Xz(_Limited):
    def _new(self) -> Any:
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY)


def _zstd_decoder(name: str) -> Any:
    """Return what decompresses zstd, or what says how to get it."""

    def missing() -> _Decoder:
        raise CorpusError(f"{name} is zstd data, which needs the package zstandard", hint=INSTALL)

    if sys.version_info >= (3, 14):
        return _StandardZstd
    return _Zstandard if importlib.util.find_spec("zstandard") else missing


class _StandardZstd(_Limited):
    """By Python's own module, from 3.14 on."""

    def _new(self) -> Any:
        zstd: Any = importlib.import_module("compression.zstd")
        self.errors = (zstd.ZstdError, MemoryError)
        limit = {zstd.DecompressionParameter.window_log_max: _MEMORY.bit_length() - 1}
        return zstd.ZstdDecompressor(options=limit)


class _Zstandard:
    """By the package `zstandard`.

    Its reader takes a file that was cut off for one that ends: how the blocks
    follow one another is looked at on the way (RFC 8878, section 3.1.1).
    """

    n_pending = 0
    errors: tuple[type[Exception], ...] = (MemoryError,)

    def __init__(self) -> None:
        self.reader: Any = None
        self.walk = _ZstdBlocks()

    def read(self, file: BufferedReader, size: int) -> bytes:
        if self.reader is None:
            zstandard: Any = importlib.import_module("zstandard")
            self.errors = (zstandard.ZstdError, MemoryError)
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MEMORY)
            self.reader = decompressor.stream_reader(
                _Watched(file, self.walk), read_size=_CHUNK, read_across_frames=True, closefd=False
            )
        part: bytes = self.reader.read(size)
        if len(part) < size and not self.walk.is_between:
            raise EOFError
        return part


class _Watched:
    """A file whose bytes are shown to another as they are read."""

    def __init__(self, file: BufferedReader, walk: _ZstdBlocks) -> None:
        self.file = file
        self.walk = walk

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.walk.see(data)
        return data


class _ZstdBlocks:
    """Follows frames and blocks of zstd by their headers.

    Attributes:
        is_between: Whether a frame has ended and none has begun.
    """

    def __init__(self) -> None:
        self.is_between = True
        self.header = b""
        self.wanted = 4
        self.n_skip = 0
        self.next = self._magic

    def see(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            if self.n_skip:
                n = min(self.n_skip, len(data) - position)
                self.n_skip -= n
                position += n
            else:
                piece = data[position : position + self.wanted - len(self.header)]
                self.header += piece
                position += len(piece)
                self.is_between = False
                if len(self.header) == self.wanted:
                    header, self.header = self.header, b""
                    self.next(header)
            if not self.n_skip and not self.header and self.next == self._magic:
                self.is_between = True

    def _magic(self, header: bytes) -> None:
        if header[0] & 0xF0 == 0x50 and header[1:] == b"\x2a\x4d\x18":
            self.wanted, self.next = 4, self._skippable
        else:
            self.wanted, self.next = 1, self._descriptor

    def _skippable(self, header: bytes) -> None:
        self.n_skip = int.from_bytes(header, "little")
        self.wanted, self.next = 4, self._magic

    def _descriptor(self, header: bytes) -> None:
        flags = header[0]
        is_single = flags >> 5 & 1
        self.n_checksum = 4 * (flags >> 2 & 1)
        n_content = (is_single, 2, 4, 8)[flags >> 6]
        self.n_skip = (1 - is_single) + (0, 1, 2, 4)[flags & 3] + n_content
        self.wanted, self.next = 3, self._block

    def _block(self, header: bytes) -> None:
        word = int.from_bytes(header, "little")
        is_last, kind, size = word & 1, word >> 1 & 3, word >> 3
        self.n_skip = 1 if kind == 1 else size  # one byte, repeated
        if is_last:
            self.n_skip += self.n_checksum
            self.wanted, self.next = 4, self._magic
