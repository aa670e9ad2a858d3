"""The `charlstm` command: parse, call, print.

Data goes to stdout, everything else to stderr. TensorFlow is imported by
`train` only, and only after everything about the request has been checked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from charlstm import __version__
from charlstm.config import TrainingConfig
from charlstm.errors import CharlstmError, printable

if TYPE_CHECKING:
    from charlstm.checkpoint import Checkpoint
    from charlstm.planning import TrainingPlan
    from charlstm.training import TrainingResult

_IMPORTED = time.monotonic()
INTERRUPTED = 130


class FiniteFloat(click.FloatRange):
    """A float in a range that is neither infinite nor NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what `FloatRange` lets through: nan compares false with any bound."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class CharlstmGroup(click.Group):
    """The command group, with every error brought to one form in one place."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and end the process with the exit code of the contract."""
        extra.pop("standalone_mode", None)
        stdout = sys.stdout
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_usage_message(error), _usage_hint(error), error.exit_code, error)
        except CharlstmError as error:
            _fail(error.message, error.hint, error.exit_code, error)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted", None, INTERRUPTED, None)
        except SystemExit as end:
            # Click exits 1 for a closed pipe, having wrapped stdout.
            if sys.stdout is not stdout:
                sys.stdout = stdout
                _close_stdout()
                sys.exit(0)
            raise end from None
        except BrokenPipeError:
            _close_stdout()
            sys.exit(0)
        except OSError as error:
            where = printable(str(error.filename)) if error.filename else "cannot write the output"
            _fail(f"{where}: {error.strerror or error}", None, 1, error)
        except MemoryError as error:
            _fail("out of memory", "a smaller --batch-size or --units needs less", 1, error)
        except Exception as error:
            hint = "this is a fault of charlstm; CHARLSTM_DEBUG=1 shows where"
            _fail(f"{type(error).__name__}: {printable(str(error))}", hint, 1, error)


def _fail(message: str, hint: str | None, code: int, error: BaseException | None) -> NoReturn:
    """Print an error in at most two lines and end the process."""
    if error is not None and os.environ.get("CHARLSTM_DEBUG", "0") not in ("", "0"):
        raise error
    try:
        sys.stdout.flush()
    except OSError:
        _close_stdout()
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(code)


def _close_stdout() -> None:
    """Send what is left to nowhere, so that Python does not complain at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a file, as in tests
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _usage_message(error: click.ClickException) -> str:
    return " ".join(error.format_message().split()).rstrip(".")


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context is not None else None


# What steers a terminal and JSON leaves as it is: C1 controls, directions of writing.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def _print_json(content: dict[str, Any]) -> None:
    line = json.dumps(content, ensure_ascii=False)
    click.echo(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", line))


def _note(message: str) -> None:
    click.echo(message, err=True)


_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
_quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
_model_option = click.option(
    "--model",
    metavar="NAME_OR_DIR",
    help="A name in checkpoints/, or a folder (with a path separator).",
)


@click.group(
    cls=CharlstmGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="charlstm")
def cli() -> None:
    """Learn to write in the style of any text file.

    \b
    charlstm train macbeth.txt --minutes 3
    charlstm generate --seed "MACBETH."
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Text is UTF-8 whatever the locale says.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


# --- prepare --------------------------------------------------------------------


def _text_options(command: Any) -> Any:
    """Add the options that say how a text is read."""
    for option in reversed(
        [
            click.option(
                "--encoding", metavar="NAME", help="The text's encoding.  [default: utf-8]"
            ),
            click.option("--lowercase", is_flag=True, default=None, help="Lower-case the text."),
            click.option(
                "--normalize",
                type=click.Choice(["NFC", "none"], case_sensitive=False),
                help="Unicode normalisation.  [default: NFC]",
            ),
            click.option(
                "--keep-boilerplate",
                is_flag=True,
                default=None,
                help="Keep a Project Gutenberg header and licence.",
            ),
        ]
    ):
        command = option(command)
    return command


_seq_length_option = click.option(
    "--seq-length", type=click.IntRange(1, 100_000), help="Characters in a window.  [default: 50]"
)
_val_fraction_option = click.option(
    "--val-fraction",
    type=FiniteFloat(0, 0.9),
    help="Share of the text, its end, held out.  [default: 0.1; article: 0]",
)


