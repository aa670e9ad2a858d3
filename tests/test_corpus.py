"""Texts in, prepared folders out."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import types
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from charlstm.corpus import (
    FORMAT_VERSION,
    Corpus,
    find_corpus,
    load_corpus,
    prepare_corpus,
    read_summary,
    shipped_texts,
    split_corpus,
)
from charlstm.errors import ConfigError, CorpusError, OutputError
from charlstm.preparing import id_dtype
from charlstm.reading import CorpusOptions, read_text
from charlstm.sources import corpus_name

# No database: nothing is written outside tmp_path. The one tmp_path of a test
# serves all its examples, each of which writes its files anew.
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
OPTIONS = CorpusOptions()
VERSE = "Fair is foul, and foul is fair:\nHover through the fog and filthy air.\n"  # 70 characters
FRENCH = (
    "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux "
    "se fermaient si vite que je n'avais pas le temps de me dire: « Je m'endors. » Et, une "
    "demi-heure après, la pensée qu'il était temps de chercher le sommeil m'éveillait.\n"
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def prepare(source: Path | None, output: Path, **choices: Any) -> Corpus:
    """Prepare with windows of 9 and the text's last tenth held out."""
    return prepare_corpus(
        source, **{"options": OPTIONS, "output": output, "seq_length": 9, **choices}
    )


def whole(corpus: Corpus) -> str:
    return corpus.text(0, len(corpus.ids))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def read(path: Path, **choices: Any) -> str:
    return read_text(path, options=CorpusOptions(**choices))


# --- cleaning -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text", "cleaned"),
    [
        ({}, "a\r\nb\rc\nd\r\r\n\n", "a\nb\nc\nd\n\n\n"),
        ({}, "e\u0301", "é"),
        ({"normalize": "none"}, "e\u0301", "e\u0301"),
        ({}, "\u1100\u1161\u11a8", "\uac01"),  # three jamo, one syllable
        ({}, "ﬁ²Å", "ﬁ²Å"),  # the compatibility forms stay, the Ångström sign does not
        ({"lowercase": True}, "ÀB\u0130", "àbi\u0307"),
        ({"lowercase": True}, "ΟΔΟΣ ΣΑΣ", "οδος σας"),  # a sigma ends a word in its own form
        ({"lowercase": True, "normalize": "none"}, "A\u0300", "a\u0300"),
        ({"lowercase": True}, "A\u0300", "à"),
        ({}, "MiXeD", "MiXeD"),
        ({}, "", ""),
    ],
)
def test_cleaning_folds_line_ends_case_and_composition(
    options: dict[str, Any], text: str, cleaned: str
) -> None:
    assert CorpusOptions(**options).clean(text) == cleaned


MIXED_TEXT = (
    st.lists(
        st.one_of(
            st.sampled_from("ab AB.\n\r\t"),
            st.sampled_from(["\r\n", "é", "Å", "\u0301", "\u0323", "\u0345", "\u0338", "=", "<"]),
            st.sampled_from(["e\u0301", "\u1100\u1161\u11a8", "\u09c7\u09be", "ΑΣ"]),
            st.sampled_from("ΑΣας'\u00ad"),  # final sigma; what it looks past
            st.sampled_from("\u1100\u1112\u1161\u1175\u11a8\u11c2\uac00\uac01"),  # Hangul
            st.sampled_from("\u09c7\u09be\u09d7\u0b47\u0b56\u1025\u102e"),  # vowels that combine
            st.sampled_from("😀𐐀\U000110ba\u0130ßẞǅﬁ\u2028\x85\ufeff"),
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        ),
        max_size=40,
    )
    .map("".join)
    .filter(lambda text: not text.startswith("\ufeff"))  # a byte order mark is no character
)


@pytest.fixture(params=[5, 6, 7], ids=lambda n: f"pieces-of-{n}")
def tiny_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in pieces so small that borders fall everywhere, within characters too."""
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", request.param)


def options_of(*, encoding: str = "utf-8") -> st.SearchStrategy[CorpusOptions]:
    return st.builds(
        CorpusOptions,
        encoding=st.just(encoding),
        normalize=st.sampled_from(["NFC", "none"]),
        lowercase=st.booleans(),
        keep_boilerplate=st.booleans(),
    )


@pytest.fixture
def no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for no Project Gutenberg header, for which the first pieces are held together."""
    monkeypatch.setattr("charlstm.reading._GUTENBERG_SEARCH_CHARACTERS", 0)


# Without spaces and line ends, a piece is cut between two letters. Kept
# boilerplate goes on piece by piece; looking for it joins the pieces of a line.
PIECEWISE = CorpusOptions(keep_boilerplate=True)
PIECEWISE_LOWER = CorpusOptions(keep_boilerplate=True, lowercase=True)


