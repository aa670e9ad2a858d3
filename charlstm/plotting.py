"""How a model learned, as a picture or as a line of text.

`read_curve` takes the history of a run, `draw_curves` makes a figure of several
(matplotlib, the extra `[plot]`), `sparkline` does with what every terminal has.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlstm.errors import CharlstmError, InputError, OutputError, printable
from charlstm.logs import HISTORY, SAMPLES, read_log
from charlstm.storage import atomic_file, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
INSTALL = "pip install 'charlstm[plot]'"
_LARGE = 1e300  # what is larger is no number of ours
_BARS = "▁▂▃▄▅▆▇█"
_SAMPLE_LINES, _SAMPLE_WIDTH, _SAMPLE_INCHES = 6, 60, 1.45
# Told apart by people who see colours differently, and in grey (Okabe & Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The evaluations of a run, in order, a value each.

    Attributes:
        name: The model's.
        characters: Trained on so far.
        minutes: Wall time so far.
        train_loss: Mean nats/char since the evaluation before; NaN if none.
        val_loss: Nats/char of the held-out tail; NaN if there is none.
        learning_rate: Of the optimizer.
        chars_per_second: Training speed.
        samples: `(step, text)` of the samples shown while training.
        steps: Optimizer steps so far.
    """

    name: str
    characters: tuple[float, ...]
    minutes: tuple[float, ...]
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    learning_rate: tuple[float, ...]
    chars_per_second: tuple[float, ...]
    steps: tuple[int, ...]
    samples: tuple[tuple[int, str], ...] = ()


def read_curve(model: Path) -> Curve:
    """Read the history of a model.

    Args:
        model: The model's folder.

    Returns:
        Its evaluations and samples.

    Raises:
        InputError: If there was no evaluation yet, or the model has none, as
            one that ships.
    """
    records = list(read_log(model, HISTORY))
    if not records:
        raise InputError(
            f"{shown(model)} has no history to plot",
            hint="a model gets one by `charlstm train`, from its first evaluation on",
        )

    def column(key: str, scale: float = 1.0) -> tuple[float, ...]:
        return tuple(_number(record.get(key)) * scale for record in records)

    return Curve(
        name=model.resolve().name,
        characters=column("characters"),
        minutes=column("seconds", 1 / 60),
        train_loss=column("train_loss"),
        val_loss=column("val_loss"),
        learning_rate=column("learning_rate"),
        chars_per_second=column("chars_per_second"),
        steps=tuple(int(_number(record.get("step"), default=0)) for record in records),
        samples=read_samples(model),
    )


def read_samples(model: Path) -> tuple[tuple[int, str], ...]:
    """Read what a model wrote while it was trained.

    Args:
        model: The model's folder.

    Returns:
        `(step, text)` of each sample, in order; none if it has no such log.
    """
    return tuple(
        (int(_number(record.get("step"), default=0)), str(record.get("text", "")))
        for record in read_log(model, SAMPLES)
    )


def _number(value: Any, *, default: float = math.nan) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and -_LARGE < value < _LARGE else default


