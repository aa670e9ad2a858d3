"""Writing text: who writes, from what, and the loops around the network."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    LONG_MEMORY,
    VOCABULARY,
    Weights,
    make_checkpoint,
    make_network,
    naive_log_p,
    naive_network,
    naive_text,
    random_weights,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm import generation
from charlstm.checkpoint import Checkpoint
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMStep, make_reader
from charlstm.errors import CharlstmError, ConfigError, SeedTextError
from charlstm.generation import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_P,
    Piece,
    Voice,
    fit_seed_text,
    in_order,
    pick_seed_window,
    search_beams,
    write_texts,
)
from charlstm.sampling import SamplingConfig
from charlstm.stopping import StopRules
from charlstm.vocabulary import Vocabulary

VOCAB = len(CHARACTERS)
# As in test_engine; here of probabilities, which are less than their logarithms.
TOLERANCE = 1e-5


def random_text(n_chars: int, random_seed: int = 1) -> str:
    ids = np.random.default_rng(random_seed).integers(0, VOCAB, size=n_chars)
    return "".join(CHARACTERS[n] for n in ids)


def ids_of(text: str) -> list[int]:
    return [CHARACTERS.index(c) for c in text]


def pieces_of(
    voice: Voice,
    seed_texts: Sequence[str],
    *,
    random_seeds: Sequence[int],
    n_alternatives: int = 0,
    temperature: float = 1.0,
    rules: StopRules | None = None,
    **sampling: object,
) -> list[Piece]:
    return list(
        write_texts(
            voice,
            seed_texts,
            random_seeds=random_seeds,
            sampling=SamplingConfig(temperature=temperature, **sampling),  # type: ignore[arg-type]
            rules=rules or StopRules(length=40),
            n_alternatives=n_alternatives,
        )
    )


def texts_of(pieces: Sequence[Piece], n_texts: int) -> list[str]:
    return ["".join(p.text for p in pieces if p.sample == n) for n in range(n_texts)]


def write(
    who: Checkpoint | Voice,
    seed_text: str,
    *,
    length: int = 40,
    random_seed: int = 3,
    **sampling: object,
) -> str:
    """Write one text alone."""
    voice = who if isinstance(who, Voice) else Voice.of(who)
    pieces = pieces_of(
        voice,
        [seed_text],
        random_seeds=[random_seed],
        rules=StopRules(length=length),
        **sampling,  # type: ignore[arg-type]
    )
    return "".join(piece.text for piece in pieces)


# --- readers that are made by hand ----------------------------------------------


class Successor:
    """A reader after which the next letter of the alphabet always wins."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.columns: list[list[int]] = []

    def read(self, ids: np.ndarray) -> None:
        assert len(ids) == self.batch
        self.columns.append(ids.tolist())

    def logits(self) -> np.ndarray:
        logits = np.full((self.batch, VOCAB), -np.inf, np.float32)
        logits[np.arange(self.batch), (np.array(self.columns[-1]) + 1) % VOCAB] = 0
        return logits

    def select(self, rows: np.ndarray) -> None:
        self.batch = len(rows)
        self.columns[-1] = [self.columns[-1][row] for row in rows]


@dataclasses.dataclass(frozen=True)
class SuccessorVoice(Voice):
    """Speaks with a `Successor`, and keeps those it made."""

    parts: tuple = ()
    vocabulary: Vocabulary = VOCABULARY
    made: list[Successor] = dataclasses.field(default_factory=list)

    def reader(self, *, batch: int) -> Successor:
        self.made.append(Successor(batch))
        return self.made[-1]


@pytest.mark.parametrize("temperature", [0, 0.8, 3])
def test_a_forced_reader_writes_a_known_text(temperature: float) -> None:
    voice = SuccessorVoice()
    # "\n", " ", "a" … "é": the seed is the first and the fourth of them.
    assert write(voice, "\nb", length=6, temperature=temperature) == "cdé\n a"
    # The seed and all that was written but the last, each once and in order.
    (reader,) = voice.made
    assert reader.columns == [[n] for n in [0, 3, 4, 5, 6, 0, 1]]


def test_a_character_is_given_before_the_next_is_thought_of() -> None:
    voice = SuccessorVoice()
    pieces = write_texts(voice, ["ac"], random_seeds=[0], sampling=SamplingConfig())
    assert voice.made == []
    assert next(pieces) == Piece(0, "d")
    (reader,) = voice.made
    assert reader.columns == [[2], [4]]


# --- who writes -----------------------------------------------------------------


def mixed_checkpoints(folder: Path) -> list[Checkpoint]:
    """Three models of different shapes; they share "abé " and a line feed."""
    made = []
    for n, (characters, changes) in enumerate(
        [
            (CHARACTERS, {"seq_length": 6}),
            ("\n abéxyzXY", {"units": 4, "layers": 3}),
            ("ABC\n abéß.,", {"carries_state": False, "seq_length": 5, "layers": 1}),
        ]
    ):
        network = make_network(vocabulary_size=len(characters), **changes)
        weights = random_weights(network, random_seed=40 + n, gate_biases=LONG_MEMORY)
        made.append(
            make_checkpoint(
                folder / f"tale{n}", network, weights, Vocabulary(characters), seed_windows=[]
            )
        )
    return made


def naive_mixture(parts: Sequence[tuple[Checkpoint, float]], text: str) -> dict[str, float]:
    """What a mixture of models says after a text: weighted mean log-probabilities."""
    shared = list(parts[0][0].vocabulary.characters)
    for checkpoint, _ in parts[1:]:
        shared = [c for c in shared if c in checkpoint.vocabulary.characters]
    means = dict.fromkeys(shared, 0.0)
    total = sum(weight for _, weight in parts)
    for checkpoint, weight in parts:
        own_ids = checkpoint.vocabulary.char_to_id
        window = (
            text if checkpoint.network.carries_state else text[-checkpoint.network.seq_length :]
        )
        row = [own_ids[c] for c in window]
        logits = naive_network(checkpoint.network, checkpoint.weights, [row]).logits[0, -1]
        for c in shared:
            means[c] += weight / total * naive_log_p(logits, own_ids[c])
    return means


