"""`--max-vocab`: rare characters are read as one unknown symbol, and it is never written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, run
from helpers import (
    CHARACTERS,
    make_checkpoint,
    make_network,
    naive_log_p,
    naive_network,
    random_weights,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.checkpoint import Checkpoint
from charlstm.conversation import Conversation
from charlstm.copying import find_corpus_ids
from charlstm.corpus import Corpus, Split, load_corpus, prepare_corpus
from charlstm.errors import CheckpointError, CorpusError, SeedTextError
from charlstm.explain import explain
from charlstm.generation import Piece, Voice, fit_seed_text, write_texts
from charlstm.neurons import read_scan_text
from charlstm.preparing import Scale
from charlstm.reading import CorpusOptions
from charlstm.sampling import SamplingConfig
from charlstm.sources import Sources
from charlstm.stopping import StopRules
from charlstm.vocabulary import Vocabulary

tf = pytest.mark.tf
PROPERTY = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXTS = st.text(st.sampled_from("\n abcdeé☃😀𝄞"), min_size=1, max_size=200)
WITH_UNKNOWN = Vocabulary(CHARACTERS, has_unknown=True)
SYMBOL = len(CHARACTERS)


def kept_characters(text: str, limit: int) -> list[str]:
    """The most frequent, of equally frequent ones those of the lower code points."""
    in_order = sorted(text)  # `most_common` keeps the order of first occurrence
    return sorted(c for c, _ in Counter(in_order).most_common(limit))


# --- the vocabulary -----------------------------------------------------------


@PROPERTY
@given(text=TEXTS, limit=st.integers(2, 12))
def test_the_most_frequent_characters_keep_ids_of_their_own(text: str, limit: int) -> None:
    vocabulary = Vocabulary.most_frequent(Counter(text), limit=limit)
    kept = kept_characters(text, limit)
    assert list(vocabulary.characters) == kept
    assert vocabulary.has_unknown == (len(set(text)) > limit)
    assert vocabulary.n_ids == len(kept) + vocabulary.has_unknown
    expected = [kept.index(c) if c in kept else len(kept) for c in text]
    assert vocabulary.encode(text).tolist() == expected
    table = vocabulary.id_table(np.dtype("<u2"))
    assert [int(table[ord(c)]) for c in text] == expected
    shown = vocabulary.decode(expected, unknown=vocabulary.stand_in)
    assert shown == "".join(c if c in kept else "\ufffd" for c in text)
    # What is shown for it is read as it.
    assert vocabulary.encode(shown).tolist() == expected


def test_the_symbol_is_outside_the_bijection() -> None:
    assert WITH_UNKNOWN.unknown_id == SYMBOL
    assert SYMBOL not in WITH_UNKNOWN.char_to_id.values()
    assert len(WITH_UNKNOWN) == len(WITH_UNKNOWN.id_to_char) == SYMBOL
    with pytest.raises(IndexError):
        WITH_UNKNOWN.decode([0, SYMBOL])
    assert Vocabulary(CHARACTERS) != WITH_UNKNOWN
    assert Vocabulary(CHARACTERS).unknown_id is None
    with pytest.raises(KeyError):
        Vocabulary(CHARACTERS).encode("a☃")


def test_the_stand_in_is_none_of_the_characters() -> None:
    vocabulary = Vocabulary("ab\ufffd\ue000", has_unknown=True)
    assert vocabulary.stand_in == "\ue001"


def test_a_vocabulary_with_the_symbol_is_a_newer_format(tmp_path: Path) -> None:
    WITH_UNKNOWN.save(tmp_path / "vocabulary.json")
    content = json.loads((tmp_path / "vocabulary.json").read_text(encoding="utf-8"))
    assert content == {
        "format_version": 2,
        "characters": sorted(CHARACTERS),
        "has_unknown": True,
    }
    assert Vocabulary.load(tmp_path / "vocabulary.json") == WITH_UNKNOWN
    # Without it the file is what it always was.
    assert Vocabulary(CHARACTERS).to_json() == {
        "format_version": 1,
        "characters": sorted(CHARACTERS),
    }


@pytest.mark.parametrize("value", [1, "yes", None])
def test_an_odd_symbol_is_refused(value: object) -> None:
    content = WITH_UNKNOWN.to_json() | {"has_unknown": value}
    with pytest.raises(CheckpointError, match="'has_unknown' must be true or false"):
        Vocabulary.from_json(content, source="v.json")


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"7 characters and the unknown symbol; .* says 7"):
        make_checkpoint(tmp_path, make_network(), vocabulary=WITH_UNKNOWN)


# --- preparing ----------------------------------------------------------------


def limited(limit: int | None, **changes: Any) -> CorpusOptions:
    return CorpusOptions(max_vocab=limit, **changes)


def prepare(
    source: Path | Sources, output: Path, limit: int | None = None, **choices: Any
) -> Corpus:
    defaults = {"options": limited(limit), "output": output, "seq_length": 9}
    return prepare_corpus(source, **(defaults | choices))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


RARE = "Fair is foul ☃ and foul is fair: 😀\nhover 𝄞 through the fög and filthy aïr.\n"


@PROPERTY
@given(text=TEXTS, limit=st.integers(2, 12))
def test_ids_are_those_of_a_count_of_the_text(tmp_path: Path, text: str, limit: int) -> None:
    text += "ab" * 20
    source = write(tmp_path / "t.txt", text)
    options = limited(limit, normalize="none")
    corpus = prepare(source, tmp_path / "out", options=options)
    kept = kept_characters(text, limit)
    assert np.asarray(corpus.ids).tolist() == [
        kept.index(c) if c in kept else len(kept) for c in text
    ]
    rare = [c for c in text if c not in kept]
    assert (corpus.unknown_characters, corpus.unknown_kinds) == (len(rare), len(set(rare)))
    # What is reported is kept, too.
    again = load_corpus(tmp_path / "out")
    assert again.vocabulary == corpus.vocabulary
    assert (again.unknown_characters, again.unknown_kinds) == (len(rare), len(set(rare)))
    assert again.options == options


@pytest.mark.parametrize(("threads", "random_seed"), [(2, 5), (3, 6)])
def test_several_processes_and_parts_count_as_one(
    tmp_path: Path, threads: int, random_seed: int
) -> None:
    rng = np.random.default_rng(random_seed)
    words = np.array(["fair", "foul", "Größe", "e\u0301te\u0301", "☃", "😀\n", "\r\n", " "])
    for number in range(4):
        text = "".join(rng.choice(words, size=200 * (number + 1)))
        write(tmp_path / "texts" / f"{number}.txt", text)
    folder = tmp_path / "texts"
    prepare(folder, tmp_path / "one", 9, scale=Scale(threads=1, shard_bytes=1_000))
    scale = Scale(threads=threads, part_bytes=300, shard_bytes=1_000, min_parallel_bytes=0)
    corpus = prepare(folder, tmp_path / "many", 9, scale=scale)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert len(corpus.vocabulary) == 9
    assert corpus.unknown_kinds > 3


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_interrupted_prepare_keeps_its_counts(tmp_path: Path, share: float) -> None:
    for number in range(6):
        write(tmp_path / "texts" / f"{number}.txt", f"{number}{RARE}" * 6)

    def interrupt(done: int, total: int) -> None:
        if done >= share * total:
            raise KeyboardInterrupt

    scale = Scale(part_bytes=64, shard_bytes=500, min_kept_bytes=0)
    prepare(tmp_path / "texts", tmp_path / "once", 20, scale=scale)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "texts", tmp_path / "out", 20, scale=scale, progress=interrupt)
    prepare(tmp_path / "texts", tmp_path / "out", 20, scale=scale)
    assert {k: v for k, v in contents(tmp_path / "out").items() if k != "corpus.json"} == {
        k: v for k, v in contents(tmp_path / "once").items() if k != "corpus.json"
    }
    about = [json.loads((tmp_path / n / "corpus.json").read_text()) for n in ("out", "once")]
    assert about[0] | {"name": ""} == about[1] | {"name": ""}


def test_what_is_left_out_is_not_counted(tmp_path: Path) -> None:
    """Neither a binary file of a folder nor a Project Gutenberg header."""
    start = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
    write(tmp_path / "texts" / "a.txt", "zzzzzzzzz\n" * 50 + start + "ab ab ba aab\n" * 4)
    write(tmp_path / "texts" / "b.txt", b"zzzzzzz\n" * 2_000 + b"\0\0\0")
    corpus = prepare(tmp_path / "texts", tmp_path / "out", 4)
    assert corpus.vocabulary.characters == ("\n", " ", "a", "b")
    assert not corpus.vocabulary.has_unknown


def test_a_limit_that_leaves_nothing_out_changes_no_id(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", RARE * 3)
    n = len(set(RARE))
    prepare(source, tmp_path / "all")
    corpus = prepare(source, tmp_path / "out", n)
    assert not corpus.vocabulary.has_unknown
    assert corpus.unknown_characters == 0
    same = ("ids.bin", "vocabulary.json")
    assert all(contents(tmp_path / "out")[k] == contents(tmp_path / "all")[k] for k in same)
    assert prepare(source, tmp_path / "less", n - 1).vocabulary.has_unknown


def test_the_symbol_may_make_ids_wider(tmp_path: Path) -> None:
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    source = write(tmp_path / "t.txt", characters * 2 + characters[:256])
    assert prepare(source, tmp_path / "255", 255).ids[:2].itemsize == 1
    corpus = prepare(source, tmp_path / "256", 256)
    assert corpus.ids[:2].itemsize == 2
    assert np.asarray(corpus.ids[250:260]).tolist() == [*range(250, 256), *[256] * 4]


def test_without_a_limit_the_files_know_nothing_of_it(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", RARE * 3)
    prepare(source, tmp_path / "out")
    about = json.loads(contents(tmp_path / "out")["corpus.json"])
    assert about["format_version"] == 1
    assert "max_vocab" not in about["options"]
    assert not {key for key in about if key.startswith("unknown")}
    prepare(source, tmp_path / "out", 5)
    about = json.loads(contents(tmp_path / "out")["corpus.json"])
    assert about["format_version"] == 3  # an older program would read beyond its vocabulary
    assert about["options"]["max_vocab"] == 5
    assert about["vocabulary_size"] == 6


def test_another_limit_is_another_corpus(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", RARE * 3)
    sizes = [len(prepare(source, tmp_path / "out", n).vocabulary) for n in (5, 7, None, 5)]
    assert sizes == [5, 7, len(set(RARE)), 5]


@pytest.mark.parametrize("limit", [1, 0, -3, 0x110001, True, 2.5, "9"])
def test_an_impossible_limit_in_a_file_is_refused(limit: Any) -> None:
    with pytest.raises(CorpusError, match="--max-vocab is a whole number from 2 to"):
        limited(limit)


def test_a_model_begins_with_what_it_can_write(tmp_path: Path) -> None:
    """Of each seed window the part that is free of the symbol."""
    text = "abc☃defghi😀jk\n" * 20
    corpus = prepare(write(tmp_path / "t.txt", text), tmp_path / "out", 12)
    assert corpus.unknown_kinds == 2
    assert corpus.seed_text(0, 9) == "defgh"
    assert corpus.seed_text(3, 4) == ""
    assert corpus.seed_text(4, 10) == "defghi"
    windows = corpus.seed_windows(n_train=200, seq_length=9, random_seed=4)
    assert windows
    assert all(window and window in text for window in windows)
    with pytest.raises(IndexError):
        corpus.text(0, 9)


@PROPERTY
@given(
    text=st.text("ab☃", min_size=30, max_size=60),
    starts=st.lists(st.integers(0, 60), max_size=5),
    stretch=st.tuples(st.integers(0, 29), st.integers(1, 30)),
)
def test_a_seed_is_of_one_document_and_the_longest_there_is(
    tmp_path: Path, text: str, starts: list[int], stretch: tuple[int, int]
) -> None:
    ids = np.array(["ab☃".index(c) for c in text], np.uint8)
    corpus = Corpus(
        path=tmp_path,
        name="t",
        sha256="",
        vocabulary=Vocabulary("ab", has_unknown=True),
        ids=ids,
        options=limited(2),
        documents=np.array([0, *sorted(starts)], np.uint64),
    )
    first, length = stretch
    shown = "".join(
        ("|" if n in starts and n > first else "") + c
        for n, c in enumerate(text[first : first + length], first)
    )
    parts = shown.replace("☃", "|").split("|")
    assert corpus.seed_text(first, first + length) == max(parts, key=len)


# --- writing ------------------------------------------------------------------


def make_model(folder: Path, *, bias: float = 50.0, **changes: Any) -> Checkpoint:
    """A model that thinks the unknown symbol by far the likeliest, always."""
    network = make_network(vocabulary_size=SYMBOL + 1, **changes)
    weights = random_weights(network, 3)
    weights["dense/bias"][SYMBOL] = bias
    return make_checkpoint(folder, network, weights, WITH_UNKNOWN)


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "argmax": {"temperature": 0.0},
    "hot": {"temperature": 50.0},
    "top_k": {"top_k": 1},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.3},
    "typical": {"typical_p": 0.5},
    "mirostat": {"mirostat": 1.0},
    "penalty": {"repetition_penalty": 3.0},
    "beams": {"temperature": 0.0, "beams": 3},
}


@pytest.mark.parametrize("shape", [{}, {"input": "scaled", "carries_state": False}])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_picking_writes_it(tmp_path: Path, way: str, shape: dict[str, Any]) -> None:
    sampling = SamplingConfig(**WAYS[way])
    n_texts = 1 if sampling.beams > 1 else 3
    seed_text = "ab☃" * 9  # long enough that the penalty looks at what followed
    pieces = list(
        write_texts(
            Voice.of(make_model(tmp_path, **shape)),
            [seed_text] * n_texts,
            random_seeds=list(range(n_texts)),
            sampling=sampling,
            rules=StopRules(length=200),
            n_alternatives=3,
        )
    )
    text = "".join(piece.text for piece in pieces)
    assert len(text) == 200 * n_texts
    assert set(text) <= set(CHARACTERS)
    # Probabilities are of characters, so that they sum to 1 without the symbol.
    shown = [a for piece in pieces for p in piece.probabilities for a in p.alternatives]
    assert shown
    assert {c for c, _ in shown} <= set(CHARACTERS)
    assert max(p for _, p in shown) > 1 / len(CHARACTERS)


def test_it_writes_as_if_the_symbol_had_no_column(tmp_path: Path) -> None:
    """Its logit changes no draw: the others keep their shares of each other."""
    texts = [
        "".join(piece.text for piece in pieces_of(make_model(tmp_path / f"{n}", bias=bias)))
        for n, bias in enumerate([50.0, -50.0, 0.0])
    ]
    assert texts[0] == texts[1] == texts[2]


def pieces_of(checkpoint: Checkpoint, seed_text: str = "ab", length: int = 60) -> list[Piece]:
    return list(
        write_texts(
            Voice.of(checkpoint),
            [seed_text],
            random_seeds=[2],
            sampling=SamplingConfig(),
            rules=StopRules(length=length),
        )
    )


def test_a_seed_with_rare_characters_is_read_as_the_symbol(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path)
    voice = Voice.of(checkpoint)
    reader = voice.reader(batch=1)
    for column in voice.vocabulary.encode("a☃b😀"):
        reader.read(np.array([column]))
    row = [CHARACTERS.index("a"), SYMBOL, CHARACTERS.index("b"), SYMBOL]
    expected = naive_network(checkpoint.network, checkpoint.weights, [row]).logits[0, -1]
    np.testing.assert_allclose(reader.logits()[0], expected[:SYMBOL], atol=1e-4)


@pytest.mark.parametrize(
    ("unknown", "expected"),
    [("error", "a☃é\xe8b"), ("skip", "aéb"), ("nearest", "a☃éeb")],
)
def test_what_is_asked_for_unknown_characters_is_done(unknown: str, expected: str) -> None:
    vocabulary = Vocabulary([*CHARACTERS, "e"], has_unknown=True)
    assert fit_seed_text("a☃é\xe8b", vocabulary, unknown=unknown) == expected
    with pytest.raises(SeedTextError):
        fit_seed_text("a☃b", Vocabulary(CHARACTERS), unknown="error")


def test_a_mix_reads_what_one_does_not_know_as_its_symbol(tmp_path: Path) -> None:
    """ "d" is known to the first alone, so in the mix it is rare for both."""
    first = make_model(tmp_path / "first")
    other = Vocabulary("\n abcéx", has_unknown=True)
    network = make_network(vocabulary_size=other.n_ids, units=4)
    second = make_checkpoint(
        tmp_path / "second", network, random_weights(network, 9), other, seed_windows=[]
    )
    voice = Voice.mixed([(first, 1.0), (second, 3.0)])
    assert voice.vocabulary == Vocabulary("\n abcé", has_unknown=True)
    reader = voice.reader(batch=1)
    for column in voice.vocabulary.encode("adb"):
        reader.read(np.array([column]))
    logits = reader.logits()[0]
    means = np.zeros(len(voice.vocabulary))
    for share, checkpoint in ((0.25, first), (0.75, second)):
        own = checkpoint.vocabulary
        row = [own.char_to_id["a"], own.unknown_id, own.char_to_id["b"]]
        own_logits = naive_network(checkpoint.network, checkpoint.weights, [row]).logits[0, -1]
        means += share * np.array(
            [naive_log_p(own_logits, own.char_to_id[c]) for c in voice.vocabulary.characters]
        )
    np.testing.assert_allclose(logits - logits[0], means - means[0], atol=1e-4)
    # With one that has no symbol there is nothing that both could read.
    plain = make_checkpoint(tmp_path / "plain")
    assert not Voice.mixed([(first, 1.0), (plain, 1.0)]).vocabulary.has_unknown


def test_a_conversation_reads_it_and_never_says_it(tmp_path: Path) -> None:
    conversation = Conversation(
        Voice.of(make_model(tmp_path)),
        sampling=SamplingConfig(temperature=0.0),
        rules=StopRules(length=30),
        random_seed=1,
    )
    assert conversation.say("ab☃") == "ab☃"
    assert set("".join(conversation.go_on())) <= set(CHARACTERS)


# --- looking ------------------------------------------------------------------


def test_an_explanation_expects_characters_only(tmp_path: Path) -> None:
    checkpoint = make_model(tmp_path, bias=2.0)
    (tmp_path / "scan.txt").write_text("abcd ☃ \néa" * 30, encoding="utf-8")
    scan_text, source = read_scan_text(checkpoint, tmp_path / "scan.txt")
    assert "☃" in scan_text
    assert "left out" not in source
    explanation = explain(checkpoint, "ab☃", scan=(scan_text, source))
    assert all(c in CHARACTERS for row in explanation.likeliest for c, _ in row)


def test_the_corpus_is_found_with_its_symbol(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", RARE * 5)
    corpus = prepare(source, tmp_path / "out", 9)
    split = Split(train_characters=len(corpus.ids) - 20, val_characters=20)
    about = corpus.describe(split) | {"path": str(tmp_path / "out")}
    assert about["unknown_characters"] == corpus.unknown_characters > 0
    ids = find_corpus_ids(about, vocabulary=corpus.vocabulary)
    assert np.asarray(ids).tolist() == corpus.vocabulary.encode(RARE * 5).tolist()
    with pytest.raises(CorpusError):
        find_corpus_ids(about, vocabulary=Vocabulary(corpus.vocabulary.characters))


# --- with TensorFlow, by the commands -------------------------------------------


@tf
def test_the_symbol_keeps_its_row_and_column_in_another_vocabulary() -> None:
    from charlstm.checkpoint import weight_shapes
    from charlstm.model import transfer_weights

    old = Vocabulary("abde", has_unknown=True)
    new = Vocabulary("bcdxyz", has_unknown=True)
    rng = np.random.default_rng(0)

    def weights(vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        shapes = weight_shapes(make_network(vocabulary_size=vocabulary.n_ids)).items()
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}

    source, fresh = weights(old), weights(new)
    moved = transfer_weights(source, old, fresh, new)
    sides = dict.fromkeys("bd", "source") | dict.fromkeys("cxyz", "fresh")
    for character, side in sides.items():
        from_, at = (source, old) if side == "source" else (fresh, new)
        row, their_row = new.char_to_id[character], at.char_to_id[character]
        np.testing.assert_array_equal(
            moved["lstm_1/kernel"][row], from_["lstm_1/kernel"][their_row]
        )
    np.testing.assert_array_equal(moved["lstm_1/kernel"][6], source["lstm_1/kernel"][4])
    np.testing.assert_array_equal(moved["dense/kernel"][:, 6], source["dense/kernel"][:, 4])
    assert moved["dense/bias"][6] == source["dense/bias"][4]
    # From a vocabulary without it the symbol begins anew.
    plain = Vocabulary("abde")
    moved = transfer_weights(weights(plain), plain, fresh, new)
    np.testing.assert_array_equal(moved["lstm_1/kernel"][6], fresh["lstm_1/kernel"][6])


LINE = "The king ☃ is fair, and foul is the thane: \u00f8 hark, what knocking?\n"
RARE_TEXT = (LINE + "Hover through the fog and filthy air, 😀 sisters.\n") * 25


@pytest.fixture(scope="module")
def limited_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the model `rare`: 20 characters and the unknown symbol."""
    folder = tmp_path_factory.mktemp("limited")
    (folder / "rare.txt").write_text(RARE_TEXT, encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = (*TINY, "--max-vocab", "20", "--epochs", "3", "--json", "-q")
        result = run("train", "rare.txt", *options)
    assert result.exit_code == 0, result.output
    (folder / "trained.json").write_text(result.stdout, encoding="utf-8")
    return folder


@pytest.fixture
def rare(limited_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(limited_once)
    return limited_once


N_RARE = sum(RARE_TEXT.count(c) for c in set(RARE_TEXT) - set(kept_characters(RARE_TEXT, 20)))


@tf
def test_prepare_tells_what_became_of_rare_characters(rare: Path) -> None:
    result = run("prepare", "rare.txt", "--max-vocab", "20", "--output", "out")
    kinds = len(set(RARE_TEXT)) - 20
    assert result.exit_code == 0
    assert f"{len(RARE_TEXT):,} characters, 20 different" in result.stdout
    assert f"{N_RARE} characters of {kinds} rare kinds are one unknown symbol" in result.stdout
    about = json.loads(
        run("prepare", "rare.txt", "--max-vocab", "20", "--output", "out", "--json").stdout
    )
    assert (about["unknown_characters"], about["unknown_kinds"]) == (N_RARE, kinds)
    assert about["vocabulary_size"] == 21
    result = run("prepare", "rare.txt", "--max-vocab", "1")
    assert result.exit_code == 2
    assert "--max-vocab" in result.stderr


@tf
def test_evaluate_scores_rare_characters_as_train_did(rare: Path) -> None:
    about = json.loads((rare / "trained.json").read_text(encoding="utf-8"))
    tail = RARE_TEXT[len(RARE_TEXT) - about["val_characters"] :]
    (rare / "tail.txt").write_text(tail, encoding="utf-8", newline="")
    result = run("evaluate", "tail.txt", "--json")
    score = json.loads(result.stdout)
    assert score["loss"] == pytest.approx(about["best_val_loss"], abs=1e-4)
    kept = kept_characters(RARE_TEXT, 20)
    n_unknown = sum(c not in kept for c in tail)
    assert score["unknown_characters"] == n_unknown > 0
    assert score["characters"] == len(tail)
    assert f"{n_unknown} characters of the text are read as the unknown symbol" in result.stderr
    assert "unknown symbol" not in run("evaluate", "tail.txt", "-q").stderr


@tf
def test_generate_takes_any_seed_and_writes_what_it_knows(rare: Path) -> None:
    kept = set(kept_characters(RARE_TEXT, 20))
    result = run("generate", "--seed", "☃ king 本", "--length", "300", "--random-seed", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("☃ king 本")
    assert set(result.stdout.removeprefix("☃ king 本")) <= kept | {"\n"}
    assert "of the seed text are read as the unknown symbol" in result.stderr
    result = run("generate", "--length", "300", "--random-seed", "2", "--report-copying")
    assert result.exit_code == 0, result.output
    assert set(result.stdout) <= kept
    said = run("generate", "--interactive", "--length", "20", input="the ☃ king\n")
    assert said.exit_code == 0
    assert "of this line " in said.stderr


@tf
def test_the_other_commands_know_the_symbol(rare: Path) -> None:
    assert (
        f"20 different and the unknown symbol (for {N_RARE} characters)"
        in run("info", "rare").stdout
    )
    assert run("info", "rare", "--verify").exit_code == 0
    explained = run("explain", "--seed", "The ☃ king", "--length", "20", "--output", "x.html")
    assert explained.exit_code == 0, explained.output
    assert "unknown symbol" in explained.stderr
    neurons = run("neurons", "rare", "--json")
    assert neurons.exit_code == 0, neurons.output
    reported = run("report", "rare", "-o", "report.html")
    assert reported.exit_code == 0, reported.output
    page = (rare / "report.html").read_text(encoding="utf-8")
    assert "20 different characters and an unknown symbol for all others" in page
    assert "--max-vocab 20" in page


@tf
def test_a_resumed_run_keeps_the_symbol(rare: Path) -> None:
    """Also without the option, which comes from the checkpoint; another one is refused."""
    result = run("train", "rare.txt", "--resume", "--epochs", "3.5", "--json", "-q")
    assert result.exit_code == 0, result.output
    result = run("train", "rare.txt", "--resume", "--epochs", "4", "--max-vocab", "12", "-q")
    assert result.exit_code == 2
    assert "max-vocab" in result.stderr


@tf
def test_messages_name_the_options_as_they_are_typed(rare: Path) -> None:
    run("prepare", "rare.txt", "--max-vocab", "9", "--output", "nine")
    run("prepare", "rare.txt", "--output", "all")
    for folder, has in (("nine", "with --max-vocab 9"), ("all", "without --max-vocab")):
        result = run("train", folder, "--resume", "--model", "rare", "--epochs", "9", "-q")
        assert result.exit_code == 2
        assert f"{folder} was prepared {has}, not with --max-vocab 20" in result.stderr
        result = run("train", folder, "--model", "new", "--max-vocab", "20", "-q")
        assert result.exit_code == 2
        assert f"{folder} was prepared {has}, not with --max-vocab 20" in result.stderr
    result = run("train", "rare.txt", "--resume", "--model", "rare", "--join-documents", "-q")
    assert result.exit_code == 2
    told = "the model was trained without --join-documents, not with --join-documents"
    assert told in result.stderr


@tf
def test_another_model_begins_with_one_that_has_the_symbol(rare: Path) -> None:
    (rare / "other.txt").write_text("The king is fair.\n☃☃☃☃ § fog\n" * 40, encoding="utf-8")
    options = (*TINY[:2], "--epochs", "1", "--max-vocab", "12", "-q")
    result = run("train", "other.txt", "--from", "rare", *options)
    assert result.exit_code == 0, result.output
    assert run("generate", "--model", "other", "--seed", "☃", "--length", "9").exit_code == 0


@tf
@pytest.mark.slow
@pytest.mark.parametrize("target", ["keras", "onnx"])
def test_the_lines_of_an_exports_readme_never_write_it(tmp_path: Path, target: str) -> None:
    from test_export import python, readme_code

    from charlstm.export import export_model

    checkpoint = make_model(tmp_path / "model")
    export_model(checkpoint, target=target, output=tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "7 characters and an unknown symbol" in readme
    assert f"has the id {SYMBOL}, the unknown symbol" in readme
    code = readme_code(tmp_path / "out")
    text = python(code, folder=tmp_path / "out")
    assert set(text) <= set(CHARACTERS)
    begin = "text = read = "
    seed = next(line for line in code.splitlines() if line.startswith(begin))
    typed = code.replace(seed, f"{begin}'ab\\u2603'")
    text = python(typed, folder=tmp_path / "out")
    assert text.startswith("ab☃")
    assert set(text[3:]) <= set(CHARACTERS)


@tf
@pytest.mark.slow
def test_an_export_comes_back_with_the_prepared_text(rare: Path, tmp_path: Path) -> None:
    assert run("export", "rare", "--to", "keras", "-o", str(tmp_path / "out")).exit_code == 0
    run("prepare", "rare.txt", "--max-vocab", "20", "--output", str(tmp_path / "text"))
    keras_file = str(tmp_path / "out" / "model.keras")
    result = run("import", keras_file, str(tmp_path / "text"), "--model", "back")
    assert result.exit_code == 0, result.output
    assert "20 different characters and a symbol for all others" in result.stdout
    texts = [
        run("generate", "--model", name, "--seed", "The ☃", "--random-seed", "3").stdout
        for name in ("rare", "back")
    ]
    assert texts[0] == texts[1]
