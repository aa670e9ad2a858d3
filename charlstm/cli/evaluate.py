"""`charlstm evaluate`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from charlstm.errors import NotTextError, printable

if TYPE_CHECKING:
    from charlstm.reading import CorpusOptions
    from charlstm.sources import Sources

_COLUMNS = ("line", "column", "character", "nats", "probability")


@click.command()
@click.argument("file", type=CorpusName(), nargs=-1, required=True)
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
    "nats, probability, separated by tabs. Lines and columns are those of the cleaned text, "
    "without a Project Gutenberg header.",
)
@quiet_option
@json_option
def evaluate(
    file: tuple[str, ...],
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
    text file, - for stdin, or the name of a text that ships; also a folder or a
    pattern. Of several texts each is scored from its own beginning, unless the
    model learned them as one (`train --join-documents`).

    \b
    Examples:
      charlstm evaluate sonnets.txt --model macbeth
      echo "Is this a dagger" | charlstm evaluate - --per-character
    """
    import numpy as np

    from charlstm import scoring
    from charlstm.corpus import find_sources
    from charlstm.engine import LSTMStep
    from charlstm.errors import InputError
    from charlstm.generation import fit_seed_text, spell
    from charlstm.models import is_shipped
    from charlstm.preparing import sha256_of_sources
    from charlstm.terminal import show_progress

    sources = find_sources(file)
    if isinstance(sources, Path):
        raise InputError(
            f"{printable(str(sources))} is prepared", hint="give the text that it was made of"
        )
    checkpoint = open_model(model, which)
    vocabulary = checkpoint.vocabulary
    options = dataclasses.replace(checkpoint.text_options, encoding=encoding)
    texts = _read(sources, options, quiet=quiet)
    if per_character and len(texts) > 1:
        raise click.UsageError(f"--per-character takes one text, not {len(texts):,}")
    n_left_out = 0
    known_texts = []
    spelled: Sequence[str] = ()
    for label, text in texts:
        what = "the text" if len(texts) == 1 else printable(label)
        known_texts.append(fit_seed_text(text, vocabulary, unknown=unknown, what=what))
        spelled = text
        if known_texts[-1] is not text:
            spelled = spell(text, vocabulary, unknown=unknown)
            n_left_out += spelled.count("")
    if n_left_out and not quiet:
        noun = "character" if n_left_out == 1 else "characters"
        note(f"left out {n_left_out:,} {noun} that the model has never seen")
    known = "".join(known_texts)
    documents = None
    if len(texts) > 1 and not checkpoint.joins_documents:
        documents = np.cumsum([0, *map(len, known_texts[:-1])]).astype(np.uint64)
    if not quiet:
        about = checkpoint.config["corpus"]
        name = printable(checkpoint.model.name)
        can_tell = sources.can_be_read_again
        is_own = can_tell and sha256_of_sources(sources, options) == about["sha256"]
        note(
            f"model {name}{' (ships with charlstm)' if is_shipped(checkpoint.model) else ''}, "
            f"step {checkpoint.info.step:,}"
            + (": trained on this very text, which flatters the figure" if is_own else "")
        )
    step = LSTMStep(checkpoint.network, checkpoint.weights)
    ids = vocabulary.encode(known)
    # The symbol's id is the one after the characters'; without it nothing has that.
    n_unknown = int(np.count_nonzero(ids == len(vocabulary)))
    if not quiet:
        tell_unknown(n_unknown, what="the text")
    nats = None
    with show_progress("scoring", quiet=quiet) as progress:
        if per_character:
            nats = scoring.score_characters(step, ids, progress=progress)
            score = scoring.Score(nats=float(nats[1:].sum()), n_scored=len(nats) - 1)
        else:
            score = scoring.score_ids(step, ids, documents=documents, progress=progress)
    if as_json:
        content: dict[str, Any] = {
            "model": str(checkpoint.model),
            "checkpoint": checkpoint.info.step,
            "texts": len(texts),
            "characters": len(known),
            "left_out_characters": n_left_out,
            "unknown_characters": n_unknown,
            "loss": score.nats_per_char,
            "bits_per_char": score.bits_per_char,
            "perplexity": score.perplexity,
        }
        if nats is not None:
            rows = _rows(texts[0][1], spelled, nats.tolist())
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
    for line, column, character, surprise, probability in _rows(
        texts[0][1], spelled, nats.tolist()
    ):
        shown = "\\\\" if character == "\\" else printable(character)
        sys.stdout.write(f"{line}\t{column}\t{shown}\t{surprise:.4f}\t{probability:.6f}\n")
    if not quiet:
        note(summary)


def _read(sources: Sources, options: CorpusOptions, *, quiet: bool) -> list[tuple[str, str]]:
    """Read the texts: what each is called, and its cleaned text, which is not empty."""
    from charlstm.reading import empty_text

    texts = []
    for number in range(len(sources)):
        label = sources.label(number)
        try:
            text = sources.read(number, options=options)
        except NotTextError as error:
            if not sources.is_found[number]:
                raise
            if not quiet:
                note(f"left out: {error.message}")
            continue
        if text:
            texts.append((label, text))
    if not texts:
        raise empty_text(sources.shown if len(sources) > 1 else sources.label(0))
    return texts


def _rows(
    text: str, spelled: Sequence[str], nats: list[float]
) -> Iterator[tuple[int, int, str, float, float]]:
    """Tell of each character that was scored, with its place in the cleaned text."""
    line, column, n = 1, 0, 0
    for original, stands_for_it in zip(text, spelled, strict=True):
        column += 1
        for character in stands_for_it:
            if n:
                yield line, column, character, nats[n], math.exp(-nats[n])
            n += 1
        if original == "\n":
            line, column = line + 1, 0