def test_one_model_speaks_with_all_its_characters(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    voice = Voice.of(checkpoint)
    ((step, vocabulary, weight),) = voice.parts
    assert (step.network, vocabulary, weight) == (checkpoint.network, VOCABULARY, 1.0)
    assert voice.vocabulary == VOCABULARY
    assert voice.options == (checkpoint.text_options,)
    assert voice.seed_windows == tuple(checkpoint.seed_windows) != ()
    reader = voice.reader(batch=3)
    for column in np.array([[0, 3, 6], [5, 5, 1]]):
        reader.read(column)
    expected = naive_network(checkpoint.network, checkpoint.weights, [[0, 5], [3, 5], [6, 1]])
    np.testing.assert_allclose(reader.logits(), expected.logits[:, -1], atol=TOLERANCE)


def test_a_mix_writes_the_characters_that_all_know(tmp_path: Path) -> None:
    checkpoints = mixed_checkpoints(tmp_path)
    voice = Voice.mixed([(checkpoint, 1.0) for checkpoint in checkpoints])
    assert "".join(voice.vocabulary.characters) == "\n abé"
    assert [vocabulary for _, vocabulary, _ in voice.parts] == [c.vocabulary for c in checkpoints]
    assert set(write(voice, "ab", length=300)) == set("\n abé")


@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 6, 0.5), (1e9, 1e8, 1e9), (3e-5, 1e-5, 6e-5)])
def test_weights_are_shares_whatever_they_add_up_to(
    tmp_path: Path, weights: tuple[float, ...]
) -> None:
    checkpoints = mixed_checkpoints(tmp_path)
    parts = list(zip(checkpoints, weights, strict=True))
    voice = Voice.mixed(parts)
    shares = [share for _, _, share in voice.parts]
    assert math.fsum(shares) == pytest.approx(1, rel=1e-12)
    for share, weight in zip(shares, weights, strict=True):
        assert share / shares[0] == pytest.approx(weight / weights[0])
    reader = voice.reader(batch=2)
    for column in ("ab", "\né", " a"):
        reader.read(voice.vocabulary.encode(column))
    for row, text in zip(reader.logits(), ("a\n ", "béa"), strict=True):
        expected = naive_mixture(parts, text)
        assert dict(zip(voice.vocabulary.characters, row, strict=True)) == pytest.approx(
            expected, abs=TOLERANCE
        )


def test_a_mix_writes_what_the_naive_mix_writes(tmp_path: Path) -> None:
    checkpoints = mixed_checkpoints(tmp_path)
    texts = []
    for weights in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8)):
        parts = list(zip(checkpoints, weights, strict=True))
        text = "ab a"
        for _ in range(25):
            said = naive_mixture(parts, text)
            text += max(said, key=lambda c: said[c])
        texts.append(text[4:])
        assert write(Voice.mixed(parts), "ab a", length=25, temperature=0) == texts[-1]
    assert len(set(texts)) > 1, "the networks were chosen badly: weights do not matter"


@pytest.mark.parametrize(
    ("characters", "n_shared"), [("xyzuvwt", 0), ("\nxyzuvw", 1), ("axyzuvw", 1)]
)
def test_a_mix_needs_two_characters_in_common(
    tmp_path: Path, characters: str, n_shared: int
) -> None:
    one = make_checkpoint(tmp_path / "tale")
    other = make_checkpoint(
        tmp_path / "saga\x1b", vocabulary=Vocabulary(characters), seed_windows=[]
    )
    with pytest.raises(ConfigError) as caught:
        Voice.mixed([(one, 0.5), (other, 0.5)])
    assert caught.value.message == (
        rf"tale and saga\x1b have {n_shared} characters in common; writing needs two"
    )
    assert caught.value.exit_code == 2


def test_two_characters_in_common_are_enough(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "tale")
    other = make_checkpoint(tmp_path / "saga", vocabulary=Vocabulary("aéxyzuv"), seed_windows=[])
    voice = Voice.mixed([(one, 1.0), (other, 1.0)])
    # There is no line feed to begin with, so that an empty seed is an "a".
    assert voice.vocabulary == Vocabulary("aé")
    assert set(write(voice, "", length=60)) == {"a", "é"}


@pytest.mark.parametrize("weight", [0, -0.5, float("nan"), float("inf"), 2e9, True])
def test_an_impossible_weight_is_refused(tmp_path: Path, weight: float) -> None:
    checkpoint = make_checkpoint(tmp_path)
    with pytest.raises(ConfigError) as caught:
        Voice.mixed([(checkpoint, 1.0), (checkpoint, weight)])
    assert caught.value.message == (
        f"a model's weight must be a finite number above 0 and at most 1e+09, not {weight!r}"
    )


def corpus(**options: object) -> dict[str, object]:
    """What `config.json` says of the text, with these options of reading it."""
    about: dict[str, object] = {"name": "café", "sha256": "5f" * 32, "characters": 4_321}
    return {"corpus": about | {"options": {"encoding": "utf-8", "normalize": "NFC"} | options}}


@pytest.mark.parametrize(
    ("first", "second", "cleaned"),
    [
        ({}, {}, "ÉA\nb\n"),
        ({"lowercase": True}, {}, "éa\nb\n"),
        ({}, {"lowercase": True}, "éa\nb\n"),
        ({"normalize": "none"}, {"normalize": "none"}, "E\u0301A\nb\n"),
        ({"normalize": "none"}, {"normalize": "NFC"}, "ÉA\nb\n"),
        ({"normalize": "none", "lowercase": True}, {"normalize": "none"}, "e\u0301a\nb\n"),
    ],
)
def test_a_seed_is_treated_as_the_corpora_were(
    tmp_path: Path, first: dict[str, object], second: dict[str, object], cleaned: str
) -> None:
    checkpoints = [
        make_checkpoint(tmp_path / f"tale{n}", **corpus(**options))
        for n, options in enumerate((first, second))
    ]
    voice = Voice.mixed([(checkpoint, 1.0) for checkpoint in checkpoints])
    assert voice.clean("E\u0301A\r\nb\r") == cleaned
    if first == second:
        assert Voice.of(checkpoints[0]).clean("E\u0301A\r\nb\r") == cleaned


def test_a_mix_begins_only_with_windows_that_all_can_read(tmp_path: Path) -> None:
    one = make_checkpoint(tmp_path / "tale", seed_windows=["abcd abc", "aé\nb", "ab"])
    other = make_checkpoint(
        tmp_path / "saga", vocabulary=Vocabulary("\n abéxy"), seed_windows=["bab", "xaby", "é a"]
    )
    assert Voice.of(one).seed_windows == ("abcd abc", "aé\nb", "ab")
    mixed = Voice.mixed([(one, 1.0), (other, 1.0)])
    assert mixed.seed_windows == ("aé\nb", "ab", "bab", "é a")


def test_the_articles_network_takes_the_likeliest_by_itself(tmp_path: Path) -> None:
    carried = make_checkpoint(tmp_path / "carried")
    window = make_checkpoint(tmp_path / "window", make_network(carries_state=False))
    usual = SamplingConfig(temperature=DEFAULT_TEMPERATURE, top_p=DEFAULT_TOP_P)
    assert Voice.of(carried).sampling() == usual
    assert Voice.of(window).sampling() == SamplingConfig(temperature=0.0)
    # Of several the first decides.
    assert Voice.mixed([(window, 1), (carried, 1)]).sampling().temperature == 0
    for checkpoint, sampling in ((carried, usual), (window, SamplingConfig(temperature=0.0))):
        voice = Voice.of(checkpoint)
        written = write_texts(voice, ["ab"], random_seeds=[3], rules=StopRules(length=40))
        again = write_texts(
            voice, ["ab"], random_seeds=[3], rules=StopRules(length=40), sampling=sampling
        )
        assert texts_of(list(written), 1) == texts_of(list(again), 1)


