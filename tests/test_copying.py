"""The longest span of a text that stands in the corpus, and which corpus that is."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm import copying
from charlstm.copying import CopiedSpan, find_corpus_ids, longest_copied_span
from charlstm.corpus import Corpus, prepare_corpus, shipped_texts
from charlstm.errors import CorpusError
from charlstm.reading import CorpusOptions
from charlstm.vocabulary import Vocabulary

# No database: nothing is written outside tmp_path. The size of a piece is the
# same for all examples of a test.
PROPERTY = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = ["u1", "<u2", "<u4"]


@pytest.fixture(params=[1, 2, 7, 1 << 16], ids=lambda n: f"pieces-of-{n}")
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read the corpus in pieces whose borders fall everywhere; and whole."""
    monkeypatch.setattr(copying, "_PIECE", request.param)
    return int(request.param)


def ids_of(text: str, dtype: str = "<u4") -> np.ndarray:
    """Give a character its code point as its id."""
    return np.array([ord(c) for c in text], dtype=dtype)


def span(text: str, corpus: str, dtype: str = "<u4") -> CopiedSpan:
    return longest_copied_span(ids_of(text, "i4"), ids_of(corpus, dtype))


def brute_force(text: str, corpus: str) -> CopiedSpan:
    """Try every length from the longest, every place from the first."""
    for length in range(min(len(text), len(corpus)), 0, -1):
        for position in range(len(corpus) - length + 1):
            start = text.find(corpus[position : position + length])
            if start >= 0:
                return CopiedSpan(start=start, length=length, corpus_position=position)
    return CopiedSpan()


def thue_morse(n_doublings: int) -> str:
    """Make the string whose polynomial hashes modulo 2**64 equal its inverse's."""
    text = "a"
    for _ in range(n_doublings):
        text += text.translate({ord("a"): "b", ord("b"): "a"})
    return text


def inverse(text: str) -> str:
    return text.translate({ord("a"): "b", ord("b"): "a"})


# --- the span -------------------------------------------------------------------


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("text", "corpus", "start", "length", "position"),
    [
        ("xx fair isn't", "Fair is foul, and fair is.", 2, 8, 17),
        ("whole", "the whole of it", 0, 5, 4),
        ("the whole of it", "whole", 4, 5, 0),
        ("same", "same", 0, 4, 0),
        ("abc", "xyz", 0, 0, 0),
        ("q", "aq", 0, 1, 1),
        ("end", "at the end", 0, 3, 7),
        ("start", "start here", 0, 5, 0),
        ("ab--ab", "..ab..ab", 0, 2, 2),  # the first of two places on both sides
        ("12--34", "34.12", 4, 2, 0),  # of two spans the one that comes first in the corpus
        ("aaaa", "aabaaab", 0, 3, 3),
        ("aaa", "a" * 40, 0, 3, 0),
        ("a" * 40, "aaa", 0, 3, 0),
        ("", "abc", 0, 0, 0),
        ("abc", "", 0, 0, 0),
        ("", "", 0, 0, 0),
    ],
)
def test_the_longest_span_and_its_first_place(
    text: str, corpus: str, start: int, length: int, position: int, dtype: str
) -> None:
    expected = CopiedSpan(start=start, length=length, corpus_position=position)
    assert span(text, corpus, dtype) == expected


SMALL_ALPHABET = st.text(st.sampled_from("ab"), max_size=60) | st.text(
    st.sampled_from("abc"), max_size=40
)


@given(text=SMALL_ALPHABET, corpus=SMALL_ALPHABET)
@PROPERTY
@pytest.mark.usefixtures("pieces")
def test_it_is_what_trying_everything_finds(text: str, corpus: str) -> None:
    assert span(text, corpus, "u1") == brute_force(text, corpus)


