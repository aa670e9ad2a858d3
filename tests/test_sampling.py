"""Picking a character: forced logits, exact frequencies, rows that do not mix."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from charlstm import sampling
from charlstm.errors import CharlstmError, ConfigError
from charlstm.sampling import (
    ALLOWED_REPETITION,
    REPETITION_WINDOW,
    Mirostat,
    RepetitionPenalty,
    Sampler,
    SamplingConfig,
    apply_temperature,
    argmax,
    draw,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    filter_typical_p,
    log_softmax,
    softmax,
)

PROPERTY = settings(max_examples=40, deadline=None, database=None)
VOCAB = 7
LETTERS = "abcdefg"
LARGEST = float(np.finfo(np.float32).max)
# Float32 has 24 bits; a sum of 7 terms and a division lose a few of them.
FLOAT32_TOLERANCE = 1e-6
# How near to a threshold a float32 mass may be for either answer to be right.
NEAR = 2e-6
# What Pearson's statistic exceeds once in a thousand seeds, by degrees of freedom.
CHI_SQUARED = (0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59, 31.26)

Row = Sequence[float]


def pick(logits: np.ndarray, *, temperature: float, random_seeds: Sequence[int]) -> np.ndarray:
    config = SamplingConfig(temperature=temperature)
    return Sampler(config, random_seeds=random_seeds).pick(logits)


def forced(*letters: str, low: float = -math.inf) -> np.ndarray:
    """`(batch, vocab)` logits in which each row can only become its letter."""
    logits = np.full((len(letters), VOCAB), low, np.float32)
    for row, letter in enumerate(letters):
        logits[row, LETTERS.index(letter)] = 1.5
    return logits


def exact_row(row: Row, temperature: float = 1.0) -> list[float]:
    """Softmax in plain Python floats."""
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    total = math.fsum(weights)
    return [w / total for w in weights]


def exact_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.array([exact_row(row, temperature) for row in logits.astype(float).tolist()])


def logits_of(*rows: Row) -> np.ndarray:
    """`(batch, vocab)` float32 logits of probabilities, or of anything in their proportion."""
    return np.array([[math.log(p) if p else -math.inf for p in row] for row in rows], np.float32)


def kept(filtered: np.ndarray) -> list[list[int]]:
    """The ids that are left in each row."""
    return [np.flatnonzero(row > -np.inf).tolist() for row in filtered]


finite_logits = st.floats(-50, 50, width=32)
some_logits = st.one_of(
    finite_logits,
    st.just(-math.inf),
    st.sampled_from([-1e30, -300.0, 0.0, 88.0, 1e30]),
)
# Few values, so that ties are common.
tied_logits = st.sampled_from([-math.inf, -3.0, 0.0, 0.5, 2.0])


def logit_rows(
    batch: int = 3, values: st.SearchStrategy[float] = some_logits
) -> st.SearchStrategy[np.ndarray]:
    """`(batch, vocab)` float32, at least one finite logit a row."""
    size = batch * VOCAB
    return (
        st.lists(values, min_size=size, max_size=size)
        .map(lambda flat: np.array(flat, np.float32).reshape(batch, VOCAB))
        .filter(lambda rows: bool((rows.max(axis=1) > -np.inf).all()))
    )


any_rows = st.one_of(logit_rows(), logit_rows(values=tied_logits))


# --- forced logits --------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 1e-3, 0.8, 1, 25])
def test_forced_logits_give_exact_text(temperature: float) -> None:
    # Two rows with different answers: a mistaken axis cannot pass.
    sampler = Sampler(SamplingConfig(temperature=temperature), random_seeds=[1, 2])
    written = [
        sampler.pick(forced(*column)).tolist() for column in zip("badge", "faced", strict=True)
    ]
    texts = ["".join(LETTERS[n] for n in row) for row in zip(*written, strict=True)]
    assert texts == ["badge", "faced"]


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(top_k=3, typical_p=0.6, top_p=0.5, min_p=0.2, repetition_penalty=9),
        SamplingConfig(mirostat=0.25, repetition_penalty=9),
    ],
    ids=["filters", "mirostat"],
)
def test_forced_logits_give_exact_text_whatever_is_on(config: SamplingConfig) -> None:
    # Longer than what may repeat: a penalty cannot make possible what is not.
    texts = ["decade" * 5, "faced "[:5] * 6]
    sampler = Sampler(config, random_seeds=[1, 2])
    written = [sampler.pick(forced(*column)).tolist() for column in zip(*texts, strict=True)]
    assert ["".join(LETTERS[n] for n in row) for row in zip(*written, strict=True)] == texts


def test_results_are_int64_ids_one_a_row() -> None:
    for ids in (
        argmax(forced("g", "c", "a")),
        draw(forced("g", "c", "a"), points=np.array([0.1, 0.5, 0.9])),
        pick(forced("g", "c", "a"), temperature=0, random_seeds=[0, 1, 2]),
        pick(forced("g", "c", "a"), temperature=0.5, random_seeds=[0, 1, 2]),
    ):
        assert ids.dtype == np.int64
        assert ids.tolist() == [6, 2, 0]


def test_the_lowest_id_wins_a_tie() -> None:
    logits = np.array(
        [
            [0, 3, 3, 1, 3, 0, 0],
            [5, 5, 5, 5, 5, 5, 5],
            [-9, -2, -7, -3, -4, -5, -2],
            [-np.inf, -np.inf, -np.inf, 0, -np.inf, 0, -np.inf],
        ],
        np.float32,
    )
    assert argmax(logits).tolist() == [1, 0, 1, 3]
    assert pick(logits, temperature=0, random_seeds=range(4)).tolist() == [1, 0, 1, 3]


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_argmax_takes_nothing_from_the_random_streams(zero: float) -> None:
    sampler = Sampler(SamplingConfig(temperature=zero), random_seeds=[31, 32])
    for _ in range(3):
        assert sampler.pick(forced("d", "b")).tolist() == [3, 1]
    sampler.change(SamplingConfig())
    level = np.zeros((2, VOCAB), np.float32)
    expected = [int(np.random.default_rng(n).random() * VOCAB) for n in (31, 32)]
    assert sampler.pick(level).tolist() == expected


# --- softmax --------------------------------------------------------------------


@PROPERTY
@given(logit_rows())
def test_softmax_equals_the_exact_one(logits: np.ndarray) -> None:
    before = logits.copy()
    probabilities = softmax(logits)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(
        probabilities, exact_softmax(logits), rtol=1e-5, atol=FLOAT32_TOLERANCE
    )
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=FLOAT32_TOLERANCE)
    assert (probabilities[np.isneginf(logits)] == 0).all()
    np.testing.assert_array_equal(logits, before)


def test_softmax_by_hand() -> None:
    # ln 1, ln 2, ln 5 beside what cannot happen: 1/8, 2/8, 5/8.
    row = [math.log(1), -math.inf, math.log(2), math.log(5), -math.inf, -math.inf, -math.inf]
    other = [-math.inf] * 6 + [-700.0]
    probabilities = softmax(np.array([row, other]))
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities[0], [1 / 8, 0, 2 / 8, 5 / 8, 0, 0, 0], rtol=1e-12)
    assert probabilities[1].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_softmax_works_along_the_last_axis_of_any_shape() -> None:
    logits = np.random.default_rng(3).normal(size=(2, 3, VOCAB)) * 4
    probabilities = softmax(logits)
    log_probabilities = log_softmax(logits)
    for b, t in itertools.product(range(2), range(3)):
        exact = exact_row(logits[b, t].tolist())
        np.testing.assert_allclose(probabilities[b, t], exact)
        np.testing.assert_allclose(np.exp(log_probabilities[b, t]), exact)


@pytest.mark.parametrize("huge", [100.0, 1e30, 1.5e38, LARGEST])
def test_softmax_does_not_overflow(huge: float) -> None:
    # The largest float32 less the smallest is beyond float32: that is
    # overflow too, though the result would be right.
    logits = np.array(
        [[huge, -huge, 0, 0, -huge, huge, -huge], [-huge] * 6 + [0]], dtype=np.float32
    )
    expected = [[0.5, 0, 0, 0, 0, 0.5, 0], [0, 0, 0, 0, 0, 0, 1]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-30)


@PROPERTY
@given(logit_rows())
def test_log_softmax_equals_the_exact_one(logits: np.ndarray) -> None:
    before = logits.copy()
    got = log_softmax(logits)
    assert got.dtype == np.float64
    for row, exact in zip(got.tolist(), logits.astype(float).tolist(), strict=True):
        top = max(exact)
        total = math.log(math.fsum(math.exp(x - top) for x in exact))
        assert row == pytest.approx([x - top - total for x in exact], rel=1e-12, abs=1e-12)
    assert (got <= 0).all()
    np.testing.assert_array_equal(logits, before)


# --- temperature ----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.5, 0.8, 1, 2, 40])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits = np.random.default_rng(4).normal(size=(3, VOCAB)).astype(np.float32) * 3
    before = logits.copy()
    scaled = apply_temperature(logits, temperature=temperature)
    assert scaled.dtype == np.float32
    assert scaled.max(axis=-1).tolist() == [0, 0, 0]
    np.testing.assert_allclose(
        exact_softmax(scaled), exact_softmax(logits, temperature), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("temperature", [1e-4, 1e-12, 1e-30, 1e-38, 1e-45, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6, 1e38])
def test_a_tiny_temperature_equals_argmax(temperature: float, scale: float) -> None:
    rng = np.random.default_rng(5)
    # Neighbours differ by at least 0.1: exp(-0.1 * 1e-3 / 1e-4) would still
    # be drawn, so the smallest scale starts at a smaller temperature.
    if scale < 1 and temperature > 1e-6:
        temperature = 1e-7
    logits = np.stack([rng.permutation(VOCAB) * 0.1 for _ in range(5)]).astype(np.float32)
    logits *= np.float32(scale)
    logits[2, 3] = -np.inf
    expected = [max(range(VOCAB), key=row.__getitem__) for row in logits.tolist()]
    sampler = Sampler(SamplingConfig(temperature=temperature), random_seeds=range(5))
    for _ in range(10):
        assert sampler.pick(logits).tolist() == expected


@pytest.mark.parametrize("temperature", [1e4, 1e38, 1e39, 1e308])
def test_a_huge_temperature_levels_what_can_happen(temperature: float) -> None:
    # 1e39 is finite but beyond float32; -inf / inf would be no number at all.
    logits = np.array(
        [[1, 2, -np.inf, 4, 5, -np.inf, 7], [-np.inf] * 5 + [3, -1]], dtype=np.float32
    )
    probabilities = softmax(apply_temperature(logits, temperature=temperature))
    expected = [[0.2, 0.2, 0, 0.2, 0.2, 0, 0.2], [0, 0, 0, 0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)


def test_temperature_does_not_overflow_at_the_ends_of_float32() -> None:
    logits = np.array([[-LARGEST] * 6 + [LARGEST], [LARGEST] + [-LARGEST] * 6], np.float32)
    assert pick(logits, temperature=0.5, random_seeds=[0, 1]).tolist() == [6, 0]
    assert pick(logits, temperature=1, random_seeds=[0, 1]).tolist() == [6, 0]


@pytest.mark.parametrize("temperature", [0, -0.0, -2.5, math.nan, math.inf, True, "1"])
def test_apply_temperature_needs_more_than_0(temperature: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_temperature(forced("a", "b"), temperature=temperature)
    assert (
        caught.value.message == f"temperature must be a finite number above 0, not {temperature!r}"
    )
    assert caught.value.exit_code == 2


# --- top-k ----------------------------------------------------------------------

# Probabilities of 7 characters, no two of which are alike.
PEAKED = [0.02, 0.4, 0.05, 0.01, 0.3, 0.12, 0.1]
TURNED = [0.3, 0.01, 0.12, 0.4, 0.1, 0.02, 0.05]


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        (1, [[1], [3]]),
        (2, [[1, 4], [0, 3]]),
        (3, [[1, 4, 5], [0, 2, 3]]),
        (6, [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 5, 6]]),
        (7, [list(range(7))] * 2),
        (8, [list(range(7))] * 2),
        (0x110000, [list(range(7))] * 2),
    ],
)
def test_top_k_keeps_the_k_likeliest(top_k: int, expected: list[list[int]]) -> None:
    assert kept(filter_top_k(logits_of(PEAKED, TURNED), top_k=top_k)) == expected


def test_top_k_keeps_all_that_are_as_likely_as_the_last() -> None:
    logits = np.array(
        [
            [0, 3, 3, 1, 3, 0, 0],
            [5, 5, 5, 5, 5, 5, 5],
            [2, -np.inf, 1, -np.inf, -np.inf, -np.inf, 1],
        ],
        np.float32,
    )
    everything = list(range(7))
    assert kept(filter_top_k(logits, top_k=1)) == [[1, 2, 4], everything, [0]]
    assert kept(filter_top_k(logits, top_k=2)) == [[1, 2, 4], everything, [0, 2, 6]]
    assert kept(filter_top_k(logits, top_k=4)) == [[1, 2, 3, 4], everything, [0, 2, 6]]
    assert kept(filter_top_k(logits, top_k=5)) == [everything, everything, [0, 2, 6]]


@PROPERTY
@given(any_rows, st.integers(1, 9))
def test_top_k_equals_counting_the_likelier(logits: np.ndarray, top_k: int) -> None:
    expected = [
        [n for n, x in enumerate(row) if x > -math.inf and sum(y > x for y in row) < top_k]
        for row in logits.tolist()
    ]
    assert kept(filter_top_k(logits, top_k=top_k)) == expected


# --- top-p ----------------------------------------------------------------------


def before_each(row: Row) -> list[float]:
    """What the characters that come before each in top-p's order have together."""
    probabilities = exact_row(row)
    order = sorted(range(len(row)), key=lambda n: (-row[n], n))
    before = [0.0] * len(row)
    total = 0.0
    for n in order:
        before[n] = total
        total += probabilities[n]
    return before


