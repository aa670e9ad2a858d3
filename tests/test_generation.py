"""Writing text: the NumPy step against equations written out, and the loop around it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    LONG_MEMORY,
    VOCABULARY,
    Weights,
    assert_same_arrays,
    make_checkpoint,
    make_network,
    naive_network,
    random_weights,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm.checkpoint import Checkpoint
from charlstm.config import NetworkConfig
from charlstm.errors import CharlstmError, ConfigError, SeedTextError
from charlstm.generation import (
    CarriedState,
    LSTMState,
    LSTMStep,
    Reader,
    SlidingWindow,
    check_seed_text,
    generate,
    make_reader,
    one_blas_thread,
    pick_seed_window,
    write_ids,
)
from charlstm.vocabulary import Vocabulary

VOCAB = len(CHARACTERS)
# Sums of some 15 float32 products near 1, through up to 3 layers and 20 steps
# that forget: a few units in the last of 24 bits. Gates in another order
# differ by 0.1 and more (tested below).
TOLERANCE = 1e-5


def random_ids(*shape: int, random_seed: int = 1) -> np.ndarray:
    return np.random.default_rng(random_seed).integers(0, VOCAB, size=shape)


def read_all(reader: Reader, rows: np.ndarray) -> np.ndarray:
    """Feed `(batch, time)` ids and return `(batch, time, vocab)` logits."""
    return np.stack([reader.feed(rows[:, t]) for t in range(rows.shape[1])], axis=1)


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


def test_reading_changes_neither_the_weights_nor_earlier_logits() -> None:
    network = make_network()
    weights = random_weights(network)
    before = {name: array.copy() for name, array in weights.items()}
    rows = random_ids(2, 3)
    reader = CarriedState(LSTMStep(network, weights), batch=2)
    first = reader.feed(rows[:, 0])
    kept = first.copy()
    reader.feed(rows[:, 1])
    np.testing.assert_array_equal(first, kept)
    assert_same_arrays(weights, before)


def test_asking_for_logits_does_not_change_the_state() -> None:
    network = make_network()
    step, state = LSTMStep(network, random_weights(network)), LSTMState(network, 2)
    step.advance(np.array([3, 5]), state)
    first = step.logits(state)
    np.testing.assert_array_equal(step.logits(state), first)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_ids_may_be_any_integers(dtype: type) -> None:
    network = make_network()
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(2, 3)
    expected = naive_network(network, random_weights(network), rows).logits
    got = read_all(CarriedState(step, batch=2), rows.astype(dtype))
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


def test_what_is_remembered_counts_as_read() -> None:
    network = make_network(carries_state=False, seq_length=6)
    step = LSTMStep(network, random_weights(network))
    rows = random_ids(3, 9)
    fed = read_all(SlidingWindow(step, batch=3), rows)[:, -1]
    reader = SlidingWindow(step, batch=3)
    assert reader.horizon == 6
    for t in range(8):
        reader.remember(rows[:, t])
    np.testing.assert_array_equal(reader.feed(rows[:, 8]), fed)


def test_the_reader_fits_how_the_network_was_trained() -> None:
    for carries_state, kind in ((True, CarriedState), (False, SlidingWindow)):
        network = make_network(carries_state=carries_state)
        step = LSTMStep(network, random_weights(network))
        assert type(make_reader(step, batch=2)) is kind


# --- the loop -------------------------------------------------------------------


class Successor:
    """A reader after which the next letter of the alphabet always wins."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def feed(self, ids: np.ndarray) -> np.ndarray:
        self.read += ids.tolist()
        logits = np.full((len(ids), VOCAB), -np.inf, np.float32)
        logits[np.arange(len(ids)), (ids + 1) % VOCAB] = 0
        return logits


@pytest.mark.parametrize("temperature", [0, 0.8, 3])
def test_a_forced_reader_writes_a_known_text(temperature: float) -> None:
    reader = Successor()
    written = write_ids(
        reader,
        np.array([0, 3]),
        length=6,
        temperature=temperature,
        rng=np.random.default_rng(0),
    )
    assert list(written) == [4, 5, 6, 0, 1, 2]
    # The seed and all that was written but the last, each once and in order.
    assert reader.read == [0, 3, 4, 5, 6, 0, 1]


def test_a_character_is_given_before_the_next_is_thought_of() -> None:
    reader = Successor()
    written = write_ids(
        reader, np.array([2, 4]), length=5, temperature=0, rng=np.random.default_rng(0)
    )
    assert reader.read == []
    assert next(written) == 5
    assert reader.read == [2, 4]


def naive_text(
    network: NetworkConfig, weights: Weights, seed_text: str, length: int, *, window: int | None
) -> str:
    """Write by argmax with the naive network, reading all, or the last `window`, each time."""
    ids = [CHARACTERS.index(c) for c in seed_text]
    for _ in range(length):
        read = ids if window is None else ids[-window:]
        ids.append(int(np.argmax(naive_network(network, weights, [read]).logits[0, -1])))
    return "".join(CHARACTERS[n] for n in ids[len(seed_text) :])


