"""`charlstm evaluate`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from charlstm.cli.options import (
    UNKNOWN,
    CorpusName,
    checkpoint_option,
    json_option,
    model_option,
    open_model,
    quiet_option,
    tell_unknown,
)
from charlstm.cli.output import note, print_json, write_stdout
from charlstm.errors import printable

_COLUMNS = ("line", "column", "character", "nats", "probability")


@click.command()
@click.argument("file", type=CorpusName())
@model_option
@checkpoint_option
@click.option(
    "--encoding", metavar="NAME", default="utf-8", show_default=True, help="The text's encoding."
)
@click.option(
    "--unknown",
    type=UNKNOWN,
    default="error",
    show_default=True,
    help="What to do with characters that the model has never seen; nearest writes "
    "them without typography, accents or case.",
)
@click.option(
    "--per-character",
    is_flag=True,
    help="Print a line for each character but the first: line, column, character, "
    "nats, probability, separated by tabs.",
)
@quiet_option
@json_option
def evaluate(
    file: str,
    model: str | None,
    which: str,
    encoding: str,
    unknown: str,
    per_character: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Tell how well a model predicts a text.

    Prints nats/char, bits/char and perplexity; the lower the better. FILE is a
    text file, - for stdin, or the name of a text that ships.

    \b
    Examples:
      charlstm evaluate sonnets.txt --model macbeth
      echo "Is this a dagger" | charlstm evaluate - --per-character
    """
    from charlstm import scoring
    from charlstm.corpus import find_corpus
    from charlstm.engine import LSTMStep
    from charlstm.errors import InputError
    from charlstm.generation import fit_seed_text, spell
    from charlstm.models import is_shipped
    from charlstm.reading import read_text, sha256_of
    from charlstm.terminal import show_progress

    source = None if file == "-" else find_corpus(file)
    if source is not None and source.is_dir():
        raise InputError(f"{printable(file)} is a folder", hint="give the text itself")
    checkpoint = open_model(model, which)
    text = read_text(
        source, options=dataclasses.replace(checkpoint.text_options, encoding=encoding)
    )
    known = fit_seed_text(text, checkpoint.vocabulary, unknown=unknown, what="the text")
    spelled: Sequence[str] = text
    if known is not text:
        spelled = spell(text, checkpoint.vocabulary, unknown=unknown)
        n_left_out = spelled.count("")
        if n_left_out and not quiet:
            note(f"left out {n_left_out:,} characters that the model has never seen")
    if not quiet:
        about = checkpoint.config["corpus"]
        name = printable(checkpoint.model.name)
        is_own = source is not None and sha256_of(source) == about["sha256"]
        note(
            f"model {name}{' (ships with charlstm)' if is_shipped(checkpoint.model) else ''}, "
            f"step {checkpoint.info.step:,}"
            + (": trained on this very text, which flatters the figure" if is_own else "")
        )
    step = LSTMStep(checkpoint.network, checkpoint.weights)
    ids = checkpoint.vocabulary.encode(known)
    # Of a model without the symbol none is left here.
    n_unknown = len(checkpoint.vocabulary.unknown(known))
    if not quiet:
        tell_unknown(n_unknown, what="the text")
    nats = None
    with show_progress("scoring", quiet=quiet) as progress:
        if per_character:
            nats = scoring.score_characters(step, ids, progress=progress)
            score = scoring.Score(nats=float(nats[1:].sum()), n_scored=len(nats) - 1)
        else:
            score = scoring.score_ids(step, ids, progress=progress)
    if as_json:
        content: dict[str, Any] = {
            "model": str(checkpoint.model),
            "checkpoint": checkpoint.info.step,
            "characters": len(known),
            "unknown_characters": n_unknown,
            "loss": score.nats_per_char,
            "bits_per_char": score.bits_per_char,
            "perplexity": score.perplexity,
        }
        if nats is not None:
            rows = _rows(text, spelled, nats.tolist())
            content["per_character"] = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        print_json(content)
        return
    summary = (
        f"{score.nats_per_char:.4f} nats/char, {score.bits_per_char:.4f} bits/char, "
        f"perplexity {score.perplexity:.2f} over {len(known):,} characters"
    )
    if nats is None:
        click.echo(summary)
        return
    write_stdout("\t".join(_COLUMNS) + "\n")
    for line, column, character, surprise, probability in _rows(text, spelled, nats.tolist()):
        shown = "\\\\" if character == "\\" else printable(character)
        sys.stdout.write(f"{line}\t{column}\t{shown}\t{surprise:.4f}\t{probability:.6f}\n")
    if not quiet:
        note(summary)


def _rows(
    text: str, spelled: Sequence[str], nats: list[float]
) -> Iterator[tuple[int, int, str, float, float]]:
    """Tell of each character that was scored, with its place in the text as it came."""
    line, column, n = 1, 0, 0
    for original, stands_for_it in zip(text, spelled, strict=True):
        column += 1
        for character in stands_for_it:
            if n:
                yield line, column, character, nats[n], math.exp(-nats[n])
            n += 1
        if original == "\n":
            line, column = line + 1, 0
