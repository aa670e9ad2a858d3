"""What a person sees on stderr while a command works.

On a terminal that is a bar that redraws itself; elsewhere, plain lines at a
steady rate. Either shows, in this order: epoch, step, training and validation
loss in nats/char, characters a second, time left.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from charlstm.errors import printable
from charlstm.progress import Progress, Reporter

SECONDS_BETWEEN_LINES = 10.0
_BAR = "{percentage:3.0f}%|{bar:12}| {desc}"
_COUNTER = "{desc}"


def make_reporter(*, quiet: bool) -> Reporter:
    """Choose how training is shown.

    Args:
        quiet: Show nothing.

    Returns:
        A reporter for stderr.
    """
    if quiet:
        return Reporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()


@contextlib.contextmanager
def show_progress(
    title: str, *, quiet: bool, unit: str = "B"
) -> Iterator[Callable[[int, int | None], None]]:
    """Show how far the reading or writing of a text is.

    Args:
        title: What is being done.
        quiet: Show nothing.
        unit: What is counted.

    Yields:
        A function of (units done, units in all or None).
    """
    with tqdm(
        desc=title,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        leave=False,
        delay=0.5,  # a small text is done before anyone would look
        disable=quiet or not sys.stderr.isatty(),
    ) as bar:

        def update(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def describe(progress: Progress) -> str:
    """Put where training is into one line.

    Args:
        progress: The numbers.

    Returns:
        The line.
    """
    of = "" if progress.total_steps is None else f"/{progress.total_steps}"
    parts = [
        f"epoch {progress.epoch:.1f}",
        f"step {progress.step}{of}",
        f"loss {progress.train_loss:.3f}",
    ]
    if progress.val_loss is not None:
        parts.append(f"val {progress.val_loss:.3f}")
    if progress.chars_per_second:
        parts.append(f"{progress.chars_per_second / 1000:.1f}k chars/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """Write a duration as 4:05 or 1:04:05.

    Args:
        seconds: At least 0.

    Returns:
        The duration.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_sample(text: str) -> str:
    """Indent a sample, so that it stands apart from what the program says.

    Args:
        text: What the network wrote.

    Returns:
        Indented lines, safe to print.
    """
    return "\n".join(f"    {printable(line)}" for line in text.split("\n"))


class LineReporter(Reporter):
    """Plain lines, for logs and pipes.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Print the first line with the first step."""
        self._clock = clock
        self._next_line = -float("inf")

    def note(self, message: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()

    def progress(self, progress: Progress) -> None:
        """Print a line if the last one is old enough."""
        is_end = progress.step == progress.total_steps
        if is_end or self._clock() >= self._next_line:
            self._next_line = self._clock() + SECONDS_BETWEEN_LINES
            self.note(describe(progress))

    def sample(self, step: int, text: str) -> None:
        """Print what the network wrote."""
        self.note(f"sample at step {step}:\n{format_sample(text)}")


class BarReporter(Reporter):
    """A bar that redraws itself, with notes and samples above it."""

    def __init__(self) -> None:
        """Open the bar."""
        self._bar = tqdm(file=sys.stderr, bar_format=_COUNTER, dynamic_ncols=True)

    def note(self, message: str) -> None:
        """Print above the bar."""
        self._bar.write(message, file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if progress.total_steps is not None and self._bar.total != progress.total_steps:
            self._bar.total = progress.total_steps
            self._bar.bar_format = _BAR
        self._bar.set_description_str(describe(progress), refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Redraw, so that a bar that stood still is seen to move."""
        self._bar.refresh()

    def sample(self, step: int, text: str) -> None:
        """Print what the network wrote above the bar."""
        self.note(f"sample at step {step}:\n{format_sample(text)}")

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        self._bar.close()
