"""`charlstm import`."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import click

from charlstm.cli.options import (
    CorpusName,
    json_option,
    model_option,
    quiet_option,
)
from charlstm.cli.output import model_argument, model_name, note, print_json
from charlstm.errors import printable


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("corpus", type=CorpusName())
@model_option
@click.option("--overwrite", is_flag=True, help="Replace the model if it exists.")
@click.option("--encoding", metavar="NAME", help="The text's encoding.  [default: utf-8]")
@click.option(
    "--seq-length",
    type=click.IntRange(1, 100_000),
    help="Characters in a window.  [default: what FILE says, or 50]",
)
@quiet_option
@json_option
def import_(
    file: Path,
    corpus: str,
    model: str | None,
    overwrite: bool,
    encoding: str | None,
    seq_length: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make a model of a network that the article's own script trained.

    FILE is what Keras saved of it: .weights.h5, .h5 or .keras. No code in it is
    run, and Keras is not asked. CORPUS is the text that it was trained on, from
    which its characters follow.

    \b
    Example:
      charlstm import lstm.keras macbeth.txt --model mine
    """
    from charlstm.importing import STEP, import_model
    from charlstm.terminal import show_progress

    with show_progress("preparing", quiet=quiet) as progress:
        result = import_model(
            file,
            corpus,
            model=model,
            overwrite=overwrite,
            encoding=encoding,
            seq_length=seq_length,
            progress=progress,
        )
    if not quiet:
        for line in result.notes:
            note(line)
    network = result.network
    if as_json:
        print_json(
            {
                "model": str(result.model.resolve()),
                "checkpoint": STEP,
                "recipe": result.recipe,
                "parameters": network.parameters,
                "layers": network.layers,
                "units": network.units,
                "seq_length": network.seq_length,
                "vocabulary_size": network.vocabulary_size,
                "input": network.input,
                "corpus": result.corpus.name,
                "characters": len(result.corpus.ids),
                "reading": result.reading,
            }
        )
        return
    has_unknown = result.corpus.vocabulary.has_unknown
    characters = f"{network.vocabulary_size - has_unknown:,} different characters"
    if has_unknown:
        characters += " and a symbol for all others"
    reads = "one number a character" if network.input == "scaled" else "one-hot characters"
    click.echo(
        f"{printable(file.name)}: {network.layers} x {network.units} units, windows of "
        f"{network.seq_length}, {reads}, {network.parameters:,} parameters\n"
        f"text {printable(result.corpus.name)}, {result.reading}: "
        f"{characters}, as in the network\n"
        f"model: {printable(str(result.model))} (recipe {result.recipe})\n"
        f"next: charlstm generate{model_argument(result.model)} -n 500\n"
        f"or train on: {_train_command(result.trains_from, result.model, result.recipe)}"
    )


def _train_command(corpus: str, model: Path, recipe: str) -> str:
    """Write the command that goes on, into a model of its own, ready to paste."""
    other = next(
        path
        for n in itertools.count(2)
        if not (path := model.with_name(f"{model.name}-{n}")).exists()
    )
    return (
        f"charlstm train {shlex.quote(printable(corpus))} --from {shlex.quote(model_name(model))}"
        + (f" --recipe {recipe}" if recipe != "default" else "")
        + model_argument(other)
    )
