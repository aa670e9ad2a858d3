"""When a text ends: pieces against the whole text, cut in plain Python."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm.errors import CharlstmError, ConfigError
from charlstm.stopping import (
    CHARACTERS_PER_LINE,
    DEFAULT_LENGTH,
    MAX_LENGTH,
    PATIENCE_FOR_A_SENTENCE,
    Ending,
    StopRules,
)

PROPERTY = settings(max_examples=250, deadline=None, database=None)


def write(text: str, rules: StopRules) -> tuple[list[str], str | None]:
    """Push a text until it ends; the pieces that came out, and why it ended."""
    ending = Ending(rules)
    pieces = []
    for character in text:
        if ending.stopped is not None:
            break
        pieces.append(ending.push(character))
    return pieces, ending.stopped


def written(text: str, **rules: Any) -> tuple[str, str | None]:
    pieces, stopped = write(text, StopRules(**rules))
    return "".join(pieces), stopped


# --- the reference --------------------------------------------------------------

# Marks and what closes after them, as much as there is of it. After a wide mark
# “‘«‹ open what follows.
_END = re.compile(
    r"""(?: [.!?…][]"')}”’»›」』）】“‘«‹]*+ | [。！？][]"')}”’»›」』）】]*+ )++""", re.VERBOSE
)


def sentence_ends(text: str) -> list[int]:
    """Where sentences of a whole text end: the indices of what comes after them.

    Cuts the text at its end marks and line feeds, unlike the class, which sees
    one character at a time.
    """
    places = []
    begin = 0
    for match in _END.finditer(text):
        place = match.end()
        is_wide = re.findall("[.!?…。！？]", match[0])[-1] in "。！？"
        if place == len(text) or not (is_wide or text[place].isspace()):
            continue
        sentence = text[max(begin, text.rfind("\n", 0, place) + 1) : place]
        if any(c.isalpha() and not c.isupper() for c in sentence):
            places.append(place)
        begin = place
    return places


def cut(text: str, rules: StopRules) -> tuple[str, str | None]:
    """Say what comes of a whole text, and why it ends: None if it does not.

    Every way to end is looked for in the whole text; the first one counts. It
    is known by the number of characters that have to be read for it; of two
    at once, in the order sentence, stop, lines, length.
    """
    # (characters read, rank, characters of the text, why)
    ends: list[tuple[int, int, int, str]] = []
    if rules.until_sentence:
        ends += [(n + 1, 0, n, "sentence") for n in sentence_ends(text) if n >= rules.wanted_length]
    for stop in rules.stops:
        # The longest of those that end at one place: what is left is shortest.
        ends += [
            (n + len(stop), 1, n, "stop") for n in range(len(text)) if text.startswith(stop, n)
        ]
    feeds = [n + 1 for n, c in enumerate(text) if c == "\n"]
    if rules.lines is not None and len(feeds) >= rules.lines:
        n_read = feeds[rules.lines - 1]
        ends.append((n_read, 2, n_read, "lines"))
    if len(text) >= rules.max_length:
        ends.append((rules.max_length, 3, rules.max_length, "length"))
    if not ends:
        return text, None
    _, _, n_left, why = min(ends)
    return text[:n_left], why


def held_back(text: str, stops: Sequence[str]) -> str:
    """The longest end of a text with which a stop text may have begun."""
    beginnings = {stop[:n] for stop in stops for n in range(len(stop))}
    return next(text[n:] for n in range(len(text) + 1) if text[n:] in beginnings | {""})


few_letters = st.text("ab", max_size=30)
some_stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4).map(tuple)
overlapping_stops = st.sampled_from(
    [
        ("aba", "ab", "bab"),
        ("aba", "bab"),
        ("aab", "ab"),
        ("abab", "b"),
        ("aaa", "aaaa"),
        ("abaab", "abab", "aabb"),
        ("ab", "ab"),
    ]
)


@st.composite
def any_rules(draw: st.DrawFn, stop_letters: str = "ab\n .é”") -> StopRules:
    lines = draw(st.one_of(st.none(), st.integers(1, 4)))
    return StopRules(
        length=draw(st.one_of(st.none(), st.integers(0, 40))),
        stops=tuple(draw(st.lists(st.text(stop_letters, min_size=1, max_size=4), max_size=3))),
        until_sentence=lines is None and draw(st.booleans()),
        lines=lines,
    )


