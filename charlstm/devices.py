"""What training computes on: the CPU's cores, or GPUs, and in which precision.

A GPU is used where TensorFlow finds one. There stock Keras (cuDNN) takes the
place of the project's own layer, and the training steps multiply in half
precision ("mixed": the weights, their gradients' sums and the optimizer stay
single), if a trial on that GPU comes out right. Losses are evaluated in single
precision everywhere, and checkpoints are the same.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from charlstm.config import NetworkConfig, Precision
from charlstm.errors import CharlstmError, InputError, printable
from charlstm.model import StreamLSTM

# The first GPUs whose matrix units take half precision (Volta).
_MIXED_CAPABILITY = (7, 0)
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
INSTALL = "pip install 'charlstm[cuda]'"
# How far half precision may be from single in the trial: it keeps 11 bits.
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 0.01, 0.05


def take_device(wanted: str) -> None:
    """Choose what TensorFlow sees; before its runtime starts.

    Args:
        wanted: "auto" for GPUs where there are any, "cpu" or "gpu".

    Raises:
        CharlstmError: If there is no GPU that TensorFlow can use, and one is wanted.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if wanted == "gpu" and not gpus:
        raise CharlstmError(
            "TensorFlow finds no GPU that it can use",
            hint=f"{INSTALL} brings what an NVIDIA GPU on Linux needs beside its driver; "
            "--device cpu trains without",
        )
    # What is single precision is to be that: by default newer GPUs round it to 10 bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if wanted == "cpu":
        tf.config.set_visible_devices([], "GPU")
        return
    for gpu in gpus:  # else TensorFlow takes all of its memory, also from others
        tf.config.experimental.set_memory_growth(gpu, True)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run computes on.

    Attributes:
        kind: "cpu" or "gpu".
        names: What each GPU calls itself; empty on a CPU.
        capability: The lowest compute capability of them; None where unknown.
    """

    kind: str
    names: tuple[str, ...] = ()
    capability: tuple[int, int] | None = None

    def describe(self) -> str:
        """Say it to a person, for instance `2 x NVIDIA L4`."""
        if self.kind == "cpu":
            return "CPU"
        kinds = dict.fromkeys(self.names)
        return ", ".join(
            f"{self.names.count(k)} x {k}" if len(self.names) > 1 else k for k in kinds
        )


def find_device() -> Device:
    """Tell what TensorFlow may use, without starting its runtime."""
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return Device("cpu")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    known = [d["compute_capability"] for d in details if d.get("compute_capability")]
    names = tuple(printable(str(d.get("device_name") or "GPU")) for d in details)
    return Device("gpu", names, min(known) if len(known) == len(gpus) else None)


def unused_gpu() -> str | None:
    """Say that there is a GPU which TensorFlow cannot use; None if there is none."""
    if _NVIDIA_DRIVER.exists() and not tf.config.list_physical_devices("GPU"):
        return f"there is an NVIDIA GPU that TensorFlow cannot use: {INSTALL}"
    return None


def choose_precision(wanted: Precision | None, *, device: Device, recipe: str) -> Precision:
    """Decide in which precision the training steps multiply.

    Args:
        wanted: What was asked for; None to let the device decide.
        device: What the run computes on.
        recipe: Recipe article is single precision, as the article was.

    Returns:
        "mixed" on GPUs that are built for it, before `mixed_works` was asked.

    Raises:
        InputError: If mixed precision is wanted where it cannot be.
    """
    can_mix = device.kind == "gpu" and recipe == "default"
    if wanted == "mixed" and not can_mix:
        where = "a CPU" if device.kind == "cpu" else f"recipe {recipe}"
        raise InputError(
            f"--precision mixed is for GPUs and recipe default, not for {where}",
            hint="leave --precision out",
        )
    if wanted is not None:
        return wanted
    is_able = device.capability is not None and device.capability >= _MIXED_CAPABILITY
    return "mixed" if can_mix and is_able else "float32"


def mixed_works(network: NetworkConfig) -> bool:
    """Try one small step in both precisions on this machine's device.

    Args:
        network: The network to be trained.

    Returns:
        Whether mixed precision gives the same loss within 1%, and the same
        gradient within 5% of its length.
    """
    rows, time = 8, min(10, network.seq_length)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, network.vocabulary_size, (rows, time + 1)).astype(np.int32)
    found: list[tuple[float, np.ndarray]] = []
    for precision in ("float32", "mixed"):
        model = StreamLSTM(network, dropout=0.0, random_seed=0, precision=precision)
        try:
            found.append(_loss_and_gradient(model, ids))
        except (tf.errors.OpError, NotImplementedError, TypeError, ValueError):
            return False
    (loss, gradient), (mixed_loss, mixed_gradient) = found
    difference = float(np.linalg.norm(mixed_gradient - gradient))
    return abs(
        mixed_loss - loss
    ) <= _LOSS_TOLERANCE * loss and difference <= _GRADIENT_TOLERANCE * float(
        np.linalg.norm(gradient)
    )


@tf.function(autograph=False)
def _gradients(model: Any, ids: tf.Tensor) -> Any:
    with tf.GradientTape() as tape:
        logits, _ = model(ids[:, :-1], training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids[:, 1:], logits=logits)
        nats = tf.reduce_sum(losses)
    return nats, tape.gradient(nats, model.trainable_variables)


def _loss_and_gradient(model: keras.Model, ids: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the nats of all characters, and their gradient as one vector."""
    nats, gradients = _gradients(model, tf.constant(ids))
    flat = np.concatenate([g.numpy().ravel() for g in gradients])
    return float(nats), flat
