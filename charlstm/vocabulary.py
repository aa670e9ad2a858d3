"""The characters of a corpus and their ids, in both directions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from charlstm import lookalikes
from charlstm.errors import CheckpointError, NewerFormatError
from charlstm.storage import read_plain, shown, write_synced

FORMAT_VERSION = 1
# JSON takes up to 35 times its size in memory; this is 200,000 characters, more
# than Unicode has given a meaning.
MAX_VOCABULARY_BYTES = 1 << 22
NEWER_FORMAT = "install a newer charlstm"
_N_CODE_POINTS = 0x110000


class Vocabulary:
    """A bijection between characters and the ids 0 … size-1, in code-point order.

    Args:
        characters: The distinct characters, in any order.

    Raises:
        ValueError: If there is none, one occurs twice, or one is longer than
            a single code point.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        """Sort the characters and number them."""
        ordered = sorted(characters)
        if not ordered:
            raise ValueError("a vocabulary needs at least one character")
        if any(len(c) != 1 for c in ordered) or len(set(ordered)) != len(ordered):
            raise ValueError("a vocabulary is made of distinct single characters")
        self.characters: tuple[str, ...] = tuple(ordered)
        self.char_to_id: dict[str, int] = {c: i for i, c in enumerate(ordered)}
        self._code_points = np.array([ord(c) for c in ordered], dtype=np.uint32)

    def __len__(self) -> int:
        """Return the number of characters."""
        return len(self.characters)

    def __contains__(self, character: object) -> bool:
        """Tell whether a character has an id."""
        return character in self.char_to_id

    def __eq__(self, other: object) -> bool:
        """Two vocabularies are equal if they number the same characters."""
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        """Hash by the characters."""
        return hash(self.characters)

    @property
    def id_to_char(self) -> tuple[str, ...]:
        """The characters, indexed by id."""
        return self.characters

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """Turn text into ids.

        Args:
            text: Only characters of this vocabulary; see `unknown`.

        Returns:
            `(time,)` int32 ids.

        Raises:
            KeyError: For the first character that has no id.
        """
        code_points = code_points_of(text)
        ids = np.searchsorted(self._code_points, code_points)
        found = self._code_points[np.minimum(ids, len(self) - 1)] == code_points
        if not found.all():
            raise KeyError(text[int(np.argmin(found))])
        return ids.astype(np.int32)

    def decode(self, ids: Iterable[int] | npt.NDArray[np.integer]) -> str:
        """Turn ids back into text.

        Args:
            ids: `(time,)` integers in [0, size).

        Returns:
            The text, one character an id.
        """
        return "".join([self.characters[i] for i in ids])

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
            `(0x110000,)` ids by code point; 0 for characters that have none.
        """
        table = np.zeros(_N_CODE_POINTS, dtype=dtype)
        table[self._code_points] = np.arange(len(self), dtype=dtype)
        return table

    def to_json(self) -> dict[str, object]:
        """Return the content of `vocabulary.json`; ids are the list's indices."""
        return {"format_version": FORMAT_VERSION, "characters": list(self.characters)}

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
        try:
            vocabulary = cls(characters)
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