def test_the_reference_by_hand() -> None:
    # What the properties below compare with is itself compared with answers
    # written down.
    assert cut("xxabay", StopRules(stops=("aba", "ab", "bab"))) == ("xx", "stop")
    assert cut("xxaab", StopRules(stops=("ab", "aab"))) == ("xx", "stop")
    assert cut("He is. So am I.\n", StopRules(length=0, until_sentence=True)) == (
        "He is.",
        "sentence",
    )
    assert sentence_ends("MACBETH.\nI am. (He is.) So?\n") == [14, 23, 27]
    assert sentence_ends("彼は。「死んだ。」と言う。“好”") == [3, 9, 13]
    assert held_back("xxab", ["abc", "bd"]) == "ab"
    assert held_back("xxabd", ["abc", "bda"]) == "bd"
    assert held_back("xxabcx", ["abcd"]) == ""


# --- pieces and the whole -------------------------------------------------------


@PROPERTY
@given(few_letters, st.one_of(some_stops, overlapping_stops), st.integers(0, 30))
def test_the_pieces_are_the_text_up_to_the_first_stop(
    text: str, stops: tuple[str, ...], length: int
) -> None:
    rules = StopRules(length=length, stops=stops)
    pieces, stopped = write(text, rules)
    expected, why = cut(text, rules)
    if why is None:
        # It goes on: what may begin a stop text is still held.
        assert "".join(pieces) + held_back(text, stops) == text
    else:
        assert "".join(pieces) == expected
    assert stopped == why


@PROPERTY
@given(st.text("abAB\n .!?”)é", max_size=45), any_rules())
def test_the_pieces_are_the_text_up_to_what_ends_it_first(text: str, rules: StopRules) -> None:
    pieces, stopped = write(text, rules)
    expected, why = cut(text, rules)
    if why is None:
        expected = text.removesuffix(held_back(text, rules.stops))
    assert ("".join(pieces), stopped) == (expected, why)


@PROPERTY
@given(st.text("aA\n .…。！»“」死", max_size=30), st.integers(0, 12))
def test_sentences_of_all_scripts_end_where_the_whole_text_says(text: str, length: int) -> None:
    rules = StopRules(length=length, until_sentence=True)
    pieces, stopped = write(text, rules)
    assert ("".join(pieces), stopped) == cut(text, rules)


@PROPERTY
@given(few_letters, st.one_of(some_stops, overlapping_stops))
def test_as_little_is_held_back_as_can_be(text: str, stops: tuple[str, ...]) -> None:
    ending = Ending(StopRules(length=1_000, stops=stops))
    longest = max(map(len, stops), default=0)
    released = ""
    for n, character in enumerate(text, start=1):
        released += ending.push(character)
        if ending.stopped is not None:
            break
        # Exactly what may still be part of a stop text: so nothing of one is
        # ever released, and nothing else waits.
        held = held_back(text[:n], stops)
        assert released + held == text[:n]
        assert len(held) < max(longest, 1)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
    if ending.stopped is not None:
        assert any(text[len(released) :].startswith(stop) for stop in stops)


@PROPERTY
@given(few_letters, st.one_of(some_stops, overlapping_stops))
def test_what_was_released_holds_no_stop(text: str, stops: tuple[str, ...]) -> None:
    pieces, _ = write(text, StopRules(length=1_000, stops=stops))
    assert not any(stop in "".join(pieces) for stop in stops)


# --- stop texts -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("two", ("two",), ""),
        ("t two", ("two",), "t "),
        ("ttwo", ("two",), "t"),
        ("twtwo", ("two",), "tw"),
        # The first that is complete counts, not the longest.
        ("xaba", ("aba", "ab", "bab"), "x"),
        ("xbaba", ("abab", "bab"), "x"),
        ("xbaba", ("aba", "bab"), "x"),
        ("abcd", ("bcd", "bc"), "a"),
        # Of two that are complete at once the longer goes.
        ("xxaab", ("ab", "aab"), "xx"),
        ("xxaab", ("aab", "ab"), "xx"),
        ("xxaab", ("b", "ab", "aab"), "xx"),
        # A beginning that comes to nothing, inside which another begins.
        ("aabaac", ("aabb", "aac"), "aab"),
        ("ababac", ("ababc", "bac"), "aba"),
        ("aaaab", ("aab",), "aa"),
        ("\n\n", ("\n\n",), ""),
        ("a\n\nb", ("\n\n",), "a"),
        ("naïve café", ("é",), "naïve caf"),
        ("e\u0301", ("\u0301",), "e"),
        ("say 😀!", ("😀!",), "say "),
    ],
)
def test_a_stop_text_is_not_part_of_the_text(
    text: str, stops: tuple[str, ...], expected: str
) -> None:
    assert written(text, stops=stops) == (expected, "stop")


