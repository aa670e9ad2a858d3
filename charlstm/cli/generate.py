"""`charlstm generate`."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlstm.cli.options import (
    UNKNOWN,
    FiniteFloat,
    MixPart,
    SectionedCommand,
    StopText,
    checkpoint_option,
    json_option,
    model_option,
    open_model,
    quiet_option,
    without_none,
)
from charlstm.cli.output import as_json_line, bundled, note, open_output, write_stdout
from charlstm.errors import InputError, printable

if TYPE_CHECKING:
    from charlstm.copying import CopiedSpan
    from charlstm.engine import Ids
    from charlstm.generation import Piece
    from charlstm.sampling import SamplingConfig
    from charlstm.stopping import StopRules
    from charlstm.vocabulary import Vocabulary
    from charlstm.writer import Writer

N_ALTERNATIVES = 5
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\0": "\0", "\\\\": "\\"}


def _sampling_options(command: Any) -> Any:
    """Add the options that say how characters are picked."""
    for option in reversed(
        [
            click.option(
                "--temperature",
                metavar="T",
                type=FiniteFloat(0),
                help="Below 1 safer, above 1 wilder, 0 always the likeliest.  "
                "[default: 0.6; article: 0]",
            ),
            click.option(
                "--top-k",
                metavar="K",
                type=click.IntRange(0),
                help="Only the K likeliest; 0 for all.",
            ),
            click.option(
                "--top-p",
                metavar="P",
                type=FiniteFloat(0, 1, min_open=True),
                help="Only the likeliest that together have probability P.  [default: 0.9 "
                "without --temperature and other filters, else 1]",
            ),
            click.option(
                "--min-p",
                metavar="P",
                type=FiniteFloat(0, 1),
                help="Only what is at least P times as likely as the likeliest.",
            ),
            click.option(
                "--typical-p",
                metavar="P",
                type=FiniteFloat(0, 1, min_open=True),
                help="Only the most typical that together have probability P.",
            ),
            click.option(
                "--repetition-penalty",
                metavar="R",
                type=FiniteFloat(1, 1e6),
                help="Make going on with a repetition unlikely; 1 for none, 2 breaks most loops.",
            ),
            click.option(
                "--mirostat",
                type=FiniteFloat(0, 32, min_open=True),
                metavar="TAU",
                help="Hold the surprise at TAU bits a character, in place of the four above.",
            ),
            click.option(
                "--beams",
                metavar="N",
                type=click.IntRange(1, 256),
                help="Look for the likeliest text along N paths; at temperature 0.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command(
    cls=SectionedCommand,
    sections={
        "Who writes": ["model", "mix", "which"],
        "What it goes on from": ["seed_text", "seed_file", "unknown"],
        "Where the text ends": ["length", "stops", "until_sentence", "lines"],
        "How characters are picked": [
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "mirostat",
            "repetition_penalty",
            "beams",
            "random_seed",
        ],
        "What is printed": [
            "n_samples",
            "separator",
            "no_echo",
            "output",
            "interactive",
            "report_copying",
            "as_json",
            "probabilities",
            "quiet",
        ],
    },
)
@model_option
@click.option(
    "--mix",
    type=MixPart(),
    multiple=True,
    metavar="MODEL:WEIGHT",
    help="Write with several models at once; repeat it for each.",
)
@checkpoint_option
@click.option(
    "--seed",
    "seed_text",
    metavar="TEXT",
    help="Text to go on from, of any length.  [default: a random window of the training text]",
)
@click.option(
    "--seed-file",
    type=click.Path(path_type=Path),
    help="File with the text to go on from, read as it is; - for stdin.",
)
@click.option(
    "--unknown",
    type=UNKNOWN,
    help="What to do with seed characters that the model has never seen; nearest "
    "writes them without typography, accents or case.  [default: error; with --interactive "
    "nearest]",
)
@click.option(
    "-n",
    "--length",
    metavar="N",
    type=click.IntRange(0, 10**12),
    help="Characters to write after the seed.  [default: 500; with --lines as many as those take]",
)
@click.option(
    "--stop",
    "stops",
    type=StopText(),
    multiple=True,
    metavar="TEXT",
    help="End before this text is written; may be repeated.",
)
@click.option("--until-sentence", is_flag=True, help="Go on after --length until a sentence ends.")
@click.option("--lines", metavar="N", type=click.IntRange(1, 10**9), help="End after N line feeds.")
@click.option(
    "--samples",
    "n_samples",
    metavar="K",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Texts to write, side by side.",
)
@click.option(
    "--separator",
    metavar="TEXT",
    default=r"\n---\n",
    show_default=True,
    help=r"What stands between samples; \n, \t and \0 may be written so.",
)
@_sampling_options
@click.option(
    "--random-seed",
    metavar="N",
    type=click.IntRange(0, 2**63 - 1),
    help="The same number writes the same text; sample k has this plus k.  "
    "[default: a new one each time]",
)
@click.option("--no-echo", is_flag=True, help="Print the new text only, without the seed.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write to; it appears whole, in place of what was there.",
)
@click.option(
    "--interactive", is_flag=True, help="Type a line and the model goes on from it, in turns."
)
@click.option(
    "--report-copying",
    is_flag=True,
    help="Tell the longest span that stands word for word in the training text, which must "
    "still be prepared.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="With --json: each character's probability and the likeliest others.",
)
@quiet_option
@json_option
def generate(
    model: str | None,
    mix: tuple[tuple[str, float], ...],
    which: str,
    seed_text: str | None,
    seed_file: Path | None,
    unknown: str | None,
    length: int | None,
    stops: tuple[str, ...],
    until_sentence: bool,
    lines: int | None,
    n_samples: int,
    separator: str,
    random_seed: int | None,
    no_echo: bool,
    output: Path | None,
    interactive: bool,
    report_copying: bool,
    probabilities: bool,
    quiet: bool,
    as_json: bool,
    **typed: Any,
) -> None:
    """Write text in the style of a model, by default the newest.

    The text goes to stdout as it is written, and nothing else does. Without a
    model of your own the one that ships with charlstm writes.

    \b
    Examples:
      charlstm generate --seed "To-morrow, and to-morrow" -n 300
      charlstm generate --temperature 0.5 --random-seed 7 > verse.txt
      charlstm generate --lines 4 --samples 3 --no-echo
      charlstm generate --seed "Is this a dagger" --until-sentence
      fortune | charlstm generate --seed-file - --unknown nearest
      charlstm generate --mix macbeth:0.7 --mix poems:0.3
      charlstm generate --json --samples 10 | jq -r .text
    """
    _refuse_together(
        {
            "--seed": seed_text is not None,
            "--seed-file": seed_file is not None,
        },
        {"--model": model is not None, "--mix": bool(mix)},
        *(
            {"--interactive": interactive, flag: is_given}
            for flag, is_given in {
                "--json": as_json,
                "--output": output is not None,
                "--samples": n_samples > 1,
                "--report-copying": report_copying,
                "--beams": (typed["beams"] or 1) > 1,
            }.items()
        ),
    )
    if probabilities and not as_json:
        raise click.UsageError("--probabilities needs --json")

    from charlstm.sampling import SamplingConfig
    from charlstm.stopping import StopRules
    from charlstm.writer import Writer, make_random_seeds

    unknown = unknown or ("nearest" if interactive else "error")
    given = without_none(typed)
    SamplingConfig().adjusted(**given)  # what is wrong with it is said before a model is read
    rules = StopRules(length=length, stops=stops, until_sentence=until_sentence, lines=lines)
    if seed_file is not None:
        seed_text = _read_text(seed_file)
    elif seed_text is not None:
        seed_text = _as_utf8(seed_text)

    parts = mix or ((model, 1.0),)
    writer = Writer([(open_model(name, which), weight) for name, weight in parts])
    if not quiet:
        _introduce(writer, rules)
    sampling = writer.sampling(**given)
    random_seeds = make_random_seeds(random_seed, n_samples=n_samples)
    if interactive:
        from charlstm.cli.interactive import converse

        converse(
            writer.voice,
            sampling=sampling,
            rules=rules,
            random_seed=random_seeds[0],
            unknown=unknown,
            seed_text=seed_text,
            quiet=quiet,
        )
        return
    seeds = writer.seeds(seed_text, random_seeds, unknown=unknown)
    if seed_text is not None and not quiet:
        n_left_out = len(writer.voice.clean(seed_text)) - len(seeds[0])
        if unknown == "skip" and n_left_out:
            note(f"left out {n_left_out} unknown characters of the seed text")
    elif sys.stderr.isatty() and not (as_json or no_echo or quiet):
        note(f"{printable(writer.name)} goes on from {len(seeds[0])} characters of its own text:")
    job = _Job(
        writer=writer,
        seeds=seeds,
        random_seeds=random_seeds,
        sampling=sampling,
        rules=rules,
        corpora=_corpora(writer) if report_copying else [],
    )
    if as_json:
        chunks = job.json_lines(n_alternatives=N_ALTERNATIVES if probabilities else 0)
    else:
        chunks = bundled(job.text(echo=not no_echo, separator=_unescape(separator)))
    last = ""
    with open_output(output, quiet=quiet) as write:
        for chunk in chunks:
            write(chunk)
            last = chunk or last
    if output is None and sys.stdout.isatty() and not last.endswith("\n"):
        write_stdout("\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """The texts that were asked for."""

    writer: Writer
    seeds: Sequence[str]
    random_seeds: Sequence[int]
    sampling: SamplingConfig
    rules: StopRules
    corpora: Sequence[tuple[Vocabulary, Ids]]

    def text(self, *, echo: bool, separator: str) -> Iterator[str]:
        """Write the samples one after the other, each after its seed."""
        pieces = self._pieces()
        for sample, seed in enumerate(self.seeds):
            yield (separator if sample else "") + (seed if echo else "")
            written = []
            for piece in _up_to_end(pieces):
                yield piece.text
                if self.corpora:
                    written.append(piece.text)
            if self.corpora:
                note(self._describe_copying("".join(written)))

    def json_lines(self, *, n_alternatives: int) -> Iterator[str]:
        """Write a line of JSON for each sample."""
        first = self.writer.checkpoint
        pieces = self._pieces(n_alternatives)
        for sample, seed in enumerate(self.seeds):
            whole = list(_up_to_end(pieces))
            text = "".join(piece.text for piece in whole)
            content: dict[str, Any] = {
                "model": str(first.model),
                "checkpoint": first.info.step,
                "seed": seed,
                "text": text,
                "length": len(text),
                "random_seed": self.random_seeds[sample],
                "stopped": whole[-1].stopped,
            }
            content |= dataclasses.asdict(self.sampling)
            if len(self.writer.checkpoints) > 1:
                content["mix"] = [
                    {"model": str(c.model), "checkpoint": c.info.step, "weight": weight}
                    for c, weight in self.writer.checkpoints
                ]
            if self.corpora:
                span = self._longest_copy(text)
                content["copied"] = {
                    "length": span.length,
                    "start": span.start,
                    "text": text[span.start : span.start + span.length],
                    "corpus_position": span.corpus_position,
                }
            if n_alternatives:
                content["probabilities"] = [
                    dataclasses.asdict(told) for piece in whole for told in piece.probabilities
                ]
            yield as_json_line(content)

    def _pieces(self, n_alternatives: int = 0) -> Iterator[Piece]:
        from charlstm.generation import in_order, write_texts

        return in_order(
            write_texts(
                self.writer.voice,
                self.seeds,
                random_seeds=self.random_seeds,
                sampling=self.sampling,
                rules=self.rules,
                n_alternatives=n_alternatives,
            )
        )

    def _longest_copy(self, text: str) -> CopiedSpan:
        from charlstm.copying import longest_copied_span

        spans = [
            longest_copied_span(vocabulary.encode(text), corpus_ids)
            for vocabulary, corpus_ids in self.corpora
        ]
        return max(spans, key=lambda span: span.length)

    def _describe_copying(self, text: str) -> str:
        span = self._longest_copy(text)
        copy = text[span.start : span.start + span.length]
        shown = copy if len(copy) <= 60 else f"{copy[:30]}…{copy[-29:]}"
        return (
            f"longest span that stands in the training text: {span.length} of {len(text)} "
            f"characters: {printable(shown)!r}"
        )


def _refuse_together(*groups: dict[str, bool]) -> None:
    for group in groups:
        if all(group.values()):
            raise click.UsageError(f"{' and '.join(group)} exclude each other")


def _up_to_end(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Take the pieces of one sample."""
    for piece in pieces:
        yield piece
        if piece.stopped is not None:
            return


