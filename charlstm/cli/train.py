"""`charlstm train`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from charlstm.cli.main import INTERRUPTED
from charlstm.cli.options import (
    CorpusName,
    FiniteFloat,
    ModelName,
    SectionedCommand,
    json_option,
    model_option,
    quiet_option,
    seq_length_option,
    text_options,
    threads_option,
    val_fraction_option,
    without_none,
)
from charlstm.cli.output import model_argument, note, print_json
from charlstm.cli.report import REPORT_SECONDS, choose_report_path, write_report
from charlstm.cli.workers import follow_training, start_training
from charlstm.config import Precision, TrainingConfig
from charlstm.errors import printable

if TYPE_CHECKING:
    from charlstm.planning import TrainingPlan
    from charlstm.status import SaveRequest
    from charlstm.training import TrainingResult

_IMPORTED = time.monotonic()


class _StopRequest:
    """Ctrl-C, SIGTERM and SIGHUP: the first asks to save and stop, the second quits at once."""

    def __init__(self, *, is_silent: bool = False) -> None:
        self.is_set = False
        self._is_silent = is_silent
        self._stderr = os.dup(2)  # stays what it is while TensorFlow is kept quiet
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last: a terminal is closed
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            os._exit(INTERRUPTED)
        self.is_set = True
        if not self._is_silent:
            os.write(self._stderr, b"\nstopping after this step; again to quit at once\n")

    def __call__(self) -> bool:
        return self.is_set


@click.command(
    cls=SectionedCommand,
    sections={
        "How long": ["minutes", "epochs", "patience"],
        "Which model": ["model", "resume", "overwrite", "start_from"],
        "The network": ["units", "layers", "seq_length"],
        "How it learns": [
            "recipe",
            "batch_size",
            "dropout",
            "recurrent_dropout",
            "learning_rate",
            "val_fraction",
            "join_documents",
            "random_seed",
            "threads",
            "device",
            "precision",
        ],
        "Several processes or machines": ["workers", "worker_index", "local_workers"],
        "How the text is read": [
            "encoding",
            "lowercase",
            "normalize",
            "keep_boilerplate",
            "max_vocab",
        ],
        "What is printed": ["sample_every", "as_json", "quiet"],
        "What is written to look at": ["tensorboard", "html_report"],
    },
)
@click.argument("corpus", type=CorpusName(), required=False)
@model_option
@click.option(
    "--recipe", type=click.Choice(["default", "article"]), help="How to train.  [default: default]"
)
@click.option(
    "--minutes", type=FiniteFloat(0, min_open=True), help="Time budget of the whole command."
)
@click.option(
    "--epochs",
    type=FiniteFloat(0, min_open=True),
    help="Passes over the text, may be fractional; with --minutes, whichever ends first.  "
    "[default: by the text's size; article: 100]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the model. --epochs and --minutes are "
    "totals; they and --patience may change, all else comes from the model.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model if it exists.")
@click.option(
    "--from",
    "start_from",
    type=ModelName(),
    metavar="MODEL",
    help="Begin with another model's weights; characters in common keep theirs.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1_000_000),
    help="Rows trained together.  [default: 32, fewer for small texts; article: 30]",
)
@seq_length_option
@click.option("--units", type=click.IntRange(1, 16_384), help="Units of a layer.  [default: 300]")
@click.option("--layers", type=click.IntRange(1, 64), help="LSTM layers.  [default: 2]")
@click.option(
    "--dropout",
    type=FiniteFloat(0, 1, max_open=True),
    help="Share of outputs dropped.  [default: by how often the text will be read; article: 0.2]",
)
@click.option(
    "--recurrent-dropout",
    type=FiniteFloat(0, 1, max_open=True),
    help="Share of recurrent weights dropped.  [default: likewise; article: 0]",
)
@click.option(
    "--learning-rate",
    type=FiniteFloat(0, 10, min_open=True),
    help="Adam's step size at its peak.  "
    f"[default: {TrainingConfig.learning_rate:g}, less after --from; article: 0.001]",
)
@click.option(
    "--join-documents",
    is_flag=True,
    default=None,
    help="Learn several texts as one running text, such as the chapters of a book, instead of "
    "each from its own beginning.",
)
@val_fraction_option
@click.option(
    "--patience",
    type=click.IntRange(0),
    help="Evaluations without a better loss before "
    "an early stop; 0 for none.  [default: 10; article: 0]",
)
@click.option(
    "--sample-every",
    type=FiniteFloat(0),
    default=30.0,
    show_default=True,
    help="Seconds between samples; 0 for none.",
)
@text_options
@click.option(
    "--random-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Fixes weights, dropout and order.  [default: 0]",
)
@threads_option
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="What to train on; auto takes the GPUs that TensorFlow finds.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed"]),
    help="mixed multiplies in half precision, on GPUs only.  "
    "[default: mixed on GPUs built for it, float32 elsewhere]",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write losses, gates and samples to DIR/<model's name> for TensorBoard, which compares "
    "the models in DIR.",
)
@click.option(
    "--html-report",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Write a page about the model at the end, as `charlstm report` does.  "
    "[default: <model's name>-report.html]",
)
@click.option(
    "--workers",
    metavar="HOST:PORT,...",
    help="Train on several machines: the same command on each, with the addresses of all, of "
    "which the first saves. TF_CONFIG does the same.",
)
@click.option("--worker-index", type=click.IntRange(0), help="Which of them this is, from 0.")
@click.option(
    "--local-workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Train in N processes on this machine, which share the threads.",
)
@quiet_option
@json_option
@click.pass_obj
def train(
    started: float | None,
    /,
    corpus: str | None,
    model: str | None,
    recipe: Any,
    resume: bool,
    overwrite: bool,
    start_from: str | None,
    sample_every: float,
    tensorboard: Path | None,
    html_report: str | None,
    workers: str | None,
    worker_index: int | None,
    local_workers: int | None,
    device: str,
    precision: Precision | None,
    quiet: bool,
    as_json: bool,
    **typed: Any,
) -> int:
    """Train a model on a text and save checkpoints.

    CORPUS is a text file, - for stdin, a folder made by `prepare`, or the name
    of a text in ./corpora/ or of one that ships with charlstm; also a folder of
    texts or a pattern, as `prepare` takes them. With --resume it may be left
    out. Ctrl-C saves a checkpoint and stops; SIGUSR1, or a file save-now in the
    model's folder, saves one and goes on.

    \b
    Examples:
      charlstm train macbeth.txt --minutes 3
      charlstm train macbeth.txt --resume --minutes 10
      charlstm train poems.txt --from macbeth
      charlstm train macbeth.txt --recipe article --model article --epochs 1
    """
    from charlstm.backend import available_cores
    from charlstm.cluster import choose_cluster
    from charlstm.models import lock_model
    from charlstm.planning import (
        TrainingRequest,
        check_unchanged,
        make_tensorboard_folder,
        plan_training,
    )
    from charlstm.progress import Reporters
    from charlstm.status import SaveRequest, StatusReporter
    from charlstm.terminal import make_reporter, show_progress

    for flag, is_given in (("--overwrite", overwrite), ("--from", start_from is not None)):
        if resume and is_given:
            raise click.UsageError(f"--resume and {flag} exclude each other")
    cluster = choose_cluster(
        workers=workers,
        worker_index=worker_index,
        local_workers=local_workers,
        environment=os.environ,
    )
    given = without_none(typed | {"recipe": recipe})
    if cluster is not None and not cluster.is_writer:
        stop = _StopRequest(is_silent=True)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # worker 0 heeds it
        return follow_training(cluster, corpus, typed=given, device=device, should_stop=stop)
    with show_progress("preparing", quiet=quiet) as progress:
        plan = plan_training(
            TrainingRequest(
                corpus=corpus,
                model=model,
                recipe=recipe,
                resume=resume,
                overwrite=overwrite,
                start_from=start_from,
                typed=without_none(typed),
                default_threads=available_cores(),
            ),
            progress=progress,
        )
    report = None
    if html_report is not None:
        report = choose_report_path(html_report, plan.model)
    events = None if tensorboard is None else make_tensorboard_folder(tensorboard, plan.model)
    if not quiet:
        for line in (*plan.notes, _describe_plan(plan)):
            note(line)
        if tensorboard is not None:
            note(_how_to_look(tensorboard))
    with lock_model(plan.model), contextlib.ExitStack() as stack:
        check_unchanged(plan, overwrite=overwrite)
        stop, wanted = _StopRequest(), SaveRequest(plan.model)
        _heed_save_signal(wanted)
        alike = start_training(
            plan,
            cluster,
            stack,
            typed=given,
            device=device,
            precision=precision,
            tell=(lambda line: None) if quiet else note,
            started=started or _IMPORTED,
            should_stop=stop,
            should_save=wanted,
        )
        from charlstm.training import Run

        reporter = make_reporter(quiet=quiet)
        status = StatusReporter(plan.model)
        stopped = "failed"
        try:
            listeners = [reporter, status]
            if events is not None:
                from charlstm.tensorboard import open_tensorboard

                listeners.append(open_tensorboard(events, plan, note=reporter.note))
            reporter = Reporters(listeners)
            result = Run(
                plan.corpus,
                plan.network,
                model=plan.model,
                resume_from=plan.resume_from,
                start_from=plan.start_from,
                sample_every=sample_every,
                reserved=0.0 if report is None else REPORT_SECONDS,
                reporter=reporter,
                **alike,
            ).run(overwrite=overwrite)
            stopped = result.stopped
        finally:
            status.ended(stopped)
            reporter.close()
    is_done = plan.resume_from is not None and result.steps == plan.resume_from.step
    if is_done and result.stopped != "interrupted" and not quiet:
        note("already done: nothing to train; more --epochs or --minutes would go on")
    _print_result(plan, result, as_json=as_json)
    if result.stopped == "interrupted":
        if result.steps:
            note(f"resume with: charlstm train --resume{model_argument(plan.model)}")
        else:
            note("nothing was trained yet, so nothing was saved")
    if report is not None and result.steps:
        write_report(plan.model, report, quiet=quiet)
    return INTERRUPTED if result.stopped == "interrupted" else 0


def _heed_save_signal(wanted: SaveRequest) -> None:
    """Let SIGUSR1 ask for a checkpoint; a file in the model's folder does everywhere."""

    def handle(number: int, frame: FrameType | None) -> None:
        wanted.is_asked = True

    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, handle)


