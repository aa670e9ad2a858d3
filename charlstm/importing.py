"""A network that was trained with the article's own script, made a model of charlstm's.

The file, which `kerasfile` reads, holds weights; what their characters are, it
does not. That follows from the text it was trained on: the article numbers
`sorted(set(text.lower()))`. charlstm may read a text otherwise than
`open().read()` does (Unicode's composed forms, no licence of Project
Gutenberg, no byte order mark), so each way is tried for one that gives as many
characters as the network has.

The model is a folder as any other, with one checkpoint, of step 0, without a
training state: it writes, is evaluated, exported and begun with (`train --from`).
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from charlstm import __version__
from charlstm.compression import open_source
from charlstm.config import NetworkConfig, RecipeName, recipe_defaults
from charlstm.corpus import Corpus, Progress, find_corpus, load_corpus, split_corpus
from charlstm.errors import InputError, printable
from charlstm.kerasfile import KerasNetwork, read_keras_file
from charlstm.models import clear_model, lock_model, save_checkpoint
from charlstm.planning import check_model_folder, model_folder, prepare_text
from charlstm.reading import CorpusOptions, TextReader, readable_again
from charlstm.sources import STDIN, Sources, collect
from charlstm.status import STATUS
from charlstm.vocabulary import Vocabulary

STEP = 0  # of the checkpoint: no step of charlstm's own
_BYTE_ORDER_MARK = "\ufeff"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What was made.

    Attributes:
        model: The model's folder.
        recipe: Whose kind of network it is: "article" if it reads one number
            a character, "default" if it reads them one-hot.
        network: Its shape.
        corpus: The text, prepared.
        reading: How the text was read, in words.
        trains_from: What `train` is given to read the text in the same way.
        notes: What a person should know, a line each.
    """

    model: Path
    recipe: RecipeName
    network: NetworkConfig
    corpus: Corpus
    reading: str
    trains_from: str
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reading:
    """A way to read a text.

    Attributes:
        how: In words.
        options: What does it.
        extra: Characters beside, which no option keeps.
    """

    how: str
    options: CorpusOptions
    extra: str = ""


