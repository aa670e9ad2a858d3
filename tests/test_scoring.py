"""Scoring a text: the written definition, recomputed slowly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    LONG_MEMORY,
    Weights,
    make_network,
    naive_log_p,
    naive_network,
    random_weights,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm import batching, scoring
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMStep
from charlstm.errors import CharlstmError, InputError
from charlstm.scoring import (
    Score,
    log_softmax_at,
    score_characters,
    score_ids,
    surprises,
    unigram_entropy,
)

VOCAB = len(CHARACTERS)
# Nats a character. Float32 products against float64, averaged: some 1e-7.
TOLERANCE = 1e-5


def random_ids(n_chars: int, random_seed: int = 6) -> np.ndarray:
    return np.random.default_rng(random_seed).integers(0, VOCAB, size=n_chars)


def long_memory_weights(network: NetworkConfig) -> Weights:
    """Weights that never forget, so that each character of warming up counts."""
    return random_weights(network, random_seed=3, gate_biases=LONG_MEMORY)


def naive_rows(
    network: NetworkConfig,
    weights: Weights,
    ids: np.ndarray,
    *,
    warm_up: int = 200,
    n_rows: int | None = None,
) -> float:
    """Nats a character by the definition of the validation loss.

    At most 64 equal contiguous rows, fewer when they would be shorter than
    1,000 characters; each warmed, unscored, on the 200 characters before it;
    the text's first character is not scored; nats summed and divided once.
    """
    if n_rows is None:
        n_rows = 64
        while n_rows > 1 and len(ids) / n_rows < 1_000:
            n_rows -= 1
    bounds = [n * len(ids) // n_rows for n in range(n_rows + 1)]
    fed_from = [max(0, begin - warm_up) for begin in bounds[:-1]]
    # Rows run side by side only to be done today; what is padded at the right
    # comes after all that is scored.
    width = max(end - begin for begin, end in zip(fed_from, bounds[1:], strict=True))
    padded = np.zeros((n_rows, width), np.int64)
    for row, (begin, end) in enumerate(zip(fed_from, bounds[1:], strict=True)):
        padded[row, : end - begin] = ids[begin:end]
    logits = naive_network(network, weights, padded).logits
    nats, n_scored = 0.0, 0
    for row in range(n_rows):
        for position in range(max(1, bounds[row]), bounds[row + 1]):
            if position == fed_from[row]:
                # No warming up: nothing was read, so nothing can be said.
                continue
            before = logits[row, position - 1 - fed_from[row]]
            nats -= naive_log_p(before, ids[position])
            n_scored += 1
    return nats / n_scored


def naive_windows(network: NetworkConfig, weights: Weights, ids: np.ndarray) -> float:
    """Nats a character, each from the window before it, read from zero."""
    nats = 0.0
    for position in range(1, len(ids)):
        window = ids[max(0, position - network.seq_length) : position]
        logits = naive_network(network, weights, [window]).logits[0, -1]
        nats -= naive_log_p(logits, ids[position])
    return nats / (len(ids) - 1)


# --- the definition -------------------------------------------------------------


# One row up to 1,999 characters; chunk borders at 100; two of 1,175; three
# that cannot be equal (1,000, 1,000 and 1,001).
@pytest.mark.parametrize("n_chars", [2, 3, 99, 100, 101, 102, 999, 1_999, 2_000, 2_350, 3_001])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_a_score_is_that_of_the_definition(n_chars: int, kind: str) -> None:
    network = make_network(input=kind, units=4)
    weights = long_memory_weights(network)
    ids = random_ids(n_chars)
    score = score_ids(LSTMStep(network, weights), ids)
    assert score.n_scored == n_chars - 1
    assert score.nats_per_char == pytest.approx(naive_rows(network, weights, ids), abs=TOLERANCE)


def test_a_score_through_three_layers() -> None:
    network = make_network(layers=3)
    weights = random_weights(network)
    ids = random_ids(2_350)
    score = score_ids(LSTMStep(network, weights), ids)
    assert score.nats_per_char == pytest.approx(naive_rows(network, weights, ids), abs=TOLERANCE)


def test_there_are_at_most_64_rows() -> None:
    network = make_network(units=4)
    weights = long_memory_weights(network)
    ids = random_ids(66_003)
    score = score_ids(LSTMStep(network, weights), ids)
    assert score.n_scored == 66_002
    expected = naive_rows(network, weights, ids)
    assert score.nats_per_char == pytest.approx(expected, abs=TOLERANCE)
    assert abs(naive_rows(network, weights, ids, n_rows=66) - expected) > 2 * TOLERANCE


def test_another_definition_would_be_noticed() -> None:
    # So the tests above really tell 200 characters of warming up from 199
    # or 201, and three rows from two.
    network = make_network(units=4)
    weights = long_memory_weights(network)
    ids = random_ids(3_001)
    right = naive_rows(network, weights, ids)
    others = ({"warm_up": 199}, {"warm_up": 201}, {"warm_up": 0}, {"n_rows": 2}, {"n_rows": 1})
    for other in others:
        assert abs(naive_rows(network, weights, ids, **other) - right) > 2 * TOLERANCE, other


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_ids_may_be_of_any_integer_type(dtype: type) -> None:
    network = make_network()
    step = LSTMStep(network, random_weights(network))
    ids = random_ids(2_100)
    narrow = ids.astype(dtype)
    narrow.setflags(write=False)  # as a memory map is
    assert score_ids(step, narrow) == score_ids(step, ids)


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("n_chars", [2, 50, 2_350])
def test_a_uniform_model_scores_ln_v(n_chars: int, kind: str, carries_state: bool) -> None:
    network = make_network(input=kind, carries_state=carries_state)
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    score = score_ids(LSTMStep(network, weights), random_ids(n_chars))
    assert score.nats_per_char == pytest.approx(math.log(VOCAB), rel=1e-12)
    assert score.bits_per_char == pytest.approx(math.log2(VOCAB), rel=1e-12)
    assert score.perplexity == pytest.approx(VOCAB, rel=1e-11)


def test_a_model_that_only_knows_frequencies_scores_the_cross_entropy() -> None:
    # Weights of zero, the bias the log-probabilities: every character costs
    # its own -ln p, whatever was before it.
    network = make_network()
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    shares = [0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02]
    weights["dense/bias"][:] = np.log(shares)
    ids = random_ids(2_350)
    expected = -sum(math.log(shares[n]) for n in ids[1:]) / 2_349
    score = score_ids(LSTMStep(network, weights), ids)
    assert score.nats_per_char == pytest.approx(expected, abs=1e-6)


# --- the sliding window ---------------------------------------------------------


# Shorter than a window, its own length, one and two more; and one more than
# the 256 windows that run side by side.
@pytest.mark.parametrize("n_chars", [2, 3, 7, 8, 9, 10, 40, 265, 266])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_a_model_of_windows_is_scored_by_sliding_its_window(n_chars: int, kind: str) -> None:
    network = make_network(input=kind, carries_state=False, seq_length=8, units=4)
    weights = long_memory_weights(network)
    ids = random_ids(n_chars)
    score = score_ids(LSTMStep(network, weights), ids)
    expected = naive_windows(network, weights, ids)
    assert score.n_scored == n_chars - 1
    assert score.nats_per_char == pytest.approx(expected, abs=TOLERANCE)
    if n_chars > 10:
        assert abs(naive_rows(network, weights, ids) - expected) > 2 * TOLERANCE


# --- character by character -------------------------------------------------------


def naive_characters(
    network: NetworkConfig, weights: Weights, ids: np.ndarray, *, n_rows: int, warm_up: int
) -> list[float]:
    """Nats of each character, every row read alone from where its warming up begins."""
    nats = [math.nan]
    bounds = [n * len(ids) // n_rows for n in range(n_rows + 1)]
    for begin, end in itertools.pairwise(bounds):
        fed_from = max(0, begin - warm_up)
        logits = naive_network(network, weights, [ids[fed_from:end]]).logits[0]
        for position in range(max(1, begin), end):
            nats.append(-naive_log_p(logits[position - 1 - fed_from], ids[position]))
    return nats


def naive_window_characters(
    network: NetworkConfig, weights: Weights, ids: np.ndarray
) -> list[float]:
    nats = [math.nan]
    for position in range(1, len(ids)):
        window = ids[max(0, position - network.seq_length) : position]
        logits = naive_network(network, weights, [window]).logits[0, -1]
        nats.append(-naive_log_p(logits, ids[position]))
    return nats


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of at least 20 characters, at most 5, warmed on 6; chunks of 7 steps."""
    monkeypatch.setattr(batching, "MIN_EVALUATION_ROW", 20)
    monkeypatch.setattr(batching, "MAX_EVALUATION_ROWS", 5)
    monkeypatch.setattr(batching, "WARM_UP_CHARACTERS", 6)
    monkeypatch.setattr(scoring, "_CHUNK", 7)