@given(
    before=SMALL_ALPHABET,
    copied=st.text(st.sampled_from("abcd"), min_size=1, max_size=40),
    after=SMALL_ALPHABET,
    corpus=SMALL_ALPHABET,
)
@PROPERTY
@pytest.mark.usefixtures("pieces")
def test_a_span_that_was_copied_is_found(before: str, copied: str, after: str, corpus: str) -> None:
    text, corpus = f"{before}x{copied}y{after}", f"{corpus}{copied}{before}"
    assert span(text, corpus, "<u2") == brute_force(text, corpus)


@given(unit=st.text(st.sampled_from("ab"), min_size=1, max_size=3), data=st.data())
@PROPERTY
@pytest.mark.usefixtures("pieces")
def test_repeats_are_counted_once(unit: str, data: st.DataObject) -> None:
    n_text, n_corpus = data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
    text, corpus = unit * n_text + "c", "d" + unit * n_corpus
    assert span(text, corpus) == brute_force(text, corpus)


@pytest.mark.parametrize("offset", range(-3, 4))
@pytest.mark.parametrize("n_piece", [16, 50])
def test_a_span_over_the_border_of_two_pieces_is_found(
    monkeypatch: pytest.MonkeyPatch, n_piece: int, offset: int
) -> None:
    monkeypatch.setattr(copying, "_PIECE", n_piece)
    copied = "copied"
    for border in (n_piece, 2 * n_piece, 3 * n_piece):
        position = border + offset - 3
        corpus = "." * position + copied + "." * (4 * n_piece - position)
        assert span(f"-{copied}-", corpus) == CopiedSpan(
            start=1, length=6, corpus_position=position
        )


def test_a_span_longer_than_many_pieces_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PIECE", 10)
    rng = np.random.default_rng(5)
    corpus = rng.integers(3, size=2_000).astype("u1")
    text = np.concatenate([corpus[700:1_900], corpus[:300]]).astype(np.int32)
    assert longest_copied_span(text, corpus) == CopiedSpan(
        start=0, length=1_200, corpus_position=700
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_ids_that_differ_in_their_high_bytes_only_differ(dtype: str) -> None:
    corpus = np.array([1, 2, 3, 4, 5], dtype=dtype)
    assert longest_copied_span(corpus.astype(np.int64) + (1 << 16), corpus) == CopiedSpan()
    assert longest_copied_span(np.array([258, 3, 4, 259]), corpus).length == 2


def test_every_id_that_a_character_can_have_is_found() -> None:
    ids = np.array([0, 0xD800, 0xDFFF, 0xFFFF, 0x10FFFF, 0xDC00, 0xD801], dtype="<u4")
    assert longest_copied_span(ids[1:], ids) == CopiedSpan(start=0, length=6, corpus_position=1)


@pytest.mark.parametrize("bad", [-1, 0x110000, 1 << 40])
def test_an_id_that_no_character_has_is_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="ids are numbers"):
        longest_copied_span(np.array([1, bad]), np.array([1, 2], dtype="u1"))


def test_numbers_of_a_damaged_corpus_that_are_no_ids_are_copied_by_nobody() -> None:
    corpus = np.array([0xFFFFFFFF, 7, 8, 0x110000], dtype="<u4")
    assert longest_copied_span(np.array([7, 8]), corpus) == CopiedSpan(
        start=0, length=2, corpus_position=1
    )


# --- hashes that are equal for other reasons ------------------------------------


@pytest.mark.parametrize("n_doublings", [11, 13])
def test_thue_morse_strings_are_told_apart(n_doublings: int) -> None:
    """Hashed by any polynomial modulo 2**64, these and their inverses are equal from 2**11 on."""
    text = thue_morse(n_doublings)
    result = span(f"c{text}", f"d{inverse(text)}e{text[:-1]}", "u1")
    assert result == CopiedSpan(start=1, length=len(text) - 1, corpus_position=len(text) + 2)


