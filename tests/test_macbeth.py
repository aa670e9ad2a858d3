"""The bundled play: complete, clean, and where a plain install looks for it."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest

from charlstm.corpus import shipped_texts

PLAY = Path(__file__).parent.parent / "corpora" / "macbeth.txt"


@pytest.fixture(scope="module")
def text() -> str:
    return PLAY.read_bytes().decode("utf-8")


def test_it_is_plain(text):
    assert "\r" not in text
    assert "\t" not in text
    assert text.endswith("\n")
    assert not re.search(r" $|\n\n\n|^ ", text, re.MULTILINE)
    assert text.isascii()
    assert 95_000 < len(text) < 115_000


def test_every_scene_of_every_act_is_there_in_order(text):
    headings = re.findall(r"^(ACT [IV]+|SCENE [IVX]+)\b", text, re.MULTILINE)
    numerals = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII"]
    expected = []
    for act, n_scenes in zip(numerals[:5], (7, 4, 6, 3, 8), strict=True):
        expected += [f"ACT {act}", *(f"SCENE {n}" for n in numerals[:n_scenes])]
    assert headings == expected


def test_the_persons_speak_about_as_often_as_in_the_folio(text):
    speakers = collections.Counter(re.findall(r"^([A-Z][A-Z ]+)\.$", text, re.MULTILINE))
    # Published speech counts; how a scene is cut moves them by one or two.
    for person, n_speeches in {
        "MACBETH": 146,
        "LADY MACBETH": 59,
        "MACDUFF": 59,
        "MALCOLM": 40,
        "ROSS": 39,
        "BANQUO": 33,
        "DUNCAN": 18,
    }.items():
        assert abs(speakers[person] - n_speeches) <= 2, (person, speakers[person])


@pytest.mark.parametrize(
    "line",
    [
        "When shall we three meet again",
        "If it were done when 'tis done, then 'twere well",
        "Is this a dagger which I see before me,",
        "To be thus is nothing;",
        "Double, double toil and trouble;",
        "All my pretty ones?",
        "Out, damned spot! out, I say!",
        "To-morrow, and to-morrow, and to-morrow,",
        "Whom we invite to see us crown'd at Scone.",
    ],
)
def test_famous_lines_stand_word_for_word(text, line):
    assert line in text


def test_no_long_passage_is_repeated(text):
    lines = [line for line in text.split("\n") if line]
    runs = collections.Counter(zip(lines, lines[1:], lines[2:], lines[3:], lines[4:], strict=False))
    repeated = [run for run, n in runs.items() if n > 1]
    # The witches' refrain is the longest that the play itself repeats.
    assert not repeated, repeated[:3]


def test_it_ships():
    assert shipped_texts()["macbeth.txt"].read_bytes() == PLAY.read_bytes()
