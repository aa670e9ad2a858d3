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
    threads_option,
    val_fraction_option,
    without_none,
)
from charlstm.cli.output import note, print_json
from charlstm.errors import printable


@click.command()
@click.argument("corpus", type=CorpusName(), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write.  [default: prepared/<name>]",
)
@click.option("--name", metavar="NAME", help="What to call it.  [default: after the first CORPUS]")
@text_options
@seq_length_option
@val_fraction_option
@threads_option
@quiet_option
@json_option
def prepare(
    corpus: tuple[str, ...],
    output: Path | None,
    name: str | None,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **typed: Any,
) -> None:
    """Build the char-to-int maps and the windows of a text, or of many as one.

    CORPUS is a text file, - for stdin, or the name of a text in ./corpora/ or
    of one that ships with charlstm; also a folder, with all texts below it, or
    a pattern such as 'texts/**/*.txt'. Texts compressed as .gz, .xz or .zst are
    read too (.zst needs pip install 'charlstm[zstd]'). They are read in the
    order given, those that a folder or pattern holds in the order of the bytes
    of their paths. `train` does this by itself when needed.

    \b
    Examples:
      charlstm prepare macbeth.txt
      charlstm prepare preface.txt letters/ 'novels/*.txt.gz' --name collected
    """
    from charlstm import corpus as corpora
    from charlstm.backend import available_cores
    from charlstm.errors import InputError
    from charlstm.preparing import Scale
    from charlstm.reading import CorpusOptions
    from charlstm.storage import is_portable_name, portable_name

    given = without_none(typed)
    numbers = {k: given.pop(k) for k in ("seq_length", "val_fraction") if k in given}
    if name is not None and not is_portable_name(name):
        raise InputError(
            f"'{printable(name)}' is no name for a folder on every system",
            hint=f"--name {portable_name(name)} is",
        )
    sources = corpora.find_sources(corpus, name=name)
    if isinstance(sources, Path):
        raise InputError(
            f"{printable(corpus[0])} is prepared already",
            hint=f"train on it: charlstm train {shlex.quote(printable(corpus[0]))}",
        )
    from charlstm.terminal import show_progress

    with show_progress("preparing", quiet=quiet) as progress:
        prepared = corpora.prepare_corpus(
            sources,
            options=CorpusOptions(**given),
            output=output,
            scale=Scale(threads=threads or available_cores()),
            progress=progress,
            **numbers,
        )
    summary = corpora.read_summary(prepared.path)
    if not quiet:
        if prepared.removed_characters:
            note(prepared.boilerplate_note)
        for line in prepared.notes:
            note(line)
    keys = ("characters", "vocabulary_size", "windows", "train_characters", "val_characters")
    content = {"path": str(prepared.path.resolve())} | {key: summary[key] for key in keys}
    content |= {"seq_length": summary["seq_length"], "dtype": summary["dtype"]}
    content["unknown_characters"] = prepared.unknown_characters
    content["unknown_kinds"] = prepared.unknown_kinds
    if as_json:
        print_json(content)
        return
    n_texts = len(prepared.documents)
    texts = f"{n_texts:,} texts, " if n_texts > 1 else ""
    rare = f"{prepared.unknown_note}\n" if prepared.unknown_characters else ""
    click.echo(
        f"{printable(prepared.name)}: {texts}{summary['characters']:,} characters, "
        f"{len(prepared.vocabulary):,} different, "
        f"{summary['windows']:,} windows of {summary['seq_length']}\n"
        f"{rare}split: {summary['train_characters']:,} to train on, "
        f"{summary['val_characters']:,} held out at the end\n"
        f"prepared: {printable(str(prepared.path))}"
    )