@cli.command()
@click.argument("corpus")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: prepared/<name>]",
)
@_text_options
@_seq_length_option
@_val_fraction_option
@_quiet_option
@_json_option
def prepare(corpus: str, output: Path | None, quiet: bool, as_json: bool, **typed: Any) -> None:
    """Build the char-to-int maps and the windows of a text.

    CORPUS is a text file, - for stdin, or the name of a text in ./corpora/ or
    of one that ships with charlstm. `train` does this by itself when needed.

    \b
    Example:
      charlstm prepare macbeth.txt
    """
    from charlstm import corpus as corpora
    from charlstm.errors import InputError
    from charlstm.reading import CorpusOptions

    given = _without_none(typed)
    numbers = {k: given.pop(k) for k in ("seq_length", "val_fraction") if k in given}
    source = None if corpus == "-" else corpora.find_corpus(corpus)
    if source is not None and source.is_dir():
        raise InputError(
            f"{printable(corpus)} is prepared already",
            hint=f"train on it: charlstm train {shlex.quote(printable(corpus))}",
        )
    from charlstm.terminal import byte_progress

    with byte_progress("preparing", quiet=quiet) as progress:
        prepared = corpora.prepare_corpus(
            source,
            options=CorpusOptions(**given),
            output=output,
            progress=progress,
            **numbers,
        )
    summary = corpora.read_summary(prepared.path)
    if prepared.removed_characters and not quiet:
        _note(prepared.boilerplate_note)
    keys = ("characters", "vocabulary_size", "windows", "train_characters", "val_characters")
    content = {"path": str(prepared.path.resolve())} | {key: summary[key] for key in keys}
    content |= {"seq_length": summary["seq_length"], "dtype": summary["dtype"]}
    if as_json:
        _print_json(content)
        return
    click.echo(
        f"{prepared.name}: {summary['characters']:,} characters, "
        f"{summary['vocabulary_size']:,} different, "
        f"{summary['windows']:,} windows of {summary['seq_length']}\n"
        f"split: {summary['train_characters']:,} to train on, "
        f"{summary['val_characters']:,} held out at the end\n"
        f"prepared: {printable(str(prepared.path))}"
    )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


# --- train ----------------------------------------------------------------------


