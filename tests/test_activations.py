"""Gates and states against the equations written out, and gates that are held."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    CHARACTERS,
    GATES,
    gate_columns,
    make_network,
    naive_network,
    random_weights,
    sigmoid,
)

from charlstm.activations import Activations, ObservedStep, observe
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMState, LSTMStep

VOCAB = len(CHARACTERS)
TOLERANCE = 1e-5  # as in test_engine
HELD = {"input": "i", "forget": "f", "output": "o"}


def random_ids(n: int, random_seed: int = 1) -> np.ndarray:
    return np.random.default_rng(random_seed).integers(0, VOCAB, size=n)


def read_window(network: NetworkConfig, weights: dict, ids: np.ndarray, held: dict) -> dict:
    """Everything of the last character of a window read from zero, in float64."""
    h = np.zeros((network.layers, network.units))
    c = np.zeros_like(h)
    seen: dict[str, np.ndarray] = {}
    for char in ids:
        x = np.eye(VOCAB)[char] if network.input == "one_hot" else np.array([char / VOCAB])
        seen = {name: np.zeros_like(h) for name in Activations.__dataclass_fields__}
        for layer in range(network.layers):
            parts = [
                weights[f"lstm_{layer + 1}/{part}"].astype(np.float64)
                for part in ("kernel", "recurrent_kernel", "bias")
            ]
            z = {}
            for gate in GATES:
                columns = gate_columns(network.units, gate)
                kernel, recurrent, bias = (part[..., columns] for part in parts)
                z[gate] = x @ kernel + h[layer] @ recurrent + bias
            values = {"i": sigmoid(z["i"]), "f": sigmoid(z["f"]), "o": sigmoid(z["o"])}
            for name, value in held.items():
                values[HELD[name]] = np.full(network.units, value)
            seen["cell_before"][layer], seen["hidden_before"][layer] = c[layer], h[layer]
            c[layer] = values["f"] * c[layer] + values["i"] * np.tanh(z["g"])
            h[layer] = values["o"] * np.tanh(c[layer])
            for name, short in HELD.items():
                seen[name][layer] = values[short]
            seen["candidate"][layer] = np.tanh(z["g"])
            seen["cell"][layer], seen["hidden"][layer] = c[layer], h[layer]
            x = h[layer]
    return seen


@pytest.mark.parametrize("carries_state", [True, False])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("held", [{}, {"forget": 0.0}, {"input": 1.0, "output": 0.25}])
def test_everything_equals_the_equations(kind: str, carries_state: bool, held: dict) -> None:
    network = make_network(input=kind, carries_state=carries_state, layers=3)
    weights = random_weights(network)
    ids = random_ids(network.seq_length + 5)
    activations = observe(ObservedStep(network, weights, held=held), ids)
    assert activations.forget.shape == (3, len(ids), network.units)
    assert activations.logits.shape == (len(ids), VOCAB)
    for t in range(len(ids)):
        # Recipe article reads each window from zero; else the text has no horizon.
        first = 0 if carries_state else max(0, t + 1 - network.seq_length)
        expected = read_window(network, weights, ids[first : t + 1], held)
        for name in ("input", "forget", "candidate", "output", "cell_before", "cell",
                     "hidden_before", "hidden"):  # fmt: skip
            actual = getattr(activations, name)[:, t]
            np.testing.assert_allclose(
                actual, expected[name], atol=TOLERANCE, err_msg=f"{name} {t}"
            )


def test_the_logits_are_those_of_the_network() -> None:
    network = make_network()
    weights = random_weights(network)
    ids = random_ids(13)
    expected = naive_network(network, weights, ids[None]).logits[0]
    actual = observe(ObservedStep(network, weights), ids).logits
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)


def test_observing_changes_nothing() -> None:
    """Bit for bit, so that what is explained is what writes."""
    network = make_network()
    weights = random_weights(network)
    rows = random_ids(24).reshape(3, 8)
    plain, observed = LSTMStep(network, weights), ObservedStep(network, weights)
    states = [LSTMState(network, 3), LSTMState(network, 3)]
    for t in range(8):
        plain.advance(rows[:, t], states[0])
        observed.advance(rows[:, t], states[1])
    for name in ("h", "c"):
        for a, b in zip(getattr(states[0], name), getattr(states[1], name), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("carries_state", [True, False])
def test_the_parts_make_the_cell_and_the_hidden_state(carries_state: bool) -> None:
    network = make_network(carries_state=carries_state)
    a = observe(ObservedStep(network, random_weights(network)), random_ids(300))
    np.testing.assert_allclose(a.forget * a.cell_before + a.input * a.candidate, a.cell, atol=1e-6)
    np.testing.assert_allclose(a.output * np.tanh(a.cell), a.hidden, atol=1e-6)
    if carries_state:
        np.testing.assert_array_equal(a.cell_before[:, 1:], a.cell[:, :-1])
        np.testing.assert_array_equal(a.hidden_before[:, 1:], a.hidden[:, :-1])
    assert not a.cell_before[:, 0].any()


@pytest.mark.tf
def test_everything_equals_stock_keras() -> None:
    """The states of stock Keras after each prefix, and the gates of its own cell."""
    import keras

    network = make_network()
    weights = random_weights(network)
    ids = random_ids(9)
    a = observe(ObservedStep(network, weights), ids)
    x = np.eye(VOCAB, dtype=np.float32)[ids][None]  # (1, time, vocab)
    for layer in range(network.layers):
        lstm = keras.layers.LSTM(network.units, return_sequences=True, return_state=True)
        lstm.build(x.shape)
        names = ("kernel", "recurrent_kernel", "bias")
        lstm.set_weights([weights[f"lstm_{layer + 1}/{name}"] for name in names])
        for t in range(len(ids)):
            _, h, c = lstm(x[:, : t + 1])
            np.testing.assert_allclose(a.hidden[layer, t], h[0], atol=1e-4)
            np.testing.assert_allclose(a.cell[layer, t], c[0], atol=1e-4)
            z = x[:, t] @ lstm.cell.kernel + a.hidden_before[layer, t] @ lstm.cell.recurrent_kernel
            z = (z + lstm.cell.bias)[0]
            for name, short in HELD.items():
                gate = keras.ops.sigmoid(z[gate_columns(network.units, short)])
                np.testing.assert_allclose(getattr(a, name)[layer, t], gate, atol=1e-4)
            candidate = keras.ops.tanh(z[gate_columns(network.units, "g")])
            np.testing.assert_allclose(a.candidate[layer, t], candidate, atol=1e-4)
        x = np.asarray(lstm(x)[0])