@example(text="ΑΑΣ", options=PIECEWISE_LOWER)  # a sigma at the end of a word
@example(text="ΑΑΣΑ", options=PIECEWISE_LOWER)  # and within one
@example(text="ΑΑ''Σ''Α", options=PIECEWISE_LOWER)
@example(text="xa" + "\u0323\u0301" * 9 + "x", options=PIECEWISE)  # marks reorder, then compose
@example(text="\u1100\u1161\u11a8" * 9, options=PIECEWISE)  # Hangul by jamo
@example(text="\u09c7\u09be" * 9, options=PIECEWISE)  # two Bengali vowels become one
@example(text="\r" * 9 + "\n" * 9 + "\r\n" * 9, options=PIECEWISE)
@given(text=MIXED_TEXT, options=options_of())
@settings(PROPERTY, max_examples=100)
@pytest.mark.usefixtures("tiny_pieces", "no_header")
def test_pieces_are_cleaned_as_the_whole_is(
    tmp_path: Path, text: str, options: CorpusOptions
) -> None:
    cleaned = options.clean(text)
    if cleaned:
        assert read_text(write(tmp_path / "t.txt", text), options=options) == cleaned


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le", "gb18030", "utf-8-sig"]
)
@given(data=st.data())
@PROPERTY
def test_other_encodings_are_cleaned_as_the_whole_is(
    encoding: str, tmp_path: Path, data: st.DataObject
) -> None:
    text = data.draw(MIXED_TEXT)
    options = data.draw(options_of(encoding=encoding))
    encoded = text.encode(encoding)
    cleaned = options.clean(encoded.decode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlstm.reading._PIECE_BYTES", data.draw(st.integers(5, 7)))
        patch.setattr("charlstm.reading._GUTENBERG_SEARCH_CHARACTERS", 0)
        if cleaned:
            assert read_text(write(tmp_path / "t.txt", encoded), options=options) == cleaned


@given(text=MIXED_TEXT, options=options_of())
@PROPERTY
def test_ids_decode_to_the_cleaned_text(tmp_path: Path, text: str, options: CorpusOptions) -> None:
    text = "x=" + text  # at least two different characters
    source = write(tmp_path / "t.txt", text)
    cleaned = options.clean(text)
    corpus = prepare(source, tmp_path / "out", options=options, seq_length=1, val_fraction=0)
    assert whole(corpus) == cleaned
    assert corpus.vocabulary.characters == tuple(sorted(set(cleaned)))
    assert whole(load_corpus(tmp_path / "out")) == cleaned


def test_a_stretch_of_the_corpus_can_be_read(tmp_path: Path) -> None:
    corpus = prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out")
    assert corpus.text(8, 12) == "foul"
    assert corpus.text(32, 37) == "Hover"


# --- line ends, marks, encodings ----------------------------------------------


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("shift", range(8))
def test_a_line_end_across_a_piece_border_stays_one(tmp_path: Path, shift: int) -> None:
    text = "x" * shift + "\r\ny\rz\r\n\r\n\r"
    assert read(write(tmp_path / "t.txt", text)) == "x" * shift + "\ny\nz\n\n\n"


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    assert read(write(tmp_path / "t.txt", codecs.BOM_UTF8 + "été".encode())) == "été"


@pytest.mark.parametrize("before", ["", "ab", "é€😀\r\n", "x" * 700_000], ids=len)
def test_latin_1_is_refused_with_the_offset_of_the_first_bad_byte(
    tmp_path: Path, before: str
) -> None:
    content = before.encode() + b"\xe9t\xe9 " + FRENCH.encode("latin-1")
    with pytest.raises(CorpusError) as caught:
        read(write(tmp_path / "notes.txt", content))
    offset = len(before.encode())
    assert caught.value.message == f"notes.txt is not utf-8: bad byte 0xe9 at offset {offset:,}"
    assert caught.value.hint is not None
    assert "--encoding" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("tiny_pieces")
@pytest.mark.parametrize("before", ["", "a", "abc", "abcd😀", "été été été"])
def test_the_offset_of_a_bad_byte_is_right_across_piece_borders(
    tmp_path: Path, before: str
) -> None:
    # After an unfinished three-byte character comes a byte that cannot end it.
    content = before.encode() + b"\xe2\x82" + b"abcdefgh"
    with pytest.raises(CorpusError, match=f"bad byte 0xe2 at offset {len(before.encode())}$"):
        read(write(tmp_path / "t.txt", content))


def test_a_byte_order_mark_counts_in_the_offset_of_a_bad_byte(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"bad byte 0xe9 at offset 5$"):
        read(write(tmp_path / "t.txt", codecs.BOM_UTF8 + b"ab\xe9cdefgh"))


def test_a_text_that_ends_within_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"ends in the middle of a character \(offset 4, utf-8"):
        read(write(tmp_path / "t.txt", b"abcd\xe2\x82"))


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", FRENCH),
        ("cp1252", FRENCH.replace("'", "’")),
        ("cp1251", "Все счастливые семьи похожи друг на друга, каждая несчастливая по-своему.\n"),
        ("shift_jis", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"),
        ("utf-16-le", VERSE),
        ("utf-16-be", VERSE),
    ],
)
def test_following_the_hints_of_an_undecodable_text_reads_it(
    tmp_path: Path, encoding: str, text: str
) -> None:
    source = write(tmp_path / "t.txt", text.encode(encoding))
    chosen = "utf-8"
    for _ in range(3):
        try:
            assert read(source, encoding=chosen) == text
            break
        except CorpusError as error:
            assert error.hint is not None
            chosen = error.hint.split("--encoding ")[1]
    else:
        pytest.fail("three hints did not lead to an encoding")


def test_latin_1_can_be_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", FRENCH.encode("latin-1"))
    options = CorpusOptions(encoding="latin-1")
    assert whole(prepare(source, tmp_path / "out", options=options)) == FRENCH


@pytest.mark.parametrize(
    ("mark", "codec", "named"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32"),
    ],
)
def test_a_wide_text_with_a_mark_names_its_encoding(
    tmp_path: Path, mark: bytes, codec: str, named: str
) -> None:
    source = write(tmp_path / "t.txt", mark + VERSE.encode(codec))
    with pytest.raises(CorpusError) as caught:
        read(source)
    expected = f"t.txt is not utf-8: it begins with the byte order mark of {named}"
    assert caught.value.message == expected
    assert caught.value.hint == f"try --encoding {named}"
    assert caught.value.exit_code == 2
    assert read(source, encoding=named) == VERSE


