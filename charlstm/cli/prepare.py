"""`charlstm prepare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from charlstm.cli.options import (
    CorpusName,
    json_option,
    quiet_option,
    seq_length_option,
    text_options,
    val_fraction_option,
    without_none,
)
from charlstm.cli.output import note, print_json
from charlstm.errors import printable


@click.command()
@click.argument("corpus", type=CorpusName())
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: prepared/<name>]",
)
@text_options
@seq_length_option
@val_fraction_option
@quiet_option
@json_option
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

    given = without_none(typed)
    numbers = {k: given.pop(k) for k in ("seq_length", "val_fraction") if k in given}
    source = None if corpus == "-" else corpora.find_corpus(corpus)
    if source is not None and source.is_dir():
        raise InputError(
            f"{printable(corpus)} is prepared already",
            hint=f"train on it: charlstm train {shlex.quote(printable(corpus))}",
        )
    from charlstm.terminal import show_progress

    with show_progress("preparing", quiet=quiet) as progress:
        prepared = corpora.prepare_corpus(
            source,
            options=CorpusOptions(**given),
            output=output,
            progress=progress,
            **numbers,
        )
    summary = corpora.read_summary(prepared.path)
    if prepared.removed_characters and not quiet:
        note(prepared.boilerplate_note)
    keys = ("characters", "vocabulary_size", "windows", "train_characters", "val_characters")
    content = {"path": str(prepared.path.resolve())} | {key: summary[key] for key in keys}
    content |= {"seq_length": summary["seq_length"], "dtype": summary["dtype"]}
    if as_json:
        print_json(content)
        return
    click.echo(
        f"{prepared.name}: {summary['characters']:,} characters, "
        f"{summary['vocabulary_size']:,} different, "
        f"{summary['windows']:,} windows of {summary['seq_length']}\n"
        f"split: {summary['train_characters']:,} to train on, "
        f"{summary['val_characters']:,} held out at the end\n"
        f"prepared: {printable(str(prepared.path))}"
    )