def _how_to_look(tensorboard: Path) -> str:
    is_there = importlib.util.find_spec("tensorboard") is not None
    first = "" if is_there else "pip install tensorboard && "
    return f"to watch it: {first}tensorboard --logdir {shlex.quote(printable(str(tensorboard)))}"


def _describe_plan(plan: TrainingPlan) -> str:
    network, config = plan.network, plan.config
    budget = " or ".join(
        text
        for text in (
            f"{config.epochs:g} epochs" if config.epochs is not None else "",
            f"{config.minutes:g} minutes" if config.minutes is not None else "",
        )
        if text
    )
    return (
        f"{printable(plan.corpus.name)}: {len(plan.corpus.ids):,} characters, "
        f"{len(plan.corpus.vocabulary):,} different; recipe {config.recipe}: {network.layers} x "
        f"{network.units} units\n"
        f"{network.parameters:,} parameters, batch {config.batch_size}, dropout "
        f"{config.dropout:g}, recurrent {config.recurrent_dropout:g}; "
        f"{budget or 'steps by the size of the text'}"
    )


def _print_result(plan: TrainingPlan, result: TrainingResult, *, as_json: bool) -> None:
    path = str(plan.model.resolve())
    if as_json:
        content = {"model": path, "recipe": plan.config.recipe} | dataclasses.asdict(result)
        print_json(content)
        return
    if result.best_step is None:
        return
    how = {
        "epochs": "done",
        "minutes": "time is up",
        "early": "stopped early: reading this text more often would not help",
        "interrupted": "interrupted",
    }[result.stopped]
    click.echo(
        f"{how}: {result.steps:,} steps, {result.epochs:.1f} epochs, "
        f"{result.seconds / 60:.1f} minutes"
        + (" this time" if plan.resume_from is not None else "")
    )
    if result.stopped == "interrupted" and result.steps != result.best_step:
        click.echo(
            f"saved: step {result.steps:,}, not evaluated yet (--checkpoint last writes from it)"
        )
    click.echo(f"model: {printable(str(plan.model))} (best checkpoint: step {result.best_step:,})")
    if result.best_val_loss is not None:
        n, n_evaluated = result.val_characters, result.evaluated_characters
        part = f"the first {n_evaluated:,} of " if n_evaluated < n else ""
        click.echo(
            f"validation loss: {result.best_val_loss:.4f} nats/char, "
            f"{result.best_val_loss / math.log(2):.4f} bits/char "
            f"on {part}{n:,} held-out characters"
        )
    elif result.train_loss is not None:
        click.echo(f"training loss: {result.train_loss:.4f} nats/char (no held-out text)")
    click.echo(f"next: charlstm generate{model_argument(plan.model)} -n 500")
