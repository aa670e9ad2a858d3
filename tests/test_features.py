"""Features of a text, on texts written for each and on any text."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlstm.features import FEATURES, is_vowel, since

BY_NAME = {feature.name: feature.values for feature in FEATURES}


def marked(name: str, text: str) -> list[str]:
    """The stretches of a text that a yes-or-no feature marks."""
    values = BY_NAME[name](text)
    assert set(values.tolist()) <= {0.0, 1.0}
    shown = "".join(c if is_so else "\0" for c, is_so in zip(text, values, strict=True))
    return [stretch for stretch in shown.split("\0") if stretch]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotes", 'he said "no, I" and', ['"no, I']),
        ("inside quotes", "„ja“ “so” «да» ‹x›", ["„ja", "“so", "«да", "‹x"]),
        # What is quoted within a quotation ends nothing.
        ("inside quotes", '“a "b" c” d', ['“a "b" c']),
        # Opened and not closed before the paragraph ends: no quotation.
        ("inside quotes", '5" wide\n\nand "so"', ['"so']),
        # A text may begin within a quotation.
        (
            "inside quotes",
            "mot », dit-il. « Oui », dit-elle. « Non », fit-il.",
            ["« Oui ", "« Non "],
        ),
        ("inside quotes", 'mot", dit-il. "Oui," dit-elle.', ['"Oui,']),
        ("inside quotes", "»Ja«, sagte er. »Nein!« sagte sie.", ["»Ja", "»Nein!"]),
        ("inside brackets", "a [b (c) d] e)", ["[b (c) d"]),
        ("inside brackets", "f(a(b), c) + g([x], {1: (2)})", ["(a(b), c", "([x], {1: (2)}"]),
        ("inside brackets", "a) (b [c) d] e", ["(b [c"]),
        ("inside brackets", "a (b\n\nc) d", []),
        ("inside brackets", "a (b" + "c" * 2_100 + ") d", []),
        ("speaker name", "MACBETH.\nIs this\n", ["MACBETH."]),
        ("speaker name", "LADY MACDUFF.\nO", ["LADY MACDUFF."]),
        ("speaker name", "First Citizen:\nBefore we", ["First Citizen:"]),
        ("speaker name", "Alice: hello: there\n", ["Alice:"]),
        ("speaker name", "it was so: they\nsaid.\nHe went.\n", []),
        ("speaker name", "ЛИР.\nДа.\n", ["ЛИР."]),
        ("speaker name", "A" * 60 + ".\n", []),
        ("start of a line", "ab\n\ncd", ["a", "\nc"]),
        ("line feed", "ab\n\ncd", ["\n\n"]),
        ("between words", "don't go, 2!", [" ", ", ", "!"]),
        ("vowel", "Ünder thé sky", ["Ü", "e", "é", "y"]),
        ("capital letter", "To Érs, I", ["T", "É", "I"]),
        ("digit", "a 12b", ["12"]),
        ("end of a sentence", "So?! It, is.", ["?!", "."]),
    ],
)
def test_what_is_marked(name: str, text: str, expected: list[str]) -> None:
    assert marked(name, text) == expected


def test_positions_in_lines_and_words() -> None:
    text = "To bed\nnow"
    assert BY_NAME["position in the line"](text).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert BY_NAME["position in the word"](text).tolist() == [1, 2, 0, 1, 2, 3, 0, 1, 2, 3]
    assert BY_NAME["position in the word"](" o'er").tolist() == [0, 1, 2, 3, 4]


def test_positions_end_at_a_hundred() -> None:
    for name in ("position in the line", "position in the word"):
        assert BY_NAME[name]("a" * 300).max() == 100


def test_since_counts_from_the_last_start() -> None:
    is_start = np.array([False, False, True, False, True, True, False])
    assert since(is_start).tolist() == [0, 1, 0, 1, 0, 0, 1]


def test_vowels_of_three_alphabets() -> None:
    assert all(map(is_vowel, "aEïŸæøАяєΩάή"))
    assert not any(map(is_vowel, "bçßжЙ θ1,\n"))


@given(st.text(max_size=300))
def test_every_feature_gives_a_finite_value_for_each_character(text: str) -> None:
    for feature in FEATURES:
        values = feature.values(text)
        assert values.shape == (len(text),)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        if not feature.is_count:
            assert set(values.tolist()) <= {0.0, 1.0}


@given(st.lists(st.sampled_from(["« oui », ", '"so," ', "mot. ", "(a (b)) ", "dit "]), max_size=30))
def test_where_a_text_begins_changes_nothing_after_the_first_closing_mark(
    pieces: list[str],
) -> None:
    text = "".join(pieces)
    whole = BY_NAME["inside quotes"](text)
    for k in range(len(text)):
        ends = [n for n in (text.find(mark, k) for mark in ("»", '," ')) if n >= 0]
        after = max(ends) + 2 if len(ends) == 2 else len(text)
        part = BY_NAME["inside quotes"](text[k:])
        np.testing.assert_array_equal(part[after - k :], whole[after:])


@given(st.text(alphabet=' a\n"“”', max_size=60))
def test_quotations_never_cross_a_blank_line(text: str) -> None:
    values = BY_NAME["inside quotes"](text)
    for match in re.finditer(r"\n\s*\n", text):
        assert not values[match.start() : match.end()].any()
