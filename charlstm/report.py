"""A report of a model: one page that can be given away.

`collect_report` gathers what is known of a model, `report_page` makes one HTML
file of it that asks no network for anything and runs no script. What identifies
a person or a machine (paths, names) does not come in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import html
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charlstm import __version__
from charlstm.charts import Line, line_chart
from charlstm.checkpoint import Checkpoint
from charlstm.config import (
    SEQ_LENGTH,
    NetworkConfig,
    TrainingConfig,
    recipe_defaults,
)
from charlstm.copying import find_corpus_ids
from charlstm.corpus import PREPARED_FOLDER, source_argument
from charlstm.errors import CorpusError, InputError
from charlstm.machine import describe_machine
from charlstm.models import list_checkpoints, open_checkpoint
from charlstm.pages import fill_page, read_page_file
from charlstm.plotting import Curve, read_curve, read_samples
from charlstm.reading import CorpusOptions
from charlstm.scoring import unigram_entropy
from charlstm.sources import STDIN, corpus_name
from charlstm.storage import portable_name, shown
from charlstm.writer import Writer

SAMPLE_LENGTH = 600
ARTICLE_SAMPLE_LENGTH = 200  # each character costs a window
SAMPLE_RANDOM_SEED = 0
N_SAMPLES = 5
_MAX_SAMPLE = 1_000
_MAX_NAME = 120
_MAX_ROWS = 300
_COUNTED = 1_000_000  # characters, to tell how frequent each is
# How a report is known again, near the beginning of the file.
_MARK = '<meta name="generator" content="charlstm report">'
_MARK_WITHIN = 1_000
# What steers a terminal or the order of writing, or is no character at all.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_PROGRAMS = {"tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy"}
_MACHINE = {
    "python": "Python",
    "system": "system",
    "processor": "processor",
    "cores": "cores that could be used",
    "device": "trained on",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is known of how well the best checkpoint does.

    Attributes:
        step: Its optimizer steps.
        epoch: Passes over the training text, fractional.
        train_loss: Nats/char while training, with dropout; None if not taken.
        val_loss: Nats/char of held-out text; None if there is none.
        frequency_loss: Nats/char of guessing by how frequent each character is
            in that text, or in the whole without any; None if it is not at hand.
        uniform_loss: Nats/char of guessing among all characters.
    """

    step: int
    epoch: float
    train_loss: float | None
    val_loss: float | None
    frequency_loss: float | None
    uniform_loss: float

    @property
    def loss(self) -> float | None:
        """The held-out loss, or else that of training."""
        return self.train_loss if self.val_loss is None else self.val_loss

    @property
    def bits_per_char(self) -> float | None:
        """That loss in bits."""
        return None if self.loss is None else self.loss / math.log(2)

    @property
    def perplexity(self) -> float | None:
        """Equally likely characters that would be as hard to guess."""
        return None if self.loss is None else math.exp(min(self.loss, 700.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a model.

    Attributes:
        name: The model's.
        created: Day of the report, UTC.
        trained: Day of the newest checkpoint, UTC.
        last_step: Of the newest checkpoint.
        is_last_evaluated: Whether a loss was taken there; not if interrupted.
        network: The network's shape.
        has_unknown: Whether the last of its ids is the unknown symbol's.
        training: How it was trained.
        corpus: Of the text: `name`, `sha256`, `characters`, `train_characters`
            and `val_characters`; what is not known is None.
        options: How the text was read.
        started_from: Name and step of the model that it began with, or None.
        imported_from: Name of the file that it was imported from, or None; how
            it was trained is then not known.
        trained_with: Programs and machine, by what they are called.
        made_with: Likewise, of the report.
        evaluation: Of the best checkpoint.
        curve: Its evaluations; None if it has no history.
        samples: `(step, text)`, some of those written while training.
        seed_text: What the sample below begins with.
        sample: What the best checkpoint writes, without that.
        commands: What it was done with and would be done again, with what each does.
    """

    name: str
    created: str
    trained: str
    last_step: int
    is_last_evaluated: bool
    network: NetworkConfig
    has_unknown: bool
    training: TrainingConfig
    corpus: Mapping[str, Any]
    options: CorpusOptions
    started_from: str | None
    imported_from: str | None
    trained_with: Mapping[str, str]
    made_with: Mapping[str, str]
    evaluation: Evaluation
    curve: Curve | None
    samples: tuple[tuple[int, str], ...]
    seed_text: str
    sample: str
    commands: tuple[tuple[str, str], ...]


# --- collecting -----------------------------------------------------------------


def collect_report(model: Path, *, today: datetime.date | None = None) -> tuple[Report, list[str]]:
    """Gather what is known of a model, and let it write a sample.

    Args:
        model: A folder with at least one checkpoint.
        today: The report's date; that of the clock by default.

    Returns:
        The report, and a warning for each checkpoint that was passed over.

    Raises:
        CheckpointError: If no checkpoint can be read.
    """
    checkpoint, warnings = open_checkpoint(model)
    config, network = checkpoint.config, checkpoint.network
    training = TrainingConfig(**config["training"])
    last = list_checkpoints(model)[-1]
    corpus = {
        key: _number_or_none(config["corpus"].get(key))
        for key in ("characters", "train_characters", "val_characters")
    }
    corpus = {key: config["corpus"][key] for key in ("name", "sha256")} | corpus
    curve = None
    with contextlib.suppress(InputError):  # it has no history
        curve = read_curve(model)
    writer = Writer([(checkpoint, 1.0)])
    (seed_text,) = writer.seeds(None, [SAMPLE_RANDOM_SEED])
    length = SAMPLE_LENGTH if network.carries_state else ARTICLE_SAMPLE_LENGTH
    name = model.resolve().name
    report = Report(
        name=name,
        created=(today or datetime.datetime.now(datetime.UTC).date()).isoformat(),
        trained=_day(last.written_at),
        last_step=last.step,
        is_last_evaluated=last.is_evaluated,
        network=network,
        has_unknown=checkpoint.vocabulary.has_unknown,
        training=training,
        corpus=corpus,
        options=checkpoint.text_options,
        started_from=_began_with(config.get("started_from")),
        imported_from=_imported_from(config),
        trained_with={"charlstm": _word(config.get("charlstm_version"))}
        | _named(config.get("versions"), _PROGRAMS)
        | _named(config.get("machine"), _MACHINE),
        made_with={"charlstm": __version__, "NumPy": np.__version__}
        | _named(describe_machine(), _MACHINE),
        evaluation=_evaluate(checkpoint, corpus),
        curve=curve,
        samples=_spread(read_samples(model), N_SAMPLES),
        seed_text=seed_text,
        sample=writer.generate(None, length, random_seed=SAMPLE_RANDOM_SEED),
        commands=_commands(name, network, training, checkpoint, length=length),
    )
    return report, warnings


def _evaluate(checkpoint: Checkpoint, corpus: Mapping[str, Any]) -> Evaluation:
    info = checkpoint.info
    frequency_loss = None
    try:
        ids = find_corpus_ids(checkpoint.config["corpus"], vocabulary=checkpoint.vocabulary)
    except CorpusError:
        pass
    else:
        # The same text that the model is measured on.
        n_train = corpus["train_characters"]
        if info.val_loss is not None and n_train is not None and 0 <= n_train < len(ids):
            ids = ids[int(n_train) :]
        frequency_loss = unigram_entropy(np.asarray(ids[:_COUNTED]))
    return Evaluation(
        step=info.step,
        epoch=info.epoch,
        train_loss=info.train_loss,
        val_loss=info.val_loss,
        frequency_loss=frequency_loss,
        uniform_loss=math.log(checkpoint.network.vocabulary_size),
    )


def _commands(
    name: str,
    network: NetworkConfig,
    training: TrainingConfig,
    checkpoint: Checkpoint,
    *,
    length: int,
) -> tuple[tuple[str, str], ...]:
    model, imported_from = shlex.quote(name), _imported_from(checkpoint.config)
    if imported_from is None:
        made = ("trains it again", train_command(name, network, training, checkpoint.config))
    else:
        words = ["charlstm", "import", imported_from, _source(checkpoint.config["corpus"])]
        made = ("imports it again", shlex.join([*words, "--model", name]))
    return (
        made,
        (
            "writes the sample above",
            f"charlstm generate --model {model} --random-seed {SAMPLE_RANDOM_SEED} -n {length}",
        ),
        ("makes this page", f"charlstm report {model}"),
    )


def train_command(
    name: str, network: NetworkConfig, training: TrainingConfig, config: Mapping[str, Any]
) -> str:
    """Write the command that would train a model again.

    Args:
        name: The model's.
        network: The network's shape.
        training: How it was trained.
        config: The whole `config.json`.

    Returns:
        A line for a shell, with the options whose defaults would be others,
        and the number of threads, which belongs to the result.
    """
    about, began_with = config["corpus"], config.get("started_from")
    options = CorpusOptions(**about["options"])
    n_train = about.get("train_characters")
    defaults = recipe_defaults(
        training.recipe,
        n_train=n_train if isinstance(n_train, int) else about["characters"],
        epochs=training.epochs,
        minutes=training.minutes,
        seq_length=network.seq_length,
        is_fine_tuning=began_with is not None,
    )
    source = _source(about)
    words = ["charlstm", "train", source]
    if training.recipe != "default":
        words += ["--recipe", training.recipe]
    if isinstance(began_with, dict):
        words += ["--from", str(began_with.get("name"))]

    def give(option: str, value: float | str | None, default: object) -> None:
        if value is not None and value != default:
            words.extend([f"--{option}", str(value).removesuffix(".0")])

    give("minutes", training.minutes, None)
    give("epochs", training.epochs, None)
    if began_with is None:  # else they come from that model
        plain = NetworkConfig(vocabulary_size=2)
        give("units", network.units, plain.units)
        give("layers", network.layers, plain.layers)
    # That of the model that it began with is not known here.
    give("seq-length", network.seq_length, SEQ_LENGTH if began_with is None else None)
    give("batch-size", training.batch_size, defaults.batch_size)
    give("dropout", training.dropout, defaults.dropout)
    if training.recipe == "default":
        # A dropout of 0 that is typed means both.
        is_implied = training.dropout == 0 and training.dropout != defaults.dropout
        implied = 0.0 if is_implied else defaults.recurrent_dropout
        give("recurrent-dropout", training.recurrent_dropout, implied)
    give("learning-rate", training.learning_rate, defaults.learning_rate)
    give("val-fraction", training.val_fraction, defaults.val_fraction)
    give("patience", training.patience, defaults.patience)
    give("random-seed", training.random_seed, defaults.random_seed)
    give("encoding", options.encoding, CorpusOptions().encoding)
    give("normalize", options.normalize, CorpusOptions().normalize)
    if options.lowercase and not defaults.lowercase:
        words.append("--lowercase")
    if training.join_documents:
        words.append("--join-documents")
    if options.keep_boilerplate:
        words.append("--keep-boilerplate")
    give("max-vocab", options.max_vocab, None)
    give("threads", training.threads, None)
    give("model", name, corpus_name(None if source == STDIN else Path(source)))
    return shlex.join(words) + (" < TEXT" if source == STDIN else "")


def _source(about: Mapping[str, Any]) -> str:
    """Name the text; several must have been prepared, and are where that puts them."""
    return source_argument(about) or f"{PREPARED_FOLDER}/{about['name']}"


def _began_with(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    return f"{_word(value.get('name'))}, step {_word(value.get('step'))}"


def _imported_from(config: Mapping[str, Any]) -> str | None:
    value = config.get("imported_from")
    return _word(value.get("name")) if isinstance(value, dict) else None


def _named(values: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Keep what is known by name: another program may have written more."""
    if not isinstance(values, Mapping):
        return {}
    return {label: _word(values[key]) for key, label in names.items() if values.get(key)}


def _word(value: Any) -> str:
    return str(value)[:_MAX_NAME] if isinstance(value, str | int | float) else "unknown"


def _number_or_none(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 63 else None


def _day(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return "unknown"


def _spread(samples: Sequence[tuple[int, str]], n: int) -> tuple[tuple[int, str], ...]:
    """Choose the first, the last and some between."""
    if len(samples) <= n:
        return tuple(samples)
    last = len(samples) - 1
    return tuple(samples[round(k * last / (n - 1))] for k in range(n))


def as_json(report: Report) -> dict[str, Any]:
    """Put a report into what JSON can hold.

    Args:
        report: From `collect_report`.

    Returns:
        Plain values; what was not measured is None.
    """
    evaluation = dataclasses.asdict(report.evaluation) | {
        "bits_per_char": report.evaluation.bits_per_char,
        "perplexity": report.evaluation.perplexity,
    }
    content = dataclasses.asdict(report) | {
        "evaluation": evaluation,
        "parameters": report.network.parameters,
        "commands": [command for _, command in report.commands],
    }
    plain: dict[str, Any] = _without_nan(content)
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# --- the file -------------------------------------------------------------------


def report_path(model: Path) -> Path:
    """Name a model's report, where nothing else was asked for.

    Args:
        model: The model's folder.

    Returns:
        A file in the working folder.
    """
    return Path(f"{portable_name(model.resolve().name)}-report.html")


def check_report_path(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Args:
        path: Where a report is to be written.

    Raises:
        InputError: If there is something else.
    """
    if path.is_dir():
        raise InputError(f"{shown(path)} is a folder, not a file to write to")
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            start = file.read(_MARK_WITHIN)
    except OSError:
        return  # that it cannot be replaced will be said
    if start and _MARK.encode() not in start:
        raise InputError(
            f"{shown(path)} exists and is no report of charlstm",
            hint="give another file, or remove it",
        )


# --- the page -------------------------------------------------------------------


def report_page(report: Report) -> str:
    """Make the page.

    Args:
        report: From `collect_report`.

    Returns:
        HTML that stands alone, the mark of a report near its beginning.
    """
    network, evaluation, corpus = report.network, report.evaluation, report.corpus
    name, text = _escape(report.name), _escape(corpus["name"])
    return fill_page(
        "report.html",
        mark=_MARK,
        title=f"{name}: a character LSTM",
        style=read_page_file("page.css") + read_page_file("report.css"),
        name=name,
        introduction=(
            f"A character LSTM of {network.layers} × {network.units:,} units, trained "
            f"{'by charlstm ' if report.imported_from is None else ''}on <b>{text}</b>"
            f"{_count(corpus['characters'], ' ({:,} characters)')}. It reads one "
            "character after the other and says how likely each one is to come next; what it "
            "writes is drawn from that."
        ),
        figures=_headline(evaluation),
        reading=_reading(report),
        comparison=_comparison(report),
        curves=_curves(report),
        samples=_samples(report),
        seed_text=_escape_text(report.seed_text),
        sample=_escape_text(report.sample),
        sample_step=f"{evaluation.step:,}",
        random_seed=SAMPLE_RANDOM_SEED,
        way=(
            "the likeliest character each time"
            if not network.carries_state
            else "temperature 0.6, top-p 0.9, as <code>charlstm generate</code> does by default"
        ),
        model_table=_table(_about_model(report)),
        settings=(
            f'<div class="scroll">{_table(_about_training(report))}</div>'
            if report.imported_from is None
            else "<p>It was imported: the file does not say how it was trained.</p>"
        ),
        trained_heading="Trained with" if report.imported_from is None else "Imported with",
        trained_table=_table(list(report.trained_with.items())),
        trained=report.trained,
        made_table=_table(list(report.made_with.items())),
        created=report.created,
        commands=_command_list(report),
        sha256=_escape(corpus["sha256"]),
        repeat_note=_repeat_note(report),
    )


def _headline(evaluation: Evaluation) -> str:
    if evaluation.loss is None:
        return "<p>It was not evaluated.</p>"
    what = "held-out loss" if evaluation.val_loss is not None else "training loss"
    assert evaluation.bits_per_char is not None
    assert evaluation.perplexity is not None
    facts = (
        (f"{evaluation.loss:.4f}", f"nats per character, {what}"),
        (f"{evaluation.bits_per_char:.3f}", "bits per character"),
        (f"{evaluation.perplexity:.2f}", "perplexity"),
    )
    items = "".join(f"<div><dd>{value}</dd><dt>{label}</dt></div>" for value, label in facts)
    return f'<dl class="facts">{items}</dl>'


def _reading(report: Report) -> str:
    evaluation, corpus = report.evaluation, report.corpus
    if evaluation.loss is None:
        return ""
    assert evaluation.perplexity is not None
    unsure = (
        f"On average it is as unsure of the next character as if it had to choose among "
        f"{evaluation.perplexity:.1f} equally likely ones. Less is better in all three numbers, "
        "which say the same in other units."
    )
    if evaluation.val_loss is None:
        return (
            f"{unsure} They were measured on the text that it was trained on, while training, so "
            "they do not tell how well it would do on another."
        )
    n = _count(corpus["val_characters"], "the last {:,} characters of the text", "held-out text")
    return (
        f"{unsure} They were measured on {n}, which it was never trained on"
        f"{_part_note(corpus['val_characters'])}."
    )


def _part_note(n_val: int | None) -> str:
    # As `training` has it: evaluating more while training would take too long.
    return " (the first 200,000 of them)" if n_val is not None and n_val > 200_000 else ""


def _comparison(report: Report) -> str:
    evaluation = report.evaluation
    rows = [
        (
            f"any of {report.network.vocabulary_size:,}, equally likely",
            evaluation.uniform_loss,
        ),
        ("by how frequent each is", evaluation.frequency_loss),
        ("by this model", evaluation.loss),
    ]
    body = "".join(
        f'<tr><th scope="row">{what}</th>'
        f'<td class="number">{loss:.4f}</td><td class="number">{loss / math.log(2):.3f}</td>'
        f'<td class="number">{math.exp(min(loss, 700.0)):.4g}</td></tr>'
        for what, loss in rows
        if loss is not None
    )
    best = (
        f"<p>The best of its evaluations was at step {evaluation.step:,}, after "
        f"{evaluation.epoch:.1f} passes over the text"
    )
    if report.last_step > evaluation.step:
        best += f"; it was trained to step {report.last_step:,}"
        if not report.is_last_evaluated:
            best += ", which was saved without an evaluation, as when a run is interrupted"
    best = best + ".</p>" if evaluation.loss is not None else ""
    return (
        f'{best}<div class="scroll" tabindex="0"><table class="compared"><thead><tr>'
        '<th scope="col">guessing characters</th><th scope="col" class="number">nats/char</th>'
        '<th scope="col" class="number">bits/char</th>'
        '<th scope="col" class="number">perplexity</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# --- curves ---------------------------------------------------------------------


def _curves(report: Report) -> str:
    curve = report.curve
    if curve is None:
        return (
            "<p>This model has no history: it came without one, or was never evaluated while "
            "training.</p>"
        )
    characters, minutes = ("characters trained on", "{:,.0f}"), ("minutes", "{:,.2f}")
    losses = [
        ("training loss", "training", curve.train_loss),
        ("held-out loss", "held-out", curve.val_loss),
    ]
    losses = [entry for entry in losses if any(map(math.isfinite, entry[2]))]
    rate = [("learning rate", "held-out", curve.learning_rate)]
    speed = [("characters a second", "held-out", curve.chars_per_second)]
    by_characters, by_time = curve.characters, curve.minutes
    figures = [
        _figure(curve, "loss", "Loss by characters trained on", by_characters, characters, losses,
                "nats per character", "{:.4f}", is_marked=True),
        _figure(curve, "loss-time", "Loss by wall time", by_time, minutes, losses,
                "nats per character", "{:.4f}"),
        _figure(curve, "rate", "Learning rate", by_characters, characters, rate,
                "Adam's step size", "{:.3g}", from_zero=True),
        _figure(curve, "speed", "Speed", by_time, minutes, speed,
                "characters a second", "{:,.0f}", from_zero=True),
    ]  # fmt: skip
    n = len(curve.steps)
    how_many = "one evaluation" if n == 1 else f"{n:,} evaluations"
    return (
        f"<p>{how_many.capitalize()} in {_last(curve.minutes):,.1f} minutes, over "
        f"{_last(curve.characters):,.0f} characters. The training loss is the mean since the "
        "evaluation before, with dropout and over changing weights, so it may lie above the "
        f'held-out loss.</p>\n<div class="curves">{"".join(figures)}</div>'
    )


def _last(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return finite[-1] if finite else 0.0


def _figure(
    curve: Curve,
    name: str,
    title: str,
    x: Sequence[float],
    x_kind: tuple[str, str],
    columns: Sequence[tuple[str, str, Sequence[float]]],
    y_label: str,
    y_format: str,
    *,
    from_zero: bool = False,
    is_marked: bool = False,
) -> str:
    x_label, x_format = x_kind
    said, marked = [], None
    for label, kind, values in columns:
        finite = [(value, at) for value, at in zip(values, x, strict=True) if math.isfinite(value)]
        if not finite:
            continue
        lowest, at = min(finite)
        said.append(
            f"The {label} goes from {y_format.format(finite[0][0])} to "
            f"{y_format.format(finite[-1][0])}, lowest {y_format.format(lowest)} at "
            f"{x_format.format(at)} {x_label}."
        )
        if is_marked and kind == "held-out" and math.isfinite(at):
            marked = (at, lowest)
    svg = line_chart(
        [Line(label=label, kind=kind, x=x, y=values) for label, kind, values in columns],
        name=name,
        title=title,
        description=" ".join(said) or "There is nothing to show.",
        x_label=x_label,
        y_label=y_label,
        from_zero=from_zero,
        marked=marked,
    )
    legend = ""
    if len(columns) > 1:
        legend = "".join(
            f'<span class="key"><span class="swatch {kind}"></span>{label}</span>'
            for label, kind, _ in columns
        )
    head = "".join(
        f'<th scope="col" class="number">{label}</th>'
        for label in ("step", x_label, *(label for label, _, _ in columns))
    )
    rows = list(zip(curve.steps, x, *(values for _, _, values in columns), strict=True))
    note = ""
    if len(rows) > _MAX_ROWS:
        note = f"<p>{_MAX_ROWS} of {len(rows):,} evaluations, evenly chosen.</p>"
        rows = [rows[round(n * (len(rows) - 1) / (_MAX_ROWS - 1))] for n in range(_MAX_ROWS)]
    formats = (x_format, *[y_format] * len(columns))
    body = "".join(
        f'<tr><td class="number">{step:,}</td>'
        + "".join(
            f'<td class="number">{form.format(value) if math.isfinite(value) else "–"}</td>'
            for form, value in zip(formats, values, strict=True)
        )
        + "</tr>"
        for step, *values in rows
    )
    return (
        f"<figure><h3>{title}</h3><p class='axis small faint'>{y_label}{legend}</p>{svg}"
        f"<details><summary>The numbers<span class='hidden'>: {title}</span></summary>{note}"
        f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></details></figure>"
    )


# --- texts and tables -----------------------------------------------------------


def _samples(report: Report) -> str:
    if not report.samples:
        return "<p>None were kept.</p>"
    return "".join(
        f'<h3>Step {step:,}</h3><pre class="sample" dir="auto">{_escape_text(text)}</pre>'
        for step, text in report.samples
    )


def _about_model(report: Report) -> list[tuple[str, str]]:
    network, corpus = report.network, report.corpus
    options = report.options
    read = [options.encoding] + [
        words
        for words, is_so in (
            ("lower-cased", options.lowercase),
            ("boilerplate kept", options.keep_boilerplate),
            (f"Unicode {options.normalize}", True),
            (f"at most {options.max_vocab or 0:,} characters", options.max_vocab is not None),
        )
        if is_so
    ]
    kept = "carried from window to window" if network.carries_state else "forgotten between windows"
    vocabulary = f"{network.vocabulary_size - report.has_unknown:,} different characters"
    if report.has_unknown:
        vocabulary += " and an unknown symbol for all others"
    rows = [
        ("network", f"{network.layers} LSTM layers of {network.units:,} units, softmax"),
        ("parameters", f"{network.parameters:,}"),
        ("vocabulary", vocabulary),
        ("input", "one-hot" if network.input == "one_hot" else "one number a character"),
        ("window", f"{network.seq_length:,} characters, the state {kept}"),
        ("text", corpus["name"]),
        ("of it, trained on", _count(corpus["train_characters"], "{:,} characters")),
        ("of it, held out", _count(corpus["val_characters"], "{:,} characters, its end")),
        ("read as", ", ".join(read)),
        ("sha256 of the text", corpus["sha256"]),
    ]
    if report.imported_from is not None:
        rows.append(("imported from", report.imported_from))
    if report.started_from is not None:
        rows.append(("began with the model", report.started_from))
    return [(label, value) for label, value in rows if value]


def _about_training(report: Report) -> list[tuple[str, str]]:
    labels = {"minutes": "minutes (budget)", "epochs": "epochs (budget)"}
    rows = []
    for field in dataclasses.fields(report.training):
        value = getattr(report.training, field.name)
        label = labels.get(field.name, field.name.replace("_", " "))
        if value is None:
            if field.name == "clip_norm":
                rows.append((label, "none"))
            continue
        if isinstance(value, bool):
            rows.append((label, "yes" if value else "no"))
        else:
            rows.append((label, str(value).removesuffix(".0")))
    if report.training.minutes is None and report.training.epochs is None:
        rows.insert(1, ("budget", "by the size of the text"))
    return rows


def _command_list(report: Report) -> str:
    return "".join(
        f"<dt>{what}</dt><dd><pre><code>{_escape(command, limit=None)}</code></pre></dd>"
        for what, command in report.commands
    )


def _repeat_note(report: Report) -> str:
    if report.imported_from is not None:
        return ""
    note = (
        "The same text, options, threads, versions and machine give the same weights to the last "
        "bit; another machine rounds differently, and comes near."
    )
    if report.training.minutes is not None:
        note += (
            " How many steps fit into the minutes depends on the machine"
            f" (here it was {report.last_step:,})."
        )
    return note


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row">{_escape(label)}</th><td>{_escape(value)}</td></tr>'
        for label, value in rows
    )
    return f'<table class="about"><tbody>{body}</tbody></table>'


def _count(n: int | None, words: str, otherwise: str = "") -> str:
    return otherwise if not n else words.format(n)


def _escape(text: str, *, limit: int | None = _MAX_NAME) -> str:
    """Make a short text fit for HTML: nothing in it is markup, on one line."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return html.escape(_visible(text.replace("\n", "↵")))


def _escape_text(text: str) -> str:
    """Make a text fit for HTML, its lines kept."""
    if len(text) > _MAX_SAMPLE:
        text = text[: _MAX_SAMPLE - 1] + "…"
    # HTML leaves out a newline at the very beginning of a `pre`.
    return ("\n" if text.startswith("\n") else "") + html.escape(_visible(text))


def _visible(text: str) -> str:
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)