# One row; two, of 20 and of 20 and 21; three unequal; five, and no more.
@pytest.mark.parametrize(
    ("n_chars", "n_rows"),
    [(2, 1), (8, 1), (39, 1), (40, 2), (41, 2), (62, 3), (99, 4), (101, 5), (203, 5)],
)
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_each_character_has_its_own_surprise(
    short_rows: None, n_chars: int, n_rows: int, kind: str
) -> None:
    network = make_network(input=kind, units=4)
    weights = long_memory_weights(network)
    ids = random_ids(n_chars)
    nats = score_characters(LSTMStep(network, weights), ids)
    assert nats.dtype == np.float64
    assert nats.shape == (n_chars,)
    assert np.isnan(nats).nonzero()[0].tolist() == [0]
    expected = naive_characters(network, weights, ids, n_rows=n_rows, warm_up=6)
    np.testing.assert_allclose(nats, expected, atol=TOLERANCE)
    # A neighbour's value in its place would be noticed, and another warming up.
    if n_rows > 1:
        others = naive_characters(network, weights, ids, n_rows=n_rows, warm_up=5)
        assert np.abs(np.array(others) - nats)[1:].max() > 2 * TOLERANCE
        assert np.abs(np.diff(expected[1:])).min() > 2 * TOLERANCE


