"""What a unit might keep track of: properties of a text, a number a character.

They need no knowledge of a language beyond its letters. Each is worked out
from the whole text, so that a quotation is known to be one from its first
character; what a network can know of it there is another matter.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]

_VOWELS = frozenset("aeiouyæœøıаеёиоуыэюяєіїαεηιουω")
_QUOTES = {'"': '"', "“": "”", "„": "“”", "「": "」", "『": "』"}
# Used in either direction: « so » and »so«.
_GUILLEMETS = (("«", "»"), ("‹", "›"))
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# What is opened and never closed is no quotation but a slip, or a foot and inch.
_LONGEST = 2_000
_LONGEST_SPEAKER = 40
# More than that in a line or a word is a number, a table or an address.
_FURTHEST = 100
# A whole line up to its full stop or colon, or up to four words and a colon
# where a line begins.
_NAME_LINE = re.compile(r"^[ \t]*([^\s.:][^\n.:]*[.:])[ \t]*$", re.MULTILINE)
_NAME_COLON = re.compile(r"^[ \t]*(\w[\w'’-]*(?:[ \t][\w'’-]+){0,3}:)(?=\s|\Z)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Feature:
    """Something about a character's place in its text.

    Attributes:
        name: As it is shown, such as "inside quotes".
        meaning: What the number is, for somebody who reads it the first time.
        values: Gives a text's `(characters,)` float32 values.
        is_count: The values count something; else they are 1 where it is so
            and 0 elsewhere.
    """

    name: str
    meaning: str
    values: Callable[[str], Values]
    is_count: bool = False


def _of_characters(is_so: Callable[[str], bool]) -> Callable[[str], Values]:
    def values(text: str) -> Values:
        known = {character: float(is_so(character)) for character in set(text)}
        return np.fromiter((known[character] for character in text), np.float32, len(text))

    return values


def is_vowel(character: str) -> bool:
    """Tell whether a letter is a vowel, whatever its accent or case.

    Args:
        character: One character.

    Returns:
        True for vowels of the Latin, Greek and Cyrillic alphabets, y among them.
    """
    if character in "йЙ":  # a letter of its own, which only looks like и
        return False
    return unicodedata.normalize("NFD", character)[0].casefold() in _VOWELS


def since(is_start: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the characters since the last start.

    Args:
        is_start: `(characters,)`.

    Returns:
        `(characters,)` int64: 0 at a start, and before the first one the count
        from the text's beginning.
    """
    places = np.arange(len(is_start))
    return places - np.maximum.accumulate(np.where(is_start, places, 0))


def inside_quotes(text: str) -> Values:
    """Mark what stands between quotation marks, straight or curly.

    A mark belongs to what it opens; a blank line or 2,000 characters end what
    nobody closed. A mark right after a letter or digit opens nothing, nor does
    a straight one before a space, so that a text that begins within a quotation
    is not taken the wrong way round. Apostrophes and single quotes cannot be
    told apart and count as neither.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32, 1 inside.
    """
    values = np.zeros(len(text), np.float32)
    pairs = dict(_QUOTES)
    for left, right in _GUILLEMETS:
        opening, closing = (right, left) if _points_inwards(text, left, right) else (left, right)
        pairs[opening] = closing
    opened: tuple[int, str] | None = None
    for match in _marks({*pairs, *"".join(pairs.values())}).finditer(text):
        mark, place = match[0], match.start()
        if opened is not None:
            start, closing = opened
            if mark[0] == "\n" or place - start > _LONGEST:
                opened = None
            elif mark in closing:
                values[start:place] = 1
                opened = None
                continue
            else:
                continue  # of another kind, within
        if mark in pairs and _may_open(text, place):
            opened = place, pairs[mark]
    return values


def _marks(characters: set[str]) -> re.Pattern[str]:
    """Find any of the characters, and blank lines."""
    return re.compile(f"[{re.escape(''.join(sorted(characters)))}]|\n[^\\S\n]*\n")


def _may_open(text: str, place: int) -> bool:
    if place and text[place - 1].isalnum():
        return False
    return text[place] != '"' or not text[place + 1 : place + 2].isspace()


