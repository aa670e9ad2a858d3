"""Many texts in: which, in which order, compressed or not, in parts, by several processes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import charlstm.corpus as corpus_module
from charlstm.batching import EvaluationRows, ShuffledWindows, Streams
from charlstm.compression import kind_of, open_source
from charlstm.copying import longest_copied_span
from charlstm.corpus import Corpus, find_sources, load_corpus, prepare_corpus, read_summary
from charlstm.errors import CharlstmError, CorpusError, OutputError
from charlstm.planning import TrainingRequest, plan_training
from charlstm.preparing import Part, Scale, _Processes, plan_parts, result_of
from charlstm.reading import CorpusOptions, TextReader, can_be_cut, read_text
from charlstm.shards import ShardedIds, Windows
from charlstm.sources import Sources, collect, corpus_name
from charlstm.workfolder import PREFIX, work_folder

PROPERTY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
OPTIONS = CorpusOptions()
VERSE = "Fair is foul, and foul is fair:\nHover through the fog and filthy air.\n"  # 70 characters
SMALL = Scale(part_bytes=64, min_parallel_bytes=0, min_kept_bytes=0)
END = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
START = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def prepare(source: Path | Sources | None, output: Path, **choices: Any) -> Corpus:
    defaults = {"options": OPTIONS, "output": output, "seq_length": 9}
    return prepare_corpus(source, **(defaults | choices))


def whole(corpus: Corpus) -> str:
    return corpus.text(0, len(corpus.ids))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def listed(*given: Path, inside: Path) -> list[str]:
    return [str(Path(path).relative_to(inside)) for path in collect(given).paths]


# --- which files, in which order ----------------------------------------------


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of texts, and of what is none."""
    folder = tmp_path / "texts"
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/README", "Z.txt", "é.txt", "a-b.txt"):
        write(folder / name, name + VERSE)
    for name in (".hidden", ".git/config", "a/.DS_Store"):
        write(folder / name, "hidden")
    write(folder / "prepared" / "corpus.json", "{}")
    write(folder / "prepared" / "vocabulary.json", "{}")
    write(folder / "model" / "step-00000001" / "config.json", "{}")
    write(folder / "model" / "history.jsonl", "{}")
    return folder


IN_ORDER = ["Z.txt", "a-b.txt", "a.txt", "a/b/README", "a/z.md", "b.txt", "é.txt"]


def test_a_folder_is_read_in_the_order_of_the_bytes_of_its_paths(texts: Path) -> None:
    assert sorted(IN_ORDER, key=os.fsencode) == IN_ORDER
    assert listed(texts, inside=texts) == IN_ORDER


def test_what_is_given_is_read_in_the_order_given(texts: Path) -> None:
    given = [texts / "b.txt", texts / "a", texts / "Z.txt"]
    assert listed(*given, inside=texts) == ["b.txt", "a/b/README", "a/z.md", "Z.txt"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["Z.txt", "a-b.txt", "a.txt", "b.txt", "é.txt"]),
        ("**/*.md", ["a/z.md"]),
        ("**", IN_ORDER),
        ("*", IN_ORDER),  # as a shell would give it: folders too
        ("a*", ["a-b.txt", "a.txt", "a/b/README", "a/z.md"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("?/b/R*", ["a/b/README"]),
        ("model/*.jsonl", ["model/history.jsonl"]),  # asked for
    ],
)
def test_a_pattern_that_no_shell_expanded_is_matched(
    texts: Path, pattern: str, found: list[str]
) -> None:
    assert listed(texts / pattern, inside=texts) == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path / "[a].txt", VERSE)
    write(tmp_path / "a.txt", VERSE)
    assert listed(tmp_path / "[a].txt", inside=tmp_path) == ["[a].txt"]


def test_what_is_found_twice_is_read_once_and_what_is_named_twice_is_read_twice(
    texts: Path,
) -> None:
    a, b = texts / "a.txt", texts / "b.txt"
    assert listed(a, a, b, a, inside=texts) == ["a.txt", "a.txt", "b.txt", "a.txt"]
    assert listed(texts, texts / "*.txt", inside=texts) == IN_ORDER
    others = [name for name in IN_ORDER if name != "b.txt"]
    assert listed(texts, b, inside=texts) == [*others, "b.txt"]
    assert listed(b, texts, inside=texts) == ["b.txt", *others]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_once(texts: Path, tmp_path: Path) -> None:
    (texts / "a" / "up").symlink_to(texts)
    (texts / "self").symlink_to("self")
    (texts / "nowhere").symlink_to("gone")
    (texts / "y-alias.txt").symlink_to("b.txt")
    write(tmp_path / "elsewhere" / "far.txt", VERSE)
    (texts / "c").symlink_to(tmp_path / "elsewhere")
    names = [str(Path(path).relative_to(texts)) for path in collect([texts]).paths]
    assert names == [*IN_ORDER[:6], "c/far.txt", "é.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_a_folder_is_no_text(texts: Path) -> None:
    os.mkfifo(texts / "pipe")
    assert listed(texts, inside=texts) == IN_ORDER


def test_a_folder_or_pattern_without_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    write(tmp_path / "model" / "step-00000009" / "config.json", "{}")
    for path in (tmp_path / "none", tmp_path / "model", tmp_path / "*.doc"):
        with pytest.raises(CorpusError) as caught:
            collect([path])
        assert str(path) in caught.value.message
        assert "'texts/**/*.txt'" in str(caught.value.hint)


def test_stdin_can_be_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"stdin \(-\) was given twice"):
        collect([None, None])
    before = write(tmp_path / "before.txt", "before\n" * 5)
    after = write(tmp_path / "after.txt", "after\n" * 5)
    stdin = types.SimpleNamespace(buffer=io.BytesIO(gzip.compress(VERSE.encode())))
    monkeypatch.setattr(sys, "stdin", stdin)
    corpus = prepare(collect([before, None, after]), tmp_path / "out")
    assert whole(corpus) == "before\n" * 5 + VERSE + "after\n" * 5
    assert corpus.documents.tolist() == [0, 35, 105]
    assert corpus.name == "before"


def test_a_prepared_folder_is_no_text_among_others(texts: Path, tmp_path: Path) -> None:
    prepare(texts / "a.txt", tmp_path / "done")
    assert find_sources([str(tmp_path / "done")]) == tmp_path / "done"
    with pytest.raises(CorpusError, match="done is prepared already, and no text"):
        find_sources([str(texts / "a.txt"), str(tmp_path / "done")])


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("poems.txt.gz", "poems"),
        ("poems.md.ZST", "poems"),
        ("poems.xz", "poems"),
        ("vol.1.gz", "vol.1"),
        ("archive.tar.gz", "archive.tar"),
        (".gz", "gz"),
    ],
)
def test_what_tells_of_compression_is_no_part_of_the_name(path: str, name: str) -> None:
    assert corpus_name(Path(path)) == name


