"""What training tells while it runs, without saying how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training is, after a step.

    Attributes:
        step: Steps done.
        total_steps: Steps planned; None until the speed is known.
        epoch: Passes over the training text, fractional.
        step_loss: Nats/char of this step alone.
        gradient_norm: Length of this step's gradient, before it is clipped.
        train_loss: Nats/char, mean since the last evaluation.
        val_loss: Last validation loss, nats/char, or None.
        chars_per_second: Characters trained on in a second.
        seconds_left: Of the whole run, or None.
    """

    step: int
    total_steps: int | None
    epoch: float
    step_loss: float
    gradient_norm: float
    train_loss: float
    val_loss: float | None
    chars_per_second: float
    seconds_left: float | None


class Reporter:
    """Listens to a run; every method may be left as it is, which is silence."""

    def note(self, message: str) -> None:
        """Say something once."""

    def progress(self, progress: Progress) -> None:
        """Follow the steps; called after each one."""

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Take a line of `history.jsonl`."""

    def network(self, step: int, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Look at the network as it was evaluated; the weights are not to be changed."""

    def sample(self, step: int, text: str) -> None:
        """Take a text that the network wrote just now."""

    def went_back(self, step: int) -> None:
        """Forget what came after a step: training goes on from there."""

    def close(self) -> None:
        """Nothing more will come."""


class Reporters(Reporter):
    """Several that listen to one run, told in turn.

    Args:
        reporters: Who listens.
    """

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        """Keep them in order."""
        self._reporters = tuple(reporters)

    def note(self, message: str) -> None:
        """Say it to each."""
        for reporter in self._reporters:
            reporter.note(message)

    def progress(self, progress: Progress) -> None:
        """Let each follow."""
        for reporter in self._reporters:
            reporter.progress(progress)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Give the line to each."""
        for reporter in self._reporters:
            reporter.evaluated(record)

    def network(self, step: int, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Let each look."""
        for reporter in self._reporters:
            reporter.network(step, weights)

    def sample(self, step: int, text: str) -> None:
        """Give the text to each."""
        for reporter in self._reporters:
            reporter.sample(step, text)

    def went_back(self, step: int) -> None:
        """Let each forget."""
        for reporter in self._reporters:
            reporter.went_back(step)

    def close(self) -> None:
        """End each."""
        for reporter in self._reporters:
            reporter.close()
