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
    ExclusiveCommand,
    FiniteFloat,
    MixPart,
    StopText,
    as_utf8,
    checkpoint_option,
    json_option,
    model_option,
    open_model,
    quiet_option,
    read_seed_file,
    tell_unknown,
    without_none,
)
from charlstm.cli.output import as_json_line, bundled, note, open_output, write_stdout
from charlstm.errors import printable

if TYPE_CHECKING:
    from charlstm.copying import CopiedSpan
    from charlstm.generation import Piece
    from charlstm.sampling import SamplingConfig
    from charlstm.shards import Ids
    from charlstm.stopping import StopRules
    from charlstm.vocabulary import Vocabulary
    from charlstm.writer import Writer

N_ALTERNATIVES = 5
_EXCLUSIVE = [
    ("seed_text", "seed_file"),
    ("model", "mix"),
    *(
        ("interactive", name)
        for name in ("as_json", "output", "n_samples", "report_copying", "beams")
    ),
]
_EXCLUSIVE_SETTINGS = [
    *(("mirostat", name) for name in ("top_k", "top_p", "min_p", "typical_p", "beams")),
    ("beams", "temperature"),
    ("beams", "repetition_penalty"),
    ("until_sentence", "lines"),
]
# Values that are as good as none.
_IDLE = {
    "n_samples": 1,
    "beams": 1,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
}
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
                help="Hold the surprise at TAU bits a character (0.5 to 2), in place of the four "
                "above.",
            ),
            click.option(
                "--beams",
                metavar="N",
                type=click.IntRange(1, 256),
                help="Look for the likeliest text along N paths, at temperature 0; 1 for none.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.command(
    cls=ExclusiveCommand,
    exclusive=_EXCLUSIVE,
    exclusive_settings=_EXCLUSIVE_SETTINGS,
    idle=_IDLE,
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
    help=r"End before this text is written; \n and \t may be written so; may be repeated.",
)
@click.option("--until-sentence", is_flag=True, help="Go on after --length until a sentence ends.")
@click.option(
    "--lines",
    metavar="N",
    type=click.IntRange(1, 10**9),
    help="End after N line feeds, those of the seed not counted.",
)
@click.option(
    "--samples",
    "n_samples",
    metavar="K",
    type=click.IntRange(1, 100_000),
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
    metavar="FILE",
    help="File to write to; it appears whole, in place of what was there. An interrupted text "
    "goes to FILE.partial.",
)
@click.option(
    "--interactive", is_flag=True, help="Type a line and the model goes on from it, in turns."
)
@click.option(
    "--report-copying",
    is_flag=True,
    help="Tell the longest span that stands character for character in the training text, "
    "which must still be prepared.",
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
    if interactive and str(seed_file) == "-":
        raise click.UsageError("--interactive reads its lines from stdin, so the seed cannot")
    if probabilities and not as_json:
        raise click.UsageError("--probabilities needs --json")

    from charlstm.generation import spell
    from charlstm.sampling import SamplingConfig
    from charlstm.stopping import StopRules
    from charlstm.writer import Writer, make_random_seeds

    unknown = unknown or ("nearest" if interactive else "error")
    given = without_none(typed)
    stops = tuple(_unescape(as_utf8(stop, what="the stop text")) for stop in stops)
    SamplingConfig().adjusted(**given)  # what is wrong with it is said before a model is read
    rules = StopRules(length=length, stops=stops, until_sentence=until_sentence, lines=lines)
    if seed_file is not None:
        seed_text = read_seed_file(seed_file)
    elif seed_text is not None:
        seed_text = as_utf8(seed_text, what="the seed text")

    parts = mix or ((model, 1.0),)
    writer = Writer([(open_model(name, which), weight) for name, weight in parts])
    rules = writer.voice.clean_stops(rules)
    sampling = writer.sampling(**given)
    if not quiet:
        _introduce(writer, rules, sampling, given)
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
    if seed_text is not None:
        if unknown != "error" and not quiet:  # else nothing was left out
            vocabulary = writer.voice.vocabulary
            spelled = spell(writer.voice.clean(seed_text), vocabulary, unknown=unknown)
            if n_left_out := spelled.count(""):
                noun = "character" if n_left_out == 1 else "characters"
                note(f"left out {n_left_out:,} unknown {noun} of the seed text")
        if not quiet:
            n_unknown = len(writer.voice.vocabulary.unknown(seeds[0]))
            tell_unknown(n_unknown, what="the seed text")
    elif sys.stderr.isatty() and output is None and not (as_json or no_echo or quiet):
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
        between = _unescape(as_utf8(separator, what="the separator"))
        chunks = bundled(job.text(echo=not no_echo, separator=between))
    last = ""
    with open_output(output, quiet=quiet) as write:
        for chunk in chunks:
            write(chunk)
            last = chunk or last
    if output is None and sys.stdout.isatty() and not last.endswith("\n"):
        write_stdout("\n")
    for line in job.copying:
        note(line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """The texts that were asked for."""

    writer: Writer
    seeds: Sequence[str]
    random_seeds: Sequence[int]
    sampling: SamplingConfig
    rules: StopRules
    corpora: Sequence[tuple[Vocabulary, Ids]]
    copying: list[str] = dataclasses.field(default_factory=list)

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
                self.copying.append(self._describe_copying("".join(written), sample))

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
                which, span = self._longest_copy(text)
                content["copied"] = {
                    "length": span.length,
                    "start": span.start,
                    "text": text[span.start : span.start + span.length],
                    "corpus": self._corpus_name(which),
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

    def _longest_copy(self, text: str) -> tuple[int, CopiedSpan]:
        """Return which of the corpora has the longest copied span, and the span."""
        from charlstm.copying import longest_copied_span

        spans = [
            longest_copied_span(vocabulary.encode(text), corpus_ids)
            for vocabulary, corpus_ids in self.corpora
        ]
        return max(enumerate(spans), key=lambda pair: pair[1].length)

    def _corpus_name(self, which: int) -> str:
        checkpoint, _ = self.writer.checkpoints[which]
        return str(checkpoint.config["corpus"]["name"])

    def _describe_copying(self, text: str, sample: int) -> str:
        which, span = self._longest_copy(text)
        copy = text[span.start : span.start + span.length]
        shown = copy if len(copy) <= 60 else f"{copy[:30]}…{copy[-29:]}"
        return (
            (f"sample {sample}: " if len(self.seeds) > 1 else "")
            + f"longest span that stands in {printable(self._corpus_name(which))}: "
            f"{span.length} of {len(text)} characters: '{printable(shown)}'"
        )


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


def _introduce(
    writer: Writer, rules: StopRules, sampling: SamplingConfig, given: dict[str, Any]
) -> None:
    """Say on stderr what a person should know before the text comes."""
    from charlstm.models import is_shipped

    if any(is_shipped(checkpoint.model) for checkpoint, _ in writer.checkpoints):
        note(
            f"{printable(writer.name)}, the model that ships with charlstm, writes; "
            "train your own: charlstm train yours.txt --minutes 3"
        )
    for warning in rules.warnings(set(writer.voice.vocabulary.characters)):
        note(warning)
    if sampling.temperature == 0 and set(sampling.filters) & {k.replace("_", "-") for k in given}:
        note(f"temperature 0 takes the likeliest: {', '.join(sampling.filters)} change nothing")


def _unescape(separator: str) -> str:
    return re.sub(r"\\[nt0\\]", lambda match: _ESCAPES[match[0]], separator)