def test_pieces_come_as_soon_as_no_stop_can_be() -> None:
    pieces, stopped = write("abab abaabcd", StopRules(stops=("ababx", "bcd")))
    # By hand: "abab" may go on, the space shows that it does not; of "abaa"
    # the last a may begin again; the b after it may begin both.
    assert pieces == ["", "", "", "", "abab ", "", "", "", "aba", "", "a", ""]
    assert stopped == "stop"


def test_without_stops_every_character_comes_at_once() -> None:
    for rules in (
        StopRules(length=9),
        StopRules(length=9, until_sentence=True),
        StopRules(length=9, lines=3),
    ):
        assert write("Oh, a\nb. ", rules)[0][:8] == list("Oh, a\nb.")


def test_what_is_held_comes_when_the_length_is_reached() -> None:
    pieces, stopped = write("abcde", StopRules(length=4, stops=("cdx",)))
    assert (pieces, stopped) == (["a", "b", "", "cd"], "length")


def test_a_stop_at_the_last_character_is_a_stop() -> None:
    assert written("abcde", length=4, stops=("cd",)) == ("ab", "stop")
    assert written("abcde", length=3, stops=("cd",)) == ("abc", "length")


def test_many_long_stops_are_no_trouble() -> None:
    # Nearly a stop again and again: the worst that can be held back.
    stops = tuple("a" * 60 + letter for letter in "bcdefgh")
    text = "a" * 500
    pieces, stopped = write(text + "b", StopRules(length=1_000, stops=stops))
    assert "".join(pieces) == "a" * 440
    assert stopped == "stop"
    assert pieces == [""] * 60 + ["a"] * 440 + [""]


# --- length ---------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_length_ends_a_text(length: int) -> None:
    ending = Ending(StopRules(length=length))
    assert ending.max_length == length
    for n, character in enumerate("abcdefg"[:length], start=1):
        assert ending.stopped is None
        assert ending.push(character) == character
        assert ending.stopped == ("length" if n == length else None)


@pytest.mark.parametrize("more", [{}, {"stops": ("a",)}, {"lines": 2}])
def test_a_text_of_no_length_is_over_at_once(more: dict[str, Any]) -> None:
    assert Ending(StopRules(length=0, **more)).stopped == "length"


@pytest.mark.parametrize(
    ("options", "wanted", "longest"),
    [
        ({}, 500, 500),
        ({"length": 0}, 0, 0),
        ({"length": 80}, 80, 80),
        ({"stops": ("x",)}, 500, 500),
        ({"until_sentence": True}, 500, 2_500),
        ({"until_sentence": True, "length": 0}, 0, 2_000),
        ({"until_sentence": True, "length": 80}, 80, 2_080),
        ({"lines": 1}, 1_000, 1_000),
        ({"lines": 3}, 3_000, 3_000),
        ({"lines": 3, "length": 80}, 80, 80),
        ({"lines": 3, "length": 9_000}, 9_000, 9_000),
        ({"length": 10**12}, 10**12, 10**12),
        ({"lines": 10**9}, 10**12, 10**12),
    ],
)
def test_how_long_a_text_can_be(options: dict[str, Any], wanted: int, longest: int) -> None:
    rules = StopRules(**options)
    assert (rules.wanted_length, rules.max_length) == (wanted, longest)
    assert Ending(rules).max_length == longest


def test_the_constants_are_those_that_the_tests_count_with() -> None:
    assert (DEFAULT_LENGTH, MAX_LENGTH) == (500, 10**12)
    assert (CHARACTERS_PER_LINE, PATIENCE_FOR_A_SENTENCE) == (1_000, 2_000)


@pytest.mark.parametrize("options", [{}, {"until_sentence": True}, {"lines": 2}])
def test_no_text_goes_on_for_ever(options: dict[str, Any]) -> None:
    rules = StopRules(**options)
    assert written("a" * 9_000, **options) == ("a" * rules.max_length, "length")