class _StopRequest:
    """Ctrl-C and SIGTERM: the first asks to save and stop, the second quits at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._stderr = os.dup(2)  # stays what it is while TensorFlow is kept quiet
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            os._exit(INTERRUPTED)
        self.is_set = True
        os.write(self._stderr, b"\nstopping after this step; again to quit at once\n")

    def __call__(self) -> bool:
        return self.is_set


@cli.command()
@click.argument("corpus", required=False)
@_model_option
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
    metavar="MODEL",
    help="Begin with another model's weights; characters in common keep theirs.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1_000_000),
    help="Rows trained together.  [default: 32, fewer for small texts; article: 30]",
)
@_seq_length_option
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
@_val_fraction_option
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
@_text_options
@click.option(
    "--random-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Fixes weights, dropout and order.  [default: 0]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 4_096),
    help="CPU cores to use.  [default: all that this process may use]",
)
@_quiet_option
@_json_option
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
    quiet: bool,
    as_json: bool,
    **typed: Any,
) -> int:
    """Train a model on a text and save checkpoints.

    CORPUS is a text file, - for stdin, a folder made by `prepare`, or the name
    of a text in ./corpora/ or of one that ships with charlstm. With --resume it
    may be left out. Ctrl-C saves a checkpoint and stops.

    \b
    Examples:
      charlstm train macbeth.txt --minutes 3
      charlstm train macbeth.txt --resume --minutes 10
      charlstm train poems.txt --from macbeth
      charlstm train macbeth.txt --recipe article --model article --epochs 1
    """
    from charlstm.backend import available_cores, start_tensorflow
    from charlstm.models import lock_model
    from charlstm.planning import TrainingRequest, check_unchanged, plan_training
    from charlstm.terminal import byte_progress, make_reporter

    for flag, is_given in (("--overwrite", overwrite), ("--from", start_from is not None)):
        if resume and is_given:
            raise click.UsageError(f"--resume and {flag} exclude each other")
    with byte_progress("preparing", quiet=quiet) as progress:
        plan = plan_training(
            TrainingRequest(
                corpus=corpus,
                model=model,
                recipe=recipe,
                resume=resume,
                overwrite=overwrite,
                start_from=start_from,
                typed=_without_none(typed),
                default_threads=available_cores(),
            ),
            progress=progress,
        )
    if not quiet:
        for line in (*plan.notes, _describe_plan(plan)):
            _note(line)
    with lock_model(plan.model):
        check_unchanged(plan, overwrite=overwrite)
        stop = _StopRequest()
        start_tensorflow(
            threads=plan.config.threads,
            random_seed=plan.config.random_seed,
            parts=plan.config.n_parts,
        )
        from charlstm.training import Run

        reporter = make_reporter(quiet=quiet)
        try:
            result = Run(
                plan.corpus,
                plan.network,
                plan.config,
                model=plan.model,
                resume_from=plan.resume_from,
                start_from=plan.start_from,
                sample_every=sample_every,
                started=started or _IMPORTED,
                should_stop=stop,
                reporter=reporter,
            ).run(overwrite=overwrite)
        finally:
            reporter.close()
    is_done = plan.resume_from is not None and result.steps == plan.resume_from.step
    if is_done and result.stopped != "interrupted" and not quiet:
        _note("already done: nothing to train; more --epochs or --minutes would go on")
    _print_result(plan, result, as_json=as_json)
    if result.stopped == "interrupted":
        if result.steps:
            _note(f"resume with: charlstm train --resume{_model_argument(plan.model)}")
        else:
            _note("nothing was trained yet, so nothing was saved")
        return INTERRUPTED
    return 0


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
        f"{network.vocabulary_size:,} different; recipe {config.recipe}: {network.layers} x "
        f"{network.units} units\n"
        f"{network.parameters:,} parameters, batch {config.batch_size}, dropout "
        f"{config.dropout:g}, recurrent {config.recurrent_dropout:g}; "
        f"{budget or 'steps by the size of the text'}"
    )


def _print_result(plan: TrainingPlan, result: TrainingResult, *, as_json: bool) -> None:
    path = str(plan.model.resolve())
    if as_json:
        content = {"model": path, "recipe": plan.config.recipe} | dataclasses.asdict(result)
        _print_json(content)
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
        click.echo(
            f"validation loss: {result.best_val_loss:.4f} nats/char, "
            f"{result.best_val_loss / math.log(2):.4f} bits/char "
            f"on {result.val_characters:,} held-out characters"
        )
    elif result.train_loss is not None:
        click.echo(f"training loss: {result.train_loss:.4f} nats/char (no held-out text)")
    click.echo(f"next: charlstm generate{_model_argument(plan.model)} -n 500")


def _model_argument(model: Path) -> str:
    from charlstm.models import CHECKPOINTS_FOLDER

    name = model.name if model.parent == Path(CHECKPOINTS_FOLDER) else str(model)
    return f" --model {shlex.quote(name)}"


# --- generate -------------------------------------------------------------------

_checkpoint_option = click.option(
    "--checkpoint",
    "which",
    metavar="best|last|STEP",
    default="best",
    show_default=True,
    help="Which checkpoint of the model.",
)


def _open_model(model: str | None, which: str) -> Checkpoint:
    from charlstm.models import find_model, open_checkpoint

    checkpoint, warnings = open_checkpoint(find_model(model), which)
    for warning in warnings:
        _note(f"warning: {warning}; using step {checkpoint.info.step:,} instead")
    return checkpoint


@cli.command()
@_model_option
@click.option(
    "--seed",
    "seed_text",
    metavar="TEXT",
    help="Text to go on from.  [default: a random window of the training text]",
)
@click.option(
    "--seed-file",
    type=click.Path(path_type=Path),
    help="File with the text to go on from, read as it is.",
)
@click.option(
    "-n",
    "--length",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="Characters to write after the seed.",
)
@click.option(
    "--temperature",
    type=FiniteFloat(0),
    help="Below 1 safer, above 1 wilder, 0 always the likeliest.  [default: 0.6; article: 0]",
)
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What to do with seed characters that the model has never seen.",
)
@click.option(
    "--random-seed",
    type=click.IntRange(0, 2**63 - 1),
    help="The same number writes the same text.  [default: a new one each time]",
)
@_checkpoint_option
@click.option("--no-echo", is_flag=True, help="Print the new text only, without the seed.")
@_json_option
def generate(
    model: str | None,
    seed_text: str | None,
    seed_file: Path | None,
    length: int,
    temperature: float | None,
    unknown: str,
    random_seed: int | None,
    which: str,
    no_echo: bool,
    as_json: bool,
) -> None:
    """Write text in the style of a model, by default the newest.

    \b
    Examples:
      charlstm generate --seed "To-morrow, and to-morrow" -n 300
      charlstm generate --temperature 0.5 --random-seed 7 > verse.txt
    """
    if seed_text is not None and seed_file is not None:
        raise click.UsageError("--seed and --seed-file exclude each other")
    if seed_file is not None:
        seed_text = _read_text(seed_file)
    elif seed_text is not None:
        seed_text = _as_utf8(seed_text)

    import numpy as np

    from charlstm import generation

    checkpoint = _open_model(model, which)
    if random_seed is None:
        random_seed = int.from_bytes(os.urandom(4), "little")
    if temperature is None:
        temperature = generation.default_temperature(checkpoint.network)
    if seed_text is None:
        seed_text = generation.pick_seed_window(checkpoint, np.random.default_rng(random_seed))
        if sys.stderr.isatty() and not as_json and not no_echo:
            _note(
                f"{printable(checkpoint.model.name)} goes on from "
                f"{len(seed_text)} characters of its own text:"
            )
    else:
        given = checkpoint.text_options.clean(seed_text)
        seed_text = generation.check_seed_text(
            given, checkpoint.vocabulary, skip_unknown=unknown == "skip"
        )
        if len(seed_text) < len(given):
            _note(f"left out {len(given) - len(seed_text)} unknown characters of the seed text")
    characters = generation.generate(
        checkpoint, seed_text, length=length, temperature=temperature, random_seed=random_seed
    )
    if as_json:
        text = "".join(characters)
        _print_json(
            {
                "model": str(checkpoint.model),
                "checkpoint": checkpoint.info.step,
                "seed": seed_text,
                "text": text,
                "length": len(text),
                "random_seed": random_seed,
                "temperature": temperature,
                "stopped": "length",
            }
        )
        return
    if not no_echo:
        _write_stdout(seed_text)
    _stream(characters)
    if sys.stdout.isatty():
        _write_stdout("\n")


def _as_utf8(argument: str) -> str:
    """Undo what Python does to UTF-8 on the command line in a locale without it."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        from charlstm.errors import InputError

        raise InputError(f"the seed text is not UTF-8: {argument!a}") from error