def _points_inwards(text: str, left: str, right: str) -> bool:
    """Tell whether a text has its guillemets as in »so«, by what stands beside them."""
    inwards = len(re.findall(rf"(?<!\w){right}(?=\w)", text))
    outwards = len(re.findall(rf"(?<!\w){left}(?=\s?\w)", text))
    return inwards > outwards


def inside_brackets(text: str) -> Values:
    """Mark what stands in round, square or curly brackets.

    A bracket within another ends only itself. A blank line or 2,000 characters
    end what nobody closed.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32, 1 inside, the opening bracket included.
    """
    values = np.zeros(len(text), np.float32)
    opened: list[tuple[int, str]] = []
    for match in _marks({*_BRACKETS, *_BRACKETS.values()}).finditer(text):
        mark, place = match[0], match.start()
        if mark[0] == "\n":
            opened.clear()
        elif mark in _BRACKETS:
            opened.append((place, _BRACKETS[mark]))
        elif any(closing == mark for _, closing in opened):
            while opened[-1][1] != mark:  # slips within
                opened.pop()
            start, _ = opened.pop()
            if place - start <= _LONGEST:
                values[start:place] = 1
    return values


def in_speaker_name(text: str) -> Values:
    """Mark the names of speakers, as plays and interviews have them.

    A name is a line in capitals that ends in a full stop or a colon, or up to
    four words and a colon at the beginning of a line, of 40 characters at most.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32, 1 in a name, its colon or full stop included.
    """
    values = np.zeros(len(text), np.float32)
    for pattern, is_name in ((_NAME_LINE, str.isupper), (_NAME_COLON, _begins_upper)):
        for match in pattern.finditer(text):
            if len(match[1]) <= _LONGEST_SPEAKER and is_name(match[1]):
                values[match.start(1) : match.end(1)] = 1
    return values


def _begins_upper(name: str) -> bool:
    return name[0].isupper()


def line_position(text: str) -> Values:
    """Count the characters since the line began.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32: 0 for a line feed, 1 for a line's first
        character, at most 100.
    """
    return np.minimum(since(_is(text, "\n")), _FURTHEST).astype(np.float32)


def word_position(text: str) -> Values:
    """Count the letters since the word began.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32: 0 between words, 1 for a word's first letter,
        at most 100.
    """
    is_letter = _of_characters(lambda c: c.isalnum() or c in "'’")(text) > 0
    # At a text's very beginning nothing stands before the first letter.
    places = since(np.concatenate([[True], ~is_letter]))[1:]
    return np.minimum(np.where(is_letter, places, 0), _FURTHEST).astype(np.float32)


def after_newline(text: str) -> Values:
    """Mark the first character of each line.

    Args:
        text: Any text.

    Returns:
        `(characters,)` float32.
    """
    is_newline = _is(text, "\n")
    return np.concatenate([[len(text) > 0], is_newline[:-1]])[: len(text)].astype(np.float32)


def _is(text: str, character: str) -> npt.NDArray[np.bool_]:
    return np.equal(np.frombuffer(text.encode("utf-32-le"), np.uint32), ord(character))


FEATURES = (
    Feature("inside quotes", "1 between quotation marks, else 0", inside_quotes),
    Feature("inside brackets", "1 in brackets, else 0", inside_brackets),
    Feature("speaker name", "1 in the name of who speaks, else 0", in_speaker_name),
    Feature("position in the line", "characters since the line began", line_position, True),
    Feature("position in the word", "letters since the word began", word_position, True),
    Feature("start of a line", "1 at a line's first character, else 0", after_newline),
    Feature("line feed", "1 at a line feed, else 0", _of_characters(lambda c: c == "\n")),
    Feature(
        "between words",
        "1 where no letter or digit is, else 0",
        _of_characters(lambda c: not (c.isalnum() or c in "'’")),
    ),
    Feature("vowel", "1 at a vowel, else 0", _of_characters(is_vowel)),
    Feature("capital letter", "1 at a capital letter, else 0", _of_characters(str.isupper)),
    Feature("digit", "1 at a digit, else 0", _of_characters(str.isdigit)),
    Feature(
        "end of a sentence",
        "1 at a full stop, question or exclamation mark, else 0",
        _of_characters(lambda c: c in ".!?…。！？"),
    ),
)