def test_a_pattern_is_named_after_its_folder(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collect([texts / "**" / "*.txt"]).name == "texts"
    assert collect([texts / "a"]).name == "a"
    monkeypatch.chdir(texts)
    assert collect([Path("*.txt")]).name == "texts"
    assert collect([Path("*.txt")], name="mine").name == "mine"


def test_the_name_for_a_command_line_tells_no_folder(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name_of(*given: Path | None) -> str | None:
        return collect(given).source_name

    assert name_of(texts / "a" / "z.md") == "z.md"
    assert name_of(texts) == "texts"
    assert name_of(texts / "**" / "*.txt") == "texts/**/*.txt"
    assert name_of(texts / "a.txt", texts / "b.txt") is None
    assert name_of(None) == "-"
    monkeypatch.chdir(texts)
    assert name_of(Path("*.txt")) == "*.txt"
    assert name_of(Path()) == "texts"


@pytest.mark.parametrize("keeps_others", [True, False])
def test_a_text_that_is_put_there_meanwhile_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_others: bool
) -> None:
    """Two processes that prepare two texts of one name at the same time."""
    mine, other = write(tmp_path / "a.txt", VERSE), write(tmp_path / "b.txt", VERSE[::-1])
    made = corpus_module._Request.make

    def make(request: Any, *arguments: Any) -> Any:
        result = made(request, *arguments)
        if request.sources.paths == [str(mine)]:
            prepare(other, tmp_path / "out", keeps_others=keeps_others)
        return result

    monkeypatch.setattr(corpus_module._Request, "make", make)
    corpus = prepare(mine, tmp_path / "out", keeps_others=keeps_others)
    assert whole(corpus) == VERSE
    assert whole(load_corpus(corpus.path)) == VERSE
    if keeps_others:
        assert corpus.path != tmp_path / "out"
        assert whole(load_corpus(tmp_path / "out")) == VERSE[::-1]


def test_the_same_text_that_is_put_there_meanwhile_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.txt", VERSE)
    made, n_made = corpus_module._Request.make, []

    def make(request: Any, *arguments: Any) -> Any:
        n_made.append(1)
        if len(n_made) == 1:
            prepare(source, tmp_path / "out")
        return made(request, *arguments)

    monkeypatch.setattr(corpus_module._Request, "make", make)
    assert whole(prepare(source, tmp_path / "out", name="mine")) == VERSE
    assert load_corpus(tmp_path / "out").name == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "out"]


def test_files_that_are_put_there_meanwhile_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = corpus_module._Request.make

    def make(request: Any, *arguments: Any) -> Any:
        result = made(request, *arguments)
        write(tmp_path / "out" / "notes.txt", "mine")
        return result

    monkeypatch.setattr(corpus_module._Request, "make", make)
    with pytest.raises(CorpusError, match="exists and is not a prepared corpus"):
        prepare(write(tmp_path / "a.txt", VERSE), tmp_path / "out")
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"}


def test_an_earlier_program_kept_no_name(tmp_path: Path) -> None:
    prepare(write(tmp_path / "a.md", VERSE), tmp_path / "out")
    summary = read_summary(tmp_path / "out")
    del summary["source_name"]
    (tmp_path / "out" / "corpus.json").write_text(json.dumps(summary), encoding="utf-8")
    assert load_corpus(tmp_path / "out").source_name == "a.txt"


def test_another_name_is_kept_where_a_folder_serves_again(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", VERSE)
    for name in ("first", "second"):
        assert prepare(source, tmp_path / "out", name=name).name == name
        assert load_corpus(tmp_path / "out").name == name


def test_a_local_folder_comes_before_a_text_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "macbeth" / "mine.txt", VERSE)
    monkeypatch.chdir(tmp_path)
    found = find_sources(["macbeth"])
    assert isinstance(found, Sources)
    assert [Path(path).name for path in found.paths] == ["mine.txt"]


def test_it_is_that_of_the_text_as_last_prepared(tmp_path: Path) -> None:
    for suffix in ("txt", "md"):
        source = write(tmp_path / f"t.{suffix}", VERSE)
        corpus = prepare(source, tmp_path / "out")
        assert corpus.source_name == f"t.{suffix}"
        assert load_corpus(tmp_path / "out").source_name == f"t.{suffix}"


# --- what becomes of them -----------------------------------------------------


def test_texts_are_joined_as_they_are_and_where_each_begins_is_kept(tmp_path: Path) -> None:
    parts = ["no line end", VERSE, "e\u0301t\u00e9\r\n", "", "\ufeffThe end"]
    folder = tmp_path / "texts"
    for number, part in enumerate(parts):
        write(folder / f"{number}.txt", part)
    corpus = prepare(folder, tmp_path / "out")
    assert whole(corpus) == "no line end" + VERSE + "été\nThe end"
    assert corpus.documents.tolist() == [0, 11, 81, 85, 85]
    loaded = load_corpus(tmp_path / "out")
    assert loaded.documents.tolist() == [0, 11, 81, 85, 85]
    assert loaded.documents.dtype == np.dtype("<u8")
    digests = [hashlib.sha256(part.encode()).digest() for part in parts]
    assert corpus.sha256 == hashlib.sha256(b"".join(digests)).hexdigest()
    summary = read_summary(tmp_path / "out")
    assert summary["n_bytes"] == sum(len(part.encode()) for part in parts)
    assert summary["documents"] == {"file": "documents.bin", "count": 5}
    assert (tmp_path / "out" / "documents.bin").read_bytes() == np.array(
        [0, 11, 81, 85, 85], "<u8"
    ).tobytes()