@pytest.mark.parametrize(
    "encoding", ["klingon", "", "hex", "rot13", "zlib", "undefined", "utf-8\0", "é"]
)
def test_an_unknown_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(write(tmp_path / "t.txt", VERSE), encoding=encoding)
    assert caught.value.message.startswith("there is no text encoding ")
    assert caught.value.message.isprintable()
    assert caught.value.hint is not None
    assert "utf-8" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (VERSE.encode() + b"\0" + VERSE.encode(), "a NUL byte at offset 70"),
        (b"\0", "a NUL byte at offset 0"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR", "a PNG image"),
        (b"PK\x03\x04\x14", "a ZIP archive"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"BZh91AY&SY\x0a\xbc", "bzip2 data"),
        (b"GIF89a\x01\x00", "a GIF image"),
        (b"{\\rtf1\\ansi hello}", "an RTF document"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(write(tmp_path / "odd.txt", content))
    assert caught.value.message.startswith("odd.txt is a binary file, not a text: ")
    assert why in caught.value.message
    assert caught.value.hint == "give plain text; text in UTF-16 needs --encoding utf-16"
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("tiny_pieces")
def test_the_offset_of_a_nul_byte_is_right_across_piece_borders(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="a NUL byte at offset 70"):
        read(write(tmp_path / "t.txt", VERSE.encode() + b"\0"))


@pytest.mark.parametrize("text", ["BZh is how bzip2 data begins.\n", "GIF8 is no whole magic.\n"])
def test_prose_that_begins_like_a_magic_number_is_a_text(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "t.txt", text)) == text


# --- Project Gutenberg --------------------------------------------------------

HEADER = "The Project Gutenberg EBook of Macbeth\n\nThis eBook is for the use of anyone.\n\n"
LICENCE = "\nUpdated editions will replace the previous one.\n*** START: FULL LICENSE ***\nRules.\n"
START = "*** START OF THE PROJECT GUTENBERG EBOOK MACBETH ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK MACBETH ***\n"


def book(body: str, *, start: str = START, end: str = END) -> str:
    return f"{HEADER}{start}\n\n{body}\n\n{end}{LICENCE}"


@pytest.mark.parametrize(
    "start",
    [
        START,
        "***START OF THE PROJECT GUTENBERG EBOOK MACBETH***\n",
        "*** START OF THIS PROJECT GUTENBERG EBOOK MACBETH ***\n",
        "*** START OF THE PROJECT GUTENBERG EBOOK, MACBETH *** \t\n",
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
        "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.10/04/01*END*\n",
        "*** Start of the Project Gutenberg eBook Macbeth ***\n",
    ],
)
def test_what_stands_before_the_start_line_is_left_out(tmp_path: Path, start: str) -> None:
    assert read(write(tmp_path / "t.txt", book(VERSE, start=start))) == VERSE


@pytest.mark.parametrize(
    "end",
    [
        END,
        "***END OF THE PROJECT GUTENBERG EBOOK MACBETH***\n",
        "*** END OF THIS PROJECT GUTENBERG EBOOK MACBETH ***\n",
        "End of Project Gutenberg's Macbeth, by William Shakespeare\n",
        "End of Project Gutenberg’s Macbeth, by William Shakespeare\n",
        "End of the Project Gutenberg EBook of Macbeth\n",
        "End of The Project Gutenberg Etext of Macbeth\n",
        "End of this Project Gutenberg Etext of Macbeth\n",
        f"End of Project Gutenberg's Macbeth, by William Shakespeare\n\n{END}",
    ],
)
def test_what_stands_after_the_end_line_is_left_out(tmp_path: Path, end: str) -> None:
    assert read(write(tmp_path / "t.txt", book(VERSE, end=end))) == VERSE


@pytest.mark.usefixtures("tiny_pieces")
def test_boilerplate_is_found_across_piece_borders(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + book(VERSE).replace("\n", "\r\n").encode()
    assert read(write(tmp_path / "t.txt", content)) == VERSE


def test_two_books_in_one_file_leave_both_bodies(tmp_path: Path) -> None:
    text = book(VERSE) + book(FRENCH, end="End of Project Gutenberg's Swann\n")
    assert read(write(tmp_path / "t.txt", text)) == VERSE + FRENCH


def test_boilerplate_can_be_kept(tmp_path: Path) -> None:
    text = book(VERSE)
    assert read(write(tmp_path / "t.txt", text), keep_boilerplate=True) == text


def test_the_removed_characters_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", book(VERSE))
    corpus = prepare(source, tmp_path / "out")
    assert corpus.removed_characters == len(book(VERSE)) - len(VERSE)
    assert load_corpus(tmp_path / "out").removed_characters == corpus.removed_characters
    kept = prepare(source, tmp_path / "kept", options=CorpusOptions(keep_boilerplate=True))
    assert kept.removed_characters == 0


@pytest.mark.parametrize(
    "text",
    [
        "I read it in a Project Gutenberg EBook.\nIt began: *** START OF THE PROJECT GUTENBERG\n",
        "At the end of Project Gutenberg's Macbeth he dies.\nThe\nend.\n",
        "So: *** END OF THE PROJECT GUTENBERG EBOOK ***, it said.\nMore.\n",
        "Project Gutenberg\nThe end of the Project Gutenberg EBook was near.\n",
    ],
)
def test_a_text_that_speaks_of_project_gutenberg_is_left_alone(tmp_path: Path, text: str) -> None:
    text = "\n\n" + text + "\n\n"
    assert read(write(tmp_path / "t.txt", text)) == text


def test_a_book_whose_header_was_cut_off_by_hand_keeps_its_body(tmp_path: Path) -> None:
    # In texts of 2002 to 2004 the small print, with its *END*, comes last.
    small_print = "*END THE SMALL PRINT! FOR PUBLIC DOMAIN EBOOKS*Ver.02/11/02*END*\n"
    text = f"{VERSE}\n\nEnd of Project Gutenberg's Macbeth\n\nRules.\n{small_print}\n"
    assert read(write(tmp_path / "t.txt", text)) == VERSE


def lines_of(n_chars: int) -> str:
    """Numbered lines of 50 characters, the last one cut to fit."""
    text = "".join(f"{i:.<49}\n" for i in range(n_chars // 50 + 1))
    return text[: n_chars - 2] + ".\n"


PIECE = 256 << 10  # bytes read at once


@pytest.mark.parametrize("border", [-30, -1, 0, 1, 2, 3, 10, len(END) + 1, len(END) + 2, 80])
def test_an_end_line_at_a_piece_border_ends_the_text(tmp_path: Path, border: int) -> None:
    # The border falls `border` characters after the body, which the blank lines
    # and the end line follow: before, between and after each of them.
    body = lines_of(PIECE - border)
    text = f"{body}\n\n{END}{LICENCE}" + lines_of(5_000)
    assert read(write(tmp_path / "t.txt", text)) == body


@pytest.mark.parametrize(
    "border", [-30, -1, 0, 1, 10, len(START) - 1, len(START), len(START) + 1, len(START) + 2]
)
def test_a_second_start_line_at_a_piece_border_begins_the_text(tmp_path: Path, border: int) -> None:
    first = lines_of(150_000)
    filler = lines_of(PIECE - border - len(book(first)))
    text = book(first) + filler + START + "\n\n" + VERSE
    assert read(write(tmp_path / "t.txt", text)) == first + VERSE


def test_a_long_line_that_speaks_of_project_gutenberg_is_left_alone(tmp_path: Path) -> None:
    # One line, longer than a piece, cut by chance where an end line might begin.
    before = "Round about the cauldron go ".ljust(PIECE - 3, "x") + " "
    text = before + "End of the Project Gutenberg EBook, he read, and went on.\n" + VERSE
    assert read(write(tmp_path / "t.txt", text)) == text


# --- texts that cannot be used ------------------------------------------------


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8], ids=["nothing", "only-a-mark"])
@pytest.mark.parametrize("function", ["read", "prepare"])
def test_an_empty_text_is_refused(tmp_path: Path, function: str, content: bytes) -> None:
    source = write(tmp_path / "empty.txt", content)
    with pytest.raises(CorpusError) as caught:
        read(source) if function == "read" else prepare(source, tmp_path / "out")
    assert caught.value.message == "empty.txt is empty"
    assert caught.value.hint == "give a text with some characters in it"
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("function", ["read", "prepare"])
def test_a_missing_file_is_refused(tmp_path: Path, function: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path / "none.txt") if function == "read" else prepare(
            tmp_path / "none.txt", tmp_path / "out"
        )
    assert caught.value.message == "cannot read none.txt: No such file or directory"
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(CorpusError, match="texts is a folder without a text"):
        prepare(tmp_path / "texts", tmp_path / "out")


@pytest.mark.parametrize(("character", "shown"), [("a", "'a'"), ("é", "'é'"), ("\n", r"'\n'")])
def test_a_single_repeated_character_is_refused(tmp_path: Path, character: str, shown: str) -> None:
    with pytest.raises(CorpusError) as caught:
        prepare(write(tmp_path / "a.txt", character * 500), tmp_path / "out")
    expected = f"a.txt is a single repeated character, {shown}: nothing to learn"
    assert caught.value.message == expected
    assert caught.value.hint == "give a text with at least two different characters"
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


SHORTEST = [
    # A window and its target; a tail of a tenth, of 2 at least.
    (50, 0.0, 51),
    (50, 0.1, 56),  # 51 + 5
    (7, 0.1, 10),  # 8 + 2
    (1, 0.0, 2),
    (20, 0.5, 41),  # 21 + 20
    (20, 0.9, 201),  # 21 + 180
    (1_200, 0.1, 1_334),  # 1,201 + 133
]


@pytest.mark.parametrize(("seq_length", "val_fraction", "shortest"), SHORTEST)
def test_the_length_that_a_too_short_text_is_told_is_the_shortest_that_works(
    tmp_path: Path, seq_length: int, val_fraction: float, shortest: int
) -> None:
    def prepare_text_of(n_chars: int) -> Corpus:
        source = write(tmp_path / "short.txt", ("ab" * n_chars)[:n_chars])
        output = tmp_path / f"out-{n_chars}"
        return prepare(source, output, seq_length=seq_length, val_fraction=val_fraction)

    for n_chars in {1, shortest // 2, shortest - 1}:
        with pytest.raises(CorpusError) as caught:
            prepare_text_of(n_chars)
        tail = "with its validation tail " if val_fraction else ""
        assert caught.value.message == (
            f"short.txt has {n_chars:,} characters; "
            f"a window of {seq_length} {tail}needs at least {shortest:,}"
        )
        assert caught.value.hint == "give a longer text or a smaller --seq-length"
        assert caught.value.exit_code == 2
        assert not (tmp_path / f"out-{n_chars}").exists()
    corpus = prepare_text_of(shortest)
    assert len(corpus.windows(seq_length)) == shortest - seq_length


@given(
    n_chars=st.integers(1, 3_000),
    seq_length=st.integers(1, 100),
    val_fraction=st.one_of(st.just(0.0), st.floats(0.001, 0.9)),
)
@PROPERTY
def test_a_split_adds_up_and_leaves_a_window_to_train_on(
    n_chars: int, seq_length: int, val_fraction: float
) -> None:
    choices: dict[str, Any] = {"seq_length": seq_length, "val_fraction": val_fraction, "name": "t"}
    try:
        split = split_corpus(n_chars, **choices)
    except CorpusError as error:
        stated = re.search(r"needs at least ([\d,]+)$", error.message)
        assert stated is not None
        needed = int(stated[1].replace(",", ""))
        assert needed > n_chars
        split_corpus(needed, **choices)
        with pytest.raises(CorpusError):
            split_corpus(needed - 1, **choices)
        return
    assert split.train_characters + split.val_characters == n_chars
    assert split.train_characters > seq_length
    if val_fraction == 0:
        assert split.val_characters == 0
    else:
        assert split.val_characters >= 2  # the first is never scored
        assert abs(split.val_characters - n_chars * val_fraction) < 2


@pytest.mark.parametrize(
    "choices",
    [
        {"seq_length": 0},
        {"seq_length": 100_001},
        {"seq_length": True},
        {"val_fraction": -0.1},
        {"val_fraction": 0.95},
        {"val_fraction": float("nan")},
    ],
)
def test_a_split_out_of_range_is_refused(choices: dict[str, Any]) -> None:
    good = {"seq_length": 9, "val_fraction": 0.1}
    shown = next(iter(choices)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"^{shown} must be"):
        split_corpus(5_000, **{**good, **choices}, name="t")


def test_a_file_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    source = write(tmp_path / "\x1b[2Jodd\nname.txt", "a" * 500)
    for content in (b"", b"a" * 500, b"ab", b"\x89PNG", b"ab\xff", b"\xff\xfeab"):
        source.write_bytes(content)
        with pytest.raises(CorpusError) as caught:
            prepare(source, tmp_path / "out")
        assert caught.value.message.isprintable()


# --- the prepared folder ------------------------------------------------------


def test_a_prepared_folder_describes_its_corpus(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + (VERSE * 3).replace("\n", "\r\n").encode()
    source = write(tmp_path / "witches.txt", content)
    corpus = prepare(source, tmp_path / "out", seq_length=20, val_fraction=0.2)
    assert read_summary(tmp_path / "out") == {
        "format_version": 1,
        "name": "witches",
        "source_name": "witches.txt",
        "sha256": hashlib.sha256(content).hexdigest(),  # of the bytes as they came
        "n_bytes": 3 + 3 * 72,
        "characters": 210,
        "removed_characters": 0,
        "vocabulary_size": len(set(VERSE)),
        "seq_length": 20,
        "windows": 190,
        "val_fraction": 0.2,
        "train_characters": 168,
        "val_characters": 42,
        "dtype": "uint8",
        "options": {
            "encoding": "utf-8",
            "normalize": "NFC",
            "lowercase": False,
            "keep_boilerplate": False,
        },
        "ids": [{"file": "ids.bin", "characters": 210}],
    }
    assert sorted(contents(tmp_path / "out")) == ["corpus.json", "ids.bin", "vocabulary.json"]
    assert corpus.path == tmp_path / "out"
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()


def test_a_loaded_corpus_equals_the_prepared_one(tmp_path: Path) -> None:
    options = CorpusOptions(encoding="latin-1", normalize="none", lowercase=True)
    source = write(tmp_path / "t.txt", FRENCH.encode("latin-1"))
    prepared = prepare(source, tmp_path / "out", options=options, name="swann")
    loaded = load_corpus(tmp_path / "out")
    for field in dataclasses.fields(Corpus):
        if field.name != "ids":
            assert getattr(loaded, field.name) == getattr(prepared, field.name)
    assert loaded.name == "swann"
    np.testing.assert_array_equal(loaded.ids, prepared.ids)


@pytest.mark.parametrize(
    ("n_characters", "dtype"),
    [(2, "u1"), (256, "u1"), (257, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (0x110000, "<u4")],
)
def test_ids_take_the_fewest_bytes_that_hold_them(n_characters: int, dtype: str) -> None:
    assert id_dtype(n_characters) == np.dtype(dtype)
    assert n_characters - 1 <= np.iinfo(id_dtype(n_characters)).max


@pytest.mark.parametrize(
    ("first", "n_characters", "dtype", "name"),
    [
        (0x4E00, 256, "u1", "uint8"),
        (0x4E00, 257, "<u2", "uint16"),
        (0x4E00, 10_000, "<u2", "uint16"),
        (0x20000, 65_537, "<u4", "uint32"),
    ],
)
def test_a_large_vocabulary_gets_wide_ids(
    tmp_path: Path, first: int, n_characters: int, dtype: str, name: str
) -> None:
    text = "".join(chr(first + i) for i in reversed(range(n_characters)))
    source = write(tmp_path / "t.txt", text)
    corpus = prepare(source, tmp_path / "out", options=CorpusOptions(normalize="none"))
    assert len(corpus.vocabulary) == n_characters
    assert read_summary(tmp_path / "out")["dtype"] == name
    written = np.frombuffer((tmp_path / "out" / "ids.bin").read_bytes(), dtype=dtype)
    assert written.tolist() == list(reversed(range(n_characters)))
    assert whole(load_corpus(tmp_path / "out")) == text


def test_ascii_and_other_pieces_of_one_text_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pieces of ASCII alone are encoded in another way than the rest.
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", 12)
    text = "plain words\n" * 5 + "été été\n" * 5 + "plain words\n" * 5
    corpus = prepare(write(tmp_path / "t.txt", text), tmp_path / "out")
    assert whole(corpus) == text


def test_the_ids_are_a_read_only_map_of_the_file(tmp_path: Path) -> None:
    ids = prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out").ids
    assert isinstance(ids, np.memmap)
    assert ids.shape == (70,)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 1


@pytest.mark.parametrize("seq_length", [1, 9, 50, 69])
def test_windows_are_a_view_of_every_stretch_with_a_target(tmp_path: Path, seq_length: int) -> None:
    corpus = prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out")
    windows = corpus.windows(seq_length)
    assert windows.shape == (70 - seq_length, seq_length)
    assert windows.strides == (1, 1)
    for i in {0, 69 - seq_length}:
        assert corpus.vocabulary.decode(windows[i]) == VERSE[i : i + seq_length]
        assert np.shares_memory(windows[i], corpus.ids[i : i + seq_length])


def test_windows_are_50_characters_unless_told_otherwise(tmp_path: Path) -> None:
    corpus = prepare_corpus(
        write(tmp_path / "t.txt", VERSE), options=OPTIONS, output=tmp_path / "out"
    )
    assert corpus.windows().shape == (20, 50)
    assert read_summary(tmp_path / "out")["windows"] == 20


def test_a_text_is_prepared_in_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = prepare_corpus(write(Path("my poem.txt"), VERSE), options=OPTIONS)
    assert corpus.name == "my-poem"
    assert corpus.path == Path("prepared/my-poem")
    assert whole(load_corpus(tmp_path / "prepared" / "my-poem")) == VERSE


def test_the_longest_file_name_can_be_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "x" * 251  # with .txt 255 bytes, the most that a file system takes
    corpus = prepare_corpus(write(Path(f"{name}.txt"), VERSE), options=OPTIONS)
    assert corpus.path == Path("prepared") / name


def test_progress_counts_the_bytes_of_both_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", 16)
    calls: list[tuple[int, int]] = []
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert {total for _, total in calls} == {140}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (140, 140)
    assert len(calls) >= 10  # both passes of 70 bytes in pieces of 16


@pytest.mark.parametrize("change", [VERSE.swapcase(), VERSE[:-9]], ids=["same-length", "shorter"])
def test_a_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    source = write(tmp_path / "t.txt", VERSE)

    def change_between_the_passes(done: int, total: int) -> None:
        if done == total // 2:
            write(source, change)

    with pytest.raises(CorpusError) as caught:
        prepare(source, tmp_path / "out", progress=change_between_the_passes)
    assert caught.value.message == "t.txt changed while it was read"
    assert caught.value.hint == "try again"
    assert list(tmp_path.iterdir()) == [source]


# --- standard input and pipes -------------------------------------------------


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def test_stdin_is_prepared_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = VERSE.replace("\n", "\r\n").encode()
    give_stdin(monkeypatch, content)
    corpus = prepare_corpus(None, options=OPTIONS)
    assert corpus.name == "stdin"
    assert corpus.path == Path("prepared/stdin")
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()
    assert whole(corpus) == VERSE
    assert sorted(p.name for p in Path("prepared").iterdir()) == ["stdin"]


def test_stdin_is_read_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    give_stdin(monkeypatch, b"one\r\ntwo")
    assert read_text(None, options=OPTIONS) == "one\ntwo"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "stdin is empty"),
        (b"aaaaaaaaaaaaaaaaaaaaaaa", "stdin is a single repeated character, 'a'"),
        (b"ab", "stdin has 2 characters"),
        (b"ab\0", "stdin is a binary file"),
        (b"ab\xff", "stdin is not utf-8: bad byte 0xff at offset 2"),
    ],
)
def test_messages_about_stdin_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    give_stdin(monkeypatch, content)
    with pytest.raises(CorpusError) as caught:
        prepare(None, tmp_path / "out")
    assert caught.value.message.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no /dev/fd here")
def test_a_pipe_that_can_be_read_once_only_is_prepared(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, VERSE.encode())  # far less than a pipe holds
        os.close(writing)
        corpus = prepare(Path(f"/dev/fd/{reading}"), tmp_path / "out")
    finally:
        os.close(reading)
    assert whole(corpus) == VERSE


# --- using a prepared folder again --------------------------------------------


def test_the_same_text_and_options_leave_the_ids_untouched(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    before = (tmp_path / "out" / "ids.bin").stat()
    again = prepare(source, tmp_path / "out", seq_length=20, val_fraction=0.3)
    after = (tmp_path / "out" / "ids.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert whole(again) == VERSE
    # The summary is of what was asked for last.
    summary = read_summary(tmp_path / "out")
    assert (summary["seq_length"], summary["windows"]) == (20, 50)
    assert (summary["train_characters"], summary["val_characters"]) == (49, 21)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "t.txt"]


def test_another_file_of_the_same_bytes_is_the_same_text(tmp_path: Path) -> None:
    prepare(write(tmp_path / "a.txt", VERSE), tmp_path / "out")
    before = (tmp_path / "out" / "ids.bin").stat()
    prepare(write(tmp_path / "b.txt", VERSE), tmp_path / "out")
    assert (tmp_path / "out" / "ids.bin").stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "out" / "ids.bin").stat().st_ino == before.st_ino


def test_a_text_that_is_too_short_for_new_windows_keeps_its_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(CorpusError, match="needs at least 78"):  # 71 + 7
        prepare(source, tmp_path / "out", seq_length=70)
    assert contents(tmp_path / "out") == before


def test_a_changed_text_is_prepared_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    corpus = prepare(write(source, FRENCH), tmp_path / "out")
    assert whole(corpus) == whole(load_corpus(tmp_path / "out")) == FRENCH
    assert corpus.sha256 == hashlib.sha256(FRENCH.encode()).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "t.txt"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"lowercase": True}, "cafe\u0301 du project gutenberg\n".replace("e\u0301", "é")),
        ({"normalize": "none"}, "Cafe\u0301 du Project Gutenberg\n"),
        ({"encoding": "latin-1"}, "CafeÌ\x81 du Project Gutenberg\n"),
        (
            {"keep_boilerplate": True},
            "Café du Project Gutenberg\nEnd of Project Gutenberg's Menu\nRules.\n",
        ),
    ],
)
def test_other_options_prepare_anew(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    text = "Cafe\u0301 du Project Gutenberg\nEnd of Project Gutenberg's Menu\nRules.\n"
    source = write(tmp_path / "t.txt", text)
    assert whole(prepare(source, tmp_path / "out")) == "Café du Project Gutenberg\n"
    corpus = prepare(source, tmp_path / "out", options=CorpusOptions(**changed))
    assert whole(corpus) == whole(load_corpus(tmp_path / "out")) == expected
    assert load_corpus(tmp_path / "out").options == CorpusOptions(**changed)


@pytest.mark.parametrize("name", ["ids.bin", "vocabulary.json", "corpus.json"])
def test_a_damaged_folder_is_prepared_anew(tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    undamaged = contents(tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(undamaged[name][:-5])
    prepare(source, tmp_path / "out")
    assert contents(tmp_path / "out") == undamaged


# --- what is not overwritten --------------------------------------------------


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out")
    assert whole(load_corpus(tmp_path / "out")) == VERSE


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_a_prepared_corpus_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "thesis"
    if kind == "folder":
        target.mkdir()
    kept = write(target / "chapter.txt" if kind == "folder" else target, "years of work")
    with pytest.raises(CorpusError) as caught:
        prepare(write(tmp_path / "t.txt", VERSE), target)
    assert caught.value.message == f"{target} exists and is not a prepared corpus"
    assert caught.value.hint == "choose another folder with --output"
    assert caught.value.exit_code == 2
    assert kept.read_text() == "years of work"


def test_a_file_that_someone_put_into_a_prepared_folder_is_not_lost(tmp_path: Path) -> None:
    prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out")
    kept = write(tmp_path / "out" / "chapter.txt", "years of work")
    with contextlib.suppress(CorpusError):  # to refuse is as good as to keep
        prepare(write(tmp_path / "t.txt", FRENCH), tmp_path / "out")
    assert kept.read_text() == "years of work"


def test_a_folder_of_a_newer_format_is_not_replaced(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    summary = read_summary(tmp_path / "out")
    newer = {**summary, "format_version": FORMAT_VERSION + 1}
    write(tmp_path / "out" / "corpus.json", json.dumps(newer))
    before = contents(tmp_path / "out")
    with pytest.raises(CorpusError, match="format version 4"):
        prepare(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


class Interrupted(BaseException):
    """Like Ctrl-C, but unlike anything that pytest itself would act on."""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 1.0])
def test_an_interruption_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", 16)
    source = write(tmp_path / "t.txt", VERSE)

    def interrupt(done: int, total: int) -> None:
        if done >= share * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "out", progress=interrupt)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 1.0])