def assert_keeps_the_head(filtered: np.ndarray, logits: np.ndarray, top_p: float) -> None:
    """Compare with adding up in order; within float32's reach of the border both will do."""
    for got, row in zip(filtered.tolist(), logits.astype(float).tolist(), strict=True):
        before = before_each(row)
        for n, x in enumerate(row):
            if x == -math.inf or before[n] > top_p + NEAR:
                assert got[n] == -math.inf, (n, before[n])
            elif before[n] < top_p - NEAR:
                assert got[n] == x, (n, before[n])


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (5e-324, [[1], [3]]),
        (0.39, [[1], [3]]),
        (0.4 - NEAR, [[1], [3]]),
        (0.4 + NEAR, [[1, 4], [0, 3]]),
        (0.7 - NEAR, [[1, 4], [0, 3]]),
        (0.7 + NEAR, [[1, 4, 5], [0, 2, 3]]),
        (0.82 + NEAR, [[1, 4, 5, 6], [0, 2, 3, 4]]),
        (0.99 - NEAR, [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 5, 6]]),
        (0.99 + NEAR, [list(range(7))] * 2),
        (1, [list(range(7))] * 2),
    ],
)
def test_top_p_keeps_what_crosses_the_threshold(top_p: float, expected: list[list[int]]) -> None:
    assert kept(filter_top_p(logits_of(PEAKED, TURNED), top_p=top_p)) == expected


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        # Probabilities of 1/4, 1/2 and 1 are exact in float32: so is "at".
        (math.nextafter(0.25, 0), [[0], [2], [5]]),
        (0.25, [[0], [2], [5]]),
        (math.nextafter(0.25, 1), [[0, 2], [2], [5]]),
        (math.nextafter(0.5, 0), [[0, 2], [2], [5]]),
        (0.5, [[0, 2], [2], [5]]),
        (math.nextafter(0.5, 1), [[0, 2, 3], [2, 6], [5]]),
        (0.75, [[0, 2, 3], [2, 6], [5]]),
        (math.nextafter(0.75, 1), [[0, 2, 3, 6], [2, 6], [5]]),
        (math.nextafter(1, 0), [[0, 2, 3, 6], [2, 6], [5]]),
    ],
)
def test_top_p_at_the_threshold_and_just_beside(top_p: float, expected: list[list[int]]) -> None:
    # Equals go by the alphabet.
    logits = logits_of([1, 0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0])
    assert kept(filter_top_p(logits, top_p=top_p)) == expected


@PROPERTY
@given(any_rows, st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([0.25, 0.5, 0.75])))
def test_top_p_equals_adding_up(logits: np.ndarray, top_p: float) -> None:
    assert_keeps_the_head(filter_top_p(logits, top_p=top_p), logits, top_p)


def many_logits(vocab: int) -> np.ndarray:
    """`(5, vocab)`: sure, unsure, almost level, by rank, and with ties and impossible ones."""
    rng = np.random.default_rng(vocab)
    tied = rng.integers(-4, 5, size=vocab).astype(float)
    tied[rng.random(vocab) < 0.3] = -np.inf
    tied[vocab // 2] = 4
    rows = [
        rng.normal(size=vocab) * 6,
        rng.normal(size=vocab) * 1.5,
        rng.normal(size=vocab) * 1e-3,
        rng.permutation(-1.1 * np.log(np.arange(1, vocab + 1))),
        tied,
    ]
    return np.array(rows, np.float32)


@pytest.mark.parametrize("vocab", [7, 300, 4_000])
@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6])
def test_top_p_sorting_only_the_likely_equals_sorting_all(vocab: int, top_p: float) -> None:
    logits = many_logits(vocab)
    filtered = filter_top_p(logits, top_p=top_p)
    assert_keeps_the_head(filtered, logits, top_p)
    # What one row needs is nothing to another.
    for n in range(len(logits)):
        np.testing.assert_array_equal(filtered[n], filter_top_p(logits[n : n + 1], top_p=top_p)[0])


def test_top_p_sorts_only_what_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_sizes = []
    argsort = np.argsort

    def spy(values: np.ndarray, **options: Any) -> np.ndarray:
        sorted_sizes.append(values.shape)
        return argsort(values, **options)

    monkeypatch.setattr(np, "argsort", spy)
    # By hand: 3 likely ones here, 2 there, one of them the same; 3,996 rare ones.
    logits = np.full((2, 4_000), -20, np.float32)
    logits[0, [5, 1_000, 3_999]] = 0
    logits[1, [2_000, 3_999]] = 0
    assert kept(filter_top_p(logits, top_p=0.9)) == [[5, 1_000, 3_999], [2_000, 3_999]]
    assert sorted_sizes == [(2, 4)]


def test_top_p_close_to_1_drops_the_same_alone_as_among_others() -> None:
    # Once a rare character stayed where a neighbour needed its column: the
    # float32 probabilities of its row's head add up to less than 1 - 5e-8.
    rng = np.random.default_rng(0)
    n_told_apart = 0
    for _ in range(200):
        row = rng.normal(size=(1, 30)).astype(np.float32)
        row[0, :5] = -19
        level = np.zeros((2, 30), np.float32)
        alone = filter_top_p(row, top_p=1 - 5e-8)
        among = filter_top_p(np.concatenate([row, level]), top_p=1 - 5e-8)
        np.testing.assert_array_equal(among[:1], alone)
        assert kept(among)[1:] == [list(range(30))] * 2
        n_told_apart += float(softmax(row)[0, 5:].sum(dtype=np.float64)) < 1 - 5e-8
    assert n_told_apart