def _read_text(path: Path) -> str:
    from charlstm.errors import InputError

    shown = printable(str(path))
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8: bad byte at offset {error.start:,}") from error


def _write_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _stream(characters: Iterable[str]) -> None:
    """Print the first character at once and then whatever came in each 50 ms."""
    held: list[str] = []
    next_flush = 0.0
    for character in characters:
        held.append(character)
        if time.monotonic() >= next_flush:
            _write_stdout("".join(held))
            held.clear()
            next_flush = time.monotonic() + 0.04
    _write_stdout("".join(held))


# --- evaluate -------------------------------------------------------------------


@cli.command()
@click.argument("file")
@_model_option
@_checkpoint_option
@click.option(
    "--encoding", metavar="NAME", default="utf-8", show_default=True, help="The text's encoding."
)
@click.option(
    "--unknown",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="What to do with characters that the model has never seen.",
)
@_quiet_option
@_json_option
def evaluate(
    file: str,
    model: str | None,
    which: str,
    encoding: str,
    unknown: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Tell how well a model predicts a text.

    Prints nats/char, bits/char and perplexity; the lower the better. FILE is a
    text file, - for stdin, or the name of a text that ships.

    \b
    Example:
      charlstm evaluate sonnets.txt --model macbeth
    """
    from charlstm import generation, scoring
    from charlstm.corpus import find_corpus
    from charlstm.errors import InputError
    from charlstm.reading import read_text, sha256_of
    from charlstm.terminal import byte_progress

    source = None if file == "-" else find_corpus(file)
    if source is not None and source.is_dir():
        raise InputError(f"{printable(file)} is a folder", hint="give the text itself")
    checkpoint = _open_model(model, which)
    text = read_text(
        source, options=dataclasses.replace(checkpoint.text_options, encoding=encoding)
    )
    known = generation.check_seed_text(
        text, checkpoint.vocabulary, skip_unknown=unknown == "skip", what="the text"
    )
    if len(known) < len(text) and not quiet:
        _note(f"left out {len(text) - len(known):,} characters that the model has never seen")
    if not quiet:
        about = checkpoint.config["corpus"]
        name = printable(checkpoint.model.name)
        is_own = source is not None and sha256_of(source) == about["sha256"]
        _note(
            f"model {name}, step {checkpoint.info.step:,}"
            + (": trained on this very text, which flatters the figure" if is_own else "")
        )
    step = generation.LSTMStep(checkpoint.network, checkpoint.weights)
    with byte_progress("scoring", quiet=quiet) as progress:
        score = scoring.score_ids(step, checkpoint.vocabulary.encode(known), progress=progress)
    content = {
        "characters": len(known),
        "loss": score.nats_per_char,
        "bits_per_char": score.bits_per_char,
        "perplexity": score.perplexity,
    }
    if as_json:
        _print_json(
            {
                "model": str(checkpoint.model),
                "checkpoint": checkpoint.info.step,
            }
            | content
        )
        return
    click.echo(
        f"{score.nats_per_char:.4f} nats/char, {score.bits_per_char:.4f} bits/char, "
        f"perplexity {score.perplexity:.2f} over {len(known):,} characters"
    )


# --- info -----------------------------------------------------------------------


@cli.command()
@click.argument("model", required=False)
@click.option("--verify", is_flag=True, help="Check every byte and say what is damaged.")
@_json_option
def info(model: str | None, verify: bool, as_json: bool) -> int:
    """Tell what a model is; without MODEL, list the models.

    With --verify every checkpoint is read and checked as if it were used, and
    the exit code is 1 if one is damaged.

    \b
    Examples:
      charlstm info macbeth
      charlstm info macbeth --verify
    """
    from charlstm.models import describe_model, find_model, list_models

    if verify:
        if model is None:
            raise click.UsageError("--verify needs a MODEL")
        return _verify(model, as_json=as_json)

    if model is None:
        models = []
        for path in list_models():
            try:
                models.append(describe_model(path))
            except CharlstmError as error:
                _note(f"warning: {error.message}")
        if as_json:
            _print_json({"models": models})
        elif not models:
            _note("no models yet; train one: charlstm train macbeth.txt")
        for about in [] if as_json else models:
            click.echo(_model_line(about))
        return 0
    about = describe_model(find_model(model))
    if as_json:
        _print_json(about)
        return 0
    corpus = about["corpus"]
    click.echo(
        f"{printable(about['name'])}: {printable(about['path'])}\n"
        f"recipe {about['recipe']}: {about['layers']} x {about['units']} units, windows of "
        f"{about['seq_length']}, {about['parameters']:,} parameters\n"
        f"corpus {printable(corpus['name'])}: {corpus['characters']:,} characters, "
        f"{about['vocabulary_size']:,} different, sha256 {corpus['sha256'][:16]}…"
    )
    for entry in about["checkpoints"]:
        marks = [mark for mark in ("best", "last") if entry[mark]]
        click.echo(
            f"  step {entry['step']:>8,}  epoch {entry['epoch']:>7.2f}  "
            f"{_loss_text(entry)}  {' '.join(marks)}".rstrip()
        )
    return 0


def _verify(name: str, *, as_json: bool) -> int:
    from charlstm.models import find_model, holds_model, model_path, verify_model

    model = model_path(name)
    if not holds_model(model):
        find_model(name)  # says which models there are
    results = verify_model(model)
    n_damaged = sum(bool(problems) for _, problems in results)
    if as_json:
        checkpoints = [{"path": str(p.resolve()), "problems": why} for p, why in results]
        _print_json({"path": str(model.resolve()), "checkpoints": checkpoints})
    else:
        for path, problems in results:
            click.echo(f"{path.name}: {'; '.join(problems) or 'whole'}")
    if n_damaged and not as_json:
        _note(f"{n_damaged} of {len(results)} checkpoints of {printable(str(model))} are damaged")
    return 1 if n_damaged else 0


def _model_line(about: dict[str, Any]) -> str:
    best = next(entry for entry in about["checkpoints"] if entry["best"])
    return (
        f"{printable(about['name']):<20} {about['recipe']:<8} {about['layers']} x "
        f"{about['units']:<5} step {best['step']:>8,}  {_loss_text(best)}"
    )


def _loss_text(entry: dict[str, Any]) -> str:
    if entry["val_loss"] is not None:
        return f"val {entry['val_loss']:.4f}"
    if entry["train_loss"] is not None:
        return f"train {entry['train_loss']:.4f}"
    return "not evaluated"


def _name_environment_variables() -> None:
    """Let each option be given as CHARLSTM_<COMMAND>_<OPTION>, by its long name."""
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                long_name = max(option.opts, key=len).lstrip("-")
                option.envvar = f"CHARLSTM_{name}_{long_name}".upper().replace("-", "_")


_name_environment_variables()