def test_an_interruption_keeps_what_was_prepared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", 16)
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    before = contents(tmp_path / "out")

    def interrupt(done: int, total: int) -> None:
        if done >= share * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(write(source, FRENCH), tmp_path / "out", progress=interrupt)
    assert contents(tmp_path / "out") == before
    assert whole(load_corpus(tmp_path / "out")) == VERSE
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "t.txt"]


@pytest.mark.parametrize("failing", range(4))
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error"), Interrupted()],
    ids=["error", "interruption"],
)
def test_a_failure_at_any_rename_leaves_the_old_corpus_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    write(source, FRENCH)
    n_renames = 0

    def fail_once(rename: Callable[..., Any]) -> Callable[..., Any]:
        def renamed(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_renames
            n_renames += 1
            if n_renames == failing + 1:
                raise error
            return rename(*args, **kwargs)

        return renamed

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(os, name, fail_once(getattr(os, name)))
        try:
            prepare(source, tmp_path / "out")
        except (OutputError, Interrupted):
            assert n_renames > failing
        else:
            assert n_renames <= failing
    assert whole(load_corpus(tmp_path / "out")) in (VERSE, FRENCH)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "t.txt"]


def test_a_full_disk_keeps_what_was_prepared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    prepare(source, tmp_path / "out")
    before = contents(tmp_path / "out")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError) as caught:
        prepare(write(source, FRENCH), tmp_path / "out")
    assert caught.value.message == f"cannot write {tmp_path / 'out'}: No space left on device"
    assert caught.value.hint == "choose a folder that can be written with --output"
    assert caught.value.exit_code == 1
    assert contents(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "t.txt"]


