"""The NumPy step against equations written out, and the readers of characters made of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    LONG_MEMORY,
    Weights,
    assert_same_arrays,
    make_network,
    naive_log_p,
    naive_network,
    random_weights,
)

from charlstm.config import NetworkConfig
from charlstm.engine import (
    CarriedState,
    LSTMState,
    LSTMStep,
    Mixture,
    Reader,
    SlidingWindow,
    make_reader,
    one_blas_thread,
)

VOCAB = len(CHARACTERS)
# Sums of some 15 float32 products near 1, through up to 3 layers and 20 steps
# that forget: a few units in the last of 24 bits. Gates in another order
# differ by 0.1 and more (tested below).
TOLERANCE = 1e-5


def random_ids(*shape: int, vocab: int = VOCAB, random_seed: int = 1) -> np.ndarray:
    return np.random.default_rng(random_seed).integers(0, vocab, size=shape)


def read_all(reader: Reader, rows: np.ndarray) -> np.ndarray:
    """Read `(batch, time)` ids and return the `(batch, time, vocab)` logits after each."""
    logits = []
    for t in range(rows.shape[1]):
        reader.read(rows[:, t])
        logits.append(reader.logits())
    return np.stack(logits, axis=1)


# --- the step -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_step_equals_the_equations_gate_by_gate(kind: str, layers: int) -> None:
    network = make_network(input=kind, layers=layers)
    weights = random_weights(network, random_seed=layers)
    rows = random_ids(2, 20)
    step, state = LSTMStep(network, weights), LSTMState(network, 2)
    logits = []
    for t in range(20):
        step.advance(rows[:, t], state)
        logits.append(step.logits(state))
    expected = naive_network(network, weights, rows)
    np.testing.assert_allclose(np.stack(logits, 1), expected.logits, atol=TOLERANCE)
    assert logits[0].dtype == np.float32
    assert len(state.h) == len(state.c) == layers
    for layer in range(layers):
        np.testing.assert_allclose(state.h[layer], expected.h[layer], atol=TOLERANCE)
        np.testing.assert_allclose(state.c[layer], expected.c[layer], atol=TOLERANCE)
        assert state.h[layer].dtype == state.c[layer].dtype == np.float32


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_another_order_of_the_gates_would_be_noticed(kind: str) -> None:
    network = make_network(input=kind)
    weights = random_weights(network)
    rows = random_ids(2, 4)
    right = naive_network(network, weights, rows).logits
    for order in itertools.permutations("ifgo"):
        if order != ("i", "f", "g", "o"):
            other = naive_network(network, weights, rows, order=order).logits
            assert np.abs(other - right).max() > 1_000 * TOLERANCE


def test_one_step_by_hand() -> None:
    # One unit a gate would hide an axis, so two units, each with its own
    # candidate; the recurrent kernel is idle in the first step.
    network = NetworkConfig(vocabulary_size=3, units=2, layers=1)
    kernel = np.zeros((3, 8), np.float32)
    kernel[1] = [0, np.log(3), -np.log(3), 0, 0.5, -2.0, np.log(9), 0]
    weights = {
        "lstm_1/kernel": kernel,
        "lstm_1/recurrent_kernel": np.full((2, 8), 7, np.float32),
        "lstm_1/bias": np.zeros(8, np.float32),
        "dense/kernel": np.array([[1, 0, 2], [0, 1, 3]], np.float32),
        "dense/bias": np.array([0, 10, 20], np.float32),
    }
    step, state = LSTMStep(network, weights), LSTMState(network, 1)
    step.advance(np.array([1]), state)
    # i = 1/2 and 3/4; f meets c = 0; o = 9/10 and 1/2.
    c = [0.5 * np.tanh(0.5), 0.75 * np.tanh(-2.0)]
    h = [0.9 * np.tanh(c[0]), 0.5 * np.tanh(c[1])]
    np.testing.assert_allclose(state.c[0], [c], rtol=1e-6)
    np.testing.assert_allclose(state.h[0], [h], rtol=1e-6)
    np.testing.assert_allclose(
        step.logits(state), [[h[0], 10 + h[1], 20 + 2 * h[0] + 3 * h[1]]], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_pieces_with_the_state_carried_equal_the_whole(kind: str) -> None:
    network = make_network(input=kind, layers=3)
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(2, 12)
    whole = read_all(CarriedState(step, batch=2), rows)
    pieces = []
    state = LSTMState(network, 2)
    for piece in np.split(rows, [5, 9], axis=1):  # 5, 4 and 3 steps
        carried = LSTMState(network, 2)
        carried.h = [h.copy() for h in state.h]
        carried.c = [c.copy() for c in state.c]
        for t in range(piece.shape[1]):
            step.advance(piece[:, t], carried)
            pieces.append(step.logits(carried))
        state = carried
    # The very same products: not one bit may differ.
    np.testing.assert_array_equal(np.stack(pieces, axis=1), whole)


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_a_batch_equals_its_rows_alone(kind: str, carries_state: bool) -> None:
    network = make_network(input=kind, carries_state=carries_state, seq_length=6)
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(4, 11)
    together = read_all(make_reader(step, batch=4), rows)
    for n in range(4):
        alone = read_all(make_reader(step, batch=1), rows[n : n + 1])
        # A product of one row may be summed in another order.
        np.testing.assert_allclose(together[n], alone[0], atol=TOLERANCE)


def test_two_texts_by_one_step_do_not_meet() -> None:
    # What a step needs of scratch space belongs to the state, not to it.
    network = make_network(layers=3)
    weights = random_weights(network)
    step = LSTMStep(network, weights)
    rows = random_ids(5, 9)
    first, second = CarriedState(step, batch=2), CarriedState(step, batch=3)
    for t in range(9):
        first.read(rows[:2, t])
        second.read(rows[2:, t])
        got = np.concatenate([first.logits(), second.logits()])
        expected = naive_network(network, weights, rows[:, : t + 1]).logits[:, -1]
        np.testing.assert_allclose(got, expected, atol=TOLERANCE)


def test_reading_changes_neither_the_weights_nor_earlier_logits() -> None:
    network = make_network()
    weights = random_weights(network)
    before = {name: array.copy() for name, array in weights.items()}
    rows = random_ids(2, 3)
    reader = CarriedState(LSTMStep(network, weights), batch=2)
    reader.read(rows[:, 0])
    first = reader.logits()
    kept = first.copy()
    reader.read(rows[:, 1])
    reader.logits()
    np.testing.assert_array_equal(first, kept)
    assert_same_arrays(weights, before)


def test_asking_for_logits_does_not_change_the_state() -> None:
    network = make_network()
    step, state = LSTMStep(network, random_weights(network)), LSTMState(network, 2)
    step.advance(np.array([3, 5]), state)
    first = step.logits(state)
    np.testing.assert_array_equal(step.logits(state), first)


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_may_be_any_integers(dtype: type, carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(2, 3)
    expected = naive_network(network, random_weights(network), rows).logits
    got = read_all(make_reader(step, batch=2), rows.astype(dtype))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


# --- the two readers ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("layers", [2, 3])
def test_a_sliding_window_starts_from_zero_for_each_character(kind: str, layers: int) -> None:
    seq_length = 6
    network = make_network(
        input=kind, layers=layers, seq_length=seq_length, carries_state=False, units=4
    )
    weights = random_weights(network, gate_biases=LONG_MEMORY)
    rows = random_ids(2, 15)
    logits = read_all(SlidingWindow(LSTMStep(network, weights), batch=2), rows)
    for t in range(15):
        window = rows[:, max(0, t + 1 - seq_length) : t + 1]
        expected = naive_network(network, weights, window).logits[:, -1]
        np.testing.assert_allclose(logits[:, t], expected, atol=TOLERANCE)
    # Had it carried its state, it would say something else.
    carried = naive_network(network, weights, rows).logits[:, -1]
    assert np.abs(carried - logits[:, -1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("carries_state", [True, False])
def test_who_asks_at_the_end_only_is_told_the_same(carries_state: bool) -> None:
    network = make_network(carries_state=carries_state, seq_length=6)
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(3, 9)
    asked = read_all(make_reader(step, batch=3), rows)[:, -1]
    reader = make_reader(step, batch=3)
    for t in range(9):
        reader.read(rows[:, t])
    for _ in range(2):  # and asking twice is no reading
        np.testing.assert_array_equal(reader.logits(), asked)


def test_a_window_is_not_read_before_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    # A seed of a thousand windows would cost a thousand windows otherwise.
    network = make_network(carries_state=False, seq_length=6)
    step = LSTMStep(network, random_weights(network))
    calls = []
    advance = step.advance
    monkeypatch.setattr(step, "advance", lambda *args: (calls.append(1), advance(*args)))
    reader = SlidingWindow(step, batch=3)
    for t in range(40):
        reader.read(random_ids(3, 40)[:, t])
    assert calls == []
    reader.logits()
    assert len(calls) == 6


@pytest.mark.parametrize("carries_state", [True, False])
def test_before_anything_is_read_only_the_bias_speaks(carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    weights = random_weights(network)
    logits = make_reader(LSTMStep(network, weights), batch=3).logits()
    np.testing.assert_array_equal(logits, np.stack([weights["dense/bias"]] * 3))


def test_the_reader_fits_how_the_network_was_trained() -> None:
    for carries_state, kind in ((True, CarriedState), (False, SlidingWindow)):
        network = make_network(carries_state=carries_state)
        step = LSTMStep(network, random_weights(network))
        assert type(make_reader(step, batch=2)) is kind


# --- going on with some of the texts ----------------------------------------------

# Of 4 texts: another order, as many but not the same, fewer, more, one.
SELECTIONS = [[2, 0, 3, 1], [1, 1, 3, 0], [3, 1], [0, 2, 2, 1, 0, 3, 2], [2]]


def make_mixture(batch: int) -> Mixture:
    """Two networks of different shapes and vocabularies that share 5 characters."""
    steps = [LSTMStep(network, weights) for network, weights, _ in PARTS]
    return Mixture(
        [make_reader(step, batch=batch) for step in steps],
        own_ids=[np.array(own_ids) for _, _, own_ids in PARTS],
        weights=SHARES,
    )


def make_one(*, carries_state: bool) -> Callable[[int], Reader]:
    network = make_network(carries_state=carries_state, seq_length=6)
    step = LSTMStep(network, random_weights(network, gate_biases=LONG_MEMORY))
    return lambda batch: make_reader(step, batch=batch)


def _part(random_seed: int, own_ids: Sequence[int], **changes: object) -> tuple:
    network = make_network(**changes)
    weights = random_weights(network, random_seed, gate_biases=LONG_MEMORY)
    return network, weights, own_ids


# The second knows 11 characters, of which the 5 shared are others by number.
PARTS: list[tuple[NetworkConfig, Weights, Sequence[int]]] = [
    _part(5, [0, 1, 3, 4, 6]),
    _part(6, [10, 2, 7, 3, 0], vocabulary_size=11, units=4, layers=3),
]
SHARES = [0.3, 0.7]

readers = pytest.mark.parametrize(
    "make",
    [make_one(carries_state=True), make_one(carries_state=False), make_mixture],
    ids=["carried", "window", "mixture"],
)


def alone(make: Callable[[int], Reader], history: Sequence[int]) -> np.ndarray:
    """What a reader says that has read this one text and nothing else."""
    reader = make(1)
    for next_id in history:
        reader.read(np.array([next_id]))
    return reader.logits()[0]


@readers
@pytest.mark.parametrize("selected", SELECTIONS)
# Nothing, less than a window of 6, and more.
@pytest.mark.parametrize("n_read", [0, 3, 8])
def test_selected_texts_equal_those_that_were_always_alone(
    make: Callable[[int], Reader], selected: list[int], n_read: int
) -> None:
    before, after = random_ids(4, n_read, vocab=5), random_ids(7, 5, vocab=5, random_seed=2)
    reader = make(4)
    for t in range(n_read):
        reader.read(before[:, t])
    reader.select(np.array(selected))
    histories = [before[row].tolist() for row in selected]
    for t in range(5):
        # What is asked for before it is read, too: right after the selection.
        for n, logits in enumerate(reader.logits()):
            expected = alone(make, histories[n])
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE)
        # Those that came twice go on with characters of their own.
        reader.read(after[: len(selected), t])
        for n, history in enumerate(histories):
            history.append(int(after[n, t]))


@readers
def test_selecting_again_and_again_follows_each_text(make: Callable[[int], Reader]) -> None:
    rng = np.random.default_rng(7)
    reader = make(3)
    histories: list[list[int]] = [[], [], []]
    for batch in (5, 2, 2, 6, 1, 4):
        ids = rng.integers(0, 5, size=len(histories))
        reader.read(ids)
        selected = rng.integers(0, len(histories), size=batch)
        reader.select(selected)
        histories = [[*histories[row], int(ids[row])] for row in selected]
        logits = reader.logits()
        assert logits.shape[0] == batch
        for n in range(batch):
            np.testing.assert_allclose(logits[n], alone(make, histories[n]), atol=TOLERANCE)


@readers
def test_what_was_said_before_a_selection_stays(make: Callable[[int], Reader]) -> None:
    reader = make(4)
    reader.read(np.array([0, 4, 2, 3]))
    said = reader.logits()
    kept = said.copy()
    reader.select(np.array([3, 3, 0, 1]))
    reader.read(np.array([1, 2, 3, 4]))
    reader.logits()
    np.testing.assert_array_equal(said, kept)


# --- several networks at once -------------------------------------------------------


def naive_mixture(rows: np.ndarray, shares: Sequence[float] = SHARES) -> list[list[float]]:
    """Weighted means of log-probabilities by plain numbers; each network from scratch."""
    result = []
    for row in rows:
        means = [0.0] * 5
        for (network, weights, own_ids), share in zip(PARTS, shares, strict=True):
            own_row = [own_ids[shared_id] for shared_id in row]
            last = naive_network(network, weights, [own_row]).logits[0, -1]
            for shared_id in range(5):
                means[shared_id] += share * naive_log_p(last, own_ids[shared_id])
        result.append(means)
    return result


def test_a_mixture_is_the_weighted_mean_of_log_probabilities() -> None:
    # Each network reads with its own state from the first character on; were
    # one state or one set of ids taken for the other, all would be wrong.
    rows = random_ids(3, 9, vocab=5)
    logits = read_all(make_mixture(3), rows)
    assert logits.dtype == np.float32
    assert logits.shape == (3, 9, 5)
    for t in range(9):
        np.testing.assert_allclose(logits[:, t], naive_mixture(rows[:, : t + 1]), atol=TOLERANCE)
    # The other way round it would be noticed.
    assert np.abs(naive_mixture(rows, SHARES[::-1]) - logits[:, -1]).max() > 1_000 * TOLERANCE


def test_a_mixture_of_three_with_a_window_among_them() -> None:
    networks = [
        make_network(carries_state=False, seq_length=4),
        make_network(units=3),
        make_network(input="scaled", layers=1),
    ]
    all_weights = [random_weights(network, n) for n, network in enumerate(networks)]
    shares = [0.5, 0.3, 0.2]
    order = [3, 0, 6, 2, 1, 5, 4]
    mixture = Mixture(
        [
            make_reader(LSTMStep(network, weights), batch=2)
            for network, weights in zip(networks, all_weights, strict=True)
        ],
        own_ids=[np.array(order), np.arange(VOCAB), np.arange(VOCAB)],
        weights=shares,
    )
    rows = random_ids(2, 6)
    got = read_all(mixture, rows)[:, -1]
    own_rows = [np.array(order)[rows][:, -4:], rows, rows]
    for n in range(2):
        for shared_id in range(VOCAB):
            own_ids = [order[shared_id], shared_id, shared_id]
            expected = sum(
                share * naive_log_p(naive_network(network, weights, own).logits[n, -1], own_id)
                for network, weights, share, own, own_id in zip(
                    networks, all_weights, shares, own_rows, own_ids, strict=True
                )
            )
            assert got[n, shared_id] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.9])
def test_a_network_mixed_with_itself_is_itself(carries_state: bool, share: float) -> None:
    network = make_network(carries_state=carries_state, seq_length=3)
    step = LSTMStep(network, random_weights(network))
    mixture = Mixture(
        [make_reader(step, batch=2) for _ in range(2)],
        own_ids=[np.arange(VOCAB)] * 2,
        weights=[share, 1 - share],
    )
    rows = random_ids(2, 5)
    mixed = read_all(mixture, rows)
    single = read_all(make_reader(step, batch=2), rows)
    for n, t in itertools.product(range(2), range(5)):
        own = [naive_log_p(single[n, t].astype(float), next_id) for next_id in range(VOCAB)]
        np.testing.assert_allclose(mixed[n, t], own, atol=TOLERANCE)


def test_one_network_can_rule_a_character_out() -> None:
    # That is what a mean of log-probabilities does, and one of probabilities not.
    class Fixed:
        def __init__(self, logits: list[float]) -> None:
            self._logits = np.array([logits, logits[::-1]], np.float32)

        def read(self, ids: np.ndarray) -> None: ...

        def logits(self) -> np.ndarray:
            return self._logits

        def select(self, rows: np.ndarray) -> None: ...

    mixture = Mixture(
        [Fixed([0.0, -math.inf, 0.0]), Fixed([math.log(3), 0.0, 0.0])],
        own_ids=[np.arange(3), np.array([2, 0, 1])],
        weights=[0.25, 0.75],
    )
    half, fifth, three_fifths = math.log(1 / 2), math.log(1 / 5), math.log(3 / 5)
    np.testing.assert_allclose(
        mixture.logits(),
        [
            [half / 4 + fifth * 3 / 4, -math.inf, half / 4 + fifth * 3 / 4],
            [half / 4 + three_fifths * 3 / 4, -math.inf, half / 4 + fifth * 3 / 4],
        ],
        rtol=1e-6,
    )


# --- threads ------------------------------------------------------------------------


def blas_threads() -> list[int]:
    import threadpoolctl

    return [
        pool["num_threads"]
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]


def test_blas_has_one_thread_inside_and_its_own_number_after() -> None:
    before = blas_threads()
    with one_blas_thread():
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before
    with pytest.raises(ValueError, match="as when writing fails"), one_blas_thread():
        raise ValueError("as when writing fails")
    assert blas_threads() == before


def test_who_writes_in_turns_leaves_blas_as_it_was() -> None:
    # The first to end gave the second several threads, and this one then kept
    # the process at one for ever.
    before = blas_threads()
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) <= {1}
    with one_blas_thread():
        pass
    assert set(blas_threads()) <= {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before