def test_one_text_is_prepared_as_ever(tmp_path: Path) -> None:
    corpus = prepare(write(tmp_path / "t.txt", VERSE), tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["corpus.json", "ids.bin", "vocabulary.json"]
    summary = read_summary(tmp_path / "out")
    assert summary["format_version"] == 1
    assert "documents" not in summary
    assert corpus.documents.tolist() == [0]
    assert corpus.sha256 == hashlib.sha256(VERSE.encode()).hexdigest()


def test_a_folder_of_one_text_is_that_text(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "t.txt", VERSE)
    one = prepare(tmp_path / "texts" / "t.txt", tmp_path / "one")
    folder = prepare(tmp_path / "texts", tmp_path / "two")
    assert folder.sha256 == one.sha256
    assert whole(folder) == whole(one)


def test_binary_files_of_a_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    write(folder / "a.txt", VERSE)
    for number in range(5):
        write(folder / f"{number}.png", b"\x89PNG\r\n\x1a\n\0")
    # Characters of what is left out are none of the vocabulary.
    write(folder / "late.bin", ("ß" * 400_000).encode() + b"\0")
    corpus = prepare(folder, tmp_path / "out")
    assert whole(corpus) == VERSE
    assert "ß" not in corpus.vocabulary
    assert corpus.documents.tolist() == [0]
    assert len(corpus.notes) == 4
    assert corpus.notes[0].startswith(f"left out: {folder / '0.png'} is a binary file")
    assert corpus.notes[3] == "left out 3 more binary files"
    assert corpus.sha256 == hashlib.sha256(VERSE.encode()).hexdigest()
    # Used again, although what was left out is there still.
    before = (tmp_path / "out" / "ids.bin").stat()
    prepare(folder, tmp_path / "out")
    assert (tmp_path / "out" / "ids.bin").stat().st_ino == before.st_ino


def test_a_binary_file_that_is_named_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a.txt", VERSE)
    b = write(tmp_path / "b.png", b"\x89PNG\r\n\x1a\n\0")
    with pytest.raises(CorpusError, match=r"b\.png is a binary file"):
        prepare(collect([a, b]), tmp_path / "out")
    with pytest.raises(CorpusError, match=r"e\.txt is empty"):
        prepare(collect([a, write(tmp_path / "e.txt", "")]), tmp_path / "out")


def test_a_text_of_another_encoding_in_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.txt", VERSE)
    path = write(tmp_path / "texts" / "b.txt", "Größe".encode("latin-1"))
    with pytest.raises(CorpusError, match="is not utf-8: bad byte 0xf6 at offset 2") as caught:
        prepare(tmp_path / "texts", tmp_path / "out")
    assert str(path) in caught.value.message


def test_a_text_more_or_in_another_order_is_another_corpus(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.txt", VERSE), write(tmp_path / "b.txt", VERSE.upper())
    seen = {
        prepare(collect(given), tmp_path / "out").sha256
        for given in ([a, b], [b, a], [a], [a, b, b], [a, a, b])
    }
    assert len(seen) == 5
    assert whole(load_corpus(tmp_path / "out")) == VERSE + VERSE + VERSE.upper()


# --- compression --------------------------------------------------------------


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    result: bytes = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return result


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}
KINDS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}
LONG = "".join(random.Random(5).choices("abcdefgh é\n", k=300_000))