@pytest.mark.parametrize(
    "given",
    [{"temperature": 1.0}, {"top_k": 3}, {"min_p": 0.1}, {"typical_p": 0.5}, {"temperature": 0.6}],
)
def test_who_types_a_temperature_or_a_filter_gets_that_alone(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    got = Voice.of(make_checkpoint(tmp_path)).sampling(**given)
    assert got == SamplingConfig(**({"temperature": DEFAULT_TEMPERATURE} | given))


def test_the_usual_top_p_stays_with_what_is_no_filter(tmp_path: Path) -> None:
    got = Voice.of(make_checkpoint(tmp_path)).sampling(repetition_penalty=2.0)
    assert (got.top_p, got.repetition_penalty) == (DEFAULT_TOP_P, 2.0)


# --- one text -------------------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("seed_text", ["b", "é\nca", "abcd" * 5])
def test_argmax_writes_what_the_naive_network_writes(
    tmp_path: Path, kind: str, carries_state: bool, seed_text: str
) -> None:
    network = make_network(input=kind, carries_state=carries_state, seq_length=6)
    weights = random_weights(network, random_seed=8)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    expected = naive_text(network, weights, seed_text, 12)
    for random_seed in (0, 1):
        got = write(checkpoint, seed_text, length=12, temperature=0, random_seed=random_seed)
        assert got == expected


def test_the_same_random_seed_writes_the_same_text(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    texts = [write(checkpoint, "abc", length=60, random_seed=n) for n in (0, 1, 2, 0, 1, 2)]
    assert texts[:3] == texts[3:]
    # Of 60 characters from 7, two random texts are never the same.
    assert len(set(texts[:3])) == 3


def test_a_longer_text_begins_with_the_shorter(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path)
    assert write(checkpoint, "abc", length=50).startswith(write(checkpoint, "abc", length=20))


def test_draws_follow_the_network(tmp_path: Path) -> None:
    # Weights of zero and a chosen bias: probabilities 1/2, 1/4, 1/8, 1/8 and
    # three that cannot happen, whatever was read. 16.27 is the 99.9% point of
    # chi-squared with 3 degrees of freedom.
    network = make_network()
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    shares = {"a": 1 / 2, "d": 1 / 4, "\n": 1 / 8, "é": 1 / 8}
    weights["dense/bias"][:] = -200
    for character, share in shares.items():
        weights["dense/bias"][CHARACTERS.index(character)] = np.log(share)
    text = write(make_checkpoint(tmp_path, network, weights), "b", length=4_000)
    assert set(text) == set(shares)
    statistic = sum(
        (text.count(c) - 4_000 * share) ** 2 / (4_000 * share) for c, share in shares.items()
    )
    assert statistic < 16.27


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("length", [0, 1, 2, 37])
@pytest.mark.parametrize("temperature", [0, 1])
def test_exactly_as_many_characters_as_asked_for(
    tmp_path: Path, carries_state: bool, length: int, temperature: float
) -> None:
    checkpoint = make_checkpoint(tmp_path, make_network(carries_state=carries_state))
    pieces = pieces_of(
        Voice.of(checkpoint),
        ["cab"],
        random_seeds=[5],
        temperature=temperature,
        rules=StopRules(length=length),
    )
    # Nothing is held back where no stop text could begin: a piece a character.
    assert [len(piece.text) for piece in pieces] == [1] * length or length == 0
    assert [piece.stopped for piece in pieces] == [None] * (length - 1) + ["length"]
    text = "".join(piece.text for piece in pieces)
    assert len(text) == length
    assert all(c in VOCABULARY for c in text)


def test_no_rules_are_500_characters(tmp_path: Path) -> None:
    pieces = list(write_texts(Voice.of(make_checkpoint(tmp_path)), ["ab"], random_seeds=[0]))
    assert sum(len(piece.text) for piece in pieces) == 500
    assert pieces[-1].stopped == "length"


def test_a_carried_state_reads_a_long_seed_whole(tmp_path: Path) -> None:
    # 300 characters, six windows of 50; the gates stay open, so the first
    # characters still decide what is written.
    network = make_network(seq_length=50)
    weights = random_weights(network, random_seed=13, gate_biases=LONG_MEMORY)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    tail = random_text(292)
    heads = ["aaaaaaaa", "\n\n\n\n\n\n\n\n", "éééééééé"]
    texts = [write(checkpoint, head + tail, length=6, temperature=0) for head in heads]
    expected = [naive_text(network, weights, head + tail, 6) for head in heads]
    assert texts == expected
    assert len(set(expected)) > 1, "the seeds were chosen badly: their beginning does not matter"


def test_a_window_forgets_what_is_before_it(tmp_path: Path) -> None:
    network = make_network(carries_state=False, seq_length=8)
    weights = random_weights(network, random_seed=3)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    texts = {write(checkpoint, head + "abcd\nabc", length=15) for head in ("", "d", "é" * 90)}
    assert len(texts) == 1


def test_a_window_reads_all_of_its_seed(tmp_path: Path) -> None:
    network = make_network(carries_state=False, seq_length=8)
    weights = random_weights(network, random_seed=3)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    seeds = [random_text(20, random_seed=n) for n in range(40)]
    written = [write(checkpoint, seed, length=1, temperature=0) for seed in seeds]
    right, short, long = (
        [naive_text(network, weights, seed, 1, window=window) for seed in seeds]
        for window in (8, 7, 9)
    )
    assert written == right
    assert right not in (short, long), "the seeds were chosen badly: one more or less is the same"


@pytest.mark.parametrize(
    ("characters", "first"), [("\n abcdé", "\n"), ("zyxwvut", "t"), ("\t\nabcde", "\n")]
)
def test_an_empty_seed_starts_from_a_newline_or_the_first_character(
    tmp_path: Path, characters: str, first: str
) -> None:
    checkpoint = make_checkpoint(tmp_path, vocabulary=Vocabulary(characters), seed_windows=[])
    assert write(checkpoint, "") == write(checkpoint, first)


def test_a_seed_counts_for_the_repetition_penalty(tmp_path: Path) -> None:
    # By argmax this network goes round in a circle, in which the seed already is.
    network = make_network()
    weights = random_weights(network, random_seed=18)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    seed_text = "b" + naive_text(network, weights, "b", 60)
    circle = naive_text(network, weights, seed_text, 11)
    assert circle in seed_text
    assert write(checkpoint, seed_text, length=11, temperature=0) == circle
    held = write(checkpoint, seed_text, length=11, temperature=0, repetition_penalty=1e6)
    # Repetitions of fewer than 12 characters are free: without the seed there is none.
    assert held[0] != circle[0]


def test_blas_has_its_own_number_of_threads_after_a_closed_pipe(tmp_path: Path) -> None:
    import threadpoolctl

    def threads() -> list[int]:
        return [
            pool["num_threads"]
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        ]

    before = threads()
    written = write_texts(Voice.of(make_checkpoint(tmp_path)), ["ab"], random_seeds=[0])
    next(written)
    assert set(threads()) <= {1}
    written.close()
    assert threads() == before


@pytest.mark.parametrize(
    ("carries_state", "sampling"),
    [
        (True, {}),
        (True, {"repetition_penalty": 2.0}),
        (False, {"top_k": 4}),
        (True, {"temperature": 0.0, "beams": 3}),
    ],
    ids=str,
)
def test_memory_does_not_grow_with_the_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    carries_state: bool,
    sampling: dict[str, float],
) -> None:
    # Two words kept of each character would be 32,000 bytes after 2,000; NumPy
    # fills its own store of small blocks meanwhile, and that is 20,000 at most.
    monkeypatch.setattr(generation, "_LONGEST_DISAGREEMENT", 1)
    network = make_network(carries_state=carries_state, seq_length=2, layers=1)
    pieces = write_texts(
        Voice.of(make_checkpoint(tmp_path, network)),
        ["ab"],
        random_seeds=[3],
        sampling=SamplingConfig(**sampling),  # type: ignore[arg-type]
        rules=StopRules(length=10_000, stops=("é" * 9,)),
        n_alternatives=2,
    )
    n_bytes = []
    tracemalloc.start()
    try:
        for n_more in (300, 2_000):
            n_written = 0
            while n_written < n_more:
                n_written += len(next(pieces).text)
            gc.collect()  # which empties Python's stores of freed objects, too
            n_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        pieces.close()  # type: ignore[attr-defined]
    assert n_bytes[1] < n_bytes[0] + 30_000


# --- several texts side by side ----------------------------------------------------

# Alone a product of one row may be summed in another order than in a batch. A
# text could differ where a draw falls within the last bit of a probability:
# once in a million characters.
WAYS = [
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 1.7, "top_k": 4, "top_p": 0.9},
    {"temperature": 1.0, "mirostat": 2.0},
    {"temperature": 0.5, "repetition_penalty": 2.0},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("carries_state", [True, False])
def test_texts_side_by_side_equal_each_alone(
    tmp_path: Path, carries_state: bool, way: dict[str, float]
) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    voice = Voice.of(make_checkpoint(tmp_path, network))
    numbers = [11, 7, 30, 12, 7]
    # One seed for all, which is read once; and one each, all of a length.
    for seeds in (["abcad"] * 5, ["abc", "d\né", "aab", "ccc", "é  "]):
        together = texts_of(pieces_of(voice, seeds, random_seeds=numbers, **way), 5)
        assert together == [
            write(voice, seed, random_seed=number, **way)
            for seed, number in zip(seeds, numbers, strict=True)
        ]
        assert way["temperature"] == 0 or len(set(together)) >= 4


def test_a_mix_writes_side_by_side_what_it_writes_alone(tmp_path: Path) -> None:
    parts = zip(mixed_checkpoints(tmp_path), (1, 2, 3), strict=True)
    voice = Voice.mixed(list(parts))
    numbers = range(20, 24)
    together = texts_of(pieces_of(voice, ["ab é"] * 4, random_seeds=numbers), 4)
    assert together == [write(voice, "ab é", random_seed=n) for n in numbers]


def test_seeds_may_have_different_lengths(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path, seed_windows=[]))
    seeds = ["b", "é", "é\nca", "", "ab", "d\n", "cb", "abcd" * 30, "b"]
    pieces = pieces_of(voice, seeds, random_seeds=range(9))
    alone = [write(voice, seed, random_seed=n) for n, seed in enumerate(seeds)]
    assert texts_of(pieces, 9) == alone
    assert len(set(alone)) == 9


