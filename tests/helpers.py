"""What several plain test modules share.

A tiny network in which every axis has its own size, the same network written
out gate by gate in float64 to compare with, and models on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    TrainingState,
    load_checkpoint,
    load_training_state,
    state_shapes,
    weight_shapes,
)
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.errors import CharlstmError, CheckpointError
from charlstm.models import list_checkpoints, save_checkpoint
from charlstm.vocabulary import Vocabulary

CHARACTERS = "\n abcdé"
VOCABULARY = Vocabulary(CHARACTERS)
GATES = ("i", "f", "g", "o")  # the order in which Keras packs the columns
# Visibly different gates: swapping any two changes the result beyond tolerance.
GATE_SCALES = {"i": 0.5, "f": 0.8, "g": 1.3, "o": 1.0}
GATE_BIASES = {"i": -0.4, "f": 1.0, "g": 0.2, "o": 0.6}

Weights = dict[str, np.ndarray]

FILES = (
    "weights.safetensors",
    "config.json",
    "vocabulary.json",
    "state.safetensors",
    "trainer.json",
    "manifest.json",
)
LOADED_FOR_WRITING_TEXT = FILES[:3]
NEWER_HINT = "install a newer charlstm"


def make_network(**changes: Any) -> NetworkConfig:
    """Vocabulary 7, units 5, layers 2, windows of 8."""
    fields = {"vocabulary_size": len(CHARACTERS), "units": 5, "layers": 2, "seq_length": 8}
    return NetworkConfig(**(fields | changes))


def gate_columns(units: int, gate: str, order: tuple[str, ...] = GATES) -> slice:
    return slice(order.index(gate) * units, (order.index(gate) + 1) * units)


def random_weights(
    network: NetworkConfig, random_seed: int = 0, *, gate_biases: Mapping[str, float] = GATE_BIASES
) -> Weights:
    """Float32 weights whose four gates differ in scale and bias."""
    rng = np.random.default_rng(random_seed)
    weights: Weights = {}
    for name, shape in weight_shapes(network).items():
        array = rng.normal(size=shape)
        if name.startswith("lstm"):
            for gate in GATES:
                columns = gate_columns(network.units, gate)
                array[..., columns] *= GATE_SCALES[gate]
                if name.endswith("bias"):
                    array[columns] = 0.1 * array[columns] + gate_biases[gate]
        weights[name] = array.astype(np.float32)
    return weights


# Forget gates that stay open: what was read 200 characters ago still counts.
LONG_MEMORY = GATE_BIASES | {"f": 8.0, "i": -4.0}


@dataclasses.dataclass
class NaiveResult:
    """Logits `(batch, time, vocab)`, and the last h and c of each layer, `(batch, units)`."""

    logits: np.ndarray
    h: list[np.ndarray]
    c: list[np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def naive_network(
    network: NetworkConfig,
    weights: Mapping[str, np.ndarray],
    rows: Any,
    order: tuple[str, ...] = GATES,
) -> NaiveResult:
    """Run the network from zero, one gate after the other, in float64.

    Args:
        network: The network's shape.
        weights: As in `weight_shapes`.
        rows: `(batch, time)` ids.
        order: How the gates are packed; another order than Keras's shows that
            a comparison would notice.

    Returns:
        The logits of every step.
    """
    wide = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    rows = np.asarray(rows, np.int64)
    batch, time = rows.shape
    h = [np.zeros((batch, network.units)) for _ in range(network.layers)]
    c = [np.zeros((batch, network.units)) for _ in range(network.layers)]
    one_hot = np.eye(network.vocabulary_size)
    logits = np.zeros((batch, time, network.vocabulary_size))
    for t in range(time):
        if network.input == "one_hot":
            x = one_hot[rows[:, t]]
        else:
            x = rows[:, t : t + 1] / network.vocabulary_size
        for layer in range(network.layers):
            kernel = wide[f"lstm_{layer + 1}/kernel"]
            recurrent = wide[f"lstm_{layer + 1}/recurrent_kernel"]
            bias = wide[f"lstm_{layer + 1}/bias"]
            z = {}
            for gate in GATES:
                columns = gate_columns(network.units, gate, order)
                z[gate] = x @ kernel[:, columns] + h[layer] @ recurrent[:, columns] + bias[columns]
            i, f, o = sigmoid(z["i"]), sigmoid(z["f"]), sigmoid(z["o"])
            c[layer] = f * c[layer] + i * np.tanh(z["g"])
            h[layer] = o * np.tanh(c[layer])
            x = h[layer]
        logits[:, t] = x @ wide["dense/kernel"] + wide["dense/bias"]
    return NaiveResult(logits=logits, h=h, c=c)


def naive_log_p(logits: np.ndarray, target: int) -> float:
    """Log-probability of one character, from one row of logits."""
    top = float(max(logits))
    return float(logits[target] - top - np.log(sum(np.exp(x - top) for x in logits)))


def naive_text(
    network: NetworkConfig,
    weights: Mapping[str, np.ndarray],
    seed_text: str,
    length: int,
    *,
    window: int | None = None,
) -> str:
    """Write by argmax with the naive network, reading all from zero for each character.

    Args:
        network: The network's shape.
        weights: As in `weight_shapes`.
        seed_text: Of `CHARACTERS`.
        length: Characters to write.
        window: Read only so many of the last; None for the network's own way.

    Returns:
        The new text.
    """
    if window is None and not network.carries_state:
        window = network.seq_length
    ids = [CHARACTERS.index(c) for c in seed_text]
    for _ in range(length):
        read = ids if window is None else ids[-window:]
        ids.append(int(np.argmax(naive_network(network, weights, [read]).logits[0, -1])))
    return "".join(CHARACTERS[n] for n in ids[len(seed_text) :])


# --- units that follow something, by design --------------------------------------

PLANTED_CHARACTERS = 'abcdeéA()/-! .\n"$<>&\\\x1b'
PLANTED_VOCABULARY = Vocabulary(PLANTED_CHARACTERS)
PLANTED_NETWORK = make_network(vocabulary_size=len(PLANTED_CHARACTERS))
BRACKET_UNIT, WORD_UNIT = 3, 1  # of layer 1


def planted_text(n: int, random_seed: int = 4) -> str:
    """Words of one to nine letters, in lines of some words, a third of them in brackets."""
    rng = np.random.default_rng(random_seed)
    words: list[str] = []
    while sum(map(len, words)) < n:
        word = "".join(rng.choice(list("abcde"), size=rng.integers(1, 10)))
        if rng.random() < 1 / 3:
            word = f"({word} {word})"
        words.append(word + ("\n" if rng.random() < 0.2 else " "))
    return "".join(words)[:n]


def planted_weights(network: NetworkConfig = PLANTED_NETWORK) -> Weights:
    """Weak random weights, but for two units that count by hand-made gates.

    One is 1 from "(" to ")". The other grows with each letter and forgets
    everything where there is none.
    """
    weights = {name: np.float32(0.3) * array for name, array in random_weights(network).items()}
    kernel, bias = weights["lstm_1/kernel"], weights["lstm_1/bias"]

    def plant(unit: int, gate: str, by_character: dict[str, float], otherwise: float) -> None:
        column = gate_columns(network.units, gate).start + unit
        weights["lstm_1/recurrent_kernel"][:, column] = 0
        bias[column] = 0
        for n, character in enumerate(PLANTED_VOCABULARY.characters):
            kernel[n, column] = by_character.get(character, otherwise)

    letters = "abcdeéA"
    plant(BRACKET_UNIT, "f", {"(": -20, ")": -20}, 20)
    plant(BRACKET_UNIT, "i", {"(": 20, ")": 20}, -20)
    plant(BRACKET_UNIT, "g", {"(": 20}, 0)
    plant(WORD_UNIT, "f", dict.fromkeys(letters, 20.0), -20)
    plant(WORD_UNIT, "i", dict.fromkeys(letters, 20.0), -20)
    plant(WORD_UNIT, "g", dict.fromkeys(letters, 0.05), 0)
    return weights


# --- models on disk -----------------------------------------------------------


def make_config(network: NetworkConfig, **changes: Any) -> dict[str, Any]:
    return {
        "recipe": "default",
        "network": dataclasses.asdict(network),
        "training": {"epochs": 2.5, "batch_size": 4},
        "versions": {"numpy": np.__version__},
        "corpus": {
            "name": "café",
            "sha256": "5f" * 32,
            "characters": 4_321,
            "options": {"encoding": "utf-8", "normalize": "NFC", "lowercase": True},
        },
        "seed_windows": ["abcd abc", "dé\nabcab"],
    } | changes


def make_state(network: NetworkConfig | None = None, *, recipe: str = "default") -> TrainingState:
    """Trainer values, and the arrays that go with `make_config`."""
    rng = np.random.default_rng(12)
    training = TrainingConfig(recipe=recipe, batch_size=4)  # type: ignore[arg-type]
    arrays: dict[str, np.ndarray] = {}
    for name, shape in state_shapes(network or make_network(), training).items():
        if name == "optimizer/iteration" or name.startswith("generator"):
            arrays[name] = np.asarray(rng.integers(0, 2**40, size=shape), np.int64)
        else:
            arrays[name] = np.asarray(rng.normal(size=shape), np.float32)
    return TrainingState(
        trainer={"step": 30, "losses": [2.25, 1.5], "plan": None, "note": "wörd 😀"},
        arrays=arrays,
    )


def save(
    model: Path,
    step: int,
    *,
    random_seed: int = 0,
    val_loss: float | None = 2.0,
    train_loss: float | None = 2.5,
    now: float | None = 1_700_000_000.25,
    network: NetworkConfig | None = None,
    **changes: Any,
) -> CheckpointInfo:
    """Write a checkpoint of the tiny network with random weights."""
    network = network or make_network()
    model.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "epoch": step / 8,
        "train_loss": train_loss,
        "val_loss": val_loss,
        "config": make_config(network),
        "vocabulary": VOCABULARY,
        "weights": random_weights(network, random_seed),
        "state": make_state(network),
        "now": now,
    }
    return save_checkpoint(model, step=step, **(fields | changes))


def make_checkpoint(
    folder: Path,
    network: NetworkConfig | None = None,
    weights: Weights | None = None,
    vocabulary: Vocabulary = VOCABULARY,
    **config: Any,
) -> Checkpoint:
    """Save and load a checkpoint, so that a test holds what the program would."""
    network = network or make_network()
    if weights is None:
        weights = random_weights(network)
    return load_checkpoint(
        save(
            folder,
            40,
            network=network,
            weights=weights,
            vocabulary=vocabulary,
            config=make_config(network, **config),
        )
    )


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a manifest as a program that knows the format would."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["seal"]
    change(content)
    # As docs/formats.md says it.
    plain = json.dumps(content, sort_keys=True).encode()
    content["seal"] = hashlib.sha256(plain).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint and make its manifest agree.

    The sums are then right, so that the check behind them is what is tested.
    """
    (folder / name).write_bytes(data)

    def agree(content: dict[str, Any]) -> None:
        content["files"][name] = {
            "n_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    change_manifest(folder, agree)


def forge_json(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file of a checkpoint and make its manifest agree."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    change(content)
    forge(folder, name, json.dumps(content).encode())


def assert_same_arrays(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def steps(model: Path) -> list[int]:
    return [info.step for info in list_checkpoints(model)]


def folders(model: Path) -> list[str]:
    return sorted(entry.name for entry in model.iterdir())


def assert_holds(info: CheckpointInfo, random_seed: int) -> None:
    """The checkpoint loads and holds what `save` wrote with that random seed."""
    loaded, state = load_checkpoint(info), load_training_state(info)
    assert_same_arrays(loaded.weights, random_weights(make_network(), random_seed))
    assert loaded.vocabulary == VOCABULARY
    assert loaded.network == make_network()
    assert_same_arrays(state.arrays, make_state(loaded.network).arrays)


def held_by(info: CheckpointInfo) -> int:
    """Tell with which random seed `save` wrote a whole checkpoint."""
    load_training_state(info)
    weights = load_checkpoint(info).weights
    for random_seed in range(10):
        expected = random_weights(make_network(), random_seed)
        if all(np.array_equal(weights[name], expected[name]) for name in expected):
            return random_seed
    raise AssertionError(f"{info.path} holds weights that nobody saved")


def assert_work_failed(error: CharlstmError, *parts: str) -> None:
    assert isinstance(error, CheckpointError)
    assert error.exit_code == 1
    assert "\n" not in error.message
    for part in parts:
        assert part in error.message