@pytest.mark.parametrize("vocab", [5, 7, 25, 29, 31, 4_000])
@pytest.mark.parametrize("kind", [float, np.float64])
def test_the_smallest_top_p_keeps_one_of_level_logits(
    vocab: int, kind: Callable[[float], float]
) -> None:
    # 1/25 in float32 is below 1/25: compared with a float64, nothing was kept.
    level = np.zeros((2, vocab), np.float32)
    assert kept(filter_top_p(level, top_p=kind(1e-300))) == [[0], [0]]


# --- min-p ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_p", "expected"),
    [
        (0, [list(range(7))] * 2),
        (0.01 / 0.4 - NEAR, [list(range(7))] * 2),
        (0.01 / 0.4 + NEAR, [[0, 1, 2, 4, 5, 6], [0, 2, 3, 4, 5, 6]]),
        (0.25 - NEAR, [[1, 4, 5, 6], [0, 2, 3, 4]]),
        (0.25 + NEAR, [[1, 4, 5], [0, 2, 3]]),
        (0.75 - NEAR, [[1, 4], [0, 3]]),
        (0.75 + NEAR, [[1], [3]]),
        (1, [[1], [3]]),
    ],
)
def test_min_p_is_a_share_of_the_largest(min_p: float, expected: list[list[int]]) -> None:
    assert kept(filter_min_p(logits_of(PEAKED, TURNED), min_p=min_p)) == expected


def test_min_p_at_the_threshold_and_just_beside() -> None:
    # The logit of the largest is 0, so that the threshold is ln 1/4 to the bit.
    logits = logits_of([1, 0.25, 0.2, 0, 0, 0, 0.25], [0.2, 1, 1, 0, 0.25, 0, 0.125])
    assert kept(filter_min_p(logits, min_p=0.25)) == [[0, 1, 6], [1, 2, 4]]
    assert kept(filter_min_p(logits, min_p=0.25 * (1 - 1e-6))) == [[0, 1, 6], [1, 2, 4]]
    assert kept(filter_min_p(logits, min_p=0.25 * (1 + 1e-6))) == [[0], [1, 2]]
    # Ties with the likeliest stay at 1, impossible ones go at any.
    assert kept(filter_min_p(logits, min_p=1)) == [[0], [1, 2]]
    assert kept(filter_min_p(logits, min_p=5e-324)) == [[0, 1, 2, 6], [0, 1, 2, 4, 6]]


@PROPERTY
@given(any_rows, st.one_of(st.floats(0, 1), st.sampled_from([1e-9, 0.02, 0.1, 0.9])))
def test_min_p_equals_comparing_probabilities(logits: np.ndarray, min_p: float) -> None:
    filtered = filter_min_p(logits, min_p=min_p).tolist()
    for got, row in zip(filtered, logits.astype(float).tolist(), strict=True):
        for n, x in enumerate(row):
            # Logits of 50 in float32 leave the quotient 5 digits.
            share = math.exp(x - max(row))
            if x == -math.inf or share < min_p * (1 - 1e-4):
                assert got[n] == -math.inf
            elif share > min_p * (1 + 1e-4):
                assert got[n] == x


# --- typical-p ------------------------------------------------------------------

# Halves: 1, 2, 3, 4 and 4 bits of surprise, of which 1.875 are expected. By
# distance: 1/4, 1/2, 1/8, then both 1/16, the lower id first.
HALVES = [1 / 16, 0, 1 / 4, 1 / 16, 1 / 2, 0, 1 / 8]
TURNED_HALVES = [1 / 2, 1 / 8, 1 / 16, 0, 0, 1 / 16, 1 / 4]


@pytest.mark.parametrize(
    ("typical_p", "expected"),
    [
        # The likeliest goes: its surprise is not the one expected.
        (5e-324, [[2], [6]]),
        (0.25 - NEAR, [[2], [6]]),
        (0.25 + NEAR, [[2, 4], [0, 6]]),
        (0.75 - NEAR, [[2, 4], [0, 6]]),
        (0.75 + NEAR, [[2, 4, 6], [0, 1, 6]]),
        (0.875 - NEAR, [[2, 4, 6], [0, 1, 6]]),
        (0.875 + NEAR, [[0, 2, 4, 6], [0, 1, 2, 6]]),
        (0.9375 - NEAR, [[0, 2, 4, 6], [0, 1, 2, 6]]),
        (0.9375 + NEAR, [[0, 2, 3, 4, 6], [0, 1, 2, 5, 6]]),
        (1, [[0, 2, 3, 4, 6], [0, 1, 2, 5, 6]]),
    ],
)
def test_typical_p_keeps_what_is_nearest_to_the_expected_surprise(
    typical_p: float, expected: list[list[int]]
) -> None:
    logits = logits_of(HALVES, TURNED_HALVES)
    assert kept(filter_typical_p(logits, typical_p=typical_p)) == expected


def test_typical_p_of_level_rows_goes_by_the_alphabet() -> None:
    logits = logits_of([1, 0, 1, 1, 0, 0, 1], [0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0])
    near = 1e-9  # in float64
    assert kept(filter_typical_p(logits, typical_p=0.5 - near)) == [[0, 2], [2], [5]]
    assert kept(filter_typical_p(logits, typical_p=0.5 + near)) == [[0, 2, 3], [2, 6], [5]]


@PROPERTY
@given(any_rows, st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([0.2, 0.5, 0.9])))
def test_typical_p_equals_adding_up_by_distance(logits: np.ndarray, typical_p: float) -> None:
    expected = []
    for row in logits.astype(float).tolist():
        probabilities = exact_row(row)
        possible = [n for n, p in enumerate(probabilities) if p > 0]
        surprise = {n: -math.log(probabilities[n]) for n in possible}
        entropy = math.fsum(probabilities[n] * surprise[n] for n in possible)
        distance = {n: abs(surprise[n] - entropy) for n in possible}
        order = sorted(possible, key=lambda n: (distance[n], n))
        # Rounding decides which of two comes first that lie as far above the
        # expected surprise as below, and whether a sum is at a threshold.
        for a, b in itertools.pairwise(order):
            assume(row[a] == row[b] or distance[b] - distance[a] > 1e-9)
        kept_ids, total = [], 0.0
        for n in order:
            assume(abs(total - typical_p) > 1e-9)
            if total < typical_p:
                kept_ids.append(n)
            total += probabilities[n]
        # What has underflowed comes last, and only goes where the rest suffices.
        if total < typical_p + 1e-9:
            assume(len(possible) == sum(x > -math.inf for x in row))
        expected.append(sorted(kept_ids))
    assert kept(filter_typical_p(logits, typical_p=typical_p)) == expected


# --- all filters ----------------------------------------------------------------

Filter = Callable[[np.ndarray], np.ndarray]
masses = st.one_of(
    st.floats(0, 1, exclude_min=True),
    st.sampled_from([5e-324, 1e-7, 0.25, 0.5, 0.9, 1 - 1e-7, math.nextafter(1.0, 0.0)]),
)
FILTERS: dict[str, st.SearchStrategy[Filter]] = {
    "top_k": st.integers(1, 9).map(lambda k: lambda x: filter_top_k(x, top_k=k)),
    "top_p": masses.map(lambda p: lambda x: filter_top_p(x, top_p=p)),
    "min_p": st.one_of(masses, st.just(0.0)).map(lambda p: lambda x: filter_min_p(x, min_p=p)),
    "typical_p": masses.map(lambda p: lambda x: filter_typical_p(x, typical_p=p)),
    "mirostat": st.floats(1e-6, 32).map(
        lambda target: lambda x: Mirostat(batch=len(x), target=target).apply(x)
    ),
}


@pytest.mark.parametrize("name", FILTERS)
@PROPERTY
@given(st.data(), any_rows)
def test_a_filter_only_drops(name: str, data: st.DataObject, logits: np.ndarray) -> None:
    filtering = data.draw(FILTERS[name])
    before = logits.copy()
    filtered = filtering(logits)
    np.testing.assert_array_equal(logits, before)
    assert filtered.dtype == np.float32
    assert filtered.shape == logits.shape
    is_kept = filtered > -np.inf
    assert is_kept.any(axis=-1).all()
    # Bit for bit, and nothing impossible is made possible.
    assert filtered[is_kept].tobytes() == before[is_kept].tobytes()
    if name != "typical_p":
        # Nothing dropped is likelier than anything kept.
        for row, is_in in zip(before, is_kept, strict=True):
            assert row[~is_in].max(initial=-np.inf) <= row[is_in].min()
    again = filtering(filtered) > -np.inf
    if name in ("top_k", "min_p", "mirostat"):
        np.testing.assert_array_equal(again, is_kept)
    else:
        # What is left has all the mass now, and the same share of it is less.
        assert not (again & ~is_kept).any()
        assert again.any(axis=-1).all()
    for n in range(3):
        # A row alone is the same as among others.
        assert filtering(logits[n : n + 1]).tobytes() == filtered[n].tobytes()


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "typical_p"])
@PROPERTY
@given(any_rows, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_looser_filter_keeps_more(
    name: str, logits: np.ndarray, one: float, other: float
) -> None:
    tight, loose = sorted([one, other])
    if name == "top_k":
        results = [filter_top_k(logits, top_k=math.ceil(p * 7)) for p in (tight, loose)]
    elif name == "top_p":
        results = [filter_top_p(logits, top_p=p) for p in (tight, loose)]
    elif name == "typical_p":
        results = [filter_typical_p(logits, typical_p=p) for p in (tight, loose)]
    else:
        results = [filter_min_p(logits, min_p=p) for p in (loose, tight)]
    for few, many in zip(*map(kept, results), strict=True):
        assert set(few) <= set(many)


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical_p", "top_k"])
def test_a_filter_that_is_off_gives_the_same_logits(name: str) -> None:
    logits = many_logits(300)
    before = logits.copy()
    off = {
        "top_p": lambda x: filter_top_p(x, top_p=1),
        "min_p": lambda x: filter_min_p(x, min_p=0),
        "typical_p": lambda x: filter_typical_p(x, typical_p=1.0),
        "top_k": lambda x: filter_top_k(x, top_k=300),
    }[name]
    assert off(logits).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("filtering", "bad", "message"),
    [
        (
            filter_top_k,
            [0, -1, 1.0, 0x110001, True, "3", math.nan],
            "top-k must be a whole number from 1 to 1114112",
        ),
        (
            filter_top_p,
            [0, -0.1, 1.0000001, math.nan, math.inf, True, "0.5"],
            "top-p must be a finite number above 0 and at most 1",
        ),
        (
            filter_min_p,
            [-5e-324, 1.0000001, math.nan, -math.inf, False, "0.5"],
            "min-p must be a finite number at least 0 and at most 1",
        ),
        (
            filter_typical_p,
            [0.0, -1, 2, math.nan, math.inf, True, None],
            "typical-p must be a finite number above 0 and at most 1",
        ),
    ],
    ids=["top_k", "top_p", "min_p", "typical_p"],
)
def test_a_filter_refuses_what_is_out_of_range(
    filtering: Callable[..., np.ndarray], bad: list[Any], message: str
) -> None:
    name = filtering.__name__.removeprefix("filter_")
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            filtering(forced("a", "b"), **{name: value})
        assert caught.value.message == f"{message}, not {value!r}"
        assert caught.value.exit_code == 2


