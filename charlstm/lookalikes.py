"""What can stand for a character: other typography, no accent, the other case.

Three kinds of replacement, each a function from a character to what may take
its place, the closest first, and one search through their compositions. A
replacement may be several characters, or none for what shows nothing by
itself. Whose characters these must be in the end is `vocabulary`'s business.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Container, Iterator
from typing import Literal, get_args

_Form = Literal["NFC", "NFD", "NFKC", "NFKD"]

# Each group holds what is written for one another; a member that is missing is
# replaced by the first of its group that is not.
_GROUPS = (
    '"“”„‟«»″〃〝〞❝❞＂',
    "'’‘‚‛‹›′`´ʼʹ‵❛❜＇",
    "-–—―‐‑‒−⁃﹘﹣－",
    " \u00a0\u202f\u2009\u2002\u2003\u2007\u2008\u2000\u2001\u2004\u2005\u2006\u200a"
    "\u205f\u3000\u1680",
    "\n\r\u2028\u2029\x85\x0b\x0c",
    "\t",
    "/⁄∕",
)
_GROUP_OF = {character: group for group in _GROUPS for character in group}
# The group to turn to once nothing of the own one is there, by their first members.
_NEXT_GROUP = {'"': "'", "\n": " ", "\t": " "}
_ELLIPSES = "…⋯"
# Letters that Unicode does not take apart, or not into letters.
_PLAIN_LETTERS = {
    "ß": "ss",
    "ẞ": "SS",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "ŀ": "l",
    "Ŀ": "L",
    "đ": "d",
    "Đ": "D",
    "ð": "d",
    "Ð": "D",
    "þ": "th",
    "Þ": "Th",
    "ħ": "h",
    "Ħ": "H",
    "ŧ": "t",
    "Ŧ": "T",
    "ŋ": "ng",
    "Ŋ": "Ng",
    "ı": "i",
    "ĸ": "k",
    "ƒ": "f",
}


def nearest(character: str, known: Container[str]) -> str | None:
    """Spell a character with known ones, changing as little as can be.

    Tried are the character itself; then one kind of replacement, in the order
    typography, accents, case; then two kinds, one after the other in that
    order; then all three. What a replacement has several characters of may
    take further kinds apart from one another.

    Args:
        character: A single code point, lone surrogates included.
        known: The characters to spell with.

    Returns:
        Known characters; "" for what shows nothing by itself, such as a
        zero-width space or a combining accent; None if nothing fits.

    References:
        UAX #15, Unicode Normalization Forms.
    """
    for n_kinds in range(len(_KINDS) + 1):
        spelled = _spell(character, known, kinds=_KINDS, n_kinds=n_kinds)
        if spelled is not None:
            return spelled
    return None


def _spell(
    character: str, known: Container[str], *, kinds: tuple[_Kind, ...], n_kinds: int
) -> str | None:
    """Spell a character by at most `n_kinds` of the kinds, in their order."""
    if character in known:
        return character
    if n_kinds == 0:
        return None
    for i, kind in enumerate(kinds):
        for replacement in kind(character):
            if replacement == character:
                continue
            spelled = [
                _spell(c, known, kinds=kinds[i + 1 :], n_kinds=n_kinds - 1) for c in replacement
            ]
            if None not in spelled:
                return "".join(c for c in spelled if c is not None)
    return None


def _other_typography(character: str) -> Iterator[str]:
    """Yield what a typewriter, or a typesetter, has for a character."""
    if character in _ELLIPSES:
        yield "..."
        yield from _ELLIPSES
    group = _GROUP_OF.get(character, "")
    yield from group
    if group and group[0] in _NEXT_GROUP:
        yield from _GROUP_OF[_NEXT_GROUP[group[0]]]
    if _shows_nothing(character):
        yield ""
    # Ligatures, full-width and superscript forms; the canonical forms are for
    # vocabularies in which accents are characters of their own.
    for form in get_args(_Form):
        replaced = _normalized(character, form)
        yield replaced
        yield "".join(_GROUP_OF.get(c, c)[0] for c in replaced)  # ½ is 1⁄2, is 1/2


def _without_accents(character: str) -> Iterator[str]:
    """Yield a letter without its marks; for a mark by itself that is nothing."""
    yield _PLAIN_LETTERS.get(character, character)
    bare = "".join(c for c in _normalized(character, "NFKD") if not unicodedata.combining(c))
    yield bare
    yield "".join(_PLAIN_LETTERS.get(c, c) for c in bare)


def _other_case(character: str) -> Iterator[str]:
    """Yield a letter in every other case."""
    yield character.lower()
    yield character.upper()
    yield character.casefold()  # what a final sigma is within a word
    yield character.title()


_Kind = Callable[[str], Iterator[str]]
_KINDS: tuple[_Kind, ...] = (_other_typography, _without_accents, _other_case)


def _normalized(character: str, form: _Form) -> str:
    normalized = unicodedata.normalize(form, character)
    # To Unicode an accent that stands alone, such as ¨, is a space that bears
    # one; nobody who reads it sees a space.
    is_lone_accent = len(normalized) > 1 and normalized[0] == " "
    return character if is_lone_accent else normalized


def _shows_nothing(character: str) -> bool:
    """Tell whether a character only steers how others look."""
    is_variation_selector = "\ufe00" <= character <= "\ufe0f" or (
        "\U000e0100" <= character <= "\U000e01ef"
    )
    is_joiner = character == "\u034f"
    return is_variation_selector or is_joiner or unicodedata.category(character) == "Cf"