# --- text -----------------------------------------------------------------------


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """Draw values as a line of bars, the highest for the largest.

    Args:
        values: Numbers; NaN leaves a gap.
        width: Characters at most; more values than that are thinned out, the
            first and the last kept.

    Returns:
        One character a value; empty if there is none.
    """
    if len(values) > width:
        last = len(values) - 1
        values = [values[round(n * last / (width - 1))] for n in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    return bars(values, low=min(finite, default=0.0), high=max(finite, default=0.0))


def bars(values: Sequence[float], *, low: float, high: float) -> str:
    """Draw values as bars of a fixed scale.

    Args:
        values: Numbers; NaN leaves a gap.
        low: What the lowest bar stands for; what is less is drawn as that.
        high: What the highest stands for, likewise.

    Returns:
        One character a value.
    """
    span, highest = (high - low) or 1.0, len(_BARS) - 1
    return "".join(
        _BARS[round((min(max(value, low), high) - low) / span * highest)]
        if math.isfinite(value)
        else " "
        for value in values
    )


def describe_curve(curve: Curve) -> list[str]:
    """Say how a model learned, in lines for a terminal.

    Args:
        curve: From `read_curve`.

    Returns:
        A line of what it is, and one for each loss that there is.
    """
    lines = [
        f"{printable(curve.name)}: {len(curve.steps)} evaluations, "
        f"{curve.characters[-1]:,.0f} characters, {curve.minutes[-1]:.1f} minutes"
    ]
    for label, values in (("training", curve.train_loss), ("held out", curve.val_loss)):
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            lines.append(
                f"  {label}  {finite[0]:.3f} {sparkline(values)} {finite[-1]:.3f}"
                f"  (lowest {min(finite):.4f} nats/char)"
            )
    return lines


# --- pictures -------------------------------------------------------------------


def check_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        CharlstmError: If matplotlib is not installed; says how to.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise CharlstmError("a picture needs matplotlib", hint=INSTALL) from error


def draw_curves(curves: Sequence[Curve], *, sample_steps: Sequence[int] = ()) -> Figure:
    """Draw loss against characters and time, learning rate and speed.

    Args:
        curves: At least one; several share the axes.
        sample_steps: Show the sample nearest to each of these steps, of every
            model that has samples.

    Returns:
        A figure that no screen is needed for.

    Raises:
        CharlstmError: If matplotlib is not installed; says how to.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    texts = [text for curve in curves for text in _nearest_samples(curve, sample_steps)]
    heights = [3.6, 1.6] + [_SAMPLE_INCHES] * math.ceil(len(texts) / 2)
    figure = Figure(figsize=(11, sum(heights) + 1.0), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    losses = figure.add_subplot(grid[0, 0])
    by_time = figure.add_subplot(grid[0, 1], sharey=losses)
    rates = figure.add_subplot(grid[1, 0], sharex=losses)
    speeds = figure.add_subplot(grid[1, 1], sharex=by_time)
    for n, curve in enumerate(curves):
        colour = _COLOURS[n % len(_COLOURS)]
        marker = "o" if len(curve.steps) < 3 else None  # a line of one point is not seen
        name = _plain(curve.name)
        for axes, x in ((losses, [c / 1e6 for c in curve.characters]), (by_time, curve.minutes)):
            axes.plot(x, curve.train_loss, "--", color=colour, marker=marker, alpha=0.7,
                      label=f"{name}, training")  # fmt: skip
            axes.plot(x, curve.val_loss, "-", color=colour, marker=marker,
                      label=f"{name}, held out")  # fmt: skip
        best = _best(curve.val_loss)
        if best is not None:
            losses.annotate(
                f"{curve.val_loss[best]:.3f}",
                (curve.characters[best] / 1e6, curve.val_loss[best]),
                xytext=(6, -3), textcoords="offset points", color=colour, annotation_clip=False,
            )  # fmt: skip
        millions = [c / 1e6 for c in curve.characters]
        rates.plot(millions, curve.learning_rate, color=colour, marker=marker)
        speeds.plot(curve.minutes, [s / 1e3 for s in curve.chars_per_second], color=colour,
                    marker=marker)  # fmt: skip
    losses.set_ylabel("loss, nats per character")
    losses.set_title("by characters trained on")
    by_time.set_title("by wall time")
    by_time.legend(frameon=False)
    rates.set_ylabel("learning rate")
    rates.set_xlabel("characters trained on, millions")
    rates.set_ylim(bottom=0)
    speeds.set_ylabel("thousand chars/s")
    speeds.set_xlabel("minutes")
    speeds.set_ylim(bottom=0)
    for axes in (losses, by_time, rates, speeds):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    for axes in (losses, by_time):
        axes.tick_params(labelbottom=False)
    for n, (title, text) in enumerate(texts):
        axes = figure.add_subplot(grid[2 + n // 2, n % 2])
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize="medium")
        axes.text(0, 1, text, family="monospace", va="top", fontsize="small",
                  transform=axes.transAxes, parse_math=False)  # fmt: skip
    return figure


def _best(values: Sequence[float]) -> int | None:
    finite = [n for n, value in enumerate(values) if math.isfinite(value)]
    return min(finite, key=values.__getitem__) if finite else None


def _plain(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as the beginning of a formula."""
    return printable(text).replace("$", r"\$")


def _nearest_samples(curve: Curve, steps: Sequence[int]) -> list[tuple[str, str]]:
    """Return a title and a few lines for the sample nearest to each step."""
    chosen: dict[int, str] = {}
    for wanted in steps:
        if curve.samples:
            step, text = min(curve.samples, key=lambda sample: abs(sample[0] - wanted))
            chosen[step] = text
    result = []
    for step, text in sorted(chosen.items()):
        lines = [
            piece
            for line in text.split("\n")
            for piece in textwrap.wrap(printable(line), _SAMPLE_WIDTH) or [""]
        ]
        body = "\n".join(lines[:_SAMPLE_LINES])
        result.append((f"{_plain(curve.name)} at step {step:,}", body))
    return result


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: From `draw_curves`.
        path: Its ending names the format.

    Raises:
        InputError: If the ending is none of `FORMATS`.
        OutputError: If the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(
            f"{shown(path)} does not end in one of {', '.join(FORMATS)}",
            hint="the ending says which kind of picture it is to be",
        )
    try:
        with atomic_file(path) as file, warnings.catch_warnings():
            # A sample may have characters that the font has not: boxes say enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=150)
    except OSError as error:
        raise OutputError(f"cannot write {shown(path)}: {error.strerror or error}") from error