# --- repetition -----------------------------------------------------------------


def naive_excess(text: Sequence[int], window: int) -> dict[int, int]:
    """Tell by how much each character would make the longest repetition too long.

    Every earlier place of the window is compared with the end of the whole
    text, backwards, character by character.
    """
    excess: dict[int, int] = {}
    end = len(text) - 1
    for place in range(max(0, len(text) - window), end):
        n_same = 0
        while n_same <= place and text[place - n_same] == text[end - n_same]:
            n_same += 1
        if n_same + 1 > ALLOWED_REPETITION:
            following = text[place + 1]
            excess[following] = max(excess.get(following, 0), n_same + 1 - ALLOWED_REPETITION)
    return excess


def penalised(
    logits: np.ndarray, texts: Iterable[Sequence[int]], penalty: float, window: int
) -> np.ndarray:
    expected = logits.astype(float)
    for row, text in enumerate(texts):
        for following, excess in naive_excess(text, window).items():
            expected[row, following] -= excess * math.log(penalty)
    return expected


def read_all(penalty: RepetitionPenalty, *texts: Sequence[int]) -> None:
    for ids in zip(*texts, strict=True):
        penalty.read(np.array(ids))


@st.composite
def repetitive_texts(draw_value: st.DrawFn, batch: int = 3) -> list[list[int]]:
    """Texts of one length over 2 to 4 characters, pieces of which come again and again."""
    n_characters = draw_value(st.integers(2, 4))
    pieces = st.tuples(
        st.lists(st.integers(0, n_characters - 1), min_size=1, max_size=9), st.integers(1, 12)
    )
    texts = [
        [n for piece, times in draw_value(st.lists(pieces, min_size=2, max_size=5)) * 2
         for n in piece * times]
        for _ in range(batch)
    ]  # fmt: skip
    length = min(90, *map(len, texts))
    return [text[:length] for text in texts]


@PROPERTY
@given(repetitive_texts(), st.integers(2, 40), st.sampled_from([1.1, 2.0, 1e6]))
def test_repetition_equals_a_naive_search(
    texts: list[list[int]], window: int, penalty: float
) -> None:
    # Small windows: the buffer is moved many times, between any two characters.
    repetition = RepetitionPenalty(batch=3, penalty=penalty, window=window)
    logits = np.random.default_rng(6).normal(size=(3, VOCAB)).astype(np.float32)
    logits[1, 2] = -np.inf
    before = logits.copy()
    for n, ids in enumerate(zip(*texts, strict=True), start=1):
        repetition.read(np.array(ids))
        lowered = repetition.apply(logits)
        assert lowered.dtype == np.float32
        expected = penalised(logits, [text[:n] for text in texts], penalty, window)
        np.testing.assert_allclose(lowered, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits, before)


def test_repetitive_texts_do_repeat() -> None:
    # The property above would hold of nothing at all: here it holds of loops.
    text = [0, 1, 2] * 12
    assert naive_excess(text, window=REPETITION_WINDOW) == {0: 33 + 1 - 12}
    assert naive_excess(text[:14], window=REPETITION_WINDOW) == {}


@pytest.mark.parametrize("n_repeated", [1, 10, 11, 12, 13, 20])
def test_a_repetition_costs_what_is_longer_than_allowed(n_repeated: int) -> None:
    # 25 different characters, a break, and the beginning of them again. In the
    # other row nothing comes again.
    phrase = list(range(25))
    text = [*phrase, 30, *phrase[:n_repeated]]
    other = [*range(len(text))]
    repetition = RepetitionPenalty(batch=2, penalty=3)
    read_all(repetition, text, other)
    logits = np.random.default_rng(7).normal(size=(2, 60)).astype(np.float32)
    lowered = repetition.apply(logits)
    expected = logits.copy()
    # The next one would make the repetition n_repeated + 1 characters long.
    expected[0, n_repeated] -= max(0, n_repeated + 1 - 12) * math.log(3)
    np.testing.assert_allclose(lowered, expected, rtol=1e-6)
    others = np.delete(lowered, n_repeated, axis=1)
    assert others.tobytes() == np.delete(logits, n_repeated, axis=1).tobytes()
    if n_repeated < 12:
        assert lowered.tobytes() == logits.tobytes()


def test_the_longest_of_several_matches_counts() -> None:
    # 12 characters before a 40, 15 before a 41: each by its own, and the last
    # again after 13, which changes nothing.
    long = list(range(15))
    text = [*long[3:], 40, 50, *long, 41, 51, *long[2:], 41, 52, *long]
    repetition = RepetitionPenalty(batch=2, penalty=2)
    read_all(repetition, text, [n + 3 for n in text])
    lowered = repetition.apply(np.zeros((2, 60), np.float32))
    expected = np.zeros((2, 60))
    expected[0, 40] = expected[1, 43] = -1 * math.log(2)
    expected[0, 41] = expected[1, 44] = -4 * math.log(2)
    np.testing.assert_allclose(lowered, expected, rtol=1e-6)


@pytest.mark.parametrize(("distance", "is_seen"), [(38, True), (39, True), (40, False)])
@pytest.mark.parametrize("n_before", [0, 25, 39, 40, 41, 79, 80, 81, 200])
def test_a_repetition_is_seen_as_far_as_the_window_goes(
    distance: int, is_seen: bool, n_before: int
) -> None:
    # n_before moves the place of all this in the buffer of 2 * 40.
    filler = [100 + n for n in range(n_before)]
    phrase = list(range(13))
    gap = [50 + n for n in range(distance - len(phrase))]
    text = [*filler, *phrase, *gap, *phrase]
    repetition = RepetitionPenalty(batch=2, penalty=2, window=40)
    read_all(repetition, text, [n + 1 for n in text])
    lowered = repetition.apply(np.zeros((2, 400), np.float32))
    expected = np.zeros((2, 400))
    if is_seen:
        # The match is as long as the phrase, though its beginning is out of sight.
        expected[0, gap[0]] = expected[1, gap[0] + 1] = -2 * math.log(2)
    np.testing.assert_allclose(lowered, expected, rtol=1e-6)


def test_the_default_window_is_a_thousand_characters() -> None:
    for distance, is_seen in ((REPETITION_WINDOW - 1, True), (REPETITION_WINDOW, False)):
        phrase = list(range(20))
        gap = [50 + n for n in range(distance - len(phrase))]
        repetition = RepetitionPenalty(batch=2, penalty=2)
        text = [*range(2_000, 3_700), *phrase, *gap, *phrase]
        read_all(repetition, text, text)
        lowered = repetition.apply(np.zeros((2, 4_000), np.float32))
        assert (lowered < 0).any() == is_seen


def test_a_penalty_of_1_changes_nothing() -> None:
    repetition = RepetitionPenalty(batch=2, penalty=1)
    read_all(repetition, [0] * 50, [1, 2] * 25)
    logits = np.random.default_rng(8).normal(size=(2, VOCAB)).astype(np.float32)
    logits[0, 0] = -np.inf
    np.testing.assert_array_equal(repetition.apply(logits), logits)


def test_an_empty_text_repeats_nothing() -> None:
    repetition = RepetitionPenalty(batch=2, penalty=5)
    logits = np.zeros((2, VOCAB), np.float32)
    assert repetition.apply(logits) is logits
    repetition.read(np.array([3, 4]))
    assert repetition.apply(logits) is logits