# --- lines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("one\ntwo\nthree\n", 1, "one\n"),
        ("one\ntwo\nthree\n", 2, "one\ntwo\n"),
        ("one\ntwo\nthree\n", 3, "one\ntwo\nthree\n"),
        ("\n\n\n\n", 3, "\n\n\n"),
        # Only line feeds count, as for head.
        ("a\r\nb\u2028c\x0bd\n", 2, "a\r\nb\u2028c\x0bd\n"),
    ],
)
def test_lines_end_as_head_does(text: str, lines: int, expected: str) -> None:
    assert written(text, lines=lines) == (expected, "lines")


def test_too_few_lines_go_on() -> None:
    assert written("one\ntwo\n", lines=3) == ("one\ntwo\n", None)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # A stop text that ends with the last line feed takes it along.
        ({"lines": 2, "stops": ("b\n",)}, ("a\n", "stop")),
        ({"lines": 1, "stops": ("\nb",)}, ("a\n", "lines")),
        ({"lines": 3, "stops": ("\n",)}, ("a", "stop")),
        ({"lines": 2, "length": 4}, ("a\nb\n", "lines")),
        ({"lines": 2, "length": 3}, ("a\nb", "length")),
    ],
)
def test_what_comes_first_ends_the_text(options: dict[str, Any], expected: tuple[str, str]) -> None:
    assert written("a\nb\nc\n", **options) == expected


# --- sentences ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He died. Then", "He died."),
        ("He died.\nThen", "He died."),
        ("He died.\tThen", "He died."),
        ("He died.\u00a0Then", "He died."),
        ("Who? Me", "Who?"),
        ("Oh! Me", "Oh!"),
        ("And so… Then", "And so…"),
        ("Well... Then", "Well..."),
        ("What?! Then", "What?!"),
        # Quotation marks and brackets close after the end.
        ('"He died." Then', '"He died."'),
        ("He died.” Then", "He died.”"),
        ("He died.’” Then", "He died.’”"),
        ("He died.' Then", "He died.'"),
        ("(He died.) Then", "(He died.)"),
        ("[He died!]\n", "[He died!]"),
        ("{he died?}\n", "{he died?}"),
        ("« Il est mort.» Puis", "« Il est mort.»"),
        ("„Er ist tot.“ Dann", "„Er ist tot.“"),
        ("»Er ist tot.« Dann", "»Er ist tot.«"),
        ("‚Er ist tot.‘ Dann", "‚Er ist tot.‘"),
        ('He said ("I died.").) Then', 'He said ("I died.").)'),
        # A point within a number, a name or an ellipsis does not end it.
        ("It is 3.14 so. Then", "It is 3.14 so."),
        ("See a.b.c for it. Then", "See a.b.c for it."),
        ("So ...and on. Then", "So ...and on."),
        ("He said.x so. Then", "He said.x so."),
        ("He (so.x) is. Then", "He (so.x) is."),
        # A line in capitals is a heading; so is a number, or nothing.
        ("MACBETH.\nHe died. Then", "MACBETH.\nHe died."),
        ("LADY MACBETH.\n\nI. II.\nHe died. Then", "LADY MACBETH.\n\nI. II.\nHe died."),
        ("1.\n2.\n. ... He died. Then", "1.\n2.\n. ... He died."),
        ("ÉLÉONORE.\nSo! Then", "ÉLÉONORE.\nSo!"),
        ("Scene\nMACBETH.\nSo! Then", "Scene\nMACBETH.\nSo!"),
        ("SCENE MACBETH. So! Then", "SCENE MACBETH. So!"),
        # Texts without capitals.
        ("he died. then", "he died."),
        ("он умер. потом", "он умер."),
        # Scripts without them.
        ("वह मर गया. फिर", "वह मर गया."),
        ("הוא מת. ואז", "הוא מת."),
        ("ის მოკვდა! მერე", "ის მოკვდა!"),
        # Where no white space follows.
        ("他死了。然后", "他死了。"),
        ("他死了！！然后", "他死了！！"),
        ("他死了？」然后", "他死了？」"),
        ("「死んだ。」と言う", "「死んだ。」"),
        ("（死んだ。）と言う", "（死んだ。）"),
        ("他死了。“然后”", "他死了。"),
        ("他死了。\n然后", "他死了。"),
        ("死んだ！ そして", "死んだ！"),
        ("。。死。x", "。。死。"),
    ],
)
def test_a_sentence_ends(text: str, expected: str) -> None:
    assert written(text, length=0, until_sentence=True) == (expected, "sentence")