def test_only_seeds_of_one_length_are_read_together() -> None:
    voice = SuccessorVoice()
    seeds = ["a", "b", "cd", "da", "bé", "a"]
    pieces = pieces_of(voice, seeds, random_seeds=range(6), rules=StopRules(length=3))
    assert texts_of(pieces, 6) == ["bcd", "cdé", "é\n ", "bcd", "\n a", "bcd"]
    assert [[len(column) for column in reader.columns] for reader in voice.made] == [
        [2, 2, 2],
        [3, 3, 3, 3],
        [1, 1, 1],
    ]


def test_a_seed_that_all_share_is_read_once() -> None:
    voice = SuccessorVoice()
    pieces = pieces_of(voice, ["a\nb"] * 4, random_seeds=range(4), rules=StopRules(length=3))
    assert texts_of(pieces, 4) == ["cdé"] * 4
    (reader,) = voice.made
    # The last of the seed is repeated by the selection, not by reading.
    assert reader.columns == [[2], [0], [3] * 4, [4] * 4, [5] * 4]


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 8])
def test_many_texts_are_written_in_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    voice = Voice.of(make_checkpoint(tmp_path))
    seeds = ["ab"] * 4 + ["bc"] * 3
    expected = [write(voice, seed, random_seed=50 + n) for n, seed in enumerate(seeds)]
    monkeypatch.setattr(generation, "TEXTS_AT_ONCE", at_once)
    pieces = pieces_of(voice, seeds, random_seeds=range(50, 57))
    assert texts_of(pieces, 7) == expected
    # No text of a group begins before those of the group before it are over.
    begun = [piece.sample // at_once for piece in pieces]
    assert begun == sorted(begun)
    counting = SuccessorVoice()
    pieces_of(counting, ["ab"] * 7, random_seeds=range(7))
    widths = [len(reader.columns[-1]) for reader in counting.made]
    assert sum(widths) == 7
    assert max(widths) == min(at_once, 7)
    assert len(widths) == math.ceil(7 / at_once)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("carries_state", [True, False])
def test_texts_that_end_early_leave_the_others_as_they_are(
    tmp_path: Path, carries_state: bool, way: dict[str, float]
) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    voice = Voice.of(make_checkpoint(tmp_path, network, random_weights(network, 3)))
    seeds = ["ab", "dé", "\n ", "cc", "é\n", "ba"]
    whole = [write(voice, seed, random_seed=n, **way) for n, seed in enumerate(seeds)]
    # The two characters that end about half of them.
    stop = min(
        {text[n : n + 2] for text in whole for n in range(39)},
        key=lambda pair: (abs(sum(pair in text for text in whole) - 3), pair),
    )
    pieces = pieces_of(
        voice,
        seeds,
        random_seeds=range(6),
        rules=StopRules(length=40, stops=(stop, "\ncé\n")),
        **way,
    )
    cut = [min(text.split(stop)[0], text.split("\ncé\n")[0], key=len) for text in whole]
    assert texts_of(pieces, 6) == cut
    reasons = {piece.sample: piece.stopped for piece in pieces if piece.stopped}
    assert reasons == {n: "length" if cut[n] == text else "stop" for n, text in enumerate(whole)}
    assert set(reasons.values()) == {"length", "stop"}, "chosen badly: all end alike"


def test_lines_are_counted_for_each_text(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path))
    whole = [write(voice, "ab", random_seed=n, length=200) for n in range(5)]
    rules = StopRules(length=200, lines=3)
    pieces = pieces_of(voice, ["ab"] * 5, random_seeds=range(5), rules=rules)
    assert texts_of(pieces, 5) == ["".join(text.splitlines(True)[:3]) for text in whole]
    assert len({len(text) for text in texts_of(pieces, 5)}) > 2