@PROPERTY
@given(
    repetitive_texts(batch=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.integers(0, 90),
)
def test_repetition_goes_on_with_some_of_the_texts(
    texts: list[list[int]], rows: list[int], cut: int
) -> None:
    repetition = RepetitionPenalty(batch=4, penalty=2, window=25)
    read_all(repetition, *[text[:cut] for text in texts])
    repetition.select(np.array(rows))
    chosen = [texts[row] for row in rows]
    read_all(repetition, *[text[cut:] for text in chosen])
    logits = np.zeros((len(rows), VOCAB), np.float32)
    expected = penalised(logits, chosen, 2, 25)
    np.testing.assert_allclose(repetition.apply(logits), expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [0.99, 0, -1, math.nan, math.inf, True, "2"])
def test_a_penalty_below_1_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RepetitionPenalty(batch=2, penalty=bad)
    assert (
        caught.value.message
        == f"repetition-penalty must be a finite number at least 1, not {bad!r}"
    )


def write_loop(config: SamplingConfig, *, length: int) -> list[str]:
    """Write with a model that goes round: abc … in one row, defg … in the other."""
    follows = {0: 1, 1: 2, 2: 0, 3: 4, 4: 5, 5: 6, 6: 3}
    table = np.zeros((VOCAB, VOCAB), np.float32)
    for before, after in follows.items():
        table[before, after] = 5
    sampler = Sampler(config, random_seeds=[1, 2])
    ids = np.array([2, 6])
    written = []
    for _ in range(length):
        ids = sampler.pick(table[ids])
        written.append(ids.tolist())
    return ["".join(LETTERS[n] for n in row) for row in zip(*written, strict=True)]


def test_a_penalty_leads_out_of_a_loop() -> None:
    assert write_loop(SamplingConfig(temperature=0), length=60) == ["abc" * 20, "defg" * 15]
    # After n characters of a loop of 3 the match is n - 3 long, and the next
    # one n - 14 too long; 8 ln 2 is the first above 5, so it leaves after 22.
    # A loop of 4 is left after 23. Then the first letter that is not lowered.
    texts = write_loop(SamplingConfig(temperature=0, repetition_penalty=2), length=24)
    assert texts[0].startswith("abcabcabcabcabcabcabca" + "a")
    assert texts[1] == "defgdefgdefgdefgdefgdef" + "a"


# --- Mirostat -------------------------------------------------------------------


def bits_of(row: Row) -> list[float]:
    return [-math.log2(p) if p else math.inf for p in exact_row(row)]


def naive_mirostat(row: Row, mu: float) -> list[int]:
    bits = bits_of(row)
    likeliest = min(bits)
    return [n for n, b in enumerate(bits) if b <= mu or b == likeliest]


def test_mirostat_by_hand() -> None:
    # 1, 2, 3, 4 and 4 bits; target 1.25, so that mu begins at 2.5.
    logits = logits_of(HALVES, TURNED_HALVES)
    mirostat = Mirostat(batch=2, target=1.25)
    assert mirostat.mu.tolist() == [2.5, 2.5]
    filtered = mirostat.apply(logits)
    assert kept(filtered) == [[2, 4], [0, 6]]
    # Of what is kept 1/4 has a third and 1/2 two thirds.
    mirostat.update(filtered, np.array([2, 0]))
    mu = [2.5 - 0.1 * (math.log2(3) - 1.25), 2.5 - 0.1 * (math.log2(3 / 2) - 1.25)]
    np.testing.assert_allclose(mirostat.mu, mu, rtol=1e-6)
    # The first is 2.4665, the second 2.5665: still below 3.
    filtered = mirostat.apply(logits)
    assert kept(filtered) == [[2, 4], [0, 6]]
    mirostat.update(filtered, np.array([4, 6]))
    mu = [mu[0] - 0.1 * (math.log2(3 / 2) - 1.25), mu[1] - 0.1 * (math.log2(3) - 1.25)]
    np.testing.assert_allclose(mirostat.mu, mu, rtol=1e-6)


@pytest.mark.parametrize(
    ("mu", "expected"),
    [
        (-7.0, [[4], [0]]),
        (0.0, [[4], [0]]),
        (1.0 + 1e-6, [[4], [0]]),
        (2.0 - 1e-6, [[4], [0]]),
        (2.0 + 1e-6, [[2, 4], [0, 6]]),
        (3.0 - 1e-6, [[2, 4], [0, 6]]),
        (3.0 + 1e-6, [[2, 4, 6], [0, 1, 6]]),
        (4.0 + 1e-6, [[0, 2, 3, 4, 6], [0, 1, 2, 5, 6]]),
        (99.0, [[0, 2, 3, 4, 6], [0, 1, 2, 5, 6]]),
    ],
)
def test_mirostat_drops_what_surprises_more_than_mu(mu: float, expected: list[list[int]]) -> None:
    mirostat = Mirostat(batch=2, target=1)
    mirostat.mu = np.array([mu, mu])
    assert kept(mirostat.apply(logits_of(HALVES, TURNED_HALVES))) == expected


def test_mirostat_keeps_all_that_are_the_likeliest() -> None:
    mirostat = Mirostat(batch=3, target=1e-3)
    logits = np.array(
        [[0, 3, 3, 1, 3, 0, 0], [5] * 7, [2, -np.inf, 1, -np.inf, -np.inf, -np.inf, 1]], np.float32
    )
    assert kept(mirostat.apply(logits)) == [[1, 2, 4], list(range(7)), [0]]


@PROPERTY
@given(
    st.lists(st.tuples(logit_rows(), st.integers(0, 2**32)), min_size=1, max_size=6),
    st.floats(0.01, 6),
)
def test_mirostat_follows_its_formula(steps: list[tuple[np.ndarray, int]], target: float) -> None:
    mirostat = Mirostat(batch=3, target=target)
    mu = [2 * target] * 3
    for logits, random_seed in steps:
        before = logits.copy()
        rows = logits.astype(float).tolist()
        for row, limit in zip(rows, mu, strict=True):
            assume(all(abs(b - limit) > 1e-6 for b in bits_of(row)))
            # Almost as likely as the likeliest is a matter of rounding.
            assume(all(b == min(bits_of(row)) or b - min(bits_of(row)) > 1e-6
                       for b in bits_of(row)))  # fmt: skip
        filtered = mirostat.apply(logits)
        expected = [naive_mirostat(row, limit) for row, limit in zip(rows, mu, strict=True)]
        assert kept(filtered) == expected
        rng = np.random.default_rng(random_seed)
        drawn = [int(rng.choice(ids)) for ids in expected]
        mirostat.update(filtered, np.array(drawn))
        for n, (row, ids, character) in enumerate(zip(rows, expected, drawn, strict=True)):
            left = exact_row([row[i] for i in ids])
            p = left[ids.index(character)]
            # What underflows in Python has underflowed here too.
            assume(p > 0)
            mu[n] -= 0.1 * (-math.log2(p) - target)
        np.testing.assert_allclose(mirostat.mu, mu, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(logits, before)


def test_mirostat_holds_the_surprise_at_its_target() -> None:
    # By rank, 4.6 bits, and level, 5.9 bits: both can be held at 3.
    ranks = np.arange(1, 61)
    logits = np.stack([-1.1 * np.log(ranks), np.sin(ranks) / 3]).astype(np.float32)
    rows = logits.astype(float).tolist()
    entropies = [
        math.fsum(p * b for p, b in zip(exact_row(r), bits_of(r), strict=True)) for r in rows
    ]
    assert entropies == pytest.approx([4.6, 5.9], abs=0.1)
    mirostat = Mirostat(batch=2, target=3)
    rng = np.random.default_rng(9)
    surprises = []
    for _ in range(1_500):
        filtered = mirostat.apply(logits)
        ids = draw(filtered, points=rng.random(2))
        surprises.append(
            [
                bits_of([x for x in row if x > -math.inf])[
                    sum(row[m] > -math.inf for m in range(n))
                ]
                for row, n in zip(filtered.tolist(), ids.tolist(), strict=True)
            ]
        )
        mirostat.update(filtered, ids)
    # The mean misses by what mu has moved, over 0.1 * 1,400: mu stays within 4.
    np.testing.assert_allclose(np.mean(surprises[100:], axis=0), 3, atol=0.03)


def test_mirostat_goes_on_with_some_of_the_texts() -> None:
    mirostat = Mirostat(batch=3, target=1)
    mirostat.mu = np.array([1.5, 2.5, 3.5])
    mirostat.select(np.array([2, 0]))
    assert mirostat.mu.tolist() == [3.5, 1.5]
    # 2 bits and 3 bits are kept by the first, nothing but the likeliest by the second.
    assert kept(mirostat.apply(logits_of(HALVES, HALVES))) == [[2, 4, 6], [4]]


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, True, "3"])
def test_a_target_that_is_not_above_0_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Mirostat(batch=2, target=bad)
    assert caught.value.message == f"mirostat must be a finite number above 0, not {bad!r}"


# --- draws ----------------------------------------------------------------------

a_point = st.one_of(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 5e-324, 0.5, math.nextafter(1.0, 0.0)]),
)


@PROPERTY
@given(logit_rows(), st.lists(a_point, min_size=3, max_size=3))
def test_a_draw_never_picks_what_has_no_probability(
    logits: np.ndarray, points: list[float]
) -> None:
    before = logits.copy()
    ids = draw(logits, points=np.array(points))
    assert ids.shape == (3,)
    assert ids.dtype == np.int64
    assert (exact_softmax(logits)[np.arange(3), ids] > 0).all()
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        # Sums 1/16, 1/16, 5/16, 6/16, 14/16, 14/16, 1 and 8/16, 10/16, 11/16 …, 12/16, 1.
        ([0, 0], [0, 0]),
        ([0.0624, 0.4999], [0, 0]),
        ([0.0626, 0.5001], [2, 1]),
        ([0.3124, 0.6249], [2, 1]),
        ([0.3126, 0.6251], [3, 2]),
        ([0.3751, 0.6876], [4, 5]),
        ([0.8749, 0.7499], [4, 5]),
        ([0.8751, 0.7501], [6, 6]),
        ([math.nextafter(1, 0)] * 2, [6, 6]),
    ],
)
def test_a_point_falls_where_the_sums_say(points: list[float], expected: list[int]) -> None:
    assert draw(logits_of(HALVES, TURNED_HALVES), points=np.array(points)).tolist() == expected