@pytest.mark.parametrize(
    "text",
    [
        # Not known before the next character.
        "He died.",
        "He died.”",
        "他死了。",
        "他死了。」",
        "He died, and so on; and on: and on - ",
        "He died.x",
        "MACBETH.\nLADY MACBETH.\nI.\n1606.\n",
        "...\n\n?! ",
        # Nothing but what closes may come between.
        "He died.-) ",
        "He died.,” ",
        "He died ) ",
        # A line that is read on in capitals.
        "He went to\nROME.\n",
    ],
)
def test_a_sentence_does_not_end(text: str) -> None:
    assert written(text, length=0, until_sentence=True) == (text, None)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, "He is."),
        (5, "He is."),
        # The sentence that ends with the length is the one.
        (6, "He is."),
        (7, "He is. So is she."),
        (16, "He is. So is she."),
        (17, "He is. So is she."),
        (18, "He is. So is she.\nMACBETH.\nYes!"),
    ],
)
def test_a_sentence_ends_the_text_from_its_length_on(length: int, expected: str) -> None:
    text = "He is. So is she.\nMACBETH.\nYes! Or no."
    assert written(text, length=length, until_sentence=True) == (expected, "sentence")


def test_a_sentence_is_waited_for_2000_characters() -> None:
    just = "a" * 2_002 + ". Then"
    # The space shows that it has ended: the 2,003rd character is the point.
    assert written(just, length=3, until_sentence=True) == ("a" * 2_002 + ".", "length")
    sooner = "a" * 2_001 + ". Then"
    assert written(sooner, length=3, until_sentence=True) == ("a" * 2_001 + ".", "sentence")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("Then", ("He died.", "sentence")),
        # What is held when the sentence ends belongs to it.
        ("died. T", ("He died.", "sentence")),
        (". ", ("He died.", "sentence")),
        ("died.", ("He ", "stop")),
        (".", ("He died", "stop")),
    ],
)
def test_a_stop_before_the_end_of_the_sentence(stop: str, expected: tuple[str, str]) -> None:
    assert written("He died. Then", length=0, until_sentence=True, stops=(stop,)) == expected


# --- rules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"length": bad}, f"length must be a whole number from 0 to {10**12}, not {bad!r}")
            for bad in (-1, 10**12 + 1, 1.0, math.nan, True, "5")
        ),
        *(
            ({"lines": bad}, f"lines must be a whole number from 1 to {10**9}, not {bad!r}")
            for bad in (0, -3, 10**9 + 1, 2.5, math.inf, True, "5")
        ),
        ({"stops": ("",)}, "a stop text needs at least one character"),
        ({"stops": ("a", "", "b")}, "a stop text needs at least one character"),
        ({"until_sentence": True, "lines": 2}, "until-sentence and lines exclude each other"),
    ],
)
def test_rules_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StopRules(**options)
    assert caught.value.message == message
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, CharlstmError)


def test_stop_texts_that_cannot_be_written_are_named() -> None:
    rules = StopRules(stops=("abc", "abd", "\x1b[31m", "c\n", "é", "cab"))
    assert rules.warnings(set("abc")) == [
        f"warning: the model can never write the stop text '{stop}'"
        for stop in ("abd", "\\x1b[31m", "c\\n", "é")
    ]
    assert rules.warnings(set("abcdé\n\x1b[31m")) == []
    assert StopRules().warnings(set()) == []


def test_lines_and_sentences_that_never_end_are_told() -> None:
    lines, sentence = StopRules(lines=2), StopRules(until_sentence=True)
    assert "no line feed" in lines.warnings(set("ab."))[0]
    assert "no mark that ends a sentence" in sentence.warnings(set("ab\n,"))[0]
    assert lines.warnings(set("\n")) == sentence.warnings(set("a。")) == []


def test_texts_do_not_share_their_ends() -> None:
    rules = StopRules(length=8, stops=("xy",), lines=2)
    first, second = Ending(rules), Ending(rules)
    assert [first.push(c) for c in "ax"] == ["a", ""]
    assert [second.push(c) for c in "y\n\n"] == ["y", "\n", "\n"]
    assert (first.stopped, second.stopped) == (None, "lines")
    assert first.push("y") == ""
    assert first.stopped == "stop"


def test_one_text_is_not_taken_for_several() -> None:
    # A string is a sequence of its characters: each would have been a stop text.
    with pytest.raises(ConfigError, match="several texts"):
        StopRules(stops="END")  # type: ignore[arg-type]
