"""Options that several commands take, and what they stand for."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from charlstm.cli.output import note
from charlstm.config import MAX_VOCAB
from charlstm.errors import InputError, printable

if TYPE_CHECKING:
    from charlstm.checkpoint import Checkpoint


class SectionedCommand(click.Command):
    """A command with too many options for one list: its help has headings.

    Args:
        sections: Names of parameters under each heading; the others come last.
        *args: As `click.Command` takes them.
        **extra: Likewise.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **extra: Any) -> None:
        """Remember which parameter stands where."""
        super().__init__(*args, **extra)
        self._heading = {name: heading for heading, names in sections.items() for name in names}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings."""
        lists: dict[str, list[tuple[str, str]]] = {}
        headings = [*dict.fromkeys(self._heading.values()), "Other options"]
        for heading in headings:
            for param in self.get_params(ctx):
                record = param.get_help_record(ctx)
                if record and self._heading.get(param.name or "", headings[-1]) == heading:
                    lists.setdefault(heading, []).append(record)
        for heading, records in lists.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class ExclusiveCommand(SectionedCommand):
    """A command with options that exclude each other.

    Of two of them the typed one wins over one that the environment gives.

    Args:
        exclusive: Pairs of parameters, refused together.
        exclusive_settings: Pairs that the command refuses itself.
        idle: Values that are as good as none, by parameter.
        *args: As `SectionedCommand` takes them.
        **extra: Likewise.
    """

    def __init__(
        self,
        *args: Any,
        exclusive: Sequence[tuple[str, str]],
        exclusive_settings: Sequence[tuple[str, str]] = (),
        idle: Mapping[str, float] | None = None,
        **extra: Any,
    ) -> None:
        """Remember the pairs."""
        super().__init__(*args, **extra)
        self._exclusive = list(exclusive)
        self._settings = list(exclusive_settings)
        self._idle = idle or {}

    def invoke(self, ctx: click.Context) -> Any:
        """Settle which of two is meant, before the command runs."""
        options = {param.name or "": param for param in self.params}
        for pair in (*self._exclusive, *self._settings):
            if any(self._is_idle(name, ctx.params[name]) for name in pair):
                continue
            typed = {n for n in pair if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE}
            if len(typed) == 1:
                (other,) = set(pair) - typed
                ctx.params[other] = _idle_value(options[other])
            elif pair in self._exclusive:
                names = [max(options[name].opts, key=len) for name in pair]
                raise click.UsageError(f"{' and '.join(names)} exclude each other", ctx)
        return super().invoke(ctx)

    def _is_idle(self, name: str, value: Any) -> bool:
        """Tell whether an option was not given, or changes nothing."""
        return value is None or value is False or value == () or value == self._idle.get(name)


def _idle_value(option: click.Parameter) -> Any:
    if option.multiple:
        return ()
    return {bool: False, int: 1}.get(type(option.default))


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


class ModelName(click.ParamType[Any]):
    """A model, completed by the names of those there are."""

    name = "model"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """List the models that begin so; for a path, let the shell complete it."""
        from charlstm.models import model_names

        if "/" in incomplete:
            return [CompletionItem(incomplete, type="dir")]
        return [CompletionItem(name) for name in model_names() if name.startswith(incomplete)]


class CorpusName(click.ParamType[Any]):
    """A text: a file, or the name of one in ./corpora/ or of one that ships."""

    name = "corpus"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """List the texts that begin so, beside the shell's own files."""
        from charlstm.corpus import corpus_names

        found = [CompletionItem(name) for name in corpus_names() if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")]


class MixPart(ModelName):
    """MODEL:WEIGHT, where the last colon separates."""

    name = "mix"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """List the models that begin so, with a weight that can be changed."""
        names = super().shell_complete(ctx, param, incomplete)
        return [CompletionItem(f"{item.value}:1", type=item.type) for item in names]

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Split it."""
        if isinstance(value, tuple):
            return value
        name, separator, weight = str(value).rpartition(":")
        if not separator or not name:
            self.fail(f"{value!r} is not MODEL:WEIGHT, such as macbeth:0.7", param, ctx)
        return name, FiniteFloat(0, 1e9, min_open=True).convert(weight, param, ctx)


class StopText(click.types.StringParamType):
    """A text that ends the writing: any text but none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse the empty text, which would always be there."""
        text: str = super().convert(value, param, ctx)
        if not text:
            self.fail("a stop text needs at least one character", param, ctx)
        return text

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Take an environment variable as one text, spaces and all."""
        return [rv]


UNKNOWN = click.Choice(["error", "skip", "nearest"])
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
model_option = click.option(
    "--model",
    type=ModelName(),
    metavar="NAME_OR_DIR",
    help="A name in checkpoints/, or a folder (with a path separator).",
)


def text_options(command: Any) -> Any:
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
            click.option(
                "--max-vocab",
                metavar="N",
                type=click.IntRange(2, MAX_VOCAB),
                help="Keep the N most frequent characters; all others are read as one unknown "
                "symbol, which is never written.  [default: all]",
            ),
        ]
    ):
        command = option(command)
    return command


seq_length_option = click.option(
    "--seq-length", type=click.IntRange(1, 100_000), help="Characters in a window.  [default: 50]"
)
val_fraction_option = click.option(
    "--val-fraction",
    type=FiniteFloat(0, 0.9),
    help="Share of the text, its end, held out.  [default: 0.1; article: 0]",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 4_096),
    help="CPU cores to use.  [default: all that this process may use]",
)
checkpoint_option = click.option(
    "--checkpoint",
    "which",
    metavar="best|last|STEP",
    default="best",
    show_default=True,
    help="Which checkpoint of the model.",
    shell_complete=lambda ctx, param, begun: [w for w in ("best", "last") if w.startswith(begun)],
)


def open_model(model: str | None, which: str) -> Checkpoint:
    """Load the model that was asked for, saying what was passed over."""
    from charlstm.models import find_model, open_checkpoint

    checkpoint, warnings = open_checkpoint(find_model(model), which)
    for warning in warnings:
        note(f"warning: {warning}; using step {checkpoint.info.step:,} instead")
    return checkpoint


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Keep the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def as_utf8(argument: str, *, what: str) -> str:
    """Read an argument as UTF-8 whatever the locale has made of it."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError as error:
        if argument.isprintable():  # typed in a terminal of that very locale
            return argument
        raise InputError(f"{what} is not UTF-8: {argument!a}") from error


def tell_unknown(n: int, *, what: str) -> None:
    """Say that characters are read as the unknown symbol, if there are any."""
    if n:
        noun = "character" if n == 1 else "characters"
        note(f"{n:,} {noun} of {what} {'is' if n == 1 else 'are'} read as the unknown symbol")


def read_seed_file(path: Path) -> str:
    """Read a seed text as it is; - is stdin."""
    shown = printable(str(path))
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8: bad byte at offset {error.start:,}") from error