def test_hashes_of_thue_morse_strings_differ() -> None:
    """Not needed for the result, but a search among equal hashes is slow."""
    text = thue_morse(13)
    windows = {text[i : i + 2_048] for i in range(len(text) - 2_047)}
    hashes, _ = copying._window_hashes(ids_of(text), 2_048, copying._Buffers())
    assert len(set(hashes.tolist())) == len(windows)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("n_bits", [0, 3, 9])
@given(text=SMALL_ALPHABET, corpus=SMALL_ALPHABET)
@PROPERTY
def test_bad_hashes_do_not_change_the_result(n_bits: int, text: str, corpus: str) -> None:
    """With few bits left of each hash, nearly every window has one that is the text's."""
    real = copying._window_hashes

    def poor(*args: Any) -> tuple[np.ndarray, np.ndarray]:
        kept = np.uint64((1 << n_bits) - 1) << np.uint64(64 - n_bits if n_bits else 0)
        hashes, spare = real(*args)
        return hashes & kept, spare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_window_hashes", poor)
        assert span(text, corpus) == brute_force(text, corpus)


def test_a_number_that_is_no_id_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        copying,
        "_window_hashes",
        lambda ids, length, buffers: np.zeros((2, len(ids) - length + 1), dtype=np.uint64),
    )
    corpus = np.array([0xFFFFFFFF, 7, 8, 0x110000], dtype="<u4")
    assert longest_copied_span(np.array([6, 7, 8]), corpus) == CopiedSpan(
        start=1, length=2, corpus_position=1
    )


# --- time, memory, progress -----------------------------------------------------


def test_a_repeated_character_is_searched_in_linear_time() -> None:
    """Comparing every place of the text with every one of the corpus took hours."""
    corpus = np.zeros(1_000_000, dtype="u1")
    corpus[500_000] = 1
    text = np.zeros(200_000, dtype=np.int32)
    text[100_000] = 2
    assert longest_copied_span(text, corpus) == CopiedSpan(
        start=0, length=100_000, corpus_position=0
    )


