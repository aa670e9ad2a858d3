"""Picking a character: forced logits, exact frequencies, rows that do not mix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlstm.errors import CharlstmError, ConfigError
from charlstm.sampling import apply_temperature, argmax, draw, sample, softmax

VOCAB = 7
LETTERS = "abcdefg"
LARGEST = float(np.finfo(np.float32).max)
# Float32 has 24 bits; a sum of 7 terms and a division lose a few of them.
FLOAT32_TOLERANCE = 1e-6


class FixedNumbers:
    """Stands in for a generator: gives the numbers it was given."""

    def __init__(self, *numbers: float) -> None:
        self._numbers: Iterator[float] = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)


def generators(*random_seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(n) for n in random_seeds]


def forced(*letters: str, low: float = -math.inf) -> np.ndarray:
    """`(batch, vocab)` logits in which each row can only become its letter."""
    logits = np.full((len(letters), VOCAB), low, np.float32)
    for row, letter in enumerate(letters):
        logits[row, LETTERS.index(letter)] = 1.5
    return logits


def exact_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Plain Python floats, row by row."""
    rows = []
    for row in logits.astype(float).tolist():
        top = max(row)
        weights = [math.exp((x - top) / temperature) for x in row]
        rows.append([w / math.fsum(weights) for w in weights])
    return np.array(rows)


finite_logits = st.floats(-50, 50, width=32)
some_logits = st.one_of(
    finite_logits,
    st.just(-math.inf),
    st.sampled_from([-1e30, -300.0, 0.0, 88.0, 1e30]),
)


@st.composite
def logit_rows(draw_value: st.DrawFn, batch: int = 3) -> np.ndarray:
    """`(batch, vocab)` float32, at least one finite logit a row."""
    rows = draw_value(
        st.lists(
            st.lists(some_logits, min_size=VOCAB, max_size=VOCAB).filter(
                lambda row: max(row) > -math.inf
            ),
            min_size=batch,
            max_size=batch,
        )
    )
    return np.array(rows, np.float32)


# --- forced logits --------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, 1e-3, 0.8, 1, 25])
def test_forced_logits_give_exact_text(temperature: float) -> None:
    # Two rows with different answers: a mistaken axis cannot pass.
    columns = zip("badge", "faced", strict=True)
    rngs = generators(1, 2)
    written = [
        sample(forced(*column), temperature=temperature, rngs=rngs).tolist() for column in columns
    ]
    texts = ["".join(LETTERS[n] for n in row) for row in zip(*written, strict=True)]
    assert texts == ["badge", "faced"]


def test_results_are_int64_ids_one_a_row() -> None:
    for ids in (
        argmax(forced("g", "c", "a")),
        draw(forced("g", "c", "a"), rngs=generators(0, 1, 2)),
        sample(forced("g", "c", "a"), temperature=0.5, rngs=generators(0, 1, 2)),
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
    assert sample(logits, temperature=0, rngs=[]).tolist() == [1, 0, 1, 3]


def test_argmax_asks_no_generator() -> None:
    assert sample(forced("d", "b"), temperature=0.0, rngs=[]).tolist() == [3, 1]
    assert sample(forced("d", "b"), temperature=-0.0, rngs=[]).tolist() == [3, 1]


# --- softmax --------------------------------------------------------------------


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
    for b, t in itertools.product(range(2), range(3)):
        np.testing.assert_allclose(probabilities[b, t], exact_softmax(logits[b, t][None])[0])


@pytest.mark.parametrize("huge", [100.0, 1e30, 1.5e38, LARGEST])
def test_softmax_does_not_overflow(huge: float) -> None:
    # The largest float32 less the smallest is beyond float32: that is
    # overflow too, though the result would be right.
    logits = np.array(
        [[huge, -huge, 0, 0, -huge, huge, -huge], [-huge] * 6 + [0]], dtype=np.float32
    )
    expected = [[0.5, 0, 0, 0, 0, 0.5, 0], [0, 0, 0, 0, 0, 0, 1]]
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-30)