@pytest.mark.parametrize("output", ["t.txt/out", "t.txt/deep/out", "x" * 300])
def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, output: str) -> None:
    source = write(tmp_path / "t.txt", VERSE)
    with pytest.raises(OutputError) as caught:
        prepare(source, tmp_path / output)
    assert caught.value.message.startswith(f"cannot write {tmp_path / output}: ")
    assert caught.value.hint == "choose a folder that can be written with --output"
    assert caught.value.exit_code == 1
    assert source.read_text() == VERSE


# --- damaged folders ----------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared folder of 70 characters, beside a copy of its ids."""
    folder = tmp_path / "prepared"
    prepare(write(tmp_path / "t.txt", VERSE), folder)
    write(tmp_path / "ids.bin", (folder / "ids.bin").read_bytes())
    return folder


def change_summary(folder: Path, **changes: Any) -> None:
    write(folder / "corpus.json", json.dumps({**read_summary(folder), **changes}))


def assert_refused(folder: Path, *fragments: str) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        load_corpus(folder)
    for fragment in fragments:
        assert fragment in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("n_bytes", "shown"), [(0, "0 bytes"), (1, "1 bytes"), (69, "69 bytes"), (71, "71 bytes")]
)
def test_ids_of_another_length_are_refused(prepared: Path, n_bytes: int, shown: str) -> None:
    write(prepared / "ids.bin", ((prepared / "ids.bin").read_bytes() * 2)[:n_bytes])
    error = assert_refused(prepared, str(prepared / "ids.bin"), shown, "70 characters need 70")
    assert error.hint == "prepare the text again"