@pytest.mark.parametrize(
    ("copied", "rest", "n_readings"),
    [
        ("abc", ".", 1.05),
        ("a" * 1_000, "a" * 999 + ".", 2),  # a window overlaps into the next piece
    ],
)
def test_the_corpus_is_read_about_once(
    monkeypatch: pytest.MonkeyPatch, copied: str, rest: str, n_readings: float
) -> None:
    """A piece is asked for longer spans only: what has none costs one look."""
    monkeypatch.setattr(copying, "_PIECE", 100)
    n_hashed = 0
    real = copying._window_hashes

    def counted(ids: np.ndarray, *others: Any) -> tuple[np.ndarray, np.ndarray]:
        nonlocal n_hashed
        n_hashed += len(ids)
        return real(ids, *others)

    monkeypatch.setattr(copying, "_window_hashes", counted)
    corpus = ids_of(copied + rest * (200_000 // len(rest)), "u1")
    found = longest_copied_span(ids_of(f"x{copied}x"), corpus)
    assert found == CopiedSpan(start=1, length=len(copied), corpus_position=0)
    assert n_hashed < n_readings * len(corpus)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    peaks = []
    for n_chars in (1 << 20, 1 << 23):
        file = tmp_path / f"{n_chars}.bin"
        with file.open("wb") as out:
            rng = np.random.default_rng(3)
            for _ in range(n_chars >> 20):
                out.write(rng.integers(60, size=1 << 20, dtype="u1").tobytes())
        corpus = np.memmap(file, dtype="u1", mode="r")
        text = np.asarray(corpus[-500:]).astype(np.int32)
        tracemalloc.start()
        assert longest_copied_span(text, corpus).length == 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 5e6
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no such figures here")
def test_what_was_read_of_a_map_is_given_back(tmp_path: Path) -> None:
    """Else a corpus of 1 GB shows as 1 GB of memory that the process holds."""
    n_chars = 32 << 20
    with (tmp_path / "ids.bin").open("wb") as file:
        file.truncate(n_chars)
    corpus = np.memmap(tmp_path / "ids.bin", dtype="u1", mode="r")

    def n_mapped() -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("RssFile:")[1].split()[0]) * 1024

    held = [n_mapped()]
    longest_copied_span(ids_of("abc"), corpus, progress=lambda done, total: held.append(n_mapped()))
    assert len(held) > 100
    assert max(held) - held[0] < n_chars / 4


def test_a_writable_map_keeps_what_was_written_to_it(tmp_path: Path) -> None:
    """Giving the memory of a copy-on-write map back would undo its changes."""
    (tmp_path / "ids.bin").write_bytes(bytes(100_000))
    corpus = np.memmap(tmp_path / "ids.bin", dtype="u1", mode="c")
    corpus[70_000] = 7
    assert longest_copied_span(np.array([1, 7]), corpus).corpus_position == 70_000
    assert corpus[70_000] == 7


def test_a_part_of_a_map_can_be_searched(tmp_path: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(bytes(range(200)))
    corpus = np.memmap(tmp_path / "ids.bin", dtype="u1", mode="r")[50:150]
    assert longest_copied_span(np.arange(40, 60), corpus) == CopiedSpan(
        start=10, length=10, corpus_position=0
    )


def test_memory_grows_moderately_with_the_text() -> None:
    rng = np.random.default_rng(4)
    corpus = rng.integers(60, size=1 << 20, dtype="u1")
    text = rng.integers(60, size=200_000, dtype=np.int32)
    tracemalloc.start()
    longest_copied_span(text, corpus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * len(text)


def test_progress_counts_up_to_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PIECE", 10)
    told: list[tuple[int, int]] = []
    longest_copied_span(
        ids_of("xyz"), ids_of("." * 35), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(10, 35), (20, 35), (30, 35), (35, 35)]


def test_progress_ends_where_the_whole_text_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_PIECE", 10)
    told: list[tuple[int, int]] = []
    longest_copied_span(
        ids_of("..."), ids_of("." * 35), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(10, 35), (35, 35)]


# --- the corpus of a model ------------------------------------------------------

VERSE = "Fair is foul, and foul is fair:\nHover through the fog and filthy air.\n"


@pytest.fixture
def prepared(empty_workplace: Path) -> Corpus:
    """`prepared/verse/` in an empty working folder, its source gone."""
    return prepare(empty_workplace, "verse.txt", VERSE)


def prepare(folder: Path, name: str, text: str, **choices: Any) -> Corpus:
    source = folder / name
    source.write_bytes(text.encode())
    options = choices.pop("options", CorpusOptions())
    corpus = prepare_corpus(source, options=options, seq_length=9, **choices)
    source.unlink()
    return corpus


def about(corpus: Corpus, **changes: Any) -> dict[str, Any]:
    """What `config.json` has under `corpus`."""
    return {
        "name": corpus.name,
        "sha256": corpus.sha256,
        "path": str(corpus.path.resolve()),
        "characters": len(corpus.ids),
        "options": dataclasses.asdict(corpus.options),
    } | changes


def assert_needed(described: dict[str, Any], vocabulary: Vocabulary) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        find_corpus_ids(described, vocabulary=vocabulary)
    assert caught.value.exit_code == 2
    assert caught.value.message.isprintable()
    return caught.value


def test_the_prepared_text_of_a_model_is_found_and_not_read_into_memory(prepared: Corpus) -> None:
    ids = find_corpus_ids(about(prepared), vocabulary=prepared.vocabulary)
    assert isinstance(ids, np.memmap)
    assert prepared.vocabulary.decode(ids) == VERSE


@pytest.mark.parametrize("path", [None, "", "/nowhere/prepared/verse", "x" * 4_000, "a\0b"])
def test_a_working_folder_that_was_moved_has_the_text_still(
    prepared: Corpus, path: str | None
) -> None:
    described = about(prepared, path=path)
    if path is None:
        del described["path"]
    ids = find_corpus_ids(described, vocabulary=prepared.vocabulary)
    assert prepared.vocabulary.decode(ids) == VERSE


def test_a_prepared_text_elsewhere_is_found_by_its_path(
    empty_workplace: Path, tmp_path: Path
) -> None:
    corpus = prepare(empty_workplace, "verse.txt", VERSE, output=tmp_path / "elsewhere")
    ids = find_corpus_ids(about(corpus), vocabulary=corpus.vocabulary)
    assert corpus.vocabulary.decode(ids) == VERSE


def test_a_text_beside_another_of_its_name_is_found(empty_workplace: Path) -> None:
    """Two models of one text, one of them in lower case."""
    prepare(empty_workplace, "verse.txt", VERSE)
    lower = prepare(
        empty_workplace,
        "verse.txt",
        VERSE,
        options=CorpusOptions(lowercase=True),
        output=Path("prepared/verse"),
        keeps_others=True,
    )
    assert lower.path.name.startswith("verse-")
    described = about(lower, path="/nowhere/prepared/verse-1234")
    ids = find_corpus_ids(described, vocabulary=lower.vocabulary)
    assert lower.vocabulary.decode(ids) == VERSE.lower()


def test_a_missing_text_is_named_with_the_command_that_prepares_it(
    prepared: Corpus, tmp_path: Path
) -> None:
    described = about(prepared, name="tale", sha256="5f" * 32, path=str(tmp_path / "none"))
    error = assert_needed(described, prepared.vocabulary)
    assert error.message == (
        f"the text tale that the model was trained on is needed: {tmp_path / 'none'} is not there"
    )
    assert error.hint == "prepare it again: charlstm prepare tale.txt"


def test_the_command_has_the_options_of_the_model(prepared: Corpus, tmp_path: Path) -> None:
    options = CorpusOptions(
        encoding="latin-1", normalize="none", lowercase=True, keep_boilerplate=True
    )
    described = about(
        prepared, name="two-words", source_name="two words.md", path=str(tmp_path / "none")
    )
    described["options"] = dataclasses.asdict(options)
    assert assert_needed(described, prepared.vocabulary).hint == (
        "prepare it again: charlstm prepare 'two words.md' --encoding iso8859-1 "
        "--normalize none --lowercase --keep-boilerplate"
    )


def test_a_text_from_stdin_is_asked_for_on_stdin(prepared: Corpus, tmp_path: Path) -> None:
    described = about(prepared, name="stdin", sha256="5f" * 32, path=str(tmp_path / "none"))
    hint = assert_needed(described, prepared.vocabulary).hint
    assert hint == "prepare it again: charlstm prepare - < TEXT"


@pytest.mark.parametrize(
    ("source_name", "words"),
    [
        ("verse", "verse"),  # a folder
        ("verse.txt.gz", "verse.txt.gz"),
        ("other.txt", "other.txt --name verse"),
        (None, "TEXTS --name verse"),  # several
        ("-", "- --name verse < TEXT"),
    ],
)
def test_the_command_names_what_was_prepared(
    prepared: Corpus, tmp_path: Path, source_name: str | None, words: str
) -> None:
    described = about(prepared, source_name=source_name, path=str(tmp_path / "none"))
    described["sha256"] = "5f" * 32
    hint = assert_needed(described, prepared.vocabulary).hint
    assert hint is not None
    to, _, end = hint.partition(" --output prepared/verse-5f5f5f5f")
    assert to + end == f"prepare it again: charlstm prepare {words}"


def test_another_text_of_the_same_name_is_told_apart_and_kept(prepared: Corpus) -> None:
    error = assert_needed(about(prepared, sha256="5f" * 32), prepared.vocabulary)
    assert error.message == (
        "the text verse that the model was trained on is needed: prepared/verse is another text "
        f"(sha256 {prepared.sha256[:12]}…, not 5f5f5f5f5f5f…)"
    )
    assert error.hint == (
        "prepare it again: charlstm prepare verse.txt --output prepared/verse-5f5f5f5f"
    )


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("lowercase", True, "without --lowercase, not with --lowercase"),
        ("normalize", "none", "with --normalize NFC, not with --normalize none"),
        ("encoding", "latin-1", "with --encoding utf-8, not with --encoding iso8859-1"),
        ("keep_boilerplate", True, "without --keep-boilerplate, not with --keep-boilerplate"),
    ],
)
def test_the_same_text_read_another_way_is_another(
    prepared: Corpus, option: str, value: Any, shown: str
) -> None:
    options = dataclasses.asdict(prepared.options) | {option: value}
    error = assert_needed(about(prepared, options=options), prepared.vocabulary)
    assert error.message.endswith(f"prepared/verse was prepared {shown}")


def test_ids_of_other_characters_are_refused(prepared: Corpus) -> None:
    error = assert_needed(about(prepared), Vocabulary(set(VERSE) | {"é"}))
    assert error.message.endswith("prepared/verse has not the characters that the model knows")


@pytest.mark.parametrize("file", ["ids.bin", "vocabulary.json", "corpus.json"])
def test_a_damaged_prepared_text_is_named(prepared: Corpus, file: str) -> None:
    (prepared.path / file).write_bytes(b"{")
    error = assert_needed(about(prepared), prepared.vocabulary)
    assert str(prepared.path / file) in error.message


def test_damage_beside_the_right_text_does_no_harm(prepared: Corpus) -> None:
    for name in ("aaa", "zzz"):
        (Path("prepared") / name).mkdir()
        (Path("prepared") / name / "corpus.json").write_bytes(b"{")
    Path("prepared/notes.txt").touch()
    ids = find_corpus_ids(about(prepared, path="/nowhere"), vocabulary=prepared.vocabulary)
    assert prepared.vocabulary.decode(ids) == VERSE


def test_a_name_cannot_steer_the_terminal(prepared: Corpus) -> None:
    described = about(prepared, name="\x1b[2J\n", sha256="5f" * 32, path="\x1b[2J")
    error = assert_needed(described, prepared.vocabulary)
    assert error.hint is not None
    assert error.hint.isprintable()


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.usefixtures("empty_workplace")
def test_a_shipped_text_needs_no_preparing(tmp_path: Path, lowercase: bool) -> None:
    source = shipped_texts()["macbeth.txt"]
    options = CorpusOptions(lowercase=lowercase)
    corpus = prepare_corpus(source, options=options, output=tmp_path / "gone")
    described = about(corpus, path="/nowhere")
    (tmp_path / "gone" / "corpus.json").unlink()
    ids = find_corpus_ids(described, vocabulary=corpus.vocabulary)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, corpus.ids)
    assert not Path("prepared").exists()


@pytest.mark.usefixtures("empty_workplace")
def test_a_shipped_text_of_another_version_is_another(tmp_path: Path) -> None:
    source = shipped_texts()["macbeth.txt"]
    corpus = prepare_corpus(source, options=CorpusOptions(), output=tmp_path / "gone")
    described = about(corpus, path="/nowhere", sha256="5f" * 32)
    error = assert_needed(described, corpus.vocabulary)
    assert error.hint == "prepare it again: charlstm prepare macbeth.txt"


@pytest.mark.usefixtures("empty_workplace")
def test_a_shipped_text_of_other_characters_is_refused(tmp_path: Path) -> None:
    source = shipped_texts()["macbeth.txt"]
    corpus = prepare_corpus(source, options=CorpusOptions(), output=tmp_path / "gone")
    error = assert_needed(about(corpus, path="/nowhere"), Vocabulary("ab"))
    assert "macbeth.txt has not the characters that the model knows" in error.message