def test_how_large_the_logits_are_does_not_matter_to_a_draw() -> None:
    # Rows of 4 and of 3 equals: quarters and thirds.
    logits = np.array([[-300, -np.inf] + [-300] * 3 + [-np.inf] * 2, [300] * 3 + [-300] * 4])
    logits = logits.astype(np.float32)
    assert draw(logits, points=np.array([0.25, 0.34])).tolist() == [2, 1]
    assert draw(logits, points=np.array([0.2499, 0.6667])).tolist() == [0, 2]


def test_frequencies_match_the_probabilities() -> None:
    # Two rows of different distributions, one of them with an impossible
    # character.
    logits = np.array(
        [[0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 1.5], [1.0, -np.inf, 0.0, 0.0, 2.0, -1.5, 0.7]],
        np.float32,
    )
    temperature, n_draws = 0.7, 12_000
    sampler = Sampler(SamplingConfig(temperature=temperature), random_seeds=[11, 12])
    counts = np.zeros((2, VOCAB))
    for _ in range(n_draws):
        counts[[0, 1], sampler.pick(logits)] += 1
    for row, got in zip(logits.astype(float).tolist(), counts.tolist(), strict=True):
        assert_counts(got, exact_row(row, temperature))


def assert_counts(counts: Sequence[float], probabilities: Sequence[float]) -> None:
    """Pearson's test; what has no probability has no count."""
    n_draws = sum(counts)
    possible = [n for n, p in enumerate(probabilities) if p > 0]
    assert all(count == 0 for n, count in enumerate(counts) if n not in possible)
    statistic = math.fsum(
        (counts[n] - n_draws * probabilities[n]) ** 2 / (n_draws * probabilities[n])
        for n in possible
    )
    assert statistic <= CHI_SQUARED[len(possible) - 1]


# --- composition ----------------------------------------------------------------

Weights = dict[int, float]


def normal(weights: Weights) -> Weights:
    total = math.fsum(weights.values())
    return {n: w / total for n, w in weights.items()}


def by_temperature(weights: Weights, temperature: float) -> Weights:
    return normal({n: w ** (1 / temperature) for n, w in weights.items()})


def by_top_k(weights: Weights, top_k: int) -> Weights:
    least = sorted(weights.values(), reverse=True)[: top_k or None][-1]
    return normal({n: w for n, w in weights.items() if w >= least})


def _by_mass(weights: Weights, order: Sequence[int], mass: float) -> Weights:
    left: Weights = {}
    for n in order:
        if math.fsum(left.values()) >= mass:
            break
        left[n] = weights[n]
    return normal(left)


def by_top_p(weights: Weights, top_p: float) -> Weights:
    return _by_mass(weights, sorted(weights, key=lambda n: (-weights[n], n)), top_p)


def by_typical_p(weights: Weights, typical_p: float) -> Weights:
    expected = math.fsum(-w * math.log(w) for w in weights.values())
    return _by_mass(
        weights, sorted(weights, key=lambda n: abs(-math.log(weights[n]) - expected)), typical_p
    )


def by_min_p(weights: Weights, min_p: float) -> Weights:
    return normal({n: w for n, w in weights.items() if w >= min_p * max(weights.values())})


def by_mirostat(weights: Weights, target: float | None) -> Weights:
    """Its first step, when mu is twice the target."""
    assert target is not None
    limit = 2.0 ** (-2 * target)
    return normal({n: w for n, w in weights.items() if w >= limit or w == max(weights.values())})


STEPS: dict[str, Callable[[Weights, Any], Weights]] = {
    "temperature": by_temperature,
    "top_k": by_top_k,
    "typical_p": by_typical_p,
    "top_p": by_top_p,
    "min_p": by_min_p,
    "mirostat": by_mirostat,
}


def composed(
    weights: Sequence[float],
    order: Sequence[str],
    options: dict[str, Any],
    loop: Weights | None = None,
) -> Weights:
    """What is left of probabilities, step by step in plain Python.

    Args:
        weights: One a character, 0 for an impossible one.
        order: Names of settings, "repetition_penalty" among them.
        options: Their values; the others are off.
        loop: By how many characters each would make a repetition too long.
    """
    left = normal({n: w for n, w in enumerate(weights) if w})
    for name in order:
        if name not in options:
            continue
        if name == "repetition_penalty":
            excess = loop or {}
            left = normal({n: w / options[name] ** excess.get(n, 0) for n, w in left.items()})
        else:
            left = STEPS[name](left, options[name])
    return left


ORDER = ["repetition_penalty", "temperature", "top_k", "typical_p", "top_p", "min_p"]
# A phrase of 13 different characters and a break, then the phrase again: what
# came after it would make 14, which is 2 too long.
N_HEARD = 13


def heard(following: int, vocab: int) -> list[int]:
    phrase = [vocab + n for n in range(N_HEARD)]
    return [*phrase, following, *phrase]


WEIGHTS = [0.02, 0.26, 0.09, 0.17, 0.05, 0.13, 0, 0.28]


ORDERED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "repetition_penalty",
        "temperature",
        {"repetition_penalty": 4.0, "temperature": 0.5, "min_p": 0.05},
    ),
    ("repetition_penalty", "top_k", {"repetition_penalty": 3.0, "top_k": 3}),
    ("repetition_penalty", "typical_p", {"repetition_penalty": 4.0, "typical_p": 0.45}),
    ("repetition_penalty", "top_p", {"repetition_penalty": 2.0, "top_p": 0.35}),
    ("repetition_penalty", "min_p", {"repetition_penalty": 2.0, "min_p": 0.4}),
    ("temperature", "typical_p", {"temperature": 2.0, "typical_p": 0.6}),
    ("temperature", "top_p", {"temperature": 3.0, "top_p": 0.5}),
    ("temperature", "min_p", {"temperature": 0.5, "min_p": 0.25}),
    ("top_k", "typical_p", {"top_k": 3, "typical_p": 0.5}),
    ("top_k", "top_p", {"top_k": 5, "top_p": 0.85}),
    ("typical_p", "top_p", {"typical_p": 0.35, "top_p": 0.6}),
    ("typical_p", "min_p", {"typical_p": 0.6, "min_p": 0.3}),
    ("top_p", "min_p", {"top_p": 0.75, "min_p": 0.45}),
]


@pytest.mark.parametrize(
    ("first", "second", "options"), ORDERED, ids=lambda x: x if isinstance(x, str) else ""
)
def test_the_order_of_composition(first: str, second: str, options: dict[str, Any]) -> None:
    other_order = list(ORDER)
    other_order.remove(second)
    other_order.insert(other_order.index(first), second)
    sets = [set(composed(WEIGHTS, order, options, loop={7: 2})) for order in (ORDER, other_order)]
    # Only then the example says something.
    assert sets[0] != sets[1]
    # Every character that is left has 1 in 30: of 600 rows none misses it.
    sampler = Sampler(SamplingConfig(**options), random_seeds=range(600))
    logits = np.full((600, 8 + N_HEARD), -np.inf, np.float32)
    logits[:, :8] = logits_of(WEIGHTS)
    for next_id in heard(following=7, vocab=8):
        sampler.read(np.full(600, next_id))
    assert set(sampler.pick(logits).tolist()) == sets[0]


def test_a_penalty_comes_before_argmax() -> None:
    sampler = Sampler(SamplingConfig(temperature=0, repetition_penalty=1.2), random_seeds=[1, 2])
    logits = np.full((2, 8 + N_HEARD), -np.inf, np.float32)
    logits[:, :8] = logits_of(WEIGHTS, WEIGHTS)
    for ids in zip(heard(7, 8), heard(3, 8), strict=True):
        sampler.read(np.array(ids))
    assert sampler.pick(logits).tolist() == [1, 7]


def test_filters_do_nothing_at_temperature_0() -> None:
    # Typical-p would drop the likeliest.
    config = SamplingConfig(temperature=0, typical_p=0.2)
    logits = logits_of(HALVES, TURNED_HALVES)
    assert Sampler(config, random_seeds=[1, 2]).pick(logits).tolist() == [4, 0]
    warm = SamplingConfig(typical_p=0.2)
    assert Sampler(warm, random_seeds=[1, 2]).pick(logits).tolist() == [2, 6]


SHARP = [0.02, 0.26, 0.09, 0.17, 0.05, 0.13, 0, 0.28, 0, 0, 0]
LEVEL = [0.1, 0.07, 0.11, 0.09, 0.13, 0.06, 0.12, 0, 0.15, 0.04, 0.13]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.3},
        {"typical_p": 0.7},
        {"mirostat": 1.7},
        {"mirostat": 1.6, "temperature": 0.8},
        {"repetition_penalty": 1.5},
        {"temperature": 0.7, "top_k": 7, "top_p": 0.9},
        {"temperature": 1.3, "typical_p": 0.9, "min_p": 0.2},
        {"repetition_penalty": 1.4, "temperature": 0.8, "top_k": 8, "typical_p": 0.95,
         "top_p": 0.9, "min_p": 0.1},
        {"repetition_penalty": 1.3, "mirostat": 1.7},
    ],
    ids=lambda options: "+".join(options) or "plain",
)  # fmt: skip
def test_what_is_drawn_has_the_exact_probabilities(options: dict[str, Any]) -> None:
    rows, n_rounds, vocab = 800, 25, 11
    distributions = [SHARP, LEVEL]
    logits = np.full((rows, vocab + N_HEARD), -np.inf, np.float32)
    logits[:, :vocab] = logits_of(*distributions)[np.arange(rows) % 2]
    sampler = Sampler(SamplingConfig(), random_seeds=range(rows))
    counts = np.zeros((2, vocab), int)
    for _ in range(n_rounds):
        # What was off remembers nothing: all rounds draw from the same.
        sampler.change(SamplingConfig())
        sampler.change(SamplingConfig(**options))
        for next_id in heard(following=1, vocab=vocab):
            sampler.read(np.full(rows, next_id))
        ids = sampler.pick(logits)
        for which in range(2):
            counts[which] += np.bincount(ids[which::2], minlength=vocab)
    assert counts.sum(axis=1).tolist() == [10_000, 10_000]
    n_kept = []
    for weights, got in zip(distributions, counts.tolist(), strict=True):
        left = composed(weights, [*ORDER, "mirostat"], options, loop={1: 2})
        assert_counts(got, [left.get(n, 0) for n in range(vocab)])
        n_kept.append(len(left))
    # One that drops all but one would hide whatever the draw does.
    assert min(n_kept) >= 3