@pytest.mark.parametrize("name", ["ids.bin", "vocabulary.json", "corpus.json"])
def test_a_missing_file_in_a_prepared_folder_is_named(prepared: Path, name: str) -> None:
    (prepared / name).unlink()
    assert_refused(prepared, name, "No such file" if name == "ids.bin" else "is missing")


def test_a_missing_prepared_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none", "none", "is missing")


@pytest.mark.parametrize("name", ["vocabulary.json", "corpus.json"])
def test_json_cut_anywhere_is_refused(prepared: Path, name: str) -> None:
    written = (prepared / name).read_bytes()
    for stop in range(0, len(written) - 1, 7):  # the last byte is a line end
        (prepared / name).write_bytes(written[:stop])
        assert_refused(prepared, name)


@pytest.mark.parametrize(
    "written", [b"[]", b"null", b"7", b"[" * 100_000, b"\xff\xfe", b'{"format_version": 1}', b"{}"]
)
def test_a_summary_of_another_kind_is_refused(prepared: Path, written: bytes) -> None:
    write(prepared / "corpus.json", written)
    assert_refused(prepared, str(prepared))


@pytest.mark.parametrize("key", ["format_version", "name", "sha256", "options", "ids"])
def test_a_summary_that_lacks_a_key_is_refused(prepared: Path, key: str) -> None:
    summary = read_summary(prepared)
    del summary[key]
    write(prepared / "corpus.json", json.dumps(summary))
    assert_refused(prepared, key)


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": []},
        {"ids": {}},
        {"ids": None},
        {"ids": ["ids.bin"]},
        {"ids": [{"file": "ids.bin"}]},
        {"ids": [{"characters": 70}]},
        {"ids": [{"file": "ids.bin", "characters": 0}]},
        {"ids": [{"file": "ids.bin", "characters": -70}]},
        {"ids": [{"file": "ids.bin", "characters": 10**30}]},
        {"ids": [{"file": "ids.bin", "characters": "many"}]},
        {"ids": [{"file": "ids.bin", "characters": None}]},
        {"ids": [{"file": "ids.bin", "characters": float("inf")}]},
        {"ids": [{"file": "ids.bin", "characters": float("nan")}]},
        {"removed_characters": float("inf")},
        {"removed_characters": None},
        {"options": None},
        {"options": []},
        {"options": {"encoding": "utf-8", "colour": "red"}},
    ],
    ids=str,
)
def test_a_summary_with_an_impossible_value_is_refused(
    prepared: Path, changes: dict[str, Any]
) -> None:
    change_summary(prepared, **changes)
    assert assert_refused(prepared).hint == "prepare the text again"