def test_each_text_has_one_end_and_nothing_after_it(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path))
    rules = StopRules(length=60, stops=("ab", "é\n"))
    pieces = pieces_of(voice, ["d"] * 6 + ["db"], random_seeds=range(7), rules=rules)
    for n in range(7):
        own = [piece.stopped for piece in pieces if piece.sample == n]
        assert own[-1] is not None
        assert set(own[:-1]) <= {None}
    # A piece that says nothing is only ever the end.
    assert all(piece.text or piece.stopped for piece in pieces)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0, "beams": 4}], ids=str)
def test_texts_of_no_length_end_at_once(sampling: dict[str, float]) -> None:
    voice = SuccessorVoice()
    pieces = write_texts(
        voice,
        ["ab", "c", "d"],
        random_seeds=[1, 2, 3],
        sampling=SamplingConfig(**sampling),  # type: ignore[arg-type]
        rules=StopRules(length=0),
    )
    assert list(pieces) == [Piece(n, "", "length") for n in range(3)]
    assert voice.made == []


def test_no_texts_are_no_pieces(tmp_path: Path) -> None:
    assert pieces_of(Voice.of(make_checkpoint(tmp_path)), [], random_seeds=[]) == []


# --- how likely it was ---------------------------------------------------------------


def naive_probabilities(checkpoint: Checkpoint, text: str) -> dict[str, float]:
    """What a model gives each character after a text, by plain numbers."""
    said = naive_mixture([(checkpoint, 1.0)], text)
    return {c: math.exp(log_p) for c, log_p in said.items()}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("carries_state", [True, False])
def test_probabilities_are_the_models_own_whatever_picks(
    tmp_path: Path, carries_state: bool, way: dict[str, float]
) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    checkpoint = make_checkpoint(tmp_path, network)
    seeds = ["ab", "é\n", "cd"]
    rules = StopRules(length=15)
    pieces = pieces_of(
        Voice.of(checkpoint), seeds, random_seeds=[4, 5, 6], rules=rules, n_alternatives=3, **way
    )
    texts = texts_of(pieces, 3)
    # To ask for them changes nothing.
    plain = pieces_of(Voice.of(checkpoint), seeds, random_seeds=[4, 5, 6], rules=rules, **way)
    assert texts == texts_of(plain, 3)
    assert all(piece.probabilities == () for piece in plain)
    for n, seed in enumerate(seeds):
        told = [about for p in pieces if p.sample == n for about in p.probabilities]
        assert "".join(about.character for about in told) == texts[n]
        for position, about in enumerate(told):
            expected = naive_probabilities(checkpoint, seed + texts[n][:position])
            assert about.probability == pytest.approx(expected[about.character], abs=TOLERANCE)
            likeliest = sorted(expected, key=lambda c: -expected[c])[:3]
            assert [c for c, _ in about.alternatives] == likeliest
            assert [p for _, p in about.alternatives] == pytest.approx(
                [expected[c] for c in likeliest], abs=TOLERANCE
            )


@pytest.mark.parametrize("n_alternatives", [1, VOCAB, VOCAB + 5])
def test_there_are_no_more_alternatives_than_characters(
    tmp_path: Path, n_alternatives: int
) -> None:
    pieces = pieces_of(
        Voice.of(make_checkpoint(tmp_path)),
        ["ab"],
        random_seeds=[3],
        n_alternatives=n_alternatives,
        temperature=0,
    )
    for piece in pieces:
        (about,) = piece.probabilities
        assert len(about.alternatives) == min(n_alternatives, VOCAB)
        # By argmax the likeliest is what was written.
        assert about.alternatives[0] == (about.character, about.probability)
        if n_alternatives >= VOCAB:
            assert sorted(c for c, _ in about.alternatives) == sorted(CHARACTERS)
            assert math.fsum(p for _, p in about.alternatives) == pytest.approx(1, rel=1e-12)


def test_a_mix_tells_what_the_mix_thought(tmp_path: Path) -> None:
    parts = list(zip(mixed_checkpoints(tmp_path), (1, 2, 3), strict=True))
    pieces = pieces_of(
        Voice.mixed(parts),
        ["ab"],
        random_seeds=[3],
        n_alternatives=2,
        rules=StopRules(length=8),
    )
    text = "ab"
    for piece in pieces:
        (about,) = piece.probabilities
        said = naive_mixture(parts, text)
        # Of what all know, made to add up to 1.
        total = math.fsum(math.exp(x) for x in said.values())
        assert about.probability == pytest.approx(
            math.exp(said[about.character]) / total, abs=TOLERANCE
        )
        assert about.alternatives[0][0] == max(said, key=lambda c: said[c])
        text += piece.text


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("seed_text", ["ab", "c", "é\n"])
def test_probabilities_stay_with_their_characters_where_a_stop_text_cuts(
    tmp_path: Path, seed_text: str, beams: int
) -> None:
    network = make_network()
    checkpoint = make_checkpoint(tmp_path, network, random_weights(network, 2))
    way = {"temperature": 0.0, "beams": 3} if beams > 1 else {}
    whole = write(checkpoint, seed_text, length=30, random_seed=9, **way)
    stop = whole[8:12]
    pieces = pieces_of(
        Voice.of(checkpoint),
        [seed_text],
        random_seeds=[9],
        rules=StopRules(length=30, stops=(stop, stop[1:] + "a\né")),
        n_alternatives=2,
        **way,
    )
    written = "".join(piece.text for piece in pieces)
    assert written == whole[: whole.index(stop)]
    assert pieces[-1].stopped == "stop"
    for piece in pieces:
        assert "".join(about.character for about in piece.probabilities) == piece.text
    told = [about for piece in pieces for about in piece.probabilities]
    for position, about in enumerate(told):
        expected = naive_probabilities(checkpoint, seed_text + written[:position])
        assert about.probability == pytest.approx(expected[about.character], abs=TOLERANCE)


def test_what_was_held_back_comes_with_its_probabilities(tmp_path: Path) -> None:
    # "bcda" could have been "bcdab": four characters come at once, or at the end.
    pieces = pieces_of(
        SuccessorVoice(),
        [" "],
        random_seeds=[0],
        rules=StopRules(length=12, stops=("bcda", "\n b")),
        n_alternatives=1,
    )
    shown = [(p.text, "".join(a.character for a in p.probabilities)) for p in pieces]
    assert all(text == told for text, told in shown)
    assert "".join(text for text, _ in shown) == "abcdé\n abcdé"
    assert max(len(text) for text, _ in shown) == 4


# --- one text after the other --------------------------------------------------------