# --- Sampler --------------------------------------------------------------------

# A prime, so that no point falls on a border.
MANY = 997


def level_ids(random_seed: int, n: int) -> list[int]:
    """What comes of level logits when a generator is asked for one number at a time."""
    rng = np.random.default_rng(random_seed)
    return [int(rng.random() * MANY) for _ in range(n)]


def test_points_come_in_the_generators_own_order() -> None:
    # 600 is more than two of the blocks that they are drawn in.
    sampler = Sampler(SamplingConfig(), random_seeds=[5, 2**63 - 1, 0])
    level = np.zeros((3, MANY), np.float32)
    got = np.array([sampler.pick(level) for _ in range(600)])
    expected = [level_ids(n, 600) for n in (5, 2**63 - 1, 0)]
    assert got.T.tolist() == expected


def test_points_do_not_depend_on_when_texts_end() -> None:
    # Texts end in the middle of a block and at its border; others come first now.
    sampler = Sampler(SamplingConfig(), random_seeds=[5, 6, 7, 8])
    random_seeds, expected = [5, 6, 7, 8], {n: level_ids(n, 700) for n in (5, 6, 7, 8)}
    for step in range(700):
        if step in (100, 256, 513):
            rows = {100: [3, 0, 2], 256: [0, 2], 513: [1, 0]}[step]
            sampler.select(np.array(rows))
            random_seeds = [random_seeds[row] for row in rows]
        got = sampler.pick(np.zeros((len(random_seeds), MANY), np.float32))
        assert got.tolist() == [expected[n][step] for n in random_seeds]
    assert random_seeds == [7, 8]


@PROPERTY
@given(logit_rows(batch=4), logit_rows(batch=4), st.integers(0, 3), st.integers(0, 2**32))
def test_a_row_does_not_depend_on_its_neighbours(
    logits: np.ndarray, others: np.ndarray, row: int, random_seed: int
) -> None:
    mixed = others.copy()
    mixed[row] = logits[row]
    for temperature in (0, 0.3, 1, 3):
        seeds = [random_seed + n for n in range(4)]
        other_seeds = [random_seed + 100 + n for n in range(4)]
        other_seeds[row] = seeds[row]
        alone = pick(logits, temperature=temperature, random_seeds=seeds)
        among = pick(mixed, temperature=temperature, random_seeds=other_seeds)
        assert alone[row] == among[row]


@st.composite
def sampling_configs(draw_value: st.DrawFn) -> SamplingConfig:
    options: dict[str, Any] = {
        "temperature": draw_value(st.sampled_from([0, 0.3, 1, 2])),
        "repetition_penalty": draw_value(st.sampled_from([1, 1.5, 20])),
    }
    if options["temperature"] and draw_value(st.booleans()):
        return SamplingConfig(**options, mirostat=draw_value(st.floats(0.1, 3)))
    return SamplingConfig(
        **options,
        top_k=draw_value(st.integers(0, 8)),
        top_p=draw_value(st.sampled_from([0.1, 0.6, 0.95, 1])),
        min_p=draw_value(st.sampled_from([0, 0.05, 0.5])),
        typical_p=draw_value(st.sampled_from([0.2, 0.9, 1])),
    )


def write(
    config: SamplingConfig,
    seeds: Sequence[Sequence[int]],
    *,
    random_seeds: Sequence[int],
    table: np.ndarray,
    lengths: Sequence[int],
    later: SamplingConfig | None = None,
) -> list[list[int]]:
    """Write texts by a table of which character follows which; each ends at its length."""
    sampler = Sampler(config, random_seeds=random_seeds)
    for ids in zip(*seeds, strict=True):
        sampler.read(np.array(ids))
    texts: list[list[int]] = [[] for _ in seeds]
    last = np.array([seed[-1] for seed in seeds])
    going_on = list(range(len(seeds)))
    for step in range(max(lengths)):
        rows = [n for n, text in enumerate(going_on) if lengths[text] > step]
        if len(rows) < len(going_on):
            sampler.select(np.array(rows))
            last, going_on = last[rows], [going_on[n] for n in rows]
        if step == 20 and later is not None:
            sampler.change(later)
        last = sampler.pick(table[last])
        for text, next_id in zip(going_on, last.tolist(), strict=True):
            texts[text].append(next_id)
    return texts


@PROPERTY
@given(
    sampling_configs(),
    st.one_of(st.none(), sampling_configs()),
    st.lists(st.integers(0, 45), min_size=4, max_size=4).filter(max),
    st.integers(0, 2**32),
    st.sampled_from([0.5, 3.0, 30.0]),
)
def test_a_text_alone_is_the_same_as_among_others(
    config: SamplingConfig,
    later: SamplingConfig | None,
    lengths: list[int],
    random_seed: int,
    scale: float,
) -> None:
    rng = np.random.default_rng(random_seed)
    table = (rng.normal(size=(VOCAB, VOCAB)) * scale).astype(np.float32)
    seeds = [(rng.integers(0, 2, size=5) + n).tolist() * 3 for n in range(4)]
    random_seeds = [random_seed + n for n in range(4)]
    together = write(
        config, seeds, random_seeds=random_seeds, table=table, lengths=lengths, later=later
    )
    for n in range(4):
        if lengths[n]:
            alone = write(
                config,
                seeds[n : n + 1],
                random_seeds=random_seeds[n : n + 1],
                table=table,
                lengths=lengths[n : n + 1],
                later=later,
            )
            assert alone == together[n : n + 1]


def test_picking_leaves_the_logits_alone() -> None:
    for config in (
        SamplingConfig(temperature=0.5, top_k=3, typical_p=0.9, top_p=0.8, min_p=0.1),
        SamplingConfig(temperature=0.5, repetition_penalty=5, mirostat=2),
    ):
        sampler = Sampler(config, random_seeds=[1, 2, 3])
        logits = np.random.default_rng(10).normal(size=(3, VOCAB)).astype(np.float32)
        before = logits.copy()
        for _ in range(30):
            sampler.pick(logits)
        np.testing.assert_array_equal(logits, before)


def test_a_change_goes_on_with_the_random_streams() -> None:
    sampler = Sampler(SamplingConfig(), random_seeds=[5, 6])
    level = np.zeros((2, MANY), np.float32)
    configs = [
        SamplingConfig(),
        SamplingConfig(temperature=0.5),
        SamplingConfig(min_p=0.9, top_k=5),
        SamplingConfig(mirostat=20),
        SamplingConfig(repetition_penalty=2),
    ]
    got = []
    for n in range(300):
        config = configs[n % 5]
        sampler.change(config)
        assert sampler.config is config
        got.append(sampler.pick(level).tolist())
    assert got == [list(ids) for ids in zip(level_ids(5, 300), level_ids(6, 300), strict=True)]


def test_a_changed_penalty_remembers_what_was_read() -> None:
    logits = np.full((2, 8 + N_HEARD), -np.inf, np.float32)
    logits[:, :8] = logits_of(WEIGHTS, WEIGHTS)

    def first_pick(before: float, after: float, *, off_between: bool = False) -> list[int]:
        argmax_with = SamplingConfig(temperature=0, repetition_penalty=before)
        sampler = Sampler(argmax_with, random_seeds=[1, 2])
        for ids in zip(heard(7, 8), heard(3, 8), strict=True):
            sampler.read(np.array(ids))
        if off_between:
            sampler.change(SamplingConfig(temperature=0))
        sampler.change(SamplingConfig(temperature=0, repetition_penalty=after))
        return sampler.pick(logits).tolist()

    # 0.28 / 1.01² is still the largest, 0.28 / 1.2² is not.
    assert first_pick(1.01, 1.01) == [7, 7]
    assert first_pick(1.01, 1.2) == [1, 7]
    assert first_pick(1.2, 1.01) == [7, 7]
    # What was read while it was off is not known.
    assert first_pick(1, 1.2) == [7, 7]
    assert first_pick(1.2, 1.2, off_between=True) == [7, 7]


def test_mirostat_learns_from_what_the_sampler_drew() -> None:
    # mu falls from 3.2 as long as 2 bits are drawn and only the likeliest is
    # kept at last: its 0 bits raise mu again. All by hand for one and the
    # other row, with the points that the generators give.
    config = SamplingConfig(mirostat=1.6)
    sampler = Sampler(config, random_seeds=[1, 2])
    logits = logits_of(HALVES, TURNED_HALVES)
    rngs = [np.random.default_rng(n) for n in (1, 2)]
    mu = [3.2, 3.2]
    sizes = set()
    for step in range(120):
        if step == 30:  # what it has learned stays when something else changes
            sampler.change(dataclasses.replace(config, repetition_penalty=1.0))
        if step == 60:
            sampler.change(SamplingConfig())
            sampler.change(config)
            mu = [3.2, 3.2]
        got = sampler.pick(logits).tolist()
        for n, row in enumerate(logits.astype(float).tolist()):
            ids = naive_mirostat(row, mu[n])
            sizes.add(len(ids))
            probabilities = exact_row([row[i] for i in ids])
            sums = list(itertools.accumulate(probabilities))
            point = rngs[n].random()
            which = next(k for k, total in enumerate(sums) if total > point)
            assert got[n] == ids[which]
            mu[n] -= 0.1 * (-math.log2(probabilities[which]) - 1.6)
    assert len(sizes) > 1