@pytest.mark.parametrize(
    "file", ["../ids.bin", "ABSOLUTE", "sub/../../ids.bin", "..", ".", "", "./ids.bin"]
)
def test_ids_outside_the_folder_are_refused(prepared: Path, tmp_path: Path, file: str) -> None:
    # A file of the right length waits outside: only its place is wrong.
    file = str(tmp_path / "ids.bin") if file == "ABSOLUTE" else file
    (prepared / "sub").mkdir()
    change_summary(prepared, ids=[{"file": file, "characters": 70}])
    assert_refused(prepared)


def test_a_vocabulary_of_wider_ids_does_not_fit(prepared: Path) -> None:
    content = {"format_version": 1, "characters": [chr(0x4E00 + i) for i in range(257)]}
    write(prepared / "vocabulary.json", json.dumps(content))
    assert_refused(prepared, "70 characters need 140")


def test_a_corpus_of_a_newer_format_is_refused(prepared: Path) -> None:
    change_summary(prepared, format_version=FORMAT_VERSION + 1)
    error = assert_refused(prepared, "corpus.json has format version 4", "reads up to 3")
    assert error.hint == "install a newer charlstm"


def test_a_vocabulary_of_a_newer_format_is_refused(prepared: Path) -> None:
    content = json.loads((prepared / "vocabulary.json").read_text())
    write(prepared / "vocabulary.json", json.dumps({**content, "format_version": 3}))
    error = assert_refused(prepared, "vocabulary.json has format version 3", "reads up to 2")
    assert error.hint == "install a newer charlstm"


