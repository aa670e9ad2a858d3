"""`charlstm explain` and `charlstm neurons`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from charlstm.cli.options import (
    UNKNOWN,
    CorpusName,
    ExclusiveCommand,
    FiniteFloat,
    ModelName,
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
from charlstm.cli.output import note, open_output, print_json
from charlstm.errors import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from charlstm.checkpoint import Checkpoint

# Written after a seed that nobody typed.
_WRITTEN_CHARACTERS = 100
_PAGES = (".html", ".htm")

corpus_option = click.option(
    "--corpus",
    type=CorpusName(),
    metavar="FILE",
    help="Text to find the units in; - for stdin.  [default: the model's own if it is at hand, "
    "else one that it writes]",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Page (.html) or picture (.png, .svg, .pdf) to write.  [default: lines of text on stdout]",
)


@click.command(
    cls=ExclusiveCommand,
    exclusive=[("seed_text", "seed_file")],
    sections={
        "Which model": ["model", "which"],
        "Which text": [
            "seed_text",
            "seed_file",
            "unknown",
            "length",
            "temperature",
            "random_seed",
            "max_characters",
        ],
        "What is shown": ["corpus", "ablate", "output", "as_json", "quiet"],
    },
)
@model_option
@checkpoint_option
@click.option("--seed", "seed_text", metavar="TEXT", help="Text to explain, or to go on from.")
@click.option(
    "--seed-file",
    type=click.Path(path_type=Path),
    help="File with that text, read as it is; - for stdin.",
)
@click.option(
    "--unknown",
    type=UNKNOWN,
    default="error",
    show_default=True,
    help="What to do with characters that the model has never seen.",
)
@click.option(
    "-n",
    "--length",
    type=click.IntRange(0, 100_000),
    metavar="N",
    help=f"Characters to write after the seed, explained too.  [default: 0; without a seed "
    f"{_WRITTEN_CHARACTERS} after a random window of the training text]",
)
@click.option(
    "--temperature",
    metavar="T",
    type=FiniteFloat(0),
    help="How they are picked, as for generate.",
)
@click.option(
    "--random-seed",
    metavar="N",
    type=click.IntRange(0, 2**63 - 1),
    help="The same number writes the same text.  [default: a new one each time]",
)
@click.option(
    "--max-characters",
    metavar="N",
    type=click.IntRange(1, 2_000),
    default=300,
    show_default=True,
    help="What is longer is cut. A page has 16 KB for each character of two layers of 300 units.",
)
@corpus_option
@click.option(
    "--ablate",
    type=click.Choice(["forget", "input", "output"]),
    multiple=True,
    metavar="GATE",
    help="Show too what the model writes with this gate held open and shut: forget, input or "
    "output; may be repeated.",
)
@output_option
@quiet_option
@json_option
def explain(
    model: str | None,
    which: str,
    seed_text: str | None,
    seed_file: Path | None,
    unknown: str,
    length: int | None,
    temperature: float | None,
    random_seed: int | None,
    max_characters: int,
    corpus: str | None,
    ablate: tuple[Any, ...],
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show what a model does with a text: gates, states, surprise, expectations.

    A page shows the equations of the LSTM with the values of each character and
    unit filled in; it needs no network. Pictures need an extra:
    pip install 'charlstm[plot]'.

    \b
    Examples:
      charlstm explain --seed "To-morrow, and to-morrow" -o page.html
      charlstm explain --seed "MACBETH." -n 100 --ablate forget -o page.html
      charlstm explain --seed "Is this a dagger" --json | jq .surprise_bits
    """
    from charlstm.explain import as_json as explanation_as_json
    from charlstm.explain import explain as explain_text
    from charlstm.explain import scan_limit
    from charlstm.showing import describe_explanation, draw_explanation, explanation_page
    from charlstm.terminal import show_progress
    from charlstm.writer import Writer, make_random_seeds

    if corpus == "-" and str(seed_file) == "-":
        raise click.UsageError("--corpus and --seed-file cannot both read stdin")
    _check_output(output)
    if seed_file is not None:
        seed_text = read_seed_file(seed_file)
    elif seed_text is not None:
        seed_text = as_utf8(seed_text, what="the seed text")
    if length is None:
        length = _WRITTEN_CHARACTERS if seed_text is None else 0
    checkpoint = open_model(model, which)
    writer = Writer([(checkpoint, 1.0)])
    sampling = writer.voice.sampling(**without_none({"temperature": temperature}))
    random_seeds = make_random_seeds(random_seed, n_samples=1)
    (seed,) = writer.seeds(seed_text, random_seeds, unknown=unknown)
    if length:
        seed = seed or writer.voice.beginning  # which an empty seed stands for
    if not quiet:
        tell_unknown(len(checkpoint.vocabulary.unknown(seed)), what="the seed text")
    sampling_options = without_none({"temperature": temperature})
    written = writer.generate(
        seed, min(length, max_characters), random_seed=random_seeds[0], **sampling_options
    )
    with show_progress("reading", quiet=quiet) as progress:
        explanation = explain_text(
            checkpoint,
            seed + written,
            n_seed=len(seed),
            max_characters=max_characters,
            scan=_scan_text(checkpoint, corpus, scan_limit(checkpoint)),
            ablate=ablate,
            random_seed=random_seeds[0],
            sampling=sampling,
            progress=progress,
        )
    # What nobody would see was not written.
    n_left_out = len(seed) + length - len(explanation.text)
    explanation = dataclasses.replace(explanation, n_left_out=n_left_out)
    if n_left_out and not quiet:
        note(
            f"the first {max_characters:,} of {len(seed) + length:,} characters are shown; "
            "--max-characters shows more"
        )
    if as_json:
        print_json(explanation_as_json(explanation) | {"random_seed": random_seeds[0]})
    elif output is None:
        width = shutil.get_terminal_size().columns
        click.echo("\n".join(describe_explanation(explanation, width=width)))
    _write_output(
        output,
        page=lambda: explanation_page(explanation),
        picture=lambda: draw_explanation(explanation),
        quiet=quiet,
    )