def test_what_is_turned_off_is_off() -> None:
    logits = np.zeros((2, MANY), np.float32)
    logits[:, 5] = 1
    strict = [
        SamplingConfig(temperature=0),
        SamplingConfig(mirostat=0.25),
        SamplingConfig(top_k=1),
        SamplingConfig(top_p=1e-3),
        SamplingConfig(min_p=0.9),
        SamplingConfig(typical_p=1e-3),
    ]
    plain = Sampler(SamplingConfig(), random_seeds=[1, 2])
    expected = [plain.pick(logits).tolist() for _ in range(20)]
    for config in strict:
        sampler = Sampler(config, random_seeds=[1, 2])
        # The likeliest is not the most typical.
        first = 0 if config.typical_p < 1 else 5
        assert sampler.pick(logits).tolist() == [first, first]
        sampler.change(SamplingConfig())
        # Argmax has taken no point.
        rest = expected[:19] if config.temperature == 0 else expected[1:]
        assert [sampler.pick(logits).tolist() for _ in range(19)] == rest


# --- SamplingConfig -------------------------------------------------------------

NOT_NUMBERS: list[Any] = [math.nan, math.inf, -math.inf, True, False, "1", [1]]


RANGES: dict[str, tuple[list[Any], list[Any], str]] = {
    "temperature": (
        [0, -0.0, 5e-324, 1, 1e308],
        [-5e-324, -1, 10**400, None],
        "temperature must be a finite number at least 0",
    ),
    "top_k": (
        [0, 1, 0x110000],
        [-1, 0x110001, 1.0, None],
        "top-k must be a whole number from 0 to 1114112",
    ),
    "top_p": (
        [5e-324, 0.5, 1, 1.0],
        [0, 0.0, -0.5, math.nextafter(1, 2), None],
        "top-p must be a finite number above 0 and at most 1",
    ),
    "min_p": (
        [0, 0.5, 1],
        [-5e-324, math.nextafter(1, 2), None],
        "min-p must be a finite number at least 0 and at most 1",
    ),
    "typical_p": (
        [5e-324, 0.5, 1],
        [0, -0.5, math.nextafter(1, 2), None],
        "typical-p must be a finite number above 0 and at most 1",
    ),
    "repetition_penalty": (
        [1, 1.0, 1.5, 1e6],
        [0, math.nextafter(1, 0), math.nextafter(1e6, 1e7), None],
        "repetition-penalty must be a finite number at least 1 and at most 1e+06",
    ),
    "mirostat": (
        [None, 5e-324, 3, 32],
        [0, -1, math.nextafter(32, 33)],
        "mirostat must be a finite number above 0 and at most 32",
    ),
    "beams": (
        [1],
        [0, -1, 257, 2.0, None],
        "beams must be a whole number from 1 to 256",
    ),
}


@pytest.mark.parametrize("field", RANGES)
def test_what_is_out_of_range_is_refused(field: str) -> None:
    good, bad, rule = RANGES[field]
    for value in good:
        assert getattr(SamplingConfig(**{field: value}), field) is value
    for value in [*bad, *NOT_NUMBERS]:
        for make in (SamplingConfig, SamplingConfig().adjusted):
            with pytest.raises(ConfigError) as caught:
                make(**{field: value})
            assert caught.value.message == f"{rule}, not {value!r}"
            assert caught.value.exit_code == 2
            assert isinstance(caught.value, CharlstmError)


@pytest.mark.parametrize("beams", [2, 256])
def test_beams_need_temperature_0(beams: int) -> None:
    assert SamplingConfig(temperature=0, beams=beams).beams == beams
    for temperature, shown in ((1, "1"), (0.25, "0.25"), (5e-324, "4.94066e-324")):
        with pytest.raises(ConfigError) as caught:
            SamplingConfig(temperature=temperature, beams=beams)
        assert caught.value.message == (
            f"beam search does not draw: it needs temperature 0, not {shown}"
        )
    with pytest.raises(ConfigError) as caught:
        SamplingConfig(temperature=0, beams=beams, repetition_penalty=1.5)
    assert caught.value.message == "beam search has no repetition penalty"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"top_k": 1}, "top-k"),
        ({"top_p": 0.99}, "top-p"),
        ({"min_p": 0.01}, "min-p"),
        ({"typical_p": 0.99}, "typical-p"),
        ({"typical_p": 0.5, "min_p": 0.1, "top_k": 7}, "top-k, min-p, typical-p"),
        (
            {"typical_p": 0.5, "min_p": 0.1, "top_k": 7, "top_p": 0.3},
            "top-k, top-p, min-p, typical-p",
        ),
    ],
)
def test_mirostat_excludes_the_filters(options: dict[str, Any], names: str) -> None:
    assert SamplingConfig(**options).filters == names.split(", ")
    for make in (SamplingConfig, SamplingConfig().adjusted):
        with pytest.raises(ConfigError) as caught:
            make(mirostat=3, **options)
        assert caught.value.message == f"mirostat takes the place of {names}"
        assert caught.value.hint == "give one or the other"


def test_mirostat_excludes_temperature_0() -> None:
    for make in (SamplingConfig, SamplingConfig().adjusted):
        with pytest.raises(ConfigError) as caught:
            make(mirostat=3, temperature=0)
        assert caught.value.message == "mirostat draws, and temperature 0 does not"
    assert SamplingConfig(mirostat=3, temperature=0.5, repetition_penalty=2).filters == []


def test_nothing_is_on_by_default() -> None:
    assert SamplingConfig().filters == []
    # A plain draw: the ids of the generator's points.
    sampler = Sampler(SamplingConfig(), random_seeds=[3, 4])
    level = np.zeros((2, MANY), np.float32)
    got = np.array([sampler.pick(level) for _ in range(20)])
    assert got.T.tolist() == [level_ids(3, 20), level_ids(4, 20)]


MODEL_OWN = SamplingConfig(temperature=0.7, top_p=0.9, repetition_penalty=1.3)


@pytest.mark.parametrize(
    ("before", "options", "expected"),
    [
        (MODEL_OWN, {}, MODEL_OWN),
        (
            MODEL_OWN,
            {"top_k": 5, "top_p": 1.0},
            SamplingConfig(temperature=0.7, top_k=5, repetition_penalty=1.3),
        ),
        # Beam search does without a temperature, filters and a penalty.
        (MODEL_OWN, {"beams": 4}, SamplingConfig(temperature=0.0, beams=4)),
        (
            MODEL_OWN,
            {"beams": 1},
            MODEL_OWN,
        ),
        # Mirostat does without the filters and the model's own temperature.
        (MODEL_OWN, {"mirostat": 3.0}, SamplingConfig(mirostat=3.0, repetition_penalty=1.3)),
        (
            MODEL_OWN,
            {"mirostat": 3.0, "temperature": 0.5},
            SamplingConfig(mirostat=3.0, temperature=0.5, repetition_penalty=1.3),
        ),
        (SamplingConfig(temperature=0.0), {"mirostat": 3.0}, SamplingConfig(mirostat=3.0)),
        (
            SamplingConfig(typical_p=0.5, min_p=0.2, top_k=3),
            {"mirostat": 3.0, "beams": 1},
            SamplingConfig(mirostat=3.0),
        ),
        (SamplingConfig(mirostat=3.0), {"mirostat": None}, SamplingConfig()),
        (
            SamplingConfig(mirostat=3.0),
            {"mirostat": None, "top_p": 0.5},
            SamplingConfig(top_p=0.5),
        ),
        # A temperature that was typed after Mirostat was lost with the next setting.
        (
            SamplingConfig(mirostat=3.0, temperature=0.5),
            {"repetition_penalty": 1.2},
            SamplingConfig(mirostat=3.0, temperature=0.5, repetition_penalty=1.2),
        ),
    ],
)
def test_adjusting_changes_what_must_follow(
    before: SamplingConfig, options: dict[str, Any], expected: SamplingConfig
) -> None:
    assert before.adjusted(**options) == expected


@pytest.mark.parametrize(
    ("before", "options", "message"),
    [
        (
            MODEL_OWN,
            {"beams": 4, "temperature": 0.7},
            "beam search does not draw: it needs temperature 0, not 0.7",
        ),
        (
            MODEL_OWN,
            {"beams": 4, "repetition_penalty": 1.5},
            "beam search has no repetition penalty",
        ),
        (
            SamplingConfig(),
            {"beams": 4, "mirostat": 3.0},
            "mirostat draws, and temperature 0 does not",
        ),
        (
            SamplingConfig(mirostat=3.0),
            {"top_p": 0.9},
            "mirostat takes the place of top-p",
        ),
        (
            SamplingConfig(mirostat=3.0),
            {"temperature": 0.0},
            "mirostat draws, and temperature 0 does not",
        ),
        (
            SamplingConfig(temperature=0, beams=4),
            {"temperature": 0.7},
            "beam search does not draw: it needs temperature 0, not 0.7",
        ),
        # These were a TypeError.
        (MODEL_OWN, {"beams": "4"}, "beams must be a whole number from 1 to 256, not '4'"),
        (MODEL_OWN, {"beams": None}, "beams must be a whole number from 1 to 256, not None"),
    ],
)
def test_adjusting_to_what_does_not_hold_together_is_refused(
    before: SamplingConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        before.adjusted(**options)
    assert caught.value.message == message


def test_the_constants_are_those_that_the_tests_count_with() -> None:
    assert (ALLOWED_REPETITION, REPETITION_WINDOW, sampling.MAX_BEAMS) == (12, 1_000, 256)