@pytest.mark.parametrize("name", ["ids.bin", "vocabulary.json", "corpus.json"])
def test_a_folder_name_cannot_steer_the_terminal(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "\x1b[2Jodd\nname"
    prepare(write(tmp_path / "t.txt", VERSE), folder)
    for written in (b"", b"{}", b'{"format_version": 2, "characters": []}'):
        write(folder / name, written)
        assert assert_refused(folder).message.isprintable()


# --- finding a text -----------------------------------------------------------


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with poem.txt in corpora/, and shipped texts that are fixed."""
    shipped = tmp_path / "shipped"
    work = tmp_path / "work"
    for folder in (shipped, work, work / "corpora"):
        folder.mkdir()
    for name in ("poem.txt", "play.txt"):
        write(shipped / name, VERSE)
    write(work / "corpora" / "poem.txt", VERSE)
    write(work / "corpora" / "bare", VERSE)
    monkeypatch.setattr(
        "charlstm.corpus.shipped_texts", lambda: {p.name: p for p in sorted(shipped.iterdir())}
    )
    monkeypatch.chdir(work)
    return tmp_path


@pytest.mark.parametrize(
    ("made", "typed", "found"),
    [
        ([], "play.txt", "shipped/play.txt"),
        ([], "play", "shipped/play.txt"),
        ([], "poem.txt", "work/corpora/poem.txt"),
        ([], "poem", "work/corpora/poem.txt"),
        ([], "bare", "work/corpora/bare"),
        ([], "corpora/poem.txt", "work/corpora/poem.txt"),
        (["poem.txt"], "poem.txt", "work/poem.txt"),
        (["poem"], "poem", "work/poem"),
        (["poem.txt"], "poem", "work/corpora/poem.txt"),  # a path is taken as typed
        (["corpora/play.txt"], "play", "work/corpora/play.txt"),
        (["play/notes.txt"], "play", "shipped/play.txt"),  # a folder of another kind
        (["play/corpus.json"], "play", "work/play"),
        (["corpora/play/corpus.json"], "play", "work/corpora/play"),
    ],
)
def test_a_text_is_looked_up_as_a_path_then_in_corpora_then_among_the_shipped(
    texts: Path, made: list[str], typed: str, found: str
) -> None:
    for name in made:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write(Path(name), VERSE)
    assert find_corpus(typed).resolve() == (texts / found).resolve()


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(
    "typed", ["nothing", "./play", "sub/play.txt", "no\0thing", "x" * 5_000, "Play\x1b[2J"]
)
def test_an_unknown_text_is_refused_with_the_shipped_ones(typed: str) -> None:
    with pytest.raises(CorpusError) as caught:
        find_corpus(typed)
    assert caught.value.message.startswith("there is no text ")
    assert caught.value.message.isprintable()
    assert caught.value.hint is not None
    assert "play.txt, poem.txt" in caught.value.hint
    assert "- for stdin" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("texts")
def test_a_folder_without_a_prepared_corpus_is_refused() -> None:
    with pytest.raises(CorpusError) as caught:
        find_corpus("corpora")
    assert caught.value.message.startswith("corpora is a folder without a prepared corpus")
    assert caught.value.hint is not None
    assert "charlstm prepare" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("typed", ["macbeth.txt", "macbeth"])
def test_macbeth_is_found_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_corpus(typed) == shipped_texts()["macbeth.txt"]
    assert read(find_corpus(typed)).startswith("THE TRAGEDY OF MACBETH\n")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("corpora/macbeth.txt", "macbeth"),
        ("My Poems (2nd ed.).txt", "My-Poems-2nd-ed"),
        ("Война и мир.txt", "Война-и-мир"),
        ("archive.tar.gz", "archive.tar"),
        (".hidden", "hidden"),
        ("-rf.txt", "rf"),
        ("a\nb\x1b[2J.txt", "a-b-2J"),
        ("bad\udcffbyte.txt", "bad-byte"),
        ("???.txt", "text"),
        ("...", "text"),
    ],
)
def test_a_corpus_is_named_after_its_file(path: str, name: str) -> None:
    assert corpus_name(Path(path)) == name


def test_stdin_and_folders_have_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some.folder").mkdir()
    monkeypatch.chdir(tmp_path / "some.folder")
    assert corpus_name(None) == "stdin"
    assert corpus_name(tmp_path / "some.folder") == "some.folder"
    assert corpus_name(Path()) == "some.folder"
    assert corpus_name(Path("/")) == "text"


# 60 characters take at most 240 bytes: with .txt, a name that a file can have.
@given(stem=st.text(st.characters(exclude_characters="\0"), max_size=60))
@PROPERTY
def test_a_corpus_name_is_safe_as_a_folder_name(stem: str) -> None:
    name = corpus_name(Path(f"{stem}.txt"))
    assert name
    assert all(c.isalnum() or c in "._-" for c in name)
    assert name[0] not in ".-"
    assert name[-1] not in ".-"


# --- memory -------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
from charlstm.corpus import prepare_corpus
from charlstm.reading import CorpusOptions

corpus = prepare_corpus(Path(sys.argv[1]), options=CorpusOptions(), output=Path(sys.argv[2]))
print(len(corpus.ids))
try:
    # getrusage would count what the parent held when it started this process.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
except OSError:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else peak * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource usage here")
@pytest.mark.parametrize("kind", ["lines", "one-word"])
def test_the_memory_of_preparing_does_not_grow_with_the_text(tmp_path: Path, kind: str) -> None:
    block = (VERSE * 1_000).replace(*((" ", "_") if kind == "one-word" else ("o", "ö")))
    block = block.replace("\n", "/") if kind == "one-word" else block
    encoded = block.encode()
    n_blocks = 60_000_000 // len(encoded) + 1
    with (tmp_path / "large.txt").open("wb") as file:
        for _ in range(n_blocks):
            file.write(encoded)
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, "large.txt", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    n_chars, peak = map(int, result.stdout.split())
    assert n_chars == n_blocks * len(block)
    assert peak < 120e6


@pytest.mark.parametrize("unit", ["0,1,", "a\u0301"])
def test_a_line_without_spaces_is_read_in_linear_time(tmp_path: Path, unit: str) -> None:
    """Every second place may not be cut; going back over all of them took minutes."""
    from charlstm import reading

    looked_at = 0
    real = reading._may_combine

    def counted(character: str) -> bool:
        nonlocal looked_at
        looked_at += 1
        return real(character)

    path = write(tmp_path / "line.txt", (unit * 400_000).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_may_combine", counted)
        text = read(path)
    assert len(text) == len(unicodedata.normalize("NFC", unit * 400_000))
    assert looked_at < 2 * 400_000 * len(unit)