def numbered(*samples: int, last: str = "") -> list[Piece]:
    """Pieces "0a", "0b" … of the samples named; the last of each ends it."""
    pieces = []
    for position, sample in enumerate(samples):
        is_last = sample not in samples[position + 1 :]
        letter = "abcdefghij"[samples[:position].count(sample)]
        pieces.append(Piece(sample, f"{sample}{letter}", "length" if is_last else None))
    return pieces


def assert_whole(ordered: list[Piece], pieces: list[Piece]) -> None:
    """One text after the other, each whole, ended once, with its probabilities."""
    assert [p.sample for p in ordered] == sorted(p.sample for p in ordered)
    for sample in {piece.sample for piece in pieces}:
        got, expected = ([p for p in some if p.sample == sample] for some in (ordered, pieces))
        assert "".join(p.text for p in got) == "".join(p.text for p in expected)
        assert [p.stopped for p in got if p.stopped] == [p.stopped for p in expected if p.stopped]
        assert got[-1].stopped == expected[-1].stopped
        assert sum((p.probabilities for p in got), ()) == sum(
            (p.probabilities for p in expected), ()
        )


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ((), ""),
        ((0, 0, 0), "0a0b0c"),
        ((0, 1, 0, 1), "0a0b1a1b"),
        ((1, 0, 2, 1, 0, 2), "0a0b1a1b2a2b"),
        ((2, 1, 0), "0a1a2a"),
        ((2, 2, 1, 0, 1, 0, 0), "0a0b0c1a1b2a2b"),
        ((0, 0, 1, 1), "0a0b1a1b"),
    ],
)
def test_texts_come_one_after_the_other(samples: tuple[int, ...], expected: str) -> None:
    ordered = list(in_order(iter(numbered(*samples))))
    assert "".join(piece.text for piece in ordered) == expected
    assert_whole(ordered, numbered(*samples))


# Of up to five texts one to six pieces each, in any order.
@given(
    st.lists(st.integers(1, 6), max_size=5).flatmap(
        lambda counts: st.permutations([n for n, count in enumerate(counts) for _ in range(count)])
    )
)
def test_any_pieces_are_sorted_by_text_and_keep_their_order(samples: list[int]) -> None:
    pieces = numbered(*samples)
    assert_whole(list(in_order(iter(pieces))), pieces)


def test_the_first_text_is_not_kept_waiting() -> None:
    taken: list[str] = []

    def given_out() -> Iterator[Piece]:
        for piece in numbered(0, 1, 0, 1, 2, 0, 1, 2):
            taken.append(piece.text)
            yield piece

    ordered = in_order(given_out())
    seen = []
    for piece in ordered:
        seen.append((piece.text, taken[-1]))
    assert seen == [
        ("0a", "0a"),
        ("0b", "0b"),
        ("0c", "0c"),
        # What was kept of the second comes now, as one piece, and the rest as it comes.
        ("1a1b", "0c"),
        ("1c", "1c"),
        ("2a", "1c"),
        ("2b", "2b"),
    ]


def test_what_a_batch_writes_can_be_put_in_order(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path))
    rules = StopRules(length=30, stops=("ab",))
    pieces = pieces_of(voice, ["ab", "ab", "d"], random_seeds=[1, 2, 3], rules=rules)
    assert [piece.sample for piece in pieces] != sorted(piece.sample for piece in pieces)
    assert_whole(list(in_order(iter(pieces))), pieces)


def test_what_waits_is_kept_with_its_probabilities(tmp_path: Path) -> None:
    voice = Voice.of(make_checkpoint(tmp_path))
    pieces = list(
        write_texts(
            voice, ["ab", "d"], random_seeds=[1, 2], rules=StopRules(length=9), n_alternatives=2
        )
    )
    assert_whole(list(in_order(iter(pieces))), pieces)


# --- beam search -----------------------------------------------------------------------

SMALL = 4  # characters, so that all texts of 4 of them can be looked at


def small_network(*, carries_state: bool = True) -> NetworkConfig:
    return make_network(vocabulary_size=SMALL, seq_length=3, carries_state=carries_state)


def read_one(network: NetworkConfig, weights: Weights, seed_ids: Sequence[int]) -> object:
    reader = make_reader(LSTMStep(network, weights), batch=1)
    for next_id in seed_ids:
        reader.read(np.array([next_id]))
    return reader


def searched(
    network: NetworkConfig, weights: Weights, seed_ids: Sequence[int], *, beams: int, length: int
) -> list[int]:
    reader = read_one(network, weights, seed_ids)
    return [n for n, _ in search_beams(reader, beams=beams, length=length)]  # type: ignore[arg-type]