# --- temperature ----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.5, 0.8, 1, 2, 40])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits = np.random.default_rng(4).normal(size=(3, VOCAB)).astype(np.float32) * 3
    before = logits.copy()
    scaled = apply_temperature(logits, temperature=temperature)
    assert scaled.dtype == np.float32
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
    for start in range(0, 50, 5):
        rngs = generators(*range(start, start + 5))
        assert sample(logits, temperature=temperature, rngs=rngs).tolist() == expected


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
    assert sample(logits, temperature=0.5, rngs=generators(0, 1)).tolist() == [6, 0]


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, -1, -1e-300, True, "1"])
def test_a_temperature_that_is_no_number_from_0_is_refused(temperature: object) -> None:
    with pytest.raises(ConfigError) as caught:
        sample(forced("a", "b"), temperature=temperature, rngs=generators(0, 1))  # type: ignore[arg-type]
    assert (
        caught.value.message
        == f"temperature must be a finite number at least 0, not {temperature!r}"
    )
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, CharlstmError)


@pytest.mark.parametrize("temperature", [0, -0.0, -2.5, math.nan, math.inf])
def test_apply_temperature_needs_more_than_0(temperature: float) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_temperature(forced("a", "b"), temperature=temperature)
    assert (
        caught.value.message == f"temperature must be a finite number above 0, not {temperature!r}"
    )
    assert caught.value.exit_code == 2


# --- draws ----------------------------------------------------------------------


@given(
    logit_rows(),
    st.lists(
        st.one_of(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from([0.0, 5e-324, 0.5, math.nextafter(1.0, 0.0)]),
        ),
        min_size=3,
        max_size=3,
    ),
)
def test_a_draw_never_picks_what_has_no_probability(
    logits: np.ndarray, numbers: list[float]
) -> None:
    ids = draw(logits, rngs=[FixedNumbers(x) for x in numbers])  # type: ignore[misc]
    assert ids.shape == (3,)
    # By the exact softmax too, not only by the one that the draw uses.
    assert (exact_softmax(logits)[np.arange(3), ids] > 0).all()
    assert (softmax(logits)[np.arange(3), ids] > 0).all()


def test_frequencies_match_the_probabilities() -> None:
    # Two rows of different distributions, one of them with an impossible
    # character. Pearson's statistic exceeds the bound, its 99.9% point for 6
    # and 5 degrees of freedom, once in a thousand seeds; this one is fixed.
    logits = np.array(
        [[0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 1.5], [1.0, -np.inf, 0.0, 0.0, 2.0, -1.5, 0.7]],
        np.float32,
    )
    temperature, n_draws = 0.7, 12_000
    rngs = generators(11, 12)
    counts = np.zeros((2, VOCAB))
    for _ in range(n_draws):
        counts[[0, 1], sample(logits, temperature=temperature, rngs=rngs)] += 1
    expected = exact_softmax(logits, temperature) * n_draws
    assert counts[1, 1] == 0
    for row, bound in ((0, 22.46), (1, 20.52)):
        possible = expected[row] > 0
        statistic = ((counts[row] - expected[row])[possible] ** 2 / expected[row][possible]).sum()
        assert statistic < bound


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
        alone = sample(logits, temperature=temperature, rngs=generators(*seeds))
        among = sample(mixed, temperature=temperature, rngs=generators(*other_seeds))
        assert alone[row] == among[row]


def test_each_generator_gives_one_number() -> None:
    rngs = generators(21, 22, 23)
    draw(np.zeros((3, VOCAB), np.float32), rngs=rngs)
    fresh = generators(21, 22, 23)
    for used, new in zip(rngs, fresh, strict=True):
        new.random()
        assert used.random() == new.random()


@given(logit_rows(), st.integers(0, 2**63 - 1), st.floats(0.05, 5))
def test_the_same_generators_draw_the_same(
    logits: np.ndarray, random_seed: int, temperature: float
) -> None:
    first, second = (
        sample(logits, temperature=temperature, rngs=generators(*[random_seed] * 3))
        for _ in range(2)
    )
    assert first.tolist() == second.tolist()
