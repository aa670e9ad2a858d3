"""The characters of a corpus and their ids, in both directions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from charlstm import lookalikes
from charlstm.errors import CheckpointError, NewerFormatError
from charlstm.storage import read_plain, shown, write_synced

# 2: with an unknown symbol, whose id older programs would take for damage; else 1
# is written.
FORMAT_VERSION = 2
# JSON takes up to 35 times its size in memory; this is 200,000 characters, more
# than Unicode has given a meaning.
MAX_VOCABULARY_BYTES = 1 << 22
NEWER_FORMAT = "install a newer charlstm"
_N_CODE_POINTS = 0x110000


class Vocabulary:
    """A bijection between characters and the ids 0 … size-1, in code-point order.

    One more id may be reserved, after the last: that of the unknown symbol, as
    which characters are read that have no id of their own. It stands outside
    the bijection: nothing is decoded from it, so it is never written.

    Args:
        characters: The distinct characters, in any order.
        has_unknown: Whether there is the unknown symbol.

    Raises:
        ValueError: If there is none, one occurs twice, or one is longer than
            a single code point.
    """

    def __init__(self, characters: Iterable[str], *, has_unknown: bool = False) -> None:
        """Sort the characters and number them."""
        ordered = sorted(characters)
        if not ordered:
            raise ValueError("a vocabulary needs at least one character")
        if any(len(c) != 1 for c in ordered) or len(set(ordered)) != len(ordered):
            raise ValueError("a vocabulary is made of distinct single characters")
        self.characters: tuple[str, ...] = tuple(ordered)
        self.char_to_id: dict[str, int] = {c: i for i, c in enumerate(ordered)}
        self.has_unknown = has_unknown
        self._code_points = np.array([ord(c) for c in ordered], dtype=np.uint32)

    @classmethod
    def most_frequent(cls, counts: Mapping[str, int], *, limit: int | None) -> Vocabulary:
        """Keep the most frequent characters of a text; all others are unknown.

        Args:
            counts: How often each character occurs.
            limit: Characters to keep; of equally frequent ones those of the
                lower code points. None for all.

        Returns:
            The vocabulary; with the unknown symbol only if it left one out.
        """
        if limit is None or len(counts) <= limit:
            return cls(counts)
        return cls(sorted(counts, key=lambda c: (-counts[c], c))[:limit], has_unknown=True)

    def __len__(self) -> int:
        """Return the number of characters."""
        return len(self.characters)

    def __contains__(self, character: object) -> bool:
        """Tell whether a character has an id."""
        return character in self.char_to_id

    def __eq__(self, other: object) -> bool:
        """Two vocabularies are equal if they give the same characters the same ids."""
        return (
            isinstance(other, Vocabulary)
            and self.characters == other.characters
            and self.has_unknown == other.has_unknown
        )

    def __hash__(self) -> int:
        """Hash by the characters."""
        return hash(self.characters)

    @property
    def n_ids(self) -> int:
        """The number of ids, the width of a network: the characters and the unknown symbol."""
        return len(self) + self.has_unknown

    @property
    def unknown_id(self) -> int | None:
        """The reserved id, the last; None if there is no unknown symbol."""
        return len(self) if self.has_unknown else None

    @property
    def stand_in(self) -> str:
        """A character that is shown for the unknown symbol, and read as it.

        It is �, or one for private use where � is itself in the vocabulary.
        """
        private = range(0xE000, _N_CODE_POINTS)  # and all beyond: some are always left
        return next(c for c in map(chr, itertools.chain([0xFFFD], private)) if c not in self)

    @property
    def id_to_char(self) -> tuple[str, ...]:
        """The characters, indexed by id."""
        return self.characters

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Turn text into ids.

        Args:
            text: Only characters of this vocabulary (see `unknown`), or any if
                it has the unknown symbol.

        Returns:
            `(time,)` int32 ids.

        Raises:
            KeyError: For the first character that has no id, if there is no
                unknown symbol.
        """
        code_points = code_points_of(text)
        ids = np.searchsorted(self._code_points, code_points)
        found = self._code_points[np.minimum(ids, len(self) - 1)] == code_points
        if not found.all():
            if not self.has_unknown:
                raise KeyError(text[int(np.argmin(found))])
            ids[~found] = len(self)
        return ids.astype(np.int32)

    def decode(
        self, ids: Iterable[int] | npt.NDArray[np.integer], *, unknown: str | None = None
    ) -> str:
        """Turn ids back into text.

        Args:
            ids: `(time,)` integers in [0, size).
            unknown: What to show for the unknown symbol, such as `stand_in`.

        Returns:
            The text, one character an id.

        Raises:
            IndexError: For an id that has no character: the unknown symbol's,
                if nothing is to be shown for it, or one beyond.
        """
        if unknown is None or not self.has_unknown:
            return "".join([self.characters[i] for i in ids])
        shown = (*self.characters, unknown)
        return "".join([shown[i] for i in ids])

    def unknown(self, text: str) -> list[tuple[int, str]]:
        """List the characters of a text that have no id, with their positions.

        Args:
            text: Any text.

        Returns:
            (position, character) for each occurrence, in order.
        """
        return [(i, c) for i, c in enumerate(text) if c not in self.char_to_id]

    def nearest(self, character: str) -> str | None:
        """Spell a character with those of this vocabulary, changing as little as can be.

        Tried are the character itself, then one of three kinds of replacement,
        then two of them, then all three; the earlier kind first, and where
        several are composed, in this order:

        1. Typography: quotation marks, dashes, spaces and line ends for one
           another, the plain one first (“ to ", or " to “); … to ...; ligatures
           and other compatibility forms (ﬁ to fi); double quotation marks to
           single ones, tabs and line ends to spaces.
        2. Accents: é to e, Ä to A, and ß to ss, æ to ae, ø to o and the like.
        3. Case: É to é, or e to E.

        So É is E if that is known, else é, else e. The same character always
        gives the same result.

        Args:
            character: A single code point, lone surrogates included.

        Returns:
            Characters of this vocabulary, several (… to ...) or even none: ""
            for what shows nothing by itself, such as a zero-width space or a
            combining accent. None if nothing fits.
        """
        return lookalikes.nearest(character, self.char_to_id)

    def id_table(self, dtype: npt.DTypeLike) -> npt.NDArray[np.unsignedinteger]:
        """Make the look-up table that encodes whole arrays of code points.

        Args:
            dtype: Unsigned type of the ids.

        Returns:
            `(0x110000,)` ids by code point; for characters that have none the
            unknown symbol's, or 0.
        """
        table = np.full(_N_CODE_POINTS, self.unknown_id or 0, dtype=dtype)
        table[self._code_points] = np.arange(len(self), dtype=dtype)
        return table

    def to_json(self) -> dict[str, object]:
        """Return the content of `vocabulary.json`; ids are the list's indices."""
        if self.has_unknown:
            return {
                "format_version": FORMAT_VERSION,
                "characters": list(self.characters),
                "has_unknown": True,
            }
        return {"format_version": 1, "characters": list(self.characters)}

    @classmethod
    def from_json(cls, content: object, *, source: str) -> Vocabulary:
        """Read the content of a `vocabulary.json`.

        Args:
            content: The parsed JSON.
            source: The file's name, for messages.

        Returns:
            The vocabulary.

        Raises:
            CheckpointError: If it is of a newer format or not a vocabulary.
        """
        if not isinstance(content, dict) or "characters" not in content:
            raise CheckpointError(f"{source} is not a vocabulary")
        check_format_version(content, known=FORMAT_VERSION, source=source)
        characters = content["characters"]
        if not isinstance(characters, list) or not all(isinstance(c, str) for c in characters):
            raise CheckpointError(f"{source}: 'characters' must be a list of characters")
        has_unknown = content.get("has_unknown", False)
        if not isinstance(has_unknown, bool):
            raise CheckpointError(f"{source}: 'has_unknown' must be true or false")
        try:
            vocabulary = cls(characters, has_unknown=has_unknown)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
        if list(vocabulary.characters) != characters:
            raise CheckpointError(f"{source}: the characters are not in code-point order")
        return vocabulary

    def save(self, path: Path) -> None:
        """Write `vocabulary.json`.

        Args:
            path: The file to write.
        """
        write_synced(path, (json.dumps(self.to_json()) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read `vocabulary.json`.

        Args:
            path: The file.

        Returns:
            The vocabulary.

        Raises:
            CheckpointError: If the file is not a vocabulary of a known format.
        """
        source = shown(path)
        try:
            content = json.loads(read_plain(path, limit=MAX_VOCABULARY_BYTES))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"cannot read {source}: {error}") from error
        return cls.from_json(content, source=source)


def code_points_of(text: str) -> npt.NDArray[np.uint32]:
    """View a text as code points.

    Args:
        text: Any text; lone surrogates are kept as they are.

    Returns:
        `(time,)` uint32, read-only.
    """
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def check_format_version(content: dict[str, object], *, known: int, source: str) -> None:
    """Stop at a file that a newer program wrote.

    Args:
        content: Parsed JSON with a `format_version`.
        known: The newest version this program reads.
        source: The file's name, for messages.

    Raises:
        CheckpointError: If the version is missing, odd or newer.
    """
    version = content.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CheckpointError(f"{source} has no usable format_version")
    if version > known:
        raise NewerFormatError(
            f"{source} has format version {version}; this charlstm reads up to {known}",
            hint=NEWER_FORMAT,
        )
