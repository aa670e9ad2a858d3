"""A run for TensorBoard: curves, gates and samples, as `tf.summary` writes them.

`tf.summary.scalar`, `histogram` and `text` live in the package `tensorboard`,
which TensorFlow no longer brings along (2.21); all that they add is a few bytes
that say how a tensor is to be shown. Those are written here, so that only who
looks needs that package: training may be elsewhere.

Nothing here touches the training: it reads what it is told, and when a file
cannot be written it says so once and is silent.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from charlstm.activations import GATES, ObservedStep, observe
from charlstm.config import NetworkConfig
from charlstm.corpus import split_corpus
from charlstm.errors import OutputError, printable
from charlstm.planning import TrainingPlan
from charlstm.progress import Progress, Reporter
from charlstm.storage import shown
from charlstm.terminal import format_sample

# A point takes 0.2 ms, so these are a two-thousandth of the time at most.
SECONDS_BETWEEN_POINTS = 1.0
# Reading so many took 0.04 s with two layers of 300 units; ten times that where
# each character is read with a window of its own (recipe article).
EXCERPT = 350
_WARMING = 50  # of them, where the state is carried: it comes from zero
_BINS = 20  # edges at each twentieth, so at 0.1 and 0.9 too
_LEFT, _RIGHT = 0.1, 0.9
_WRITE_ERRORS = (OSError, tf.errors.OpError)

Plugin = Literal["scalars", "histograms", "text"]
# As TensorFlow's DataClass numbers them: a number, or a tensor of any shape.
_DATA_CLASS: Mapping[Plugin, int] = {"scalars": 1, "histograms": 2, "text": 2}


class Summary(NamedTuple):
    """Something to show.

    Attributes:
        tag: Its name; what is before the slash is its group.
        value: A number; `(bins, 3)` left edge, right edge and count; or bytes.
        description: Markdown, one sentence with the unit.
        plugin: How it is shown.
    """

    tag: str
    value: Any
    description: str = ""
    plugin: Plugin = "scalars"


class TensorBoardReporter(Reporter):
    """Writes a run's events into a folder.

    Args:
        folder: Where, made if there is none. What earlier runs wrote there
            stays, but from `step` on it is no longer shown.
        network: The network's shape.
        excerpt: `(time,)` ids that the gates are watched on.
        step: Steps done.
        note: Told once if the events cannot be written any more.
        clock: Seconds that only grow.

    Raises:
        OutputError: If the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        network: NetworkConfig,
        excerpt: npt.NDArray[np.integer],
        step: int = 0,
        note: Callable[[str], None] = lambda message: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open a file of events."""
        self._folder = folder
        self._network = network
        self._excerpt = excerpt
        self._say = note
        self._clock = clock
        self._writer: tf.summary.SummaryWriter | None = None
        self._begin_points()
        try:
            self._open(step)
        except _WRITE_ERRORS as error:
            raise OutputError(
                f"cannot write {shown(folder)}: {_reason(error)}",
                hint="give --tensorboard another folder",
            ) from error

    def describe_run(self, settings: Mapping[str, Any], *, step: int = 0) -> None:
        """Write the settings as a text.

        Args:
            settings: Plain values by name.
            step: Steps done.
        """
        lines = "\n".join(f"{name}: {value}" for name, value in settings.items())
        text = _as_text("settings", lines, "Settings of the run.")
        self._write(step, [text], is_flushed=True)

    def progress(self, progress: Progress) -> None:
        """Take a step's loss and gradient norm; write their means now and then."""
        self._loss_sum += progress.step_loss
        self._norm_sum += progress.gradient_norm
        self._n_steps += 1
        if self._clock() >= self._next_point:
            self._write_point(progress.step)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Write an evaluation, and the mean up to it."""
        step = int(record["step"])
        self._write_point(step)
        summaries = [
            Summary("training/learning_rate", record["learning_rate"], "Of the optimizer."),
            Summary(
                "training/chars_per_second",
                record["chars_per_second"],
                "Characters trained on in a second, evaluations and saving left out.",
            ),
        ]
        if record["val_loss"] is not None:
            summaries.append(
                Summary(
                    "loss/validation", record["val_loss"], "Nats per character of held-out text."
                )
            )
        self._write(step, summaries, is_flushed=True)

    def network(self, step: int, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Let the network read the excerpt and write what its gates did."""
        if self._writer is None:
            return
        activations = observe(ObservedStep(self._network, weights), self._excerpt)
        n_warming = min(_WARMING, len(self._excerpt) // 2) if self._network.carries_state else 0
        summaries: list[Summary] = []
        for gate in GATES:
            for n, values in enumerate(getattr(activations, gate)[:, n_warming:], 1):
                summaries += gate_summaries(f"layer_{n}/{gate}", values)
        self._write(step, summaries, is_flushed=True)

    def sample(self, step: int, text: str) -> None:
        """Write what the network wrote."""
        sample = _as_text("samples", text, "What the network wrote at this step.")
        self._write(step, [sample], is_flushed=True)

    def went_back(self, step: int) -> None:
        """Begin another file, which takes back what came after a step."""
        self._begin_points()
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._open(step)
        except _WRITE_ERRORS as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            try:
                self._writer.close()
            except _WRITE_ERRORS as error:
                self._give_up(error)
            self._writer = None

    def _open(self, step: int) -> None:
        _take_back(self._folder, step=step)
        self._writer = tf.summary.create_file_writer(str(self._folder))

    def _begin_points(self) -> None:
        self._loss_sum, self._norm_sum, self._n_steps = 0.0, 0.0, 0
        self._next_point = self._clock() + SECONDS_BETWEEN_POINTS

    def _write_point(self, step: int) -> None:
        if not self._n_steps:
            return
        loss, norm = self._loss_sum / self._n_steps, self._norm_sum / self._n_steps
        summaries = [
            Summary(
                "loss/training",
                loss,
                "Nats per character, mean since the last point; with dropout, so not to be "
                "compared with the validation loss.",
            ),
            Summary("training/gradient_norm", norm, "Before clipping, mean since the last point."),
        ]
        self._begin_points()
        self._write(step, summaries)

    def _write(self, step: int, summaries: Iterable[Summary], *, is_flushed: bool = False) -> None:
        if self._writer is None:
            return
        try:
            with self._writer.as_default():
                for tag, value, description, plugin in summaries:
                    metadata = tf.compat.v1.SummaryMetadata(
                        plugin_data={"plugin_name": plugin},
                        data_class=_DATA_CLASS[plugin],
                        summary_description=description,
                    )
                    number = np.float32(value) if plugin == "scalars" else value
                    tf.summary.write(tag, number, step=step, metadata=metadata)
            if is_flushed:
                self._writer.flush()
        except _WRITE_ERRORS as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._writer = None
        self._say(
            f"warning: cannot write {shown(self._folder)}: {_reason(error)}; "
            "going on without TensorBoard"
        )


def open_tensorboard(
    folder: Path, plan: TrainingPlan, *, note: Callable[[str], None]
) -> TensorBoardReporter:
    """Begin to write a planned run for TensorBoard.

    The gates are watched on the beginning of the held-out text or, without
    any, of the text.

    Args:
        folder: The run's own folder.
        plan: What will be done.
        note: Told once if the events cannot be written any more.

    Returns:
        A reporter, with the settings written.

    Raises:
        OutputError: If the folder cannot be written.
    """
    split = split_corpus(
        len(plan.corpus.ids),
        seq_length=plan.network.seq_length,
        val_fraction=plan.config.val_fraction,
        name=plan.corpus.name,
    )
    first = split.train_characters if split.val_characters else 0
    step = 0 if plan.resume_from is None else plan.resume_from.step
    reporter = TensorBoardReporter(
        folder,
        network=plan.network,
        excerpt=np.asarray(plan.corpus.ids[first : first + EXCERPT], np.int64),
        step=step,
        note=note,
    )
    about = {
        "corpus": plan.corpus.name,
        "corpus_sha256": plan.corpus.sha256,
        "train_characters": split.train_characters,
        "val_characters": split.val_characters,
        "parameters": plan.network.parameters,
    }
    reporter.describe_run(
        about | dataclasses.asdict(plan.network) | dataclasses.asdict(plan.config), step=step
    )
    return reporter


def gate_summaries(name: str, values: npt.NDArray[np.float32]) -> list[Summary]:
    """Say how open a gate was, and how much of the time it was shut or wide open.

    Args:
        name: Of the gate.
        values: Of any shape, in [0, 1].

    Returns:
        Their histogram, and the shares that are left- and right-saturated.

    References:
        Karpathy, Johnson & Fei-Fei, 2016, Visualizing and Understanding
        Recurrent Networks, section 4.2 (the thresholds).
    """
    counts, edges = np.histogram(values, bins=_BINS, range=(0.0, 1.0))
    table = np.stack([edges[:-1], edges[1:], counts], axis=1)  # (bins, 3)
    return [
        Summary(f"gates/{name}", table, "Values of the gate on a fixed text.", "histograms"),
        Summary(
            f"saturation/{name}_left",
            np.mean(values < _LEFT),
            f"Share of the gate's values below {_LEFT}: shut.",
        ),
        Summary(
            f"saturation/{name}_right",
            np.mean(values > _RIGHT),
            f"Share of the gate's values above {_RIGHT}: open.",
        ),
    ]


def _as_text(tag: str, text: str, description: str) -> Summary:
    # TensorBoard reads texts as Markdown, where what is indented stays as it is.
    return Summary(tag, format_sample(text).encode(), description, "text")


def _take_back(folder: Path, *, step: int) -> None:
    """Say that training goes on from a step, if the folder has events already.

    TensorBoard then forgets what older files have after it. The record has a
    file of its own, because `tf.summary` has no way to write it, with a name
    that sorts between the files before and those to come.
    """
    older = sorted(path.name for path in folder.glob("*.tfevents.*"))
    if not older:
        return
    now, log = time.time(), tf.compat.v1.SessionLog
    restart = log(status=log.START)
    # What was written at the very step stands: a resumed run does not write it again.
    first_gone = step + 1 if step else 0
    # The first start of a folder takes nothing back, so there are two.
    starts = [tf.compat.v1.Event(wall_time=now, step=first_gone, session_log=restart)] * 2
    version = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
    with tf.io.TFRecordWriter(str(folder / f"{older[-1]}.restart")) as file:
        for event in (version, *starts):
            file.write(event.SerializeToString())


def _reason(error: Exception) -> str:
    """Return what the system says, without where in TensorFlow it was noticed."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    first_line = str(error).partition("\n")[0].partition(" [Op:")[0]
    return printable(first_line.rpartition("; ")[2])
