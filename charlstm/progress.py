"""What training tells while it runs, without saying how it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where training is, after a step.

    Attributes:
        step: Steps done.
        total_steps: Steps planned; None until the speed is known.
        epoch: Passes over the training text, fractional.
        train_loss: Nats/char, mean since the last evaluation.
        val_loss: Last validation loss, nats/char, or None.
        chars_per_second: Characters trained on in a second.
        seconds_left: Of the whole run, or None.
    """

    step: int
    total_steps: int | None
    epoch: float
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

    def sample(self, step: int, text: str) -> None:
        """Take a text that the network wrote just now."""

    def close(self) -> None:
        """Nothing more will come."""