def import_model(
    file: Path,
    corpus: str,
    *,
    model: str | None = None,
    overwrite: bool = False,
    encoding: str | None = None,
    seq_length: int | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a model of a network that Keras saved and the text that it was trained on.

    Args:
        file: What Keras saved, as `kerasfile.read_keras_file` takes it.
        corpus: The text: a path, a name, a prepared folder, or "-" for stdin.
        model: As given to `--model`; None to name it after the text.
        overwrite: Replace the model if it exists.
        encoding: Of the text; None for UTF-8.
        seq_length: Characters in a window; None for what the file says, or 50.
        progress: Told how far the preparation of the text is.

    Returns:
        What was made.

    Raises:
        InputError: If the file is not of such a network, the text not the one
            it was trained on, or the model cannot be put there.
        ModelExistsError: If the model exists and may not be overwritten.
        OutputError: If it cannot be written; what was there before stays.
    """
    source = None if corpus == "-" else find_corpus(corpus)
    folder = model_folder(model, source)
    check_model_folder(folder, overwrite=overwrite, can_resume=False)
    keras = read_keras_file(file)
    network, notes = keras.network, []
    if seq_length is not None:
        network = dataclasses.replace(network, seq_length=seq_length)
    elif not keras.has_seq_length:
        notes.append(
            f"windows of {network.seq_length}, as {keras.name} does not say (--seq-length)"
        )
    recipe: RecipeName = "article" if network.input == "scaled" else "default"
    sources: Sources | Path
    with tempfile.TemporaryDirectory() as temporary:
        if source is None or not source.is_dir():
            name = "stdin" if source is None else source.name
            text = readable_again(source, Path(temporary) / name, name=name)
            sources = collect([text])
            if source is None:  # under the name of its copy
                sources = dataclasses.replace(sources, source_name=STDIN)
        else:
            text = source
            sources = source
        reading = _fitting(keras, text, encoding=encoding)
        prepared = prepare_text(
            sources,
            reading.options,
            seq_length=network.seq_length,
            val_fraction=0.0,
            progress=progress,
            typed={} if encoding is None else {"encoding": encoding},
        )
    vocabulary = Vocabulary(
        [*prepared.vocabulary.characters, *reading.extra],
        has_unknown=prepared.vocabulary.has_unknown,
    )
    if vocabulary.n_ids != network.vocabulary_size:
        raise InputError(f"{printable(corpus)} changed while it was read", hint="try again")
    if prepared.removed_characters:
        notes.append(prepared.boilerplate_note)
    if reading.extra:
        notes.append(
            "the text's byte order mark is one of the network's characters; training goes on "
            "without it, so that the first loss is a little higher"
        )
    with lock_model(folder):
        check_model_folder(folder, overwrite=overwrite, can_resume=False)
        info = save_checkpoint(
            folder,
            step=STEP,
            epoch=0.0,
            train_loss=None,
            val_loss=None,
            config=_config_json(keras, network, recipe, prepared),
            vocabulary=vocabulary,
            weights=keras.weights,
            state=None,
            run=os.urandom(8).hex(),
        )
        clear_model(folder, keep=info.path)
        with contextlib.suppress(OSError):  # of the run that made the model replaced
            (folder / STATUS).unlink()
    is_usual = reading.options == CorpusOptions(lowercase=recipe == "article")
    return ImportResult(
        model=folder,
        recipe=recipe,
        network=network,
        corpus=prepared,
        reading=reading.how,
        trains_from=corpus if is_usual and corpus != "-" else str(prepared.path),
        notes=tuple(notes),
    )


def _config_json(
    keras: KerasNetwork, network: NetworkConfig, recipe: RecipeName, corpus: Corpus
) -> dict[str, Any]:
    n_chars = len(corpus.ids)
    split = split_corpus(n_chars, seq_length=network.seq_length, val_fraction=0.0, name=corpus.name)
    # How it was trained, no file says: these are what training would go on with.
    training = dataclasses.replace(
        recipe_defaults(recipe, n_train=n_chars, seq_length=network.seq_length),
        lowercase=corpus.options.lowercase,
    )
    return {
        "charlstm_version": __version__,
        "versions": {"numpy": np.__version__},
        "recipe": recipe,
        "network": dataclasses.asdict(network),
        "training": dataclasses.asdict(training),
        "corpus": corpus.describe(split),
        "started_from": None,
        "imported_from": {"name": keras.name, "sha256": keras.sha256},
        "seed_windows": corpus.seed_windows(
            n_train=n_chars, seq_length=network.seq_length, random_seed=training.random_seed
        ),
    }


# --- how the text was read ----------------------------------------------------------


def _fitting(keras: KerasNetwork, text: Path, *, encoding: str | None) -> _Reading:
    """Find the way to read a text that gives as many characters as the network has."""
    size, name = keras.network.vocabulary_size, printable(text.name)
    is_scaled = keras.network.input == "scaled"
    if text.is_dir():
        corpus = load_corpus(text)
        options = corpus.options
        if encoding is not None:  # another one `prepare_text` refuses
            options = dataclasses.replace(options, encoding=encoding)
        readings = [_Reading(how="as it was prepared", options=options)]
        counts = [corpus.vocabulary.n_ids]
        if is_scaled and not corpus.options.lowercase:
            raise InputError(
                f"{name} was prepared with its capitals; the article's network reads lower case",
                hint="give the text itself",
            )
    else:
        readings = _readings(text, encoding=encoding, is_scaled=is_scaled)
        counts = []
        for reading in readings:
            counts.append(len(_characters(text, reading)))
            if counts[-1] == size:
                break
    if counts[-1] == size:
        return readings[len(counts) - 1]
    ways: dict[int, str] = {}
    for count, reading in zip(counts, readings, strict=True):
        ways.setdefault(count, reading.how)
    told = "; ".join(f"{count:,} {how}" for count, how in ways.items())
    hint = "give the text that it was trained on, with its --encoding"
    if is_scaled and not text.is_dir():
        as_it_is = _Reading(
            how="", options=dataclasses.replace(readings[0].options, lowercase=False)
        )
        if len(_characters(text, as_it_is)) == size:
            hint = "with its capitals the text has as many; the article's network reads lower case"
    raise InputError(
        f"{keras.name} is of {size:,} different characters; {name} has {told}", hint=hint
    )


def _readings(text: Path, *, encoding: str | None, is_scaled: bool) -> list[_Reading]:
    """List the ways to read a text, the one that charlstm itself would take first."""
    usual = CorpusOptions() if encoding is None else CorpusOptions(encoding=encoding)
    raw = dataclasses.replace(usual, normalize="none", keep_boilerplate=True)
    ways = [_Reading(how="as charlstm reads it", options=usual)]
    ways.append(_Reading(how="as it stands in the file", options=raw))
    with open_source(text, text.name) as file:
        has_mark = file.read(3) == codecs.BOM_UTF8 and usual.encoding == "utf-8"
    if has_mark:
        how = "as it stands in the file, byte order mark included"
        ways.append(_Reading(how=how, options=raw, extra=_BYTE_ORDER_MARK))
    lowered = [
        dataclasses.replace(
            way,
            how=f"in lower case, {way.how}",
            options=dataclasses.replace(way.options, lowercase=True),
        )
        for way in ways
    ]
    return lowered if is_scaled else [*ways, *lowered]


def _characters(text: Path, reading: _Reading) -> set[str]:
    characters = set(reading.extra)
    reader = TextReader(text, name=text.name, options=reading.options)
    for piece in reader.pieces(lambda n: None):
        characters.update(piece)
    return characters