def _corpora(writer: Writer) -> list[tuple[Vocabulary, Ids]]:
    """Open what the models were trained on, before anything is written."""
    from charlstm.copying import find_corpus_ids

    return [
        (c.vocabulary, find_corpus_ids(c.config["corpus"], vocabulary=c.vocabulary))
        for c, _ in writer.checkpoints
    ]


def _introduce(writer: Writer, rules: StopRules) -> None:
    """Say on stderr what a person should know before the text comes."""
    from charlstm.models import is_shipped

    if any(is_shipped(checkpoint.model) for checkpoint, _ in writer.checkpoints):
        note(
            f"{printable(writer.name)}, the model that ships with charlstm, writes; "
            "train your own: charlstm train yours.txt --minutes 3"
        )
    for stop in rules.unmatchable(set(writer.voice.vocabulary.characters)):
        note(f"warning: the model can never write the stop text '{stop}'")


def _unescape(separator: str) -> str:
    return re.sub(r"\\[nt0\\]", lambda match: _ESCAPES[match[0]], separator)


def _as_utf8(argument: str) -> str:
    """Undo what Python does to UTF-8 on the command line in a locale without it."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise InputError(f"the seed text is not UTF-8: {argument!a}") from error


def _read_text(path: Path) -> str:
    shown = printable(str(path))
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8: bad byte at offset {error.start:,}") from error
