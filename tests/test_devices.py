"""CPU or GPU, single or half precision; GPUs are played by the CPU here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import TINY, run

from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.errors import CharlstmError, ConfigError, InputError

pytestmark = pytest.mark.tf

SIZE, UNITS, TIME = 7, 12, 9
IDS = np.random.default_rng(3).integers(0, SIZE, 2_300).astype(np.uint8)
NETWORK = NetworkConfig(vocabulary_size=SIZE, units=UNITS, seq_length=TIME)


@pytest.fixture(scope="module", autouse=True)
def devices() -> Any:
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import charlstm.devices
    import charlstm.training  # before anything of the other is replaced

    return charlstm.devices


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the project believe in a GPU, and Keras not try cuDNN on it."""
    import keras
    import tensorflow as tf

    def no_cudnn(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    monkeypatch.setattr(keras.src.backend, "lstm", no_cudnn)


def trainer_with(precision: str, *, documents: Any = None, **options: Any) -> Any:
    from charlstm.trainers import StreamTrainer

    chosen = {"batch_size": 25, "dropout": 0.3, "recurrent_dropout": 0.4, "threads": 3} | options
    config = TrainingConfig(**chosen, precision=precision)  # type: ignore[arg-type]
    return StreamTrainer(NETWORK, config, IDS, documents)


def losses_of(trainer: Any, n: int) -> list[float]:
    from charlstm.trainers import TrainerState

    return [trainer.train_step(TrainerState(step=k, total_steps=100))[0] for k in range(n)]


# --- mixed precision ------------------------------------------------------------


@pytest.mark.parametrize("documents", [None, np.array([0, 700, 705, 1_400], "<u8")])
def test_half_precision_takes_nearly_the_same_steps(gpu: None, documents: Any) -> None:
    """With the same masks, three parts of the batch going through at once."""
    single = trainer_with("float32", documents=documents)
    mixed = trainer_with("mixed", documents=documents)
    expected, found = losses_of(single, 30), losses_of(mixed, 30)
    assert found == pytest.approx(expected, rel=5e-3)
    assert found != expected  # it is half precision
    for ours, theirs in zip(mixed.states, single.states, strict=True):
        for state, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(state, other, atol=0.02)


def test_a_checkpoint_of_half_precision_is_one_of_single_precision(gpu: None) -> None:
    from charlstm.model import get_weights
    from charlstm.scoring import score_ids

    single, mixed = trainer_with("float32"), trainer_with("mixed")
    losses_of(mixed, 5)
    weights = get_weights(mixed.model)
    for theirs, ours in ((get_weights(single.model), weights), (single.arrays(), mixed.arrays())):
        assert list(ours) == list(theirs)
        assert {k: (a.dtype, a.shape) for k, a in ours.items()} == {
            k: (a.dtype, a.shape) for k, a in theirs.items()
        }
    single.restore(weights, mixed.arrays())
    # Evaluated in single precision: as NumPy does when the model is used on a CPU.
    loss = mixed.evaluate(IDS[:1_500])
    assert loss == single.evaluate(IDS[:1_500])
    from charlstm.engine import LSTMStep

    assert loss == pytest.approx(
        score_ids(LSTMStep(NETWORK, weights), IDS[:1_500]).nats_per_char, abs=1e-4
    )


def test_gradients_too_small_for_half_precision_are_kept(gpu: None) -> None:
    """The mean's over 25 rows of 9 would be a 225th of the sum's, and many would be zero."""
    import tensorflow as tf

    from charlstm.trainers import Piece

    gradients = {}
    for precision in ("float32", "mixed"):
        trainer = trainer_with(precision, dropout=0.0, recurrent_dropout=0.0)
        inputs, targets, _ = trainer.batches.batch(0)
        _, found, _ = trainer._gradients(
            tf.constant(inputs),
            tf.constant(targets),
            trainer.states,
            tf.constant(0),
            pieces=[Piece(slice(None), 0)],
            n_chars=inputs.size * 10_000,  # as in a batch of so many more rows
            ends=None,
        )
        gradients[precision] = np.concatenate([g.numpy().ravel() for g in found])
        assert {g.dtype for g in found} == {tf.float32}
    difference = np.linalg.norm(gradients["mixed"] - gradients["float32"])
    assert difference < 0.02 * np.linalg.norm(gradients["float32"])


def test_the_trial_passes_what_is_right_and_nothing_else(
    devices: Any, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from charlstm.model import StreamLSTM

    assert devices.mixed_works(NETWORK)
    right = StreamLSTM._run_lstm

    def slightly_wrong(self: Any, *arguments: Any, training: bool) -> Any:
        x, h, c = right(self, *arguments, training=training)
        return (x * 1.5 if self.is_mixed else x), h, c

    def unsupported(self: Any, *arguments: Any, training: bool) -> Any:
        if self.is_mixed:
            raise tf.errors.UnimplementedError(None, None, "no such kernel")
        return right(self, *arguments, training=training)

    for wrong in (slightly_wrong, unsupported):
        monkeypatch.setattr(StreamLSTM, "_run_lstm", wrong)
        assert not devices.mixed_works(NETWORK)


def test_without_a_gpu_nothing_is_mixed() -> None:
    with pytest.raises(ValueError, match="for GPUs"):
        trainer_with("mixed")
    with pytest.raises(ConfigError, match="precision must be one of"):
        TrainingConfig(precision="half")  # type: ignore[arg-type]


# --- what is chosen ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "kind", "capability", "recipe", "expected"),
    [
        (None, "cpu", None, "default", "float32"),
        (None, "gpu", (7, 0), "default", "mixed"),
        (None, "gpu", (6, 1), "default", "float32"),
        (None, "gpu", None, "default", "float32"),
        (None, "gpu", (9, 0), "article", "float32"),
        ("float32", "gpu", (9, 0), "default", "float32"),
        ("mixed", "gpu", (6, 1), "default", "mixed"),
        ("mixed", "cpu", None, "default", None),
        ("mixed", "gpu", (9, 0), "article", None),
    ],
)
def test_the_precision_follows_from_the_device(
    devices: Any, wanted: Any, kind: str, capability: Any, recipe: str, expected: str | None
) -> None:
    device = devices.Device(kind, (), capability)
    if expected is None:
        with pytest.raises(InputError, match="for GPUs and recipe default"):
            devices.choose_precision(wanted, device=device, recipe=recipe)
    else:
        assert devices.choose_precision(wanted, device=device, recipe=recipe) == expected


def test_gpus_are_told_by_their_names(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    assert devices.find_device().describe() == "CPU"
    found = {
        "a": {"device_name": "NVIDIA L4", "compute_capability": (8, 9)},
        "b": {"device_name": "NVIDIA L4", "compute_capability": (8, 9)},
        "c": {"device_name": "Tesla T4", "compute_capability": (7, 5)},
    }
    visible = ["a"]
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: visible)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", found.__getitem__)
    assert devices.find_device().describe() == "NVIDIA L4"
    visible += ["b", "c"]
    device = devices.find_device()
    assert device.describe() == "2 x NVIDIA L4, 1 x Tesla T4"
    assert device.capability == (7, 5)
    found["b"] = {}
    assert devices.find_device().capability is None


def test_gpus_are_taken_or_hidden(devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    grown: list[str] = []
    hidden: list[Any] = []
    experimental = SimpleNamespace(
        set_memory_growth=lambda gpu, grows: grown.append(gpu),
        enable_tensor_float_32_execution=lambda is_on: None,
    )
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one", "two"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: hidden.append(gpus))
    monkeypatch.setattr(tf.config, "experimental", experimental)
    devices.take_device("cpu")
    assert (grown, hidden) == ([], [[]])
    devices.take_device("auto")
    devices.take_device("gpu")
    assert (grown, hidden) == (["one", "two"] * 2, [[]])


def test_a_gpu_that_tensorflow_cannot_use_is_told_of(
    devices: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_NVIDIA_DRIVER", tmp_path / "version")
    assert devices.unused_gpu() is None
    (tmp_path / "version").touch()
    assert "pip install 'charlstm[cuda]'" in devices.unused_gpu()
    with pytest.raises(CharlstmError, match="no GPU") as caught:
        devices.take_device("gpu")
    assert "pip install 'charlstm[cuda]'" in str(caught.value.hint)


# --- the command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--device", "gpu"], 1, "Error: TensorFlow finds no GPU that it can use"),
        (["--precision", "mixed"], 2, "Error: --precision mixed is for GPUs and recipe default"),
        (["--device", "tpu"], 2, "Error: Invalid value for '--device'"),
    ],
)
def test_what_cannot_be_is_said(
    workplace: Path, options: list[str], code: int, message: str
) -> None:
    result = run("train", "king.txt", *TINY, "--epochs", "1", "-q", *options)
    assert result.exit_code == code
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 2
    assert not list(workplace.glob("checkpoints/king/step-*"))


def test_a_model_of_a_gpu_writes_on_a_cpu(
    workplace: Path, devices: Any, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command to the text, and on again in another precision."""
    found = devices.Device("gpu", ("NVIDIA L4",), (8, 9))
    monkeypatch.setattr(devices, "find_device", lambda: found)
    monkeypatch.setattr("charlstm.training.find_device", lambda: found)
    result = run("train", "king.txt", *TINY, "--epochs", "2", "--dropout", "0.1")
    assert result.exit_code == 0, result.stderr
    assert "training on NVIDIA L4, precision mixed" in result.stderr
    checkpoint = max(Path("checkpoints/king").glob("step-*"))
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["training"]["precision"] == "mixed"
    assert config["machine"]["device"] == "NVIDIA L4"
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    written = run("generate", "--seed", "the ", "-n", "20", "--json")
    assert written.exit_code == 0, written.stderr
    assert len(json.loads(written.stdout)["text"]) == 20
    resumed = run("train", "--resume", "--epochs", "3", "-q")
    assert resumed.exit_code == 0, resumed.stderr
    checkpoint = max(Path("checkpoints/king").glob("step-*"))
    config = json.loads((checkpoint / "config.json").read_text())
    assert (config["training"]["precision"], config["machine"]["device"]) == ("float32", "CPU")
    explained = run("evaluate", "king.txt", "--json")
    assert explained.exit_code == 0, explained.stderr