def write(
    checkpoint: Checkpoint,
    seed_text: str,
    *,
    length: int = 40,
    temperature: float = 1.0,
    random_seed: int = 3,
) -> str:
    return "".join(
        generate(
            checkpoint, seed_text, length=length, temperature=temperature, random_seed=random_seed
        )
    )


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("seed_text", ["b", "é\nca", "abcd" * 5])
def test_argmax_writes_what_the_naive_network_writes(
    tmp_path: Path, kind: str, carries_state: bool, seed_text: str
) -> None:
    network = make_network(input=kind, carries_state=carries_state, seq_length=6)
    weights = random_weights(network, random_seed=8)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    expected = naive_text(
        network, weights, seed_text, 12, window=None if carries_state else network.seq_length
    )
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
    written = list(
        generate(checkpoint, "cab", length=length, temperature=temperature, random_seed=5)
    )
    assert len(written) == length
    assert all(c in VOCABULARY for c in written)


def test_a_carried_state_reads_a_long_seed_whole(tmp_path: Path) -> None:
    # 300 characters, six windows of 50; the gates stay open, so the first
    # characters still decide what is written.
    network = make_network(seq_length=50)
    weights = random_weights(network, random_seed=13, gate_biases=LONG_MEMORY)
    checkpoint = make_checkpoint(tmp_path, network, weights)
    tail = "".join(CHARACTERS[n] for n in random_ids(292))
    heads = ["aaaaaaaa", "\n\n\n\n\n\n\n\n", "éééééééé"]
    texts = [write(checkpoint, head + tail, length=15, temperature=0) for head in heads]
    expected = [naive_text(network, weights, head + tail, 15, window=None) for head in heads]
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
    seeds = ["".join(CHARACTERS[n] for n in row) for row in random_ids(40, 20)]
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


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_generate_refuses_an_impossible_temperature(tmp_path: Path, temperature: float) -> None:
    with pytest.raises(ConfigError) as caught:
        write(make_checkpoint(tmp_path), "ab", temperature=temperature)
    assert (
        caught.value.message == f"temperature must be a finite number at least 0, not {temperature}"
    )
    assert caught.value.exit_code == 2


def test_blas_has_one_thread_inside_and_its_own_number_after(tmp_path: Path) -> None:
    import threadpoolctl

    def threads() -> list[int]:
        return [
            pool["num_threads"]
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        ]

    before = threads()
    with one_blas_thread():
        assert set(threads()) <= {1}
    assert threads() == before
    written = generate(make_checkpoint(tmp_path), "ab", length=5, temperature=1.0, random_seed=0)
    next(written)
    written.close()  # as when a pipe was closed
    assert threads() == before


# --- seed texts -----------------------------------------------------------------


@given(st.text(alphabet=CHARACTERS))
def test_a_known_text_is_returned_as_it_is(text: str) -> None:
    assert check_seed_text(text, VOCABULARY) == text
    assert check_seed_text(text, VOCABULARY, skip_unknown=True) == text


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
        check_seed_text(text, VOCABULARY)
    assert caught.value.message == f"the model has never seen {named} of the seed text"
    assert caught.value.message.isprintable()
    assert caught.value.hint == "--unknown skip leaves them out"
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, CharlstmError)


@pytest.mark.parametrize(
    ("unknown", "more"),
    [("ABCDEFGH", ""), ("ABCDEFGHI", " and 1 more"), ("ABCDEFGHIJKL" * 3, " and 4 more")],
)
def test_at_most_eight_characters_are_named(unknown: str, more: str) -> None:
    named = ", ".join(f"'{c}' (U+{ord(c):04X}, position {n + 3})" for n, c in enumerate("ABCDEFGH"))
    with pytest.raises(SeedTextError) as caught:
        check_seed_text("ab" + unknown, VOCABULARY, what="the text")
    assert caught.value.message == f"the model has never seen {named}{more} of the text"


@given(st.text(alphabet=st.one_of(st.sampled_from(CHARACTERS), st.characters())))
def test_skipping_leaves_exactly_the_known_characters(text: str) -> None:
    kept = check_seed_text(text, VOCABULARY, skip_unknown=True)
    assert list(kept) == [c for c in text if c in CHARACTERS]


@given(
    st.text(alphabet=st.one_of(st.sampled_from(CHARACTERS), st.characters(exclude_categories=())))
)
def test_a_message_is_one_printable_line_whatever_was_typed(text: str) -> None:
    unknown = set(text) - set(CHARACTERS)
    try:
        assert check_seed_text(text, VOCABULARY) == text
        assert not unknown
    except SeedTextError as error:
        assert unknown
        assert error.message.isprintable()
        assert error.message.count("(U+") == min(8, len(unknown))


def test_a_seed_window_is_one_of_those_carried(tmp_path: Path) -> None:
    windows = ["abcd abc", "dé\nabcab", "cccccccc"]
    checkpoint = make_checkpoint(tmp_path, seed_windows=windows)
    picked = [pick_seed_window(checkpoint, np.random.default_rng(n)) for n in range(60)]
    # Each is left out with probability (2/3)^60.
    assert set(picked) == set(windows)
    assert picked == [pick_seed_window(checkpoint, np.random.default_rng(n)) for n in range(60)]


@pytest.mark.parametrize("characters", ["\n abcdé", "tuvwxyz"])
def test_a_model_without_windows_can_be_written_from(tmp_path: Path, characters: str) -> None:
    # A newline is no way out for a model that has never seen one.
    checkpoint = make_checkpoint(tmp_path, vocabulary=Vocabulary(characters), seed_windows=[])
    picked = pick_seed_window(checkpoint, np.random.default_rng(0))
    assert write(checkpoint, picked) == write(checkpoint, characters[0])