def naive_log_ps(network: NetworkConfig, weights: Weights, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of what comes after these ids, read from scratch."""
    window = ids if network.carries_state else ids[-network.seq_length :]
    logits = naive_network(network, weights, [window]).logits[0, -1]
    return [naive_log_p(logits, n) for n in range(network.vocabulary_size)]


def naive_search(
    network: NetworkConfig,
    weights: Weights,
    seed_ids: Sequence[int],
    *,
    beams: int,
    length: int,
    longest_disagreement: int = 10**9,
) -> list[int]:
    """Beam search over plain lists; every path is read anew at every step."""
    paths: list[tuple[float, list[int]]] = [(0.0, [])]
    n_agreed = 0
    for n in range(length):
        longer = []
        for score, path in paths:
            log_ps = naive_log_ps(network, weights, [*seed_ids, *path])
            longer += [(score + log_p, [*path, next_id]) for next_id, log_p in enumerate(log_ps)]
        paths = sorted(longer, key=lambda scored: -scored[0])[:beams]
        if n + 1 - n_agreed > longest_disagreement and n + 1 < length:
            paths = [p for p in paths if p[1][n_agreed] == paths[0][1][n_agreed]]
        while n_agreed <= n and len({tuple(p[1][: n_agreed + 1]) for p in paths}) == 1:
            n_agreed += 1
    return paths[0][1]


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_enough_beams_find_the_likeliest_text_of_all(length: int, carries_state: bool) -> None:
    network = small_network(carries_state=carries_state)
    paths = np.array(list(itertools.product(range(SMALL), repeat=length)))
    is_greedy = []
    for random_seed in range(6):
        weights = random_weights(network, random_seed)
        seed_ids = [random_seed % SMALL, 2]
        read = np.hstack([np.array([seed_ids] * len(paths)), paths])
        scores = np.zeros(len(paths))
        for t in range(length):
            window = read[:, : 2 + t] if carries_state else read[:, max(0, t - 1) : 2 + t]
            logits = naive_network(network, weights, window).logits[:, -1]
            scores += [naive_log_p(*pair) for pair in zip(logits, paths[:, t], strict=True)]
        for beams in (SMALL**length, SMALL**length + 9):
            found = searched(network, weights, seed_ids, beams=beams, length=length)
            assert found == paths[np.argmax(scores)].tolist()
        is_greedy.append(found == searched(network, weights, seed_ids, beams=1, length=length))
    # Else a search would not be needed, or the test would not show it.
    assert all(is_greedy) == (length == 1)


@pytest.mark.parametrize("carries_state", [True, False])
def test_one_beam_is_argmax(carries_state: bool) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    weights = random_weights(network, random_seed=8)
    expected = ids_of(naive_text(network, weights, "é\nca", 20))
    assert searched(network, weights, ids_of("é\nca"), beams=1, length=20) == expected


# Networks whose paths are long in agreeing, and whose likeliest text is not the
# likeliest character each time.
UNDECIDED = (0, 5, 21, 22)


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_each_path_goes_on_from_the_state_of_its_parent(beams: int, carries_state: bool) -> None:
    # The naive search reads every path anew: it has no states to mix up.
    network = make_network(carries_state=carries_state, seq_length=6)
    n_better = 0
    for random_seed in UNDECIDED:
        weights, seed_ids = random_weights(network, random_seed), [3, random_seed % VOCAB]
        found = searched(network, weights, seed_ids, beams=beams, length=12)
        assert found == naive_search(network, weights, seed_ids, beams=beams, length=12)
        n_better += found != searched(network, weights, seed_ids, beams=1, length=12)
    assert n_better >= 3


@pytest.mark.parametrize("beams", [1, 3, 64])
def test_with_each_character_come_the_logits_it_was_scored_by(beams: int) -> None:
    network = make_network()
    for random_seed in UNDECIDED:
        weights, seed_ids = random_weights(network, random_seed), [3, random_seed % VOCAB]
        reader = read_one(network, weights, seed_ids)
        found = list(search_beams(reader, beams=beams, length=9))  # type: ignore[arg-type]
        path = [next_id for next_id, _ in found]
        expected = naive_network(network, weights, [[*seed_ids, *path[:-1]]]).logits[0, 1:]
        np.testing.assert_allclose([logits for _, logits in found], expected, atol=TOLERANCE)


@pytest.mark.parametrize("longest", [1, 2, 3, 5])
@pytest.mark.parametrize("carries_state", [True, False])
def test_paths_that_cannot_agree_follow_the_best(
    monkeypatch: pytest.MonkeyPatch, longest: int, carries_state: bool
) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    monkeypatch.setattr(generation, "_LONGEST_DISAGREEMENT", longest)
    n_cut_short = 0
    for random_seed in UNDECIDED:
        weights, seed_ids = random_weights(network, random_seed), [3, random_seed % VOCAB]
        reader = Counting(read_one(network, weights, seed_ids))
        found = []
        for next_id, _ in search_beams(reader, beams=4, length=14):
            found.append(next_id)
            # No more than so many characters are undecided at any time.
            assert reader.n_read - len(found) <= longest
        assert found == naive_search(
            network, weights, seed_ids, beams=4, length=14, longest_disagreement=longest
        )
        n_cut_short += found != naive_search(network, weights, seed_ids, beams=4, length=14)
    assert n_cut_short, "chosen badly: the paths agree sooner"


class Counting:
    """Counts what another reader reads."""

    def __init__(self, reader: object) -> None:
        self._reader = reader
        self.n_read = 0

    def read(self, ids: np.ndarray) -> None:
        self.n_read += 1
        self._reader.read(ids)  # type: ignore[attr-defined]

    def logits(self) -> np.ndarray:
        return self._reader.logits()  # type: ignore[attr-defined,no-any-return]

    def select(self, rows: np.ndarray) -> None:
        self._reader.select(rows)  # type: ignore[attr-defined]


class TwoWays:
    """A first and a second character, equally likely, and after both only the third.

    Args:
        decided_at: The length at which the way of the first ends in a choice of
            three, and that of the second in one of two, which is likelier.
    """

    def __init__(self, decided_at: int) -> None:
        self.decided_at = decided_at
        self.paths: list[list[int]] = [[]]

    def read(self, ids: np.ndarray) -> None:
        assert len(ids) == len(self.paths)
        self.paths = [[*p, int(n)] for p, n in zip(self.paths, ids, strict=True)]

    def select(self, rows: np.ndarray) -> None:
        self.paths = [self.paths[row] for row in rows]

    def logits(self) -> np.ndarray:
        logits = np.full((len(self.paths), 3), -np.inf, np.float32)
        for row, path in enumerate(self.paths):
            if not path:
                logits[row, :2] = 0
            elif len(path) == self.decided_at:
                logits[row, path[0] :] = 0
            else:
                logits[row, 2] = 0
        return logits


@pytest.mark.parametrize("decided_at", [1, 2, 6])
def test_characters_are_given_when_all_paths_agree_on_them(decided_at: int) -> None:
    reader = TwoWays(decided_at)
    found = search_beams(reader, beams=2, length=10)
    agreed = [next(found)[0] for _ in range(decided_at)]
    # Both beams are on the second way now, and differ in one character.
    assert agreed == [1] + [2] * (decided_at - 1)
    assert [path[decided_at:] for path in reader.paths] == [[1], [2]]
    # That is never decided: the first of equals is given at the end.
    assert [next_id for next_id, _ in found] == [1] + [2] * (9 - decided_at)
    assert len(reader.paths[0]) == 9


def test_paths_that_never_agree_are_decided_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_LONGEST_DISAGREEMENT", 4)
    reader = TwoWays(decided_at=99)
    found = search_beams(reader, beams=2, length=30)
    (first, _) = next(found)
    assert first == 0  # the first of two equals
    assert len(reader.paths[0]) == 5
    assert [n for n, _ in found] == [2] * 29
    assert len(reader.paths) == 1


def test_what_cannot_happen_is_not_followed() -> None:
    # Two ways at first and one after that, however many beams.
    reader = TwoWays(decided_at=99)
    assert [n for n, _ in search_beams(reader, beams=50, length=7)] == [0] + [2] * 6
    assert len(reader.paths) == 2


def test_paths_keep_their_own_logits_and_only_if_asked() -> None:
    with_logits = list(search_beams(TwoWays(99), beams=2, length=9))
    without = list(search_beams(TwoWays(99), beams=2, length=9, keeps_logits=False))
    assert [n for n, _ in with_logits] == [n for n, _ in without]
    assert all(logits.base is None and logits.shape == (3,) for _, logits in with_logits)
    assert all(logits.size == 0 for _, logits in without)


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_a_search_ends_at_its_length(beams: int, length: int) -> None:
    network = make_network()
    reader = Counting(read_one(network, random_weights(network), [3, 1]))
    assert len(list(search_beams(reader, beams=beams, length=length))) == length
    # The last character is not read any more.
    assert reader.n_read == max(0, length - 1)


def test_of_equally_likely_texts_the_first_is_found() -> None:
    network = make_network()
    zeros = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    for beams in (1, 3, 7, 50):
        assert searched(network, zeros, [4], beams=beams, length=5) == [0] * 5


@pytest.mark.parametrize("carries_state", [True, False])
def test_a_text_is_written_along_beams(tmp_path: Path, carries_state: bool) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    weights = random_weights(network, 3, gate_biases=LONG_MEMORY)
    voice = Voice.of(make_checkpoint(tmp_path, network, weights))
    seeds = ["ab", "é\n", "cd"]
    pieces = pieces_of(
        voice, seeds, random_seeds=[1, 2, 3], temperature=0, beams=3, rules=StopRules(length=12)
    )
    found = [naive_search(network, weights, ids_of(seed), beams=3, length=12) for seed in seeds]
    assert texts_of(pieces, 3) == ["".join(CHARACTERS[n] for n in ids) for ids in found]
    assert [piece.sample for piece in pieces] == sorted(piece.sample for piece in pieces)
    assert [piece.stopped for piece in pieces if piece.stopped] == ["length"] * 3


def test_a_mix_searches_too(tmp_path: Path) -> None:
    parts = list(zip(mixed_checkpoints(tmp_path), (1, 2, 3), strict=True))
    paths = [(0.0, "ab")]
    for _ in range(8):
        longer = []
        for score, text in paths:
            said = naive_mixture(parts, text)
            total = math.log(math.fsum(math.exp(x) for x in said.values()))
            longer += [(score + said[c] - total, text + c) for c in said]
        paths = sorted(longer, reverse=True)[:4]
    assert write(Voice.mixed(parts), "ab", length=8, temperature=0, beams=4) == paths[0][1][2:]


# --- seed texts -----------------------------------------------------------------


@given(st.text(alphabet=CHARACTERS))
def test_a_known_text_is_returned_as_it_is(text: str) -> None:
    for unknown in ("error", "skip", "nearest"):
        # Not a copy of what may be a large text.
        assert fit_seed_text(text, VOCABULARY, unknown=unknown) is text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("abXcd", "'X' (U+0058, position 3)"),
        ("X", "'X' (U+0058, position 1)"),
        # Each once, where it stands first, in the order in which they are met.
        (
            "aZbXZXcZ\nQ",
            "'Z' (U+005A, position 2), 'X' (U+0058, position 4), 'Q' (U+0051, position 10)",
        ),
        # A terminal must not be steered, and what cannot be seen must be shown.
        (
            "a\x1b[2J",
            r"'\x1b' (U+001B, position 2), '[' (U+005B, position 3), "
            r"'2' (U+0032, position 4), 'J' (U+004A, position 5)",
        ),
        ("\t", r"'\t' (U+0009, position 1)"),
        ("ab\u200b", r"'\u200b' (U+200B, position 3)"),
        ("ab\xa0", r"'\xa0' (U+00A0, position 3)"),
        ("ab\u202ecd", r"'\u202e' (U+202E, position 3)"),
        ("\udc80a", r"'\udc80' (U+DC80, position 1)"),
        # Positions count characters, not UTF-16 units.
        ("😀é😁", "'😀' (U+1F600, position 1), '😁' (U+1F601, position 3)"),
    ],
)
def test_unknown_characters_are_named_once_with_code_point_and_place(text: str, named: str) -> None:
    with pytest.raises(SeedTextError) as caught:
        fit_seed_text(text, VOCABULARY)
    assert caught.value.message == f"the model has never seen {named} of the seed text"
    assert caught.value.message.isprintable()
    assert caught.value.hint == (
        "--unknown nearest writes them as it can, --unknown skip leaves them out"
    )
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, CharlstmError)


@pytest.mark.parametrize(
    ("unknown", "more"),
    [("ABCDEFGH", ""), ("ABCDEFGHI", " and 1 more"), ("ABCDEFGHIJKL" * 3, " and 4 more")],
)
def test_at_most_eight_characters_are_named(unknown: str, more: str) -> None:
    named = ", ".join(f"'{c}' (U+{ord(c):04X}, position {n + 3})" for n, c in enumerate("ABCDEFGH"))
    with pytest.raises(SeedTextError) as caught:
        fit_seed_text("ab" + unknown, VOCABULARY, what="the text")
    assert caught.value.message == f"the model has never seen {named}{more} of the text"


@given(st.text(alphabet=st.one_of(st.sampled_from(CHARACTERS), st.characters())))
def test_skipping_leaves_exactly_the_known_characters(text: str) -> None:
    kept = fit_seed_text(text, VOCABULARY, unknown="skip")
    assert list(kept) == [c for c in text if c in CHARACTERS]


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("ABé", "abé"),  # another case
        ("áb̈ç\xa0D\r\n", "abc d\n\n"),  # accents, marks, spaces, line ends
        ("a☃b", "ab"),  # what has no likeness is left out
        ("☃", ""),
        ("ab\u200bcd", "abcd"),
        ("ÀÀ☃ÀÀ", "aaaa"),
    ],
)
def test_unknown_characters_are_written_as_the_model_can(text: str, fitted: str) -> None:
    assert fit_seed_text(text, VOCABULARY, unknown="nearest") == fitted


def test_a_likeness_may_be_several_characters() -> None:
    vocabulary = Vocabulary("aefis.")
    assert fit_seed_text("æß…ﬁ☃", vocabulary, unknown="nearest") == "aess...fi"


@given(
    st.text(alphabet=st.one_of(st.sampled_from(CHARACTERS), st.characters(exclude_categories=())))
)
def test_only_known_characters_come_out_whatever_was_typed(text: str) -> None:
    fitted = fit_seed_text(text, VOCABULARY, unknown="nearest")
    assert set(fitted) <= set(CHARACTERS)
    # What is known stays where it is.
    known = iter(fitted)
    assert all(c in known for c in text if c in CHARACTERS)


@given(
    st.text(alphabet=st.one_of(st.sampled_from(CHARACTERS), st.characters(exclude_categories=())))
)
def test_a_message_is_one_printable_line_whatever_was_typed(text: str) -> None:
    unknown = set(text) - set(CHARACTERS)
    try:
        assert fit_seed_text(text, VOCABULARY) == text
        assert not unknown
    except SeedTextError as error:
        assert unknown
        assert error.message.isprintable()
        assert error.message.count("(U+") == min(8, len(unknown))


def test_a_seed_window_is_one_of_those_carried() -> None:
    windows = ["abcd abc", "dé\nabcab", "cccccccc"]
    picked = [pick_seed_window(windows, n) for n in range(60)]
    # Each is left out with probability (2/3)^60.
    assert set(picked) == set(windows)
    assert picked == [pick_seed_window(windows, n) for n in range(60)]


@pytest.mark.parametrize("characters", ["\n abcdé", "tuvwxyz"])
def test_a_model_without_windows_can_be_written_from(tmp_path: Path, characters: str) -> None:
    # A newline is no way out for a model that has never seen one.
    checkpoint = make_checkpoint(tmp_path, vocabulary=Vocabulary(characters), seed_windows=[])
    picked = pick_seed_window(Voice.of(checkpoint).seed_windows, 0)
    assert write(checkpoint, picked) == write(checkpoint, characters[0])
