"""Where a run is, for who asks from outside: `status.json` in the model's folder.

The file is for looking at a run, never for going on with one: it is replaced
every two seconds without waiting for the disk, and a run whose folder refuses
it trains on. Asking goes the other way: a run is asked for a checkpoint by a
signal, or by a file beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charlstm.errors import CheckpointError, ModelNotFoundError
from charlstm.logs import SAMPLES, read_log
from charlstm.progress import Progress, Reporter
from charlstm.storage import read_plain, shown

STATUS = "status.json"
# Made beside the checkpoints by who wants one now; taken away when it is there.
SAVE_REQUEST = "save-now"
SECONDS_BETWEEN_WRITES = 2.0
_SECONDS_BETWEEN_LOOKS = 1.0
_MAX_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """Where a run is, or was.

    Attributes:
        progress: After its last step that was told of; None before the first.
        updated: When that was, Unix seconds.
        stopped: Why it ended, as `TrainingResult.stopped`, or "failed"; None
            while it runs.
        is_gone: It has not ended, and its process is not there any more; None
            if that cannot be told, as on another machine.
    """

    progress: Progress | None
    updated: float
    stopped: str | None
    is_gone: bool | None


class StatusReporter(Reporter):
    """Writes where a run is, every two seconds.

    Args:
        model: The model's folder.
        clock: Seconds that only grow.
    """

    def __init__(self, model: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Say that the run has begun."""
        self._model = model
        self._clock = clock
        self._next_write = -math.inf
        self._last: Progress | None = None
        self._write(stopped=None)

    def progress(self, progress: Progress) -> None:
        """Remember it, and write it if the last writing is old enough."""
        self._last = progress
        if self._clock() >= self._next_write:
            self._next_write = self._clock() + SECONDS_BETWEEN_WRITES
            self._write(stopped=None)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Write the validation loss as soon as it is known."""
        if self._last is not None:
            self._last = dataclasses.replace(self._last, val_loss=record["val_loss"])
            self._write(stopped=None)

    def ended(self, stopped: str) -> None:
        """Say that the run is over.

        Args:
            stopped: Why.
        """
        self._write(stopped=stopped)

    def _write(self, *, stopped: str | None) -> None:
        content: dict[str, Any] = {
            "updated": time.time(),
            "stopped": stopped,
            "progress": None if self._last is None else dataclasses.asdict(self._last),
        }
        if stopped is None:
            content |= {"pid": os.getpid(), "host": platform.node()}
        temporary = self._model / f".{STATUS}.new"
        # A full disk is met, and told of, when a checkpoint is written.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # left over, or a link to another place
            with temporary.open("x", encoding="utf-8") as file:
                json.dump(content, file)
            temporary.replace(self._model / STATUS)


def read_status(model: Path) -> Status | None:
    """Read where a run is.

    Args:
        model: The model's folder.

    Returns:
        The status; None if no run has told of itself there, or not in a way
        that can be read.
    """
    try:
        content = json.loads(read_plain(model / STATUS, limit=_MAX_BYTES))
        progress = content["progress"]
        return Status(
            progress=None if progress is None else _as_progress(progress),
            updated=float(content["updated"]),
            stopped=None if content["stopped"] is None else str(content["stopped"]),
            is_gone=_is_gone(content) if content["stopped"] is None else False,
        )
    except (CheckpointError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _as_progress(content: Mapping[str, Any]) -> Progress:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Progress):
        value = content[field.name]
        if value is None and "None" in str(field.type):
            values[field.name] = None
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{field.name} is no number")
        else:
            values[field.name] = int(value) if str(field.type).startswith("int") else float(value)
    return Progress(**values)


def _is_gone(content: Mapping[str, Any]) -> bool | None:
    if content.get("host") != platform.node() or os.name != "posix":
        return None  # a signal to a process there, if only to ask, would end it on Windows
    try:
        os.kill(int(content["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class SaveRequest:
    """Whether somebody asked for a checkpoint now.

    Args:
        model: The model's folder.
        clock: Seconds that only grow.

    Attributes:
        is_asked: Set by who asks within the process, such as a signal's handler.
    """

    def __init__(self, model: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Forget a request that an earlier run did not see."""
        self._path = model / SAVE_REQUEST
        self._clock = clock
        self._next_look = -math.inf
        self.is_asked = False
        self._take()

    def __call__(self) -> bool:
        """Tell, and forget, whether one is wanted."""
        if self._clock() >= self._next_look:
            self._next_look = self._clock() + 1.0
            if self._take():
                return True
        is_asked, self.is_asked = self.is_asked, False
        return is_asked

    def _take(self) -> bool:
        try:
            self._path.unlink()
        except OSError:  # mostly: nobody asked
            return False
        return True


def follow(
    model: Path,
    reporter: Reporter,
    *,
    told: Callable[[Status], None] = lambda status: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Watch a run until it ends.

    Args:
        model: The model's folder.
        reporter: Told of steps, and of samples written from now on.
        told: Given every new status too.
        sleep: Waits for some seconds.

    Returns:
        The last status: of a run that ended, or whose process is gone.

    Raises:
        ModelNotFoundError: If no run has told of itself in that folder.
    """
    samples = model / SAMPLES
    n_samples: int | None = None
    n_bytes = -1
    seen: float | None = None
    while True:
        status = read_status(model)
        if status is None:
            if seen is None:
                raise ModelNotFoundError(
                    f"no run has told of itself in {shown(model)}",
                    hint="start one with `charlstm train`, then look again",
                )
            sleep(_SECONDS_BETWEEN_LOOKS)  # as good as gone, or damaged for a moment
            continue
        if status.updated != seen:
            seen = status.updated
            told(status)
            if status.progress is not None:
                reporter.progress(status.progress)
        size = samples.stat().st_size if samples.is_file() else 0
        if size != n_bytes:
            n_bytes = size
            records = list(read_log(model, SAMPLES))
            # What was there before anybody looked is not news.
            for record in [] if n_samples is None else records[n_samples:]:
                reporter.sample(int(record.get("step", 0)), str(record.get("text", "")))
            n_samples = len(records)
        if status.stopped is not None or status.is_gone:
            return status
        sleep(_SECONDS_BETWEEN_LOOKS)