def test_the_characters_of_a_long_text_stand_where_they_are() -> None:
    # Three rows by the constants of the contract: 1,000, 1,000 and 1,001.
    network = make_network(units=4)
    weights = long_memory_weights(network)
    ids = random_ids(3_001)
    nats = score_characters(LSTMStep(network, weights), ids)
    expected = naive_characters(network, weights, ids, n_rows=3, warm_up=200)
    # Nothing is averaged here, and what is lost of float32 in each of a thousand
    # steps is not forgotten.
    np.testing.assert_allclose(nats, expected, atol=10 * TOLERANCE)


@pytest.mark.parametrize("n_chars", [2, 3, 8, 9, 10, 40, 265, 266])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_each_character_of_a_model_of_windows(n_chars: int, kind: str) -> None:
    network = make_network(input=kind, carries_state=False, seq_length=8, units=4)
    weights = long_memory_weights(network)
    ids = random_ids(n_chars)
    nats = score_characters(LSTMStep(network, weights), ids)
    expected = naive_window_characters(network, weights, ids)
    np.testing.assert_allclose(nats, expected, atol=TOLERANCE)
    assert np.isnan(nats).nonzero()[0].tolist() == [0]


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("n_chars", [2, 10, 700, 3_001])
def test_the_mean_of_all_is_the_score(n_chars: int, carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    step = LSTMStep(network, random_weights(network))
    ids = random_ids(n_chars)
    nats, score = score_characters(step, ids), score_ids(step, ids)
    assert math.fsum(nats[1:]) == pytest.approx(score.nats, rel=1e-12)
    assert nats[1:].mean() == pytest.approx(score.nats_per_char, rel=1e-12)
    assert (nats[1:] > 0).all()


@pytest.mark.parametrize("carries_state", [True, False])
def test_each_position_but_the_first_is_met_once(short_rows: None, carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    step = LSTMStep(network, random_weights(network))
    ids = random_ids(103).astype(np.uint8)
    met: list[int] = []
    for positions, nats in surprises(step, ids):
        assert positions.shape == nats.shape
        assert len(positions) > 0
        met += positions.tolist()
    assert sorted(met) == list(range(1, 103))


@pytest.mark.parametrize("carries_state", [True, False])
def test_what_comes_later_does_not_count(carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    step = LSTMStep(network, random_weights(network))
    ids = random_ids(60)
    changed = ids.copy()
    changed[40:] = (changed[40:] + 1) % VOCAB
    before, after = score_characters(step, ids), score_characters(step, changed)
    # Windows are read in batches of another size where a text is longer; not here.
    np.testing.assert_array_equal(before[:40], after[:40])
    assert (before[40:] != after[40:]).all()


# --- numbers --------------------------------------------------------------------


@given(st.floats(0, 30), st.integers(1, 10**9))
def test_bits_and_perplexity_follow_from_nats(nats_per_char: float, n_scored: int) -> None:
    score = Score(nats=nats_per_char * n_scored, n_scored=n_scored)
    assert score.nats_per_char == pytest.approx(nats_per_char)
    assert score.bits_per_char == pytest.approx(nats_per_char / 0.6931471805599453)
    # The perplexity of b bits is 2 to the power of b.
    assert score.perplexity == pytest.approx(2**score.bits_per_char)


def test_one_bit_a_character_by_hand() -> None:
    score = Score(nats=5 * math.log(2), n_scored=5)
    assert (score.nats_per_char, score.bits_per_char) == pytest.approx((0.693147, 1), abs=1e-6)
    assert score.perplexity == pytest.approx(2)


def test_an_endless_loss_has_a_finite_perplexity() -> None:
    assert math.isfinite(Score(nats=1e9, n_scored=3).perplexity)


@given(
    st.lists(
        st.lists(st.floats(-1e4, 1e4, width=32), min_size=VOCAB, max_size=VOCAB),
        min_size=3,
        max_size=3,
    ),
    st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=3),
)
def test_log_probabilities_are_exact(rows: list[list[float]], ids: list[int]) -> None:
    logits = np.array(rows, np.float32)
    before = logits.copy()
    log_p = log_softmax_at(logits, np.array(ids))
    assert log_p.dtype == np.float64
    assert (log_p <= 0).all()
    for n in range(3):
        assert log_p[n] == pytest.approx(
            naive_log_p(logits[n].astype(float), ids[n]), rel=1e-12, abs=1e-12
        )
    np.testing.assert_array_equal(logits, before)


def test_log_probabilities_of_huge_logits() -> None:
    largest = np.finfo(np.float32).max
    logits = np.array([[largest, -largest, 0, 0, 0, 0, 0], [3, -np.inf, 3, *[-np.inf] * 4]])
    log_p = log_softmax_at(logits.astype(np.float32), np.array([0, 2]))
    assert log_p.tolist() == pytest.approx([0, -math.log(2)])


# --- what a caller sees ---------------------------------------------------------


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("n_chars", [0, 1])
@pytest.mark.parametrize("score", [score_ids, score_characters])
def test_a_text_of_fewer_than_2_characters_is_refused(
    score: Callable[..., object], n_chars: int, carries_state: bool
) -> None:
    network = make_network(carries_state=carries_state)
    with pytest.raises(InputError) as caught:
        score(LSTMStep(network, random_weights(network)), random_ids(n_chars))
    assert (
        caught.value.message
        == "a text needs at least 2 characters to be scored: the first has no context"
    )
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, CharlstmError)


@pytest.mark.parametrize(
    ("carries_state", "n_chars"), [(True, 5), (True, 700), (True, 2_350), (False, 10), (False, 700)]
)
def test_progress_rises_to_the_end(carries_state: bool, n_chars: int) -> None:
    network = make_network(carries_state=carries_state)
    calls: list[tuple[int, int]] = []
    step = LSTMStep(network, random_weights(network))
    score = score_ids(step, random_ids(n_chars), progress=lambda *call: calls.append(call))
    assert calls
    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    assert calls[-1][0] == calls[-1][1]
    assert score == score_ids(step, random_ids(n_chars))
    again: list[tuple[int, int]] = []
    score_characters(step, random_ids(n_chars), progress=lambda *call: again.append(call))
    assert again == calls


def test_unigram_entropy_is_that_of_the_frequencies() -> None:
    assert unigram_entropy(np.array([0, 0, 1, 3], dtype=np.uint8)) == pytest.approx(
        1.5 * math.log(2)
    )
    assert unigram_entropy(np.zeros(7, dtype=np.uint16)) == 0
