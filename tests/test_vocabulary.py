"""Characters and ids, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.errors import CheckpointError
from charlstm.vocabulary import FORMAT_VERSION, Vocabulary, code_points_of

# No database: nothing is written outside tmp_path. The one tmp_path of a test
# serves all its examples, each of which writes its file anew.
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Every code point, lone surrogates included: UTF-16 files can hold them.
ANY_CHARACTER = st.characters(exclude_categories=())
ANY_TEXT = st.text(ANY_CHARACTER)
SOME_TEXT = st.text(ANY_CHARACTER, min_size=1)


def test_characters_are_numbered_in_code_point_order() -> None:
    vocabulary = Vocabulary(["z", "😀", "A", "é", "\n"])
    assert vocabulary.id_to_char == ("\n", "A", "z", "é", "😀")
    assert vocabulary.char_to_id == {"\n": 0, "A": 1, "z": 2, "é": 3, "😀": 4}
    assert len(vocabulary) == 5


@given(text=SOME_TEXT)
@PROPERTY
def test_decoding_what_was_encoded_gives_the_text(text: str) -> None:
    vocabulary = Vocabulary(set(text))
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(known=SOME_TEXT, data=st.data())
@PROPERTY
def test_an_id_is_the_rank_of_its_character(known: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary(set(known))
    text = data.draw(st.text(st.sampled_from(sorted(set(known)))))
    ranked = sorted(set(known), key=ord)
    assert vocabulary.encode(text).tolist() == [ranked.index(c) for c in text]


def test_encoding_gives_int32_one_id_a_character() -> None:
    ids = Vocabulary("ab😀").encode("a😀b😀a😀b")
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 2, 1, 2, 0, 2, 1]


def test_an_empty_text_has_no_ids() -> None:
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "i4", "i8"])
def test_ids_of_any_integer_type_are_decoded(dtype: str) -> None:
    assert Vocabulary("cab").decode(np.array([2, 0, 1, 0], dtype=dtype)) == "caba"


@given(known=SOME_TEXT, text=ANY_TEXT)
@PROPERTY
def test_unknown_lists_exactly_the_characters_without_an_id(known: str, text: str) -> None:
    unknown = Vocabulary(set(known)).unknown(text)
    assert [position for position, _ in unknown] == [
        i for i in range(len(text)) if text[i] not in known
    ]
    assert all(text[position] == character for position, character in unknown)


def test_unknown_names_every_occurrence_and_counts_astral_characters_as_one() -> None:
    assert Vocabulary("ab😀").unknown("a😀é😀b€é") == [(2, "é"), (5, "€"), (6, "é")]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("ac!c", "!"),  # below the lowest
        ("mbam", "b"),  # between two
        ("amz😀", "z"),  # above the highest, where a search runs off the end
        ("\ud800a", "\ud800"),
        ("am€!", "€"),
    ],
)
def test_encoding_an_unknown_character_names_the_first(text: str, first: str) -> None:
    with pytest.raises(KeyError) as caught:
        Vocabulary("acm").encode(text)
    assert caught.value.args == (first,)


def test_membership_is_of_single_known_characters() -> None:
    vocabulary = Vocabulary("ab")
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert "ab" not in vocabulary
    assert 0 not in vocabulary


def test_vocabularies_of_the_same_characters_are_equal() -> None:
    assert Vocabulary("bca") == Vocabulary("cab")
    assert hash(Vocabulary("bca")) == hash(Vocabulary("cab"))
    assert Vocabulary("ab") != Vocabulary("abc")
    assert Vocabulary("ab") != ("a", "b")


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        ([], "at least one"),
        (["a", "b", "a"], "distinct single characters"),
        (["a", "bc"], "distinct single characters"),
        (["a", ""], "distinct single characters"),
        (["e\u0301", "a"], "distinct single characters"),  # one letter, two code points
    ],
)
def test_what_is_not_a_set_of_characters_is_refused(characters: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(characters)


# --- the nearest spelling -----------------------------------------------------

LATIN = "\n !\"'()-./:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
LOWER = "\n '-.abcdefghijklmnopqrstuvwxyz"
TYPESET = "\n “”‘’–…ABCabc"


@pytest.mark.parametrize(
    ("characters", "character", "spelled"),
    [
        # Typography to what a typewriter has.
        (LATIN, "“", '"'),
        (LATIN, "”", '"'),
        (LATIN, "„", '"'),
        (LATIN, "«", '"'),
        (LATIN, "‘", "'"),
        (LATIN, "’", "'"),
        (LATIN, "´", "'"),
        (LATIN, "`", "'"),
        (LATIN, "–", "-"),
        (LATIN, "—", "-"),
        (LATIN, "−", "-"),
        (LATIN, "\u2011", "-"),  # a hyphen that does not break
        (LATIN, "…", "..."),
        (LATIN, "‥", ".."),
        (LATIN, "\u00a0", " "),
        (LATIN, "\u202f", " "),
        (LATIN, "\u2003", " "),
        (LATIN, "\u3000", " "),
        (LATIN, "\t", " "),
        (LATIN, "\r", "\n"),
        (LATIN, "\u2028", "\n"),
        (LATIN, "\f", "\n"),
        (LATIN, "ﬁ", "fi"),
        (LATIN, "ﬃ", "ffi"),
        (LATIN, "ĳ", "ij"),
        (LATIN, "Ａ", "A"),
        (LATIN, "²", "2"),
        (LATIN, "½", "1/2"),
        (LATIN, "ſ", "s"),
        (LATIN, "™", "TM"),
        # And back, where only that is there.
        (TYPESET, '"', "“"),
        ("”", '"', "”"),
        (TYPESET, "'", "’"),
        ("‘", "'", "‘"),
        (TYPESET, "-", "–"),
        ("—", "-", "—"),
        (TYPESET, "—", "–"),
        (TYPESET, "«", "“"),
        ("\u00a0", " ", "\u00a0"),
        ("…", "⋯", "…"),
        (LOWER, '"', "'"),
        (LOWER, "“", "'"),
        (TYPESET.replace("“", "").replace("”", ""), '"', "’"),
        ("ab ", "\n", " "),
        # Accents.
        (LATIN, "é", "e"),
        (LATIN, "Ä", "A"),
        (LATIN, "ñ", "n"),
        (LATIN, "ç", "c"),
        (LATIN, "ệ", "e"),  # two marks
        (LATIN, "ß", "ss"),
        (LATIN, "ẞ", "SS"),
        (LATIN, "æ", "ae"),
        (LATIN, "Æ", "AE"),
        (LATIN, "œ", "oe"),
        (LATIN, "ø", "o"),
        (LATIN, "ǿ", "o"),  # a mark, and a stroke that is none to Unicode
        ("ø", "ǿ", "ø"),
        (LATIN, "ł", "l"),
        (LATIN, "đ", "d"),
        (LATIN, "þ", "th"),
        (LATIN, "Þ", "Th"),
        ("και", "ά", "α"),
        ("и", "й", "и"),
        ("か", "が", "か"),
        ("e\u0301", "é", "e\u0301"),  # it has accents of its own
        # Case.
        ("abc", "A", "a"),
        ("ABC", "a", "A"),
        ("é", "É", "é"),
        ("Σσ", "ς", "Σ"),
        ("σ", "ς", "σ"),
        ("SS", "S", "S"),
        ("S", "ß", "SS"),
        ("i", "İ", "i"),
        ("i", "ı", "i"),
        ("ǅ", "ǆ", "ǅ"),  # title case, which is a third one
        # Several kinds; fewer first, then the earlier kind.
        ("eEé", "É", "E"),
        ("eé", "É", "é"),
        ("e", "É", "e"),
        ("E", "é", "E"),
        ("ae", "Æ", "ae"),
        ("Ae", "Æ", "Ae"),
        ("a", "Ａ", "a"),
        ("FI", "ﬁ", "FI"),
        ("f", "ƒ", "f"),
        ("o", "Ǿ", "o"),
        ("a", "Å", "a"),  # the Ångström sign
        # What shows nothing by itself.
        (LATIN, "\u200b", ""),
        (LATIN, "\ufeff", ""),
        (LATIN, "\u00ad", ""),
        (LATIN, "\u200d", ""),
        (LATIN, "\ufe0f", ""),
        (LATIN, "\u0301", ""),
        # Nothing fits.
        (LATIN, "€", None),
        (LATIN, "😀", None),
        (LATIN, "中", None),
        (LATIN, "¨", None),  # no space, whatever Unicode makes of it
        (LATIN, "\0", None),
        (LATIN, "\ud800", None),
        ("ab", "…", None),
        ("ab", "ß", None),
        ("ab", " ", None),
        ("fx", "ﬁ", None),  # half of it would be another text
    ],
)
def test_the_nearest_spelling(characters: str, character: str, spelled: str | None) -> None:
    assert Vocabulary(set(characters)).nearest(character) == spelled


@given(known=SOME_TEXT | st.text(st.sampled_from(LATIN + TYPESET), min_size=1), data=st.data())
@PROPERTY
def test_the_nearest_spelling_is_known(known: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary(set(known))
    character = data.draw(ANY_CHARACTER)
    spelled = vocabulary.nearest(character)
    assert spelled is None or set(spelled) <= set(known)
    assert Vocabulary(set(known)).nearest(character) == spelled


@given(known=SOME_TEXT)
@PROPERTY
def test_a_known_character_is_its_own_nearest_spelling(known: str) -> None:
    vocabulary = Vocabulary(set(known))
    assert [vocabulary.nearest(c) for c in known] == list(known)


def test_every_code_point_has_a_nearest_spelling_or_none() -> None:
    vocabulary = Vocabulary(LATIN)
    known = set(LATIN) | {""}
    # All of the alphabets and the punctuation, some of the rest.
    some = (*range(0x3000), *range(0x3000, 0x10000, 7), *range(0x10000, 0x110000, 101))
    for code_point in some:
        spelled = vocabulary.nearest(chr(code_point))
        assert spelled is None or set(spelled) <= known


def test_letters_of_latin_1_can_all_be_written_in_ascii() -> None:
    vocabulary = Vocabulary(LATIN)
    letters = [chr(c) for c in range(0xC0, 0x180) if chr(c).isalpha()]
    assert [c for c in letters if vocabulary.nearest(c) is None] == []


# --- the look-up table --------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_the_id_table_encodes_whole_arrays(dtype: str) -> None:
    text = "e\U0010ffff\t😀é"
    vocabulary = Vocabulary(text)
    table = vocabulary.id_table(dtype)
    assert table.shape == (0x110000,)  # one more than the last code point
    assert table.dtype == np.dtype(dtype)
    assert table[[ord(c) for c in text]].tolist() == [1, 4, 0, 3, 2]
    assert np.flatnonzero(table).tolist() == [ord("e"), ord("é"), ord("😀"), 0x10FFFF]


def test_an_id_table_of_one_byte_holds_256_ids() -> None:
    characters = [chr(0x400 + i) for i in range(256)]
    table = Vocabulary(characters).id_table("u1")
    assert table[0x400:0x500].tolist() == list(range(256))


@given(text=ANY_TEXT)
@PROPERTY
def test_code_points_are_those_of_ord(text: str) -> None:
    code_points = code_points_of(text)
    assert code_points.dtype == np.uint32
    assert code_points.tolist() == [ord(c) for c in text]


# --- the file -----------------------------------------------------------------


def test_the_file_is_ascii_json_with_the_characters_in_order(tmp_path: Path) -> None:
    Vocabulary("é\na😀").save(tmp_path / "v.json")
    written = (tmp_path / "v.json").read_bytes()
    assert written == (
        rb'{"format_version": 1, "characters": ["\n", "a", "\u00e9", "\ud83d\ude00"]}' + b"\n"
    )


@given(text=SOME_TEXT)
@PROPERTY
def test_a_saved_vocabulary_loads_as_the_same(tmp_path: Path, text: str) -> None:
    vocabulary = Vocabulary(set(text))
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary


def test_a_newer_format_is_named_and_refused() -> None:
    content = {"format_version": FORMAT_VERSION + 1, "characters": ["a", "b"]}
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.from_json(content, source="some/vocabulary.json")
    assert "some/vocabulary.json has format version 3" in caught.value.message
    assert "reads up to 2" in caught.value.message
    assert caught.value.hint == "install a newer charlstm"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, [1]])
def test_an_odd_format_version_is_refused(version: object) -> None:
    content = {"format_version": version, "characters": ["a", "b"]}
    with pytest.raises(CheckpointError, match=r"v\.json has no usable format_version"):
        Vocabulary.from_json(content, source="v.json")


def test_a_missing_format_version_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no usable format_version"):
        Vocabulary.from_json({"characters": ["a", "b"]}, source="v.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a", "b"], "is not a vocabulary"),
        (None, "is not a vocabulary"),
        ({"format_version": 1}, "is not a vocabulary"),
        ({"format_version": 1, "characters": "ab"}, "must be a list of characters"),
        ({"format_version": 1, "characters": {"a": 0}}, "must be a list of characters"),
        ({"format_version": 1, "characters": ["a", 98]}, "must be a list of characters"),
        ({"format_version": 1, "characters": ["a", ["b"]]}, "must be a list of characters"),
        ({"format_version": 1, "characters": []}, "at least one"),
        ({"format_version": 1, "characters": ["a", "a"]}, "distinct single characters"),
        ({"format_version": 1, "characters": ["a", "bc"]}, "distinct single characters"),
        ({"format_version": 1, "characters": ["", "a"]}, "distinct single characters"),
        ({"format_version": 1, "characters": ["b", "a"]}, "not in code-point order"),
    ],
)
def test_damaged_content_is_refused(content: object, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.from_json(content, source="v.json")
    assert caught.value.message.startswith("v.json")
    assert message in caught.value.message
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"not JSON",
        b'{"format_version": 1, "characters": ["\xe9"]}',  # Latin-1
        b"[" * 100_000,  # deeper than any recursion limit
        b'{"characters": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"format_version": ' + b"9" * 10_000 + b', "characters": ["a"]}',
    ],
    ids=["empty", "text", "latin-1", "deep", "deep-closed", "long-number"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, written: bytes) -> None:
    file = tmp_path / "v.json"
    file.write_bytes(written)
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.load(file)
    assert str(file) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 1


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    Vocabulary("a\n😀").save(tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    for stop in range(len(whole) - 1):  # the last byte is a line end
        (tmp_path / "cut.json").write_bytes(whole[:stop])
        with pytest.raises(CheckpointError, match=r"cannot read .*cut\.json"):
            Vocabulary.load(tmp_path / "cut.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.load(tmp_path / "none.json")
    assert f"{tmp_path / 'none.json'} is missing" in caught.value.message
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "written", ["{", '{"format_version": 3, "characters": ["a"]}', "[]"], ids=["cut", "new", "list"]
)
def test_a_message_cannot_steer_the_terminal(tmp_path: Path, written: str) -> None:
    # A folder from elsewhere may be called anything; messages go to a terminal.
    file = tmp_path / "\x1b[2Jodd\nname.json"
    file.write_text(written, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Vocabulary.load(file)
    assert caught.value.message.isprintable()