def read(path: Path) -> str:
    return read_text(path, options=OPTIONS)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_text_is_the_text(tmp_path: Path, suffix: str) -> None:
    plain = prepare(write(tmp_path / "plain" / "t.txt", LONG), tmp_path / "one")
    packed = write(tmp_path / f"t.txt{suffix}", COMPRESS[suffix](LONG.encode()))
    assert kind_of(packed) == KINDS[suffix]
    corpus = prepare(packed, tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    name = f'"t.txt{suffix}"'.encode()
    assert two["corpus.json"].count(name) == 1
    assert one == two | {"corpus.json": two["corpus.json"].replace(name, b'"t.txt"')}
    assert corpus.sha256 == plain.sha256
    # Its magic tells what it is, so a name that says nothing is as good.
    assert read(write(tmp_path / "download", packed.read_bytes())) == LONG


@pytest.mark.parametrize("suffix", COMPRESS)
def test_members_one_after_the_other_are_one_text(tmp_path: Path, suffix: str) -> None:
    halves = [COMPRESS[suffix](half) for half in (LONG.encode()[:99_001], LONG.encode()[99_001:])]
    assert read(write(tmp_path / f"t{suffix}", halves[0] + halves[1])) == LONG
    if suffix != ".zst":
        assert read(write(tmp_path / f"t{suffix}", b"".join(halves) + bytes(512))) == LONG


@pytest.mark.parametrize("suffix", COMPRESS)
def test_data_cut_off_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix](VERSE.encode())
    path = tmp_path / f"t.txt{suffix}"
    for stop in range(6, len(data)):
        with pytest.raises(CorpusError) as caught:
            read(write(path, data[:stop]))
        assert f"t.txt{suffix} is damaged: its {KINDS[suffix]} data" in caught.value.message
        assert "offset" in caught.value.message
    for stop in range(1, 6):  # no more than a part of the magic number, or of a header
        with pytest.raises(CorpusError, match=rf"t\.txt\{suffix} "):
            read(write(path, data[:stop]))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_cut_between_blocks_is_noticed(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix](LONG.encode())
    for stop in (len(data) // 3, len(data) - 1, len(data) - 4, len(data) - 5):
        with pytest.raises(CorpusError, match="ends too soon"):
            read(write(tmp_path / f"t{suffix}", data[:stop]))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damage_is_refused_and_named(tmp_path: Path, suffix: str) -> None:
    data = bytearray(COMPRESS[suffix](LONG.encode()))
    for place in (len(data) // 2, len(data) - 3):
        damaged = bytes(data[:place]) + bytes([data[place] ^ 0x55]) + bytes(data[place + 1 :])
        with pytest.raises(CorpusError) as caught:
            read(write(tmp_path / f"t{suffix}", damaged))
        message = caught.value.message
        assert f"t{suffix} is damaged" in message or "bad byte" in message, message
        assert message.isprintable()
    with pytest.raises(CorpusError, match="is damaged"):
        read(write(tmp_path / f"t{suffix}", bytes(data) + b"rubbish that follows"))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_name_that_promises_compression_is_held_to_it(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CorpusError, match=f"is not the {KINDS[suffix]} data that its name says"):
        read(write(tmp_path / f"t{suffix}", VERSE))


def test_what_is_compressed_twice_is_binary(tmp_path: Path) -> None:
    twice = gzip.compress(gzip.compress(VERSE.encode()))
    with pytest.raises(CorpusError, match="a binary file, not a text: it begins like gzip data"):
        read(write(tmp_path / "t.txt.gz", twice))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bad_byte_is_named_by_its_place_in_the_text(tmp_path: Path, suffix: str) -> None:
    data = LONG.encode() + b"\xff"
    with pytest.raises(CorpusError, match=f"bad byte 0xff at offset {len(data) - 1:,}"):
        read(write(tmp_path / f"t{suffix}", COMPRESS[suffix](data)))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_bomb_is_only_long(tmp_path: Path, suffix: str) -> None:
    """Blocks of the size asked for come out, whatever is behind them."""
    path = write(tmp_path / f"bomb{suffix}", COMPRESS[suffix](bytes(30_000_000)))
    assert path.stat().st_size < 40_000
    n_bytes = 0
    with open_source(path, path.name) as file:
        while block := file.read(1_000):
            assert len(block) <= 1_000
            n_bytes += len(block)
    assert n_bytes == 30_000_000


def test_a_window_larger_than_memory_may_be_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    window = bytes([(28 - 10) << 3])  # 2**28, as `zstd --long=28` writes it
    data = b"\x28\xb5\x2f\xfd\x00" + window + b"\x09\x00\x00a"
    with pytest.raises(CorpusError, match="needs more than 128 MB to decompress") as caught:
        read(write(tmp_path / "t.zst", data))
    assert caught.value.hint == "decompress it first"


def test_a_missing_package_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("Python has it")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = write(tmp_path / "t.zst", b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(
        CorpusError, match=r"t\.zst is zstd data, which needs the package"
    ) as caught:
        read(path)
    assert caught.value.hint == "pip install 'charlstm[zstd]'"


# --- parts and processes ------------------------------------------------------

SIGMAS = ["Σ", "ΑΣ", "Σ'", "."]
MARKS = ["e\u0301", "\u0301", "\u1100\u1161", "İ", "Ω", "ﬁ", "😀", "\ufeff"]
LINES = ["\r\n", "\r", "\n", " ", "*** START", "End of the Project", "*END*"]
WORDS = st.sampled_from(["a", "word ", *SIGMAS, *MARKS, *LINES])
TEXT = st.lists(WORDS, max_size=60).map("".join)


@given(
    text=TEXT,
    part_bytes=st.integers(1, 40),
    piece_bytes=st.integers(1, 30),
    lowercase=st.booleans(),
    normalize=st.sampled_from(["NFC", "none"]),
)
@PROPERTY
def test_a_file_in_parts_is_the_file(
    tmp_path: Path,
    text: str,
    part_bytes: int,
    piece_bytes: int,
    lowercase: bool,
    normalize: Any,
) -> None:
    """What one pass over the file gives, and what cleaning all of it at once does."""
    options = CorpusOptions(lowercase=lowercase, normalize=normalize)
    path = write(tmp_path / "t.txt", text + "\nab")
    expected = options.clean(path.read_bytes().decode("utf-8-sig"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlstm.reading._PIECE_BYTES", piece_bytes)
        reader = TextReader(path, name="t.txt", options=options)
        assert "".join(reader.pieces(lambda n: None)) == expected
        corpus = prepare(
            path,
            tmp_path / "out",
            options=options,
            seq_length=1,
            val_fraction=0,
            scale=Scale(part_bytes=part_bytes),
        )
    assert whole(corpus) == expected
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@given(
    before=st.text("ab\n", max_size=30),
    marker=st.sampled_from(
        [START, END, "End of Project Gutenberg's X\n", "*END THE SMALL PRINT!*END*\n"]
    ),
    after=st.text("ab\n", max_size=30),
    part_bytes=st.integers(1, 40),
)
@PROPERTY
def test_boilerplate_is_left_out_of_a_file_in_parts_as_of_a_whole_one(
    tmp_path: Path, before: str, marker: str, after: str, part_bytes: int
) -> None:
    path = write(tmp_path / "t.txt", f"a\nb\n{before}\n{marker}a\nb\n{after}")
    one = prepare(path, tmp_path / "one", seq_length=1, val_fraction=0)
    many = prepare(
        path,
        tmp_path / "many",
        seq_length=1,
        val_fraction=0,
        scale=Scale(part_bytes=part_bytes),
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert one.removed_characters == many.removed_characters > 0


def test_a_long_run_of_combining_characters_is_read_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is cut depends on where reading began."""
    monkeypatch.setattr("charlstm.reading._MAX_PIECE_CHARACTERS", 40)
    monkeypatch.setattr("charlstm.reading._PIECE_BYTES", 8)
    path = write(tmp_path / "t.txt", "abcdefg\n" + "e" + "\u0323\u0301" * 50 + "\nab\n")
    one = prepare(path, tmp_path / "one", scale=Scale(part_bytes=10_000))
    for part_bytes in (3, 5, 9, 20):
        many = prepare(path, tmp_path / str(part_bytes), scale=Scale(part_bytes=part_bytes))
        assert whole(one) == whole(many)


@pytest.mark.parametrize(
    ("encoding", "is_cut"),
    [("utf-8", True), ("latin-1", True), ("utf-16", False), ("shift_jis", False), ("utf-7", False)],
)
def test_only_files_in_which_a_line_feed_is_a_byte_are_cut(
    tmp_path: Path, encoding: str, is_cut: bool
) -> None:
    path = write(tmp_path / "t.txt", ("été\n" * 50 if is_cut else "ab\n" * 50).encode(encoding))
    options = CorpusOptions(encoding=encoding)
    assert can_be_cut(path, options) == is_cut
    parts = plan_parts(collect([path]), options, part_bytes=40)
    assert (len(parts) > 1) == is_cut
    packed = write(tmp_path / "t.gz", gzip.compress(path.read_bytes()))
    assert not can_be_cut(packed, options)


def test_a_bad_byte_in_a_part_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", VERSE.encode() * 10 + b"\xff\n" + VERSE.encode())
    with pytest.raises(CorpusError, match="bad byte 0xff at offset 700"):
        prepare(path, tmp_path / "out", scale=SMALL)
    path = write(tmp_path / "t.txt", VERSE.encode() * 10 + b"\0" + VERSE.encode())
    with pytest.raises(CorpusError, match="a NUL byte at offset 700"):
        prepare(path, tmp_path / "out", scale=SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def make_texts(folder: Path, random_seed: int) -> Path:
    """A folder of all kinds: small and large, empty, compressed, binary, with boilerplate."""
    rng = random.Random(random_seed)
    words = ["fair", "foul", "Größe", "e\u0301t\u00e9", "ΟΔΟΣ", "\r\n", "\n", "\n", " ", "😀"]
    for number in range(rng.randint(3, 12)):
        text = "".join(rng.choices(words, k=rng.choice([0, 3, 40, 400])))
        if rng.random() < 0.2:
            text = f"Header\n{START}{text}\n{END}Licence\n"
        data, suffix = text.encode(), ""
        if rng.random() < 0.3:
            data, suffix = gzip.compress(data), ".gz"
        write(folder / rng.choice("abc") / f"{number}.txt{suffix}", data)
    write(folder / "picture.png", b"\x89PNG\r\n\x1a\n")
    write(folder / "verse.txt", VERSE)
    return folder


def one_pass(folder: Path) -> bytes:
    """The ids of a folder's texts, each read whole, by the class for one text."""
    texts = []
    for path in collect([folder]).paths:
        if path.endswith(".png"):
            continue
        reader = TextReader(Path(path), name=path, options=OPTIONS)
        texts.append("".join(reader.pieces(lambda n: None)))
    text = "".join(texts)
    number = {c: i for i, c in enumerate(sorted(set(text)))}
    return bytes(number[c] for c in text)


@pytest.mark.parametrize("random_seed", range(12))
def test_many_files_in_parts_are_what_one_pass_over_each_gives(
    tmp_path: Path, random_seed: int
) -> None:
    folder = make_texts(tmp_path / "texts", random_seed)
    prepare(folder, tmp_path / "one")
    ids = one_pass(folder)
    assert (tmp_path / "one" / "ids.bin").read_bytes() == ids
    for part_bytes in (1, 50, 777):
        prepare(folder, tmp_path / f"{part_bytes}", scale=Scale(part_bytes=part_bytes))
        assert contents(tmp_path / f"{part_bytes}") == contents(tmp_path / "one")


@pytest.mark.parametrize(("threads", "random_seed"), [(2, 100), (3, 101)])
def test_several_processes_make_what_one_makes(
    tmp_path: Path, threads: int, random_seed: int
) -> None:
    folder = make_texts(tmp_path / "texts", random_seed)
    write(folder / "large.txt", "Größe und Gefühl\nfair is foul\n" * 500)
    prepare(folder, tmp_path / "one", scale=Scale(threads=1, shard_bytes=1_000))
    scale = Scale(threads=threads, part_bytes=300, shard_bytes=1_000, min_parallel_bytes=0)
    calls: list[tuple[int, int]] = []
    prepare(
        folder, tmp_path / "many", scale=scale, progress=lambda done, n: calls.append((done, n))
    )
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) > 5
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]
    # An error comes from them as from this one.
    bad = write(folder / "a" / "bad.txt", b"Gr\xf6\xdfe")
    with pytest.raises(CorpusError) as caught:
        prepare(folder, tmp_path / "many", scale=scale)
    assert str(bad) in caught.value.message
    assert "try --encoding" in str(caught.value.hint)


def die(tick: Any) -> None:
    os._exit(1)


def test_a_process_that_dies_is_no_traceback() -> None:
    part = Part(first=0, last=1)
    with _Processes(2) as processes, pytest.raises(CharlstmError) as caught:
        for _, _, promise in processes.map(die, [(part, (), None)] * 9):
            result_of(promise)
    assert caught.value.message == "a process that reads the text has died"
    assert caught.value.exit_code == 1
    assert "--threads" in str(caught.value.hint)


# --- several files of ids -----------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    data=st.data(),
)
@PROPERTY
def test_ids_in_several_files_are_indexed_as_one_array(
    lengths: list[int], data: st.DataObject
) -> None:
    n = sum(lengths)
    ids = np.random.default_rng(n).integers(0, 300, n).astype("<u2")
    sharded = ShardedIds(np.split(ids, np.cumsum(lengths)[:-1]))
    assert len(sharded) == sharded.size == n
    assert sharded.shape == (n,)
    assert (sharded.dtype, sharded.itemsize) == (ids.dtype, 2)
    np.testing.assert_array_equal(np.asarray(sharded), ids)
    np.testing.assert_array_equal(sharded.astype(np.int32), ids.astype(np.int32))
    assert list(sharded) == list(ids)
    bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
    for _ in range(4):
        step = data.draw(st.sampled_from([None, None, 1, 2, -1]))
        piece = slice(data.draw(bound), data.draw(bound), step)
        np.testing.assert_array_equal(np.asarray(sharded[piece]), ids[piece])
    index = data.draw(st.lists(st.integers(-n, n - 1), max_size=6))
    for shape in ((-1,), (1, -1), (-1, 1)):
        where = np.array(index, dtype=np.int64).reshape(shape if index else (0, 3))
        taken = sharded[where]
        assert taken.dtype == ids.dtype
        np.testing.assert_array_equal(taken, ids[where])
    at = data.draw(st.integers(-n, n - 1))
    assert sharded[at] == ids[at]
    assert sharded[np.uint64(n - 1)] == ids[-1]
    for wrong in (n, -n - 1, [0, n], [0.5]):
        with pytest.raises(IndexError):
            sharded[wrong]  # type: ignore[call-overload]


def test_a_long_slice_over_several_files_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlstm.shards._COPIED", 5)
    ids = np.arange(40, dtype="u1")
    sharded = ShardedIds(np.split(ids, 4))
    tail = sharded[7:33]
    assert isinstance(tail, ShardedIds)
    assert all(np.shares_memory(shard, ids) for shard in tail.shards)
    np.testing.assert_array_equal(np.asarray(tail), ids[7:33])
    assert isinstance(tail[1:5], np.ndarray)
    assert np.shares_memory(sharded[11:19], ids)
    with pytest.raises(ValueError, match="only as a copy"):
        np.array(sharded, copy=False)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A prepared folder of 700 characters in 8 files, and its twin of one."""
    path = write(tmp_path / "t.txt", "".join(random.Random(3).choices("abcdefgh é\n", k=700)))
    prepare(path, tmp_path / "one")
    prepare(path, tmp_path / "shards", scale=Scale(shard_bytes=100))
    return tmp_path / "shards"


def test_a_corpus_over_the_stated_size_is_written_in_several_files(shards: Path) -> None:
    one, many = load_corpus(shards.with_name("one")), load_corpus(shards)
    assert isinstance(many.ids, ShardedIds)
    summary = read_summary(shards)
    assert summary["format_version"] == 2
    assert [entry["file"] for entry in summary["ids"]] == [f"ids-{i:05d}.bin" for i in range(7)]
    assert [entry["characters"] for entry in summary["ids"]] == [100] * 7
    joined = b"".join((shards / entry["file"]).read_bytes() for entry in summary["ids"])
    assert joined == (shards.with_name("one") / "ids.bin").read_bytes()
    assert (one.sha256, one.vocabulary) == (many.sha256, many.vocabulary)
    assert whole(one) == whole(many)
    assert many.text(95, 305) == whole(one)[95:305]
    windows = many.windows(9)
    assert isinstance(windows, Windows)
    assert windows.shape == one.windows(9).shape == (691, 9)
    np.testing.assert_array_equal(windows[95], one.windows(9)[95])
    np.testing.assert_array_equal(windows[90:205:7], one.windows(9)[90:205:7])
    np.testing.assert_array_equal(windows[-1], one.windows(9)[-1])
    with pytest.raises(IndexError):
        windows[691]


@pytest.mark.parametrize("kind", ["<u2", "<u4"])
def test_wide_ids_are_never_cut_in_two(tmp_path: Path, kind: str) -> None:
    n = 300 if kind == "<u2" else 66_000
    text = "".join(chr(0x4E00 + i) if kind == "<u2" else chr(0x10000 + i) for i in range(n))
    path = write(tmp_path / "t.txt", text * 2)
    scale = Scale(shard_bytes=1_001 if n == 300 else 99_999)
    options = CorpusOptions(normalize="none")
    corpus = prepare(path, tmp_path / "out", scale=scale, options=options)
    assert corpus.ids.dtype == np.dtype(kind)
    assert len(read_summary(tmp_path / "out")["ids"]) > 1
    assert whole(corpus) == text * 2


def test_a_corpus_of_several_files_replaces_and_is_replaced(shards: Path) -> None:
    source = shards.with_name("t.txt")
    inode = (shards / "ids-00003.bin").stat().st_ino
    prepare(source, shards, seq_length=20)
    assert (shards / "ids-00003.bin").stat().st_ino == inode
    assert len(read_summary(shards)["ids"]) == 7
    assert read_summary(shards)["seq_length"] == 20
    prepare(write(source, VERSE * 2), shards)
    assert sorted(contents(shards)) == ["corpus.json", "ids.bin", "vocabulary.json"]


def test_batches_do_not_tell_one_file_from_several(shards: Path) -> None:
    one, many = load_corpus(shards.with_name("one")).ids, load_corpus(shards).ids
    for cls, size in ((Streams, 4), (ShuffledWindows, 5)):
        a, b = (cls(ids[:650], size, 9, 7) for ids in (one, many))  # type: ignore[arg-type]
        for step in range(2 * a.steps_per_epoch):
            for left, right in zip(a.batch(step)[:2], b.batch(step)[:2], strict=True):
                np.testing.assert_array_equal(left, right)
                assert left.dtype == right.dtype == np.int32
    left, right = (EvaluationRows(ids[650:]).chunk(0, 40) for ids in (one, many))
    for x, y in zip(left, right, strict=True):
        np.testing.assert_array_equal(x, y)
    text = np.asarray(one[180:333])
    assert longest_copied_span(text, many) == longest_copied_span(text, one)


class Watched:
    """Ids that note where they are looked at."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.seen: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> np.ndarray:
        self.seen.append(index)
        return np.zeros(index.shape, dtype=np.uint8)


def test_an_epoch_goes_through_the_text_once_and_forwards() -> None:
    """Each row reads on where it was, so a page is read in consecutive steps and not again."""
    n, rows, length = 4_003, 4, 10
    ids = Watched(n)
    streams = Streams(ids, rows, length, 3)  # type: ignore[arg-type]
    for step in range(streams.steps_per_epoch):
        streams.batch(step)
    index = np.array(ids.seen)  # (steps, rows, length + 1)
    assert index.shape == (100, rows, length + 1)
    for row in range(rows):
        path = index[:, row, :-1].ravel()
        assert (np.diff(path) % n == 1).all()
    counts = np.bincount(index[..., :-1].ravel(), minlength=n)
    assert counts.max() == 1
    assert counts.sum() == 4_000


# --- prepared folders from strangers ------------------------------------------


def change_summary(folder: Path, **changes: Any) -> None:
    content = read_summary(folder) | changes
    write(folder / "corpus.json", json.dumps(content))


def refused(folder: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        load_corpus(folder)
    assert caught.value.message.isprintable()
    return caught.value.message


def test_shards_of_another_length_are_refused(shards: Path) -> None:
    for n_bytes in (0, 99, 101):
        path = shards / "ids-00002.bin"
        before = path.read_bytes()
        path.write_bytes((before * 2)[:n_bytes])
        assert f"ids-00002.bin has {n_bytes} bytes; 100 characters need 100" in refused(shards)
        path.write_bytes(before)
    (shards / "ids-00006.bin").unlink()
    assert "ids-00006.bin" in refused(shards)


@pytest.mark.parametrize(
    "name", ["../t.txt", "/etc/passwd", "a/b", "..", "", "ids-00000.bin", "a\0b", "x" * 5_000]
)
def test_shards_of_strange_names_are_refused(shards: Path, name: str) -> None:
    entries = read_summary(shards)["ids"]
    change_summary(shards, ids=[*entries[:-1], {"file": name, "characters": 100}])
    refused(shards)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / "texts" / f"{number}.txt", VERSE)
    prepare(tmp_path / "texts", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "starts", [[0, 140, 70, 210], [1, 70, 140, 210], [0, 70, 140, 281], [0, 70, 2**64 - 1, 210]]
)
def test_documents_that_overlap_or_lie_outside_are_refused(
    documents: Path, starts: list[int]
) -> None:
    write(documents / "documents.bin", np.array(starts, "<u8").tobytes())
    assert "documents do not follow one another" in refused(documents)


@pytest.mark.parametrize(
    "about",
    [
        {},
        [],
        3,
        {"file": "documents.bin"},
        {"file": "documents.bin", "count": 3},
        {"file": "documents.bin", "count": 0},
        {"file": "documents.bin", "count": -4},
        {"file": "documents.bin", "count": 10**30},
        {"file": "documents.bin", "count": float("nan")},
        {"file": "../documents.bin", "count": 4},
        {"file": "none", "count": 4},
    ],
    ids=str,
)
def test_a_summary_with_impossible_documents_is_refused(documents: Path, about: Any) -> None:
    write(documents.parent / "documents.bin", (documents / "documents.bin").read_bytes())
    change_summary(documents, documents=about)
    refused(documents)


# --- killed and gone on -------------------------------------------------------


class Killed(BaseException):
    """Like a kill: no handler of ours has a say."""


def interrupted_at(share: float) -> Any:
    def interrupt(done: int, total: int) -> None:
        if done >= share * total:
            raise KeyboardInterrupt

    return interrupt


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Some texts that come in about 40 parts."""
    for number in range(6):
        write(tmp_path / "texts" / f"{number}.txt", f"Text {number} is fair\nis foul\n" * 15)
    return tmp_path / "texts"


KEPT = Scale(part_bytes=64, shard_bytes=500, min_kept_bytes=0)


def left_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(PREFIX)]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.9, 1.0])
def test_an_interrupted_prepare_is_gone_on_with(
    large: Path, tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(large, tmp_path / "once", scale=Scale(shard_bytes=500))
    with pytest.raises(KeyboardInterrupt) as caught:
        prepare(large, tmp_path / "out", scale=KEPT, progress=interrupted_at(share))
    assert caught.value.__notes__ == ["the same command goes on from here"]
    assert not (tmp_path / "out").exists()
    (work,) = left_in(tmp_path)
    n_done = len((work / "journal").read_bytes().splitlines()) - 1
    assert n_done > 0
    # What is in the journal is not read again.
    reads: list[str] = []
    pieces = TextReader.pieces

    def counted(self: TextReader, progress: Any) -> Iterator[str]:
        reads.append(self.name)
        return pieces(self, progress)

    monkeypatch.setattr(TextReader, "pieces", counted)
    prepare(large, tmp_path / "out", scale=KEPT)
    n_parts = len(plan_parts(collect([large]), OPTIONS, part_bytes=64))
    assert len(reads) == 2 * n_parts - n_done
    assert contents(tmp_path / "out").keys() == contents(tmp_path / "once").keys()
    assert {k: v for k, v in contents(tmp_path / "out").items() if k != "corpus.json"} == {
        k: v for k, v in contents(tmp_path / "once").items() if k != "corpus.json"
    }
    assert left_in(tmp_path) == []


def test_a_journal_torn_anywhere_is_gone_on_with(large: Path, tmp_path: Path) -> None:
    prepare(large, tmp_path / "once", scale=KEPT)
    with pytest.raises(KeyboardInterrupt):
        prepare(large, tmp_path / "out", scale=KEPT, progress=interrupted_at(0.9))
    (work,) = left_in(tmp_path)
    saved = (work / "journal").read_bytes()
    ids = {path.name: path.read_bytes() for path in (work / "prepared").iterdir()}
    for stop in range(0, len(saved), len(saved) // 9):
        work.mkdir(exist_ok=True)
        (work / "prepared").mkdir(exist_ok=True)
        for name, data in ids.items():
            write(work / "prepared" / name, data)
        write(work / "journal", saved[:stop])
        write(work / "lock", b"")
        prepare(large, tmp_path / "out", scale=KEPT)
        assert whole(load_corpus(tmp_path / "out")) == whole(load_corpus(tmp_path / "once"))
        for path in (tmp_path / "out").iterdir():
            path.unlink()


def test_ids_that_a_power_cut_took_are_written_again(large: Path, tmp_path: Path) -> None:
    prepare(large, tmp_path / "once", scale=KEPT)
    with pytest.raises(KeyboardInterrupt):
        prepare(large, tmp_path / "out", scale=KEPT, progress=interrupted_at(1.0))
    (work,) = left_in(tmp_path)
    path = work / "prepared" / "ids-00001.bin"
    path.write_bytes(bytes(path.stat().st_size))
    prepare(large, tmp_path / "out", scale=KEPT)
    assert whole(load_corpus(tmp_path / "out")) == whole(load_corpus(tmp_path / "once"))


@pytest.mark.parametrize("change", ["size", "content", "gone", "more"])
def test_a_text_that_changed_meanwhile_begins_anew(
    large: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(large, tmp_path / "out", scale=KEPT, progress=interrupted_at(0.7))
    (before,) = left_in(tmp_path)
    path = large / "3.txt"
    status = path.stat()
    if change == "gone":
        path.unlink()
    elif change == "more":
        write(large / "7.txt", VERSE)
    else:
        path.write_text(path.read_text().swapcase() if change == "content" else "Short.\n")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    corpus = prepare(large, tmp_path / "out", scale=KEPT)
    assert whole(corpus) == "".join(p.read_text() for p in sorted(large.iterdir()))
    # What nobody will go on from is swept.
    assert left_in(tmp_path) == []
    assert not before.exists()


def test_small_work_is_not_kept(large: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(large, tmp_path / "out", progress=interrupted_at(0.7))
    assert left_in(tmp_path) == []


def test_an_error_keeps_nothing(large: Path, tmp_path: Path) -> None:
    write(large / "5.txt", b"\xff")
    with pytest.raises(CorpusError):
        prepare(large, tmp_path / "out", scale=KEPT)
    assert left_in(tmp_path) == []


def test_leftovers_are_swept_if_nobody_works_in_them(tmp_path: Path) -> None:
    now = time.time()
    old = tmp_path / f"{PREFIX}oldstyle"  # of a charlstm that had no locks
    new = tmp_path / f"{PREFIX}newstyle"
    dead = tmp_path / f"{PREFIX}dead"
    others = tmp_path / f"{PREFIX}others"
    for folder in (old, new, dead, others):
        write(folder / "ids.bin", b"ids")
    for path in (old, old / "ids.bin"):
        os.utime(path, (now - 100_000, now - 100_000))
    write(dead / "lock", b"")
    write(others / "lock", b"")
    write(others / "journal", json.dumps({"target": "another"}) + "\n")
    (tmp_path / f"{PREFIX}file").touch()
    with work_folder(tmp_path, target="mine", key=None, now=now) as held:
        assert sorted(left_in(tmp_path)) == sorted([new, others, held, tmp_path / f"{PREFIX}file"])
        with work_folder(tmp_path, target="mine", key=None, now=now) as second:
            assert held.exists()  # it is locked
            assert second != held
    with work_folder(tmp_path, target="mine", key=None, now=now + 8 * 86_400):
        assert others not in left_in(tmp_path)
    assert left_in(tmp_path) == [tmp_path / f"{PREFIX}file"]


def test_two_that_prepare_the_same_do_not_meet(tmp_path: Path) -> None:
    with work_folder(tmp_path, target="t", key="k") as first:
        assert first.name == f"{PREFIX}k"
        with work_folder(tmp_path, target="t", key="k") as second:
            assert second != first
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("key", [None, "k"])
def test_an_interruption_at_any_line_leaves_nothing(tmp_path: Path, key: str | None) -> None:
    """One just after the folder was made left it for ever (seen once, on a busy machine)."""

    def interrupting(at: int) -> Any:
        lines = itertools.count()

        def trace(frame: Any, event: str, argument: Any) -> Any:
            code = frame.f_code
            if not (code.co_filename.endswith("workfolder.py") and code.co_name in places):
                return None
            if event == "line" and next(lines) == at:
                raise KeyboardInterrupt
            return trace

        return trace

    places = ("take", "_lock", "sweep")
    for at in range(200):
        old = sys.gettrace()
        sys.settrace(interrupting(at))
        try:
            with work_folder(tmp_path, target="t", key=key):
                break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(old)
        # Another process may have locked one whose name it can know; the next sweeps it.
        with work_folder(tmp_path, target="t", key=None):
            pass
        assert left_in(tmp_path) == [], at
    assert 8 < at < 199


COMMAND = """
import sys
from pathlib import Path
from charlstm.corpus import prepare_corpus
from charlstm.preparing import Scale
from charlstm.reading import CorpusOptions

if __name__ == "__main__":
    scale = Scale(threads=2, part_bytes=20_000, min_parallel_bytes=0, min_kept_bytes=0)
    prepare_corpus(Path("t.txt"), options=CorpusOptions(), output=Path("out"), scale=scale)
"""


def test_an_interruption_says_that_it_can_be_gone_on_with(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **choices: Any) -> Any:
        prepare(large, tmp_path / "out", scale=KEPT, progress=interrupted_at(0.5))

    monkeypatch.setattr("charlstm.corpus.prepare_corpus", interrupted)
    monkeypatch.chdir(tmp_path)
    result = run("prepare", "texts", "-q")
    assert result.exit_code == 130
    assert result.stderr.endswith("Error: interrupted\nhint: the same command goes on from here\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_prepare_is_gone_on_with_and_its_processes_end(tmp_path: Path) -> None:
    write(tmp_path / "t.txt", "Größe und Gefühl\nfair is foul\n" * 30_000)
    script = write(tmp_path / "script.py", COMMAND)
    process = subprocess.Popen([sys.executable, script], cwd=tmp_path, stderr=subprocess.PIPE)
    journal: list[Path] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        journal = list(tmp_path.glob(f"{PREFIX}*/journal"))
        with contextlib.suppress(OSError):
            if journal and journal[0].read_bytes().count(b"\n") > 5:
                break
    process.send_signal(signal.SIGKILL)
    # The pipe ends when the last process that holds it does.
    process.communicate(timeout=60)
    assert not (tmp_path / "out").exists()
    assert journal
    noted = journal[0].read_bytes().count(b"\n")
    assert noted > 5
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert left_in(tmp_path) == []
    prepare(tmp_path / "t.txt", tmp_path / "once")
    assert (tmp_path / "out" / "ids.bin").read_bytes() == (
        tmp_path / "once" / "ids.bin"
    ).read_bytes()


# --- the command --------------------------------------------------------------


def test_prepare_takes_files_folders_patterns_and_stdin(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts)
    result = run("prepare", "b.txt", "a", "*.txt", "-", "--name", "all", input="standard\n")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("all: 8 texts, ")
    names = ["b.txt", "a/b/README", "a/z.md", "Z.txt", "a-b.txt", "a.txt", "é.txt"]
    corpus = load_corpus(Path("prepared/all"))
    assert whole(corpus) == "".join(name + VERSE for name in names) + "standard\n"
    # What it made is no text.
    again = run("prepare", ".", "--output", "prepared/everything")
    assert again.stdout.startswith("texts: 7 texts, ")


def test_prepare_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("texts/a.txt"), VERSE * 2)
    write(Path("texts/b.png"), b"\x89PNG\r\n\x1a\n")
    result = run("prepare", "texts")
    assert result.exit_code == 0
    assert "left out: texts/b.png is a binary file" in result.stderr
    assert run("prepare", "texts", "--output", "o", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt", "none.txt"], "there is no text none.txt"),
        (["*.doc"], "*.doc is a pattern without match"),
        (["-", "-"], "given twice"),
        (["http://host/text?page=1"], "is an address, not a file"),
        (["a.txt", "--name", "a/b"], "no name for a folder"),
        ([], "Missing argument"),
    ],
)
def test_bad_lists_of_texts_are_refused(
    texts: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(texts)
    result = run("prepare", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert not list(texts.glob("prepared/.*"))


@pytest.mark.parametrize("corpus", ["texts", "texts/*.txt", "packed.txt.gz"])
def test_train_takes_a_folder_a_pattern_and_a_compressed_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("texts/a.txt"), VERSE * 20)
    write(Path("texts/b.txt"), VERSE.upper() * 20)
    write(Path("packed.txt.gz"), gzip.compress((VERSE + VERSE.upper()).encode() * 20))
    plan = plan_training(TrainingRequest(corpus=corpus, typed={"seq_length": 9}))
    name = "packed" if "packed" in corpus else "texts"
    assert plan.model == Path("checkpoints") / name
    assert plan.corpus.path == Path("prepared") / name
    assert len(plan.corpus.ids) == 40 * 70


def test_train_keeps_another_text_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("texts/a.txt"), VERSE * 20)
    request = TrainingRequest(corpus="texts", typed={"seq_length": 9})
    first = plan_training(request).corpus
    write(Path("texts/b.txt"), VERSE * 20)
    second = plan_training(request).corpus
    assert second.path.name.startswith("texts-")
    assert len(load_corpus(first.path).ids) == 20 * 70
    assert plan_training(request).corpus.path == second.path


def test_an_output_that_is_full_is_said_so(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlstm.preparing._Shards.write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        prepare(large, tmp_path / "out", scale=KEPT)
    assert left_in(tmp_path) == []


# --- evaluate -----------------------------------------------------------------


@pytest.mark.tf
@pytest.mark.parametrize("joined", [False, True])
def test_evaluate_scores_documents_as_train_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    """The held-out tail: the end of one text, an empty one, and two more."""
    monkeypatch.chdir(tmp_path)
    texts = [VERSE * 20, VERSE.upper() * 3, "", "fog and air\n" * 3, "is it foul? " * 4]
    for number, text in enumerate(texts):
        write(Path(f"texts/{number}.txt"), text)
    options = ("--units", "6", "--seq-length", "9", "--batch-size", "4", "--epochs", "1", "-q")
    join = ("--join-documents",) if joined else ()
    result = run("train", "texts", *options, *join, "--json", "--sample-every", "0")
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    rest = about["val_characters"] - len(texts[3]) - len(texts[4])
    assert 0 < rest < len(texts[1])
    write(Path("tail/1.txt"), texts[1][-rest:])
    for number in (2, 3, 4):
        write(Path(f"tail/{number}.txt"), texts[number])
    write(Path("tail/picture.png"), b"\x89PNG\r\n\x1a\n")
    result = run("evaluate", "tail", "--json")
    score = json.loads(result.stdout)
    assert score["loss"] == pytest.approx(about["best_val_loss"], abs=1e-4)
    assert (score["texts"], score["characters"]) == (3, about["val_characters"])
    assert "left out: tail/picture.png" in result.stderr
    # As they are given, and not as one, unless the model learned them so.
    named = [f"tail/{number}.txt" for number in (1, 3, 4)]
    assert json.loads(run("evaluate", *named, "--json").stdout) == score
    whole = "".join(Path(name).read_text() for name in named)
    one = json.loads(run("evaluate", "-", "--json", input=whole).stdout)
    assert (one["loss"] == pytest.approx(score["loss"], abs=1e-9)) == joined
    config = json.loads(next(Path("checkpoints/texts").glob("step-*/config.json")).read_text())
    assert config["training"]["join_documents"] == joined
    # Its own texts are known again, and characters that it does not know are placed.
    assert "trained on this very text" in run("evaluate", "texts").stderr
    write(Path("tail/odd.txt"), "fair \u2603")
    result = run("evaluate", "tail")
    assert result.exit_code == 2
    assert "position 6" in result.stderr
    assert "tail/odd.txt" in result.stderr
    result = run("evaluate", *named, "--per-character")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--per-character takes one text, not 3" in result.stderr
    result = run("evaluate", "prepared/texts")
    assert result.exit_code == 2
    assert "give the text that it was made of" in result.stderr