@click.command()
@click.argument("model", type=ModelName(), required=False)
@checkpoint_option
@corpus_option
@click.option(
    "--characters",
    metavar="N",
    type=click.IntRange(200, 100_000_000),
    help="How much of the text to read, its end.  [default: 100,000; article: 5,000]",
)
@click.option(
    "--units",
    "n_best",
    metavar="N",
    type=click.IntRange(1, 1_000),
    default=3,
    show_default=True,
    help="Units to tell of for each feature.",
)
@output_option
@quiet_option
@json_option
def neurons(
    model: str | None,
    which: str,
    corpus: str | None,
    characters: int | None,
    n_best: int,
    output: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Find the units that keep track of something: lines, words, quotes, names.

    For each of a dozen features of a text the units are ranked by how closely
    they follow it, chosen on the first half of the text and measured on the
    second. MODEL is by default the newest.

    \b
    Examples:
      charlstm neurons macbeth
      charlstm neurons macbeth -o neurons.html
      charlstm neurons macbeth --json | jq '.features[0]'
    """
    from charlstm.activations import ObservedStep
    from charlstm.neurons import find_excerpts, rank_units
    from charlstm.showing import describe_scan, draw_scan, scan_page
    from charlstm.terminal import show_progress

    _check_output(output)
    checkpoint = open_model(model, which)
    text, source = _scan_text(checkpoint, corpus, characters)
    step = ObservedStep(checkpoint.network, checkpoint.weights)
    ids = checkpoint.vocabulary.encode(text)
    with show_progress("reading", quiet=quiet) as progress:
        scan = rank_units(step, ids, text, source=source, n_best=n_best, progress=progress)
    excerpts = find_excerpts(step, scan, ids)
    name = f"{checkpoint.model.name}, step {checkpoint.info.step:,}"
    if as_json:
        print_json(
            {
                "model": str(checkpoint.model),
                "checkpoint": checkpoint.info.step,
                "source": source,
                "characters": len(text),
                "features": [
                    {
                        "feature": trackings[0].feature.name,
                        "units": [
                            {
                                "layer": t.layer,
                                "unit": t.unit,
                                "correlation": round(t.correlation, 6),
                                "chosen_by": round(t.chosen_by, 6),
                            }
                            for t in trackings
                        ],
                        "excerpt": excerpt.text,
                        "values": [round(x, 6) for x in excerpt.values.tolist()],
                    }
                    for trackings, excerpt in zip(scan.ranking, excerpts, strict=True)
                ],
                "absent": [feature.name for feature in scan.absent],
            }
        )
    elif output is None:
        click.echo(f"{printable(name)}: units by what they follow in {printable(source)}\n")
        width = shutil.get_terminal_size().columns
        click.echo("\n".join(describe_scan(scan, excerpts, width=width)))
    _write_output(
        output,
        page=lambda: scan_page(name, scan, excerpts),
        picture=lambda: draw_scan(name, scan, excerpts),
        quiet=quiet,
    )


def _scan_text(checkpoint: Checkpoint, corpus: str | None, limit: int | None) -> tuple[str, str]:
    from charlstm.corpus import find_corpus
    from charlstm.neurons import find_scan_text, read_scan_text

    if corpus is None:
        return find_scan_text(checkpoint, limit=limit)
    path = None if corpus == "-" else find_corpus(corpus)
    if path is not None and path.is_dir():
        raise InputError(f"{printable(corpus)} is a folder", hint="give the text itself")
    return read_scan_text(checkpoint, path, limit=limit)


def _check_output(output: Path | None) -> None:
    """Refuse before anything is worked out what could not be written."""
    from charlstm.plotting import FORMATS, check_matplotlib

    if output is None or output.suffix.lower() in _PAGES:
        return
    if output.suffix.lower() not in FORMATS:
        raise InputError(
            f"{printable(str(output))} does not end in one of .html, {', '.join(FORMATS)}",
            hint="the ending says what it is to be",
        )
    check_matplotlib()


def _write_output(
    output: Path | None,
    *,
    page: Callable[[], str],
    picture: Callable[[], Figure],
    quiet: bool,
) -> None:
    from charlstm.plotting import save_figure

    if output is None:
        return
    if output.suffix.lower() in _PAGES:
        content = page()
        with open_output(output, quiet=True) as write:
            write(content)
    else:
        save_figure(picture(), output)
    if not quiet:
        note(f"written: {printable(str(output))}")
