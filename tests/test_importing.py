"""Imported networks give stock Keras's numbers, and strangers' files nothing at all.

Files are of two kinds: made by stock Keras with the article's own lines, and
made with h5py, as older versions of Keras wrote them or as no Keras would.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result
from conftest import PATTERN, TINY_TEXT, run
from helpers import Weights, assert_same_arrays, random_weights

from charlstm import kerasfile
from charlstm.batching import ShuffledWindows
from charlstm.checkpoint import Checkpoint, load_checkpoint
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMStep, SlidingWindow
from charlstm.errors import InputError
from charlstm.kerasfile import read_here, read_keras_file
from charlstm.models import list_checkpoints
from charlstm.sampling import log_softmax

# The lower-cased text has 17 characters, with its capitals 19; no axis is of another's size.
SIZE, CAPITALS, UNITS, TIME = 17, 19, 5, 9
VOCABULARY = sorted(set(TINY_TEXT.lower()))
NETWORK = NetworkConfig(
    vocabulary_size=SIZE,
    units=UNITS,
    seq_length=TIME,
    input="scaled",
    carries_state=False,
)
PARTS = ("kernel", "recurrent_kernel", "bias")


def network(**changes: Any) -> NetworkConfig:
    return dataclasses.replace(NETWORK, **changes)


def imported(name: str) -> Checkpoint:
    (info,) = list_checkpoints(Path("checkpoints") / name)
    return load_checkpoint(info)


def assert_imported(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def assert_refused(result: Result, *parts: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    error, *hints = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert len(hints) <= 1
    for part in parts:
        assert part in result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- files as Keras writes them -----------------------------------------------------


def layers_of(config: NetworkConfig, weights: Weights) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the layers' kinds and arrays, from the input on."""
    layers = [
        ("lstm", {part: weights[f"lstm_{n}/{part}"] for part in PARTS})
        for n in range(1, config.layers + 1)
    ]
    return [*layers, ("dense", {part: weights[f"dense/{part}"] for part in ("kernel", "bias")})]


def write_keras3(target: Any, config: NetworkConfig, weights: Weights) -> None:
    """Write `model.save_weights("x.weights.h5")` of Keras 3."""
    counts: dict[str, int] = {}
    with h5py.File(target, "w") as file:
        for kind, arrays in layers_of(config, weights):
            n = counts[kind] = counts.get(kind, -1) + 1
            where = f"layers/{kind}_{n}" if n else f"layers/{kind}"
            if kind == "lstm":
                file.create_group(f"layers/dropout_{n}/vars" if n else "layers/dropout/vars")
                file.create_group(f"{where}/vars")
            inner = f"{where}/cell/vars" if kind == "lstm" else f"{where}/vars"
            for number, array in enumerate(arrays.values()):
                file[f"{inner}/{number}"] = array
        file.create_group("vars")
        file["optimizer/vars/0"] = np.int64(7)


def write_keras2(
    target: Any,
    config: NetworkConfig,
    weights: Weights,
    *,
    names: list[str] | None = None,
    pattern: str = "{layer}/lstm_cell/{part}:0",
    version: str = "2.11.0",
    inside: str = "",
    **attributes: str,
) -> None:
    """Write `model.save_weights("x.h5")` of Keras 2, or `model.save` if `inside` is a group."""
    layers = layers_of(config, weights)
    lstms = names or ["lstm", *(f"lstm_{n}" for n in range(1, config.layers))]
    with h5py.File(target, "w") as file:
        root = file.create_group(inside) if inside else file
        for key, text in attributes.items():
            file.attrs[key] = text.encode()
        labels = []
        for n, (kind, arrays) in enumerate(layers):
            label = lstms[n] if kind == "lstm" else "dense"
            labels.append(label)
            group = root.create_group(label)
            form = pattern if kind == "lstm" else "{layer}/{part}:0"
            paths = [form.format(layer=label, part=part) for part in arrays]
            group.attrs["weight_names"] = [path.encode() for path in paths]
            for path, array in zip(paths, arrays.values(), strict=True):
                group[path] = array
            if kind == "lstm":
                labels.append(f"dropout_{n}")
                root.create_group(f"dropout_{n}").attrs["weight_names"] = np.zeros(0)
        root.create_group("top_level_model_weights").attrs["weight_names"] = np.zeros(0)
        root.attrs["layer_names"] = [label.encode() for label in labels]
        root.attrs["keras_version"] = version.encode()
        root.attrs["backend"] = b"tensorflow"


def lstm_settings(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "units": UNITS,
        "return_sequences": True,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "go_backwards": False,
        "stateful": False,
    } | changes


def sequential(*layers: dict[str, Any], kind: str = "Sequential") -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": "sequential", "layers": list(layers)}}


def layer(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    if kind == "LSTM":
        settings = lstm_settings(name, **settings)
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {"name": name} | settings,
        "registered_name": None,
    }


def article_layers(**lstm: Any) -> list[dict[str, Any]]:
    return [
        layer("InputLayer", "input_layer", batch_shape=[None, TIME, 1]),
        layer("LSTM", "lstm", **lstm),
        layer("Dropout", "dropout", rate=0.2),
        layer("LSTM", "lstm_1", return_sequences=False),
        layer("Dropout", "dropout_1", rate=0.2),
        layer("Dense", "dense", units=SIZE, activation="softmax", use_bias=True),
    ]


def write_archive(
    target: Path,
    config: Any,
    weights: bytes | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: dict[str, bytes] | None = None,
) -> None:
    """Write a `.keras`."""
    if weights is None:
        buffer = io.BytesIO()
        write_keras3(buffer, NETWORK, random_weights(NETWORK))
        weights = buffer.getvalue()
    with zipfile.ZipFile(target, "w", compression) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
        for name, data in (extra or {}).items():
            archive.writestr(name, data)


@pytest.fixture
def lstm_file(workplace: Path) -> Path:
    """`lstm.weights.h5` beside `king.txt`, and nothing else."""
    write_keras3(workplace / "lstm.weights.h5", NETWORK, random_weights(NETWORK))
    return Path("lstm.weights.h5")


# --- what stock Keras saved ---------------------------------------------------------


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A folder with three files of one network, trained as the article does it, and the network."""
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import keras

    folder = tmp_path_factory.mktemp("stock")
    text = TINY_TEXT.lower()
    char_to_int = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = [char_to_int[c] for c in text]
    windows = [ids[i : i + TIME] for i in range(600)]
    x = np.reshape(windows, (len(windows), TIME, 1)) / float(len(char_to_int))
    y = keras.utils.to_categorical(ids[TIME : TIME + len(windows)], len(char_to_int))
    with warnings.catch_warnings():
        # Keras reads its variables in a way that NumPy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        keras.utils.set_random_seed(5)
        model = keras.Sequential(
            [
                keras.Input((TIME, 1)),
                keras.layers.LSTM(UNITS, return_sequences=True),
                keras.layers.Dropout(0.2),
                keras.layers.LSTM(UNITS),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(len(char_to_int), activation="softmax"),
            ]
        )
        # Fast, so that what follows depends on what it read.
        model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.Adam(0.03))
        model.fit(x, y, batch_size=30, epochs=25, verbose=0)
        model.save_weights(folder / "lstm.weights.h5")
        model.save(folder / "lstm.keras")
        model.save(folder / "lstm.h5")
        yield folder, model


def keras_probabilities(model: Any, ids: np.ndarray) -> np.ndarray:
    """Return stock Keras's `(batch, vocab)` for `(batch, time)` ids, scaled as the article does."""
    result: np.ndarray = model.predict(ids[..., None] / float(SIZE), verbose=0)
    return result


def our_probabilities(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
    reader = SlidingWindow(LSTMStep(checkpoint.network, checkpoint.weights), batch=len(ids))
    for column in ids.T:
        reader.read(column)
    return np.exp(log_softmax(reader.logits()))


@pytest.mark.tf
@pytest.mark.parametrize("name", ["lstm.weights.h5", "lstm.keras", "lstm.h5"])
def test_the_probabilities_are_those_of_stock_keras(stock, workplace, name):
    folder, model = stock
    assert_imported(
        run("import", str(folder / name), "king.txt", "--model", "mine", "--seq-length", "9")
    )
    checkpoint = imported("mine")
    assert checkpoint.network == NETWORK
    assert checkpoint.config["recipe"] == "article"
    ids = np.random.default_rng(2).integers(0, SIZE, (23, TIME))
    expected = keras_probabilities(model, ids)
    assert np.ptp(expected, axis=0).max() > 0.05  # what was read counts
    np.testing.assert_allclose(our_probabilities(checkpoint, ids), expected, atol=1e-5)
    # A gate in another's place would be seen.
    swapped = dict(checkpoint.weights)
    kernel = swapped["lstm_2/recurrent_kernel"]
    swapped["lstm_2/recurrent_kernel"] = np.roll(kernel, UNITS, axis=1)
    reader = SlidingWindow(LSTMStep(NETWORK, swapped), batch=len(ids))
    for column in ids.T:
        reader.read(column)
    assert abs(np.exp(log_softmax(reader.logits())) - expected).max() > 1e-3


@pytest.mark.tf
def test_it_writes_what_the_articles_loop_writes(stock, workplace):
    folder, model = stock
    assert_imported(run("import", str(folder / "lstm.keras"), "king.txt", "--model", "mine"))
    seed = "long live"
    result = run("generate", "--model", "mine", "--seed", seed, "-n", "25", "--no-echo")
    # As benchmarks/article_code.py has it.
    window = [VOCABULARY.index(c) for c in seed]
    text = ""
    for _ in range(25):
        index = int(np.argmax(keras_probabilities(model, np.array([window]))))
        text += VOCABULARY[index]
        window = [*window[1:], index]
    assert len(set(text)) > 1
    assert result.stdout == text


@pytest.mark.tf
def test_training_goes_on_from_the_imported_network(stock, workplace):
    """The command that is printed runs; its first loss is the network's own."""
    folder, model = stock
    assert_imported(run("import", str(folder / "lstm.keras"), "king.txt", "--model", "mine"))
    before = contents(Path("checkpoints/mine"))
    name = "mine-2"
    result = run(
        *f"train king.txt --from mine --recipe article --model {name} --dropout 0".split(),
        *["--batch-size", "41", "--epochs", "0.001", "--sample-every", "0", "--json"],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["steps"] == 1
    ids = np.array([VOCABULARY.index(c) for c in TINY_TEXT.lower()])
    inputs, targets, _ = ShuffledWindows(ids.astype(np.uint8), 41, TIME, 0).batch(0)
    probabilities = keras_probabilities(model, inputs)
    expected = -np.log(probabilities[np.arange(41), targets]).mean()
    assert report["train_loss"] == pytest.approx(expected, abs=1e-4)
    assert imported(name).config["started_from"]["name"] == "mine"
    assert contents(Path("checkpoints/mine")) == before


@pytest.mark.tf
def test_the_printed_commands_run(stock, workplace):
    folder, _ = stock
    lines = assert_imported(
        run("import", str(folder / "lstm.keras"), "king.txt", "--model", "my own")
    ).stdout.splitlines()
    commands = [line.partition(": ")[2] for line in lines if ": charlstm " in line]
    assert [shlex.split(command)[1] for command in commands] == ["generate", "train"]
    generate, train = (shlex.split(command)[1:] for command in commands)
    assert len(run(*generate).stdout) > 500
    assert train[-2:] == ["--model", "my own-2"]
    result = run(*train, "--epochs", "0.01", "--sample-every", "0")
    assert result.exit_code == 0, result.output
    # What is there now is not offered again.
    again = run(
        "import", str(folder / "lstm.keras"), "king.txt", "--model", "my own", "--overwrite"
    )
    assert "--model 'my own-3'" in again.stdout


@pytest.mark.tf
def test_the_commands_of_the_document_run(workplace, monkeypatch):
    root = Path(__file__).parent.parent
    text = (root / "corpora" / "macbeth.txt").read_text(encoding="utf-8")
    layers = article_layers()
    config = network(vocabulary_size=len(set(text.lower())))
    buffer = io.BytesIO()
    write_keras3(buffer, config, random_weights(config))
    write_archive(Path("lstm.keras"), sequential(*layers), buffer.getvalue())
    make_file(len(set(text)), "onehot.weights.h5", input="one_hot")
    document = (root / "docs" / "import.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    commands = "".join(blocks).splitlines()
    assert len(commands) == 5
    monkeypatch.setenv("CHARLSTM_TRAIN_SAMPLE_EVERY", "0")
    for command in commands:
        words = shlex.split(command.replace("--epochs 1", "--epochs 0.01"))
        result = run(*words[1:])
        assert result.exit_code == 0, (command, result.output)


@pytest.mark.tf
@pytest.mark.parametrize("recipe", ["article", "default"])
def test_an_export_comes_back_bit_for_bit(recipe, request):
    request.getfixturevalue("article" if recipe == "article" else "trained")
    assert run("export", "king", "--to", "keras", "-o", "out").exit_code == 0
    assert_imported(
        run("import", "out/model.keras", "king.txt", "--model", "again", "--seq-length", "9")
    )
    from charlstm.models import open_checkpoint

    exported, _ = open_checkpoint(Path("checkpoints/king"))
    back = imported("again")
    assert_same_arrays(back.weights, exported.weights)
    assert back.network == exported.network  # carried state and all
    assert back.vocabulary == exported.vocabulary
    assert back.config["recipe"] == recipe


# --- layouts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        write_keras3,
        write_keras2,
        # Keras 2.3 and before have no cell in the path; names count on in one session.
        functools.partial(write_keras2, pattern="{layer}/{part}:0", names=["lstm_9", "lstm_10"]),
        functools.partial(write_keras2, names=["reads", "below"]),
        functools.partial(write_keras2, inside="model_weights"),
        functools.partial(write_keras2, pattern="sequential/{layer}/lstm_cell/{part}"),
        functools.partial(write_keras2, version="2.2.4-tf"),
        functools.partial(
            write_keras2,
            inside="model_weights",
            version="2.2.4",
            model_config=json.dumps(sequential(*article_layers())),
        ),
        functools.partial(
            write_keras2,
            inside="model_weights",
            # As Keras 2.2 had it: a list, the shape in the first LSTM.
            model_config=json.dumps(
                {
                    "class_name": "Sequential",
                    "config": [
                        {
                            "class_name": "LSTM",
                            "config": lstm_settings("lstm", batch_input_shape=[None, TIME, 1]),
                        },
                        {"class_name": "LSTM", "config": lstm_settings("lstm_1")},
                        {"class_name": "Dense", "config": {"name": "d", "activation": "softmax"}},
                    ],
                }
            ),
        ),
    ],
)
def test_every_layout_gives_the_same_network(tmp_path, write):
    weights = random_weights(NETWORK, 3)
    write(tmp_path / "w.h5", NETWORK, weights)
    read = read_here(tmp_path / "w.h5")
    assert_same_arrays(read.weights, weights)
    seq_length = TIME if read.has_seq_length else 50
    assert read.network == network(seq_length=seq_length)


@pytest.mark.parametrize("write", [write_keras3, write_keras2])
@pytest.mark.parametrize("layers", [1, 3, 12])
def test_layers_are_counted_and_in_order(tmp_path, write, layers):
    """A twelfth layer, since sorted by letters `lstm_10` comes before `lstm_2`."""
    config = network(layers=layers, seq_length=50)
    weights = random_weights(config, 4)
    write(tmp_path / "w.h5", config, weights)
    read = read_here(tmp_path / "w.h5")
    assert read.network == config
    assert_same_arrays(read.weights, weights)


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_other_floats_become_float32(tmp_path, dtype):
    weights = random_weights(NETWORK, 3)
    other = {name: array.astype(dtype) for name, array in weights.items()}
    write_keras3(tmp_path / "w.weights.h5", NETWORK, other)
    read = read_here(tmp_path / "w.weights.h5")
    assert_same_arrays(read.weights, {n: a.astype(np.float32) for n, a in other.items()})


def test_a_functional_network_that_is_a_chain(tmp_path):
    """Keras 3 and Keras 2 say in their own ways which layer is read."""
    layers = article_layers()
    for n, entry in enumerate(layers):
        below = layers[n - 1]["config"]["name"]
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [below, 0, 0]}}
        if n % 2:
            entry["inbound_nodes"] = [{"args": [tensor], "kwargs": {"training": False}}]
        else:
            entry["inbound_nodes"] = [[[below, 0, 0, {}]]] if n else []
    write_archive(tmp_path / "f.keras", sequential(*layers, kind="Functional"))
    assert read_here(tmp_path / "f.keras").network == NETWORK
    layers[3]["inbound_nodes"] = [[["lstm", 0, 0, {}]]]  # past the dropout
    write_archive(tmp_path / "f.keras", sequential(*layers, kind="Functional"))
    with pytest.raises(InputError, match="lstm_1 does not read the layer below"):
        read_here(tmp_path / "f.keras")


def test_a_packed_archive(tmp_path):
    config = sequential(*article_layers())
    write_archive(tmp_path / "f.keras", config, compression=zipfile.ZIP_DEFLATED)
    assert_same_arrays(read_here(tmp_path / "f.keras").weights, random_weights(NETWORK))


# --- the text ----------------------------------------------------------------------


def make_file(size: int, name: str = "lstm.weights.h5", **changes: Any) -> str:
    config = network(vocabulary_size=size, **changes)
    write_keras3(name, config, random_weights(config))
    return name


def write_text(name: str, text: str, encoding: str = "utf-8") -> str:
    Path(name).write_bytes(text.encode(encoding))
    return name


GUTENBERG = (
    "The Project Gutenberg EBook #7\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
    + TINY_TEXT
    + "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
)


def raw_size(text: str) -> int:
    return len(set(text.lower()))


def test_the_text_as_charlstm_reads_it(workplace):
    assert raw_size(GUTENBERG) > SIZE
    write_text("g.txt", GUTENBERG)
    result = assert_imported(run("import", make_file(SIZE), "g.txt", "--model", "mine"))
    assert "text g, in lower case, as charlstm reads it: 17 different" in result.stdout
    assert "left out" in result.stderr
    assert list(imported("mine").vocabulary.characters) == VOCABULARY


@pytest.mark.parametrize(
    "text", [GUTENBERG, PATTERN * 9 + "e\u0301 and \u00e9 are two\n"], ids=["licence", "accents"]
)
def test_the_text_as_the_article_reads_it(workplace, text):
    """`open().read().lower()` keeps a licence, and an accent apart from its letter."""
    write_text("g.txt", text)
    file = make_file(raw_size(text))
    result = assert_imported(run("import", file, "g.txt", "--model", "mine"))
    assert "in lower case, as it stands in the file" in result.stdout
    checkpoint = imported("mine")
    assert list(checkpoint.vocabulary.characters) == sorted(set(text.lower()))
    assert checkpoint.text_options.lowercase
    # `train` by itself would read it otherwise, so it is told of the prepared text.
    assert "charlstm train prepared/g --from mine" in result.stdout


def test_a_byte_order_mark_is_a_character_for_the_article(workplace):
    """Project Gutenberg's files begin with one, and `open(encoding="utf-8")` keeps it."""
    write_text("g.txt", "\ufeff" + TINY_TEXT)
    result = assert_imported(run("import", make_file(SIZE + 1), "g.txt", "--model", "mine"))
    assert "byte order mark included" in result.stdout
    assert "byte order mark is one of" in result.stderr
    assert list(imported("mine").vocabulary.characters) == [*VOCABULARY, "\ufeff"]
    assert run("generate", "--model", "mine", "-n", "3").exit_code == 0


def test_a_text_of_other_characters(workplace):
    file = make_file(SIZE + 7)
    write_text("g.txt", GUTENBERG)
    raw = raw_size(GUTENBERG)
    assert_refused(
        run("import", file, "g.txt"),
        f"lstm.weights.h5 is of 24 different characters; g.txt has 17 in lower case, as charlstm "
        f"reads it; {raw} in lower case, as it stands in the file",
        "--encoding",
    )
    # One number that both ways give is said once.
    assert_refused(run("import", file, "king.txt"), "king.txt has 17 in lower case, as charlstm")
    assert not Path("checkpoints").exists()
    assert not Path("prepared").exists()


def test_capitals_are_told(workplace):
    assert_refused(
        run("import", make_file(CAPITALS), "king.txt"),
        "is of 19 different characters; king.txt has 17",
        "with its capitals the text has as many",
    )


def test_an_encoding(workplace):
    text = "Schöne Grüße aus dem Süden, müde Füße.\n" * 9
    write_text("brief.txt", text, "latin-1")
    file = make_file(raw_size(text))
    assert_refused(run("import", file, "brief.txt"), "brief.txt is not utf-8")
    result = assert_imported(
        run("import", file, "brief.txt", "--encoding", "latin-1", "--model", "mine")
    )
    assert "ß" in imported("mine").vocabulary
    assert imported("mine").text_options.encoding == "iso8859-1"
    assert "charlstm train prepared/brief --from mine" in result.stdout
    assert_refused(run("import", file, "brief.txt", "--encoding", "x", "--model", "b"), "encoding")


def test_stdin_and_a_prepared_folder(lstm_file, workplace):
    result = assert_imported(run("import", str(lstm_file), "-", input=TINY_TEXT.encode()))
    assert "charlstm train prepared/stdin --from stdin" in result.stdout
    assert imported("stdin").config["corpus"]["name"] == "stdin"
    again = run("import", str(lstm_file), "prepared/stdin", "--model", "again")
    assert "as it was prepared" in assert_imported(again).stdout
    assert_refused(
        run("import", str(lstm_file), "prepared/stdin", "--encoding", "cp1252", "--model", "k"),
        "was prepared with --encoding utf-8",
    )
    words = ("import", str(lstm_file), "prepared/stdin", "--encoding", "UTF8", "--model", "alias")
    assert_imported(run(*words))
    assert run("prepare", "king.txt").exit_code == 0
    assert_refused(
        run("import", str(lstm_file), "prepared/king", "--model", "k"), "prepared with its capitals"
    )
    assert_refused(
        run("import", make_file(8, "other.h5"), "prepared/stdin", "--model", "k"),
        "is of 8 different characters; stdin has 17 as it was prepared",
    )


def test_a_text_that_is_not_there_or_too_short(lstm_file, workplace):
    assert_refused(run("import", str(lstm_file), "nowhere.txt"), "there is no text nowhere.txt")
    write_text("short.txt", PATTERN)
    assert_refused(run("import", str(lstm_file), "short.txt"), "38 characters; a window of 50")
    assert_imported(run("import", str(lstm_file), "short.txt", "--seq-length", "12"))
    assert imported("short").network.seq_length == 12


# --- one-hot ---------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "reading"), [(CAPITALS, ""), (SIZE, "in lower case, ")])
def test_a_network_that_reads_one_hot_characters(workplace, size, reading):
    file = make_file(size, input="one_hot")
    result = assert_imported(run("import", file, "king.txt", "--model", "mine"))
    assert f"text king, {reading}as charlstm reads it: {size} different" in result.stdout
    assert "one-hot characters" in result.stdout
    checkpoint = imported("mine")
    # Its windows began from zero, so that is how it is read, with the likeliest character.
    assert checkpoint.network == network(
        vocabulary_size=size, input="one_hot", seq_length=50, carries_state=False
    )
    assert checkpoint.config["recipe"] == "default"
    first = run("generate", "--model", "mine", "-n", "20", "--random-seed", "1")
    assert first.exit_code == 0
    assert run("evaluate", "king.txt", "--model", "mine").exit_code == 0
    corpus = "prepared/king" if reading else "king.txt"
    assert f"charlstm train {corpus} --from mine --model mine-2" in result.stdout


@pytest.mark.tf
def test_training_goes_on_from_one_hot_characters(workplace):
    file = make_file(SIZE, input="one_hot")
    assert_imported(run("import", file, "king.txt", "--model", "mine"))
    command = "train prepared/king --from mine --model mine-2 --epochs 0.05 --sample-every 0"
    result = run(*command.split())
    assert result.exit_code == 0, result.output
    assert "17 of 17 characters are known to it" in result.stderr


# --- the model -------------------------------------------------------------------------


def test_streams_and_json(lstm_file, workplace):
    result = assert_imported(run("import", str(lstm_file), "king.txt", "--json"))
    assert result.stdout.count("\n") == 1
    content = json.loads(result.stdout)
    assert content == {
        "model": str((workplace / "checkpoints/king").resolve()),
        "checkpoint": 0,
        "recipe": "article",
        "parameters": NETWORK.parameters,
        "layers": 2,
        "units": 5,
        "seq_length": 50,
        "vocabulary_size": 17,
        "input": "scaled",
        "corpus": "king",
        "characters": len(TINY_TEXT),
        "reading": "in lower case, as charlstm reads it",
    }
    assert "windows of 50, as lstm.weights.h5 does not say (--seq-length)" in result.stderr
    result = run("import", str(lstm_file), "king.txt", "--model", "other", "--quiet")
    assert result.stderr == ""
    assert result.stdout == (
        "lstm.weights.h5: 2 x 5 units, windows of 50, one number a character, 462 parameters\n"
        "text king, in lower case, as charlstm reads it: 17 different characters, as in the "
        "network\n"
        "model: checkpoints/other (recipe article)\n"
        "next: charlstm generate --model other -n 500\n"
        "or train on: charlstm train king.txt --from other --recipe article --model other-2\n"
    )


def test_every_command_reads_the_model(lstm_file, workplace):
    assert_imported(run("import", str(lstm_file), "king.txt", "--seq-length", "9"))
    about = json.loads(run("info", "king", "--json").stdout)
    assert (about["recipe"], about["seq_length"]) == ("article", 9)
    assert [entry["step"] for entry in about["checkpoints"]] == [0]
    assert "step        0  epoch    0.00  not evaluated  best last" in run("info", "king").stdout
    assert "step-00000000: whole" in run("info", "king", "--verify").stdout
    for command in (
        ["generate", "-n", "9"],
        ["generate", "-n", "9", "--report-copying"],
        ["evaluate", "king.txt"],
        ["export", "king", "--to", "torch", "-o", "out"],
    ):
        result = run(*command)
        assert result.exit_code == 0, result.output


def test_resume_says_what_to_do_instead(lstm_file, workplace):
    assert_imported(run("import", str(lstm_file), "king.txt"))
    for arguments in (["king.txt"], []):
        assert_refused(
            run("train", *arguments, "--resume"),
            "holds no training state",
            "hint: charlstm train TEXT --from MODEL --recipe article begins with its weights",
            code=1,
        )


def test_a_model_that_is_there_stays(lstm_file, workplace):
    assert_imported(run("import", str(lstm_file), "king.txt"))
    before = contents(Path("checkpoints"))
    refused = run("import", str(lstm_file), "king.txt")
    assert_refused(refused, "checkpoints/king exists", "--overwrite replaces it")
    assert "--resume" not in refused.stderr
    # What fails replaces nothing, though it may.
    for file, text in ((make_file(3, "wrong.h5"), "king.txt"), ("king.txt", "king.txt")):
        assert run("import", file, text, "--overwrite").exit_code == 2
    assert contents(Path("checkpoints")) == before


def test_overwrite_replaces_a_model_whole(lstm_file, trained):
    weights = random_weights(NETWORK)
    write_keras3("lstm.weights.h5", NETWORK, weights)
    assert Path("checkpoints/king/history.jsonl").exists()
    assert_imported(run("import", "lstm.weights.h5", "king.txt", "--overwrite"))
    assert {p.name for p in Path("checkpoints/king").iterdir()} == {".lock", "step-00000000"}
    assert_same_arrays(imported("king").weights, weights)
    # And one that was imported, whose step is the same.
    other = random_weights(NETWORK, 1)
    write_keras3("lstm.weights.h5", NETWORK, other)
    assert_imported(run("import", "lstm.weights.h5", "king.txt", "--overwrite"))
    assert_same_arrays(imported("king").weights, other)


def test_a_full_disk_leaves_the_old_model(lstm_file, trained, monkeypatch):
    write_keras3("lstm.weights.h5", NETWORK, random_weights(NETWORK))
    before = contents(Path("checkpoints"))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlstm.checkpoint.write_synced", full)
    result = run("import", "lstm.weights.h5", "king.txt", "--overwrite")
    assert_refused(result, "cannot save to checkpoints/king: No space left on device", code=1)
    assert contents(Path("checkpoints")) == before


@pytest.mark.parametrize(
    ("name", "part"),
    [("aux", "no name for a folder"), ("", "cannot be a model's name"), ("./king.txt", "a file")],
)
def test_names_that_are_refused(lstm_file, workplace, name, part):
    assert_refused(run("import", str(lstm_file), "king.txt", "--model", name), part)


def test_a_running_writer_is_not_disturbed(lstm_file, workplace):
    from charlstm.models import lock_model

    with lock_model(Path("checkpoints/king")):
        result = run("import", str(lstm_file), "king.txt")
    assert_refused(result, "another run is writing checkpoints/king", code=1)


# --- files that are refused ---------------------------------------------------------------


def keras3(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    """Make a good file of Keras 3, then change it."""

    def make(path: Path) -> None:
        write_keras3(path, NETWORK, random_weights(NETWORK))
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def keras2(change: Callable[[h5py.File], object], **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write_keras2(path, NETWORK, random_weights(NETWORK), **options)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def replace(where: str, value: Any) -> Callable[[h5py.File], None]:
    """Put something else where an array was."""

    def change(file: h5py.File) -> None:
        del file[where]
        file[where] = value

    return change


KERNEL = "layers/lstm/cell/vars/0"
SHAPE = (1, 4 * UNITS)
SECRET = np.full(SHAPE, 0.125, np.float32)


def steal(kind: str) -> Callable[[h5py.File], None]:
    """Have the first kernel come from another file, `secret.h5` or its bytes in `secret.bin`."""

    def change(file: h5py.File) -> None:
        folder = Path(file.filename).parent
        (folder / "secret.bin").write_bytes(SECRET.tobytes())
        with h5py.File(folder / "secret.h5", "w") as other:
            other["kernel"] = SECRET
            other["cell/vars/0"] = SECRET
        del file[KERNEL]
        if kind == "external link":
            file[KERNEL] = h5py.ExternalLink(str(folder / "secret.h5"), "/kernel")
        elif kind == "link to a group":
            del file["layers/lstm/cell"]
            file["layers/lstm/cell"] = h5py.ExternalLink(str(folder / "secret.h5"), "/cell")
        elif kind == "soft link":
            file[KERNEL] = h5py.SoftLink("/layers/lstm_1/cell/vars/0")
        elif kind == "external storage":
            target = [(str(folder / "secret.bin"), 0, SECRET.nbytes)]
            file.create_dataset(KERNEL, SHAPE, np.float32, external=target)
        else:
            layout = h5py.VirtualLayout(SHAPE, np.float32)
            layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "kernel", SHAPE)
            file.create_virtual_dataset(KERNEL, layout)
        file.flush()
        if kind in ("external link", "external storage", "virtual"):
            np.testing.assert_array_equal(file[KERNEL][:], SECRET)  # HDF5 itself would read it

    return change


def bomb(file: h5py.File) -> None:
    """Half a gigabyte of zeros in half a megabyte."""
    del file[KERNEL]
    file.create_dataset(KERNEL, (1, 1 << 27), "f4", chunks=(1, 1 << 24), compression="gzip")
    file[KERNEL][:, : 1 << 25] = 0


def unwritten(file: h5py.File) -> None:
    """Four gigabytes of which nothing is in the file."""
    del file[KERNEL]
    file.create_dataset(KERNEL, (1 << 15, 1 << 15), "f4")


def overlapping(file: h5py.File) -> None:
    """All layers are one, so the file is smaller than what is read of it."""
    for n in range(2, 60):
        file[f"layers/lstm_{n}"] = file["layers/lstm_1"]


def endless(file: h5py.File) -> None:
    file["dropout_1/again"] = file["dropout_1"]


def gru(file: h5py.File) -> None:
    for number, shape in enumerate([(1, 3 * UNITS), (UNITS, 3 * UNITS), (3 * UNITS,)]):
        replace(f"layers/lstm/cell/vars/{number}", np.ones(shape, np.float32))(file)


NAN = np.full(SHAPE, np.nan, np.float32)
ODD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "external link": (keras3(steal("external link")), "vars/0 is a link to another place"),
    "link to a group": (keras3(steal("link to a group")), "lstm/cell is a link to another place"),
    "soft link": (keras3(steal("soft link")), "vars/0 is a link to another place"),
    "external storage": (keras3(steal("external storage")), "not lie in the file in one piece"),
    "virtual": (keras3(steal("virtual")), "does not lie in the file in one piece"),
    "compressed": (keras3(bomb), "does not lie in the file in one piece"),
    "unwritten": (keras3(unwritten), "has less in it than its shape"),
    "overlapping": (keras3(overlapping), "has less in it than its arrays need"),
    "endless": (keras2(endless), "dropout_1 has too many groups"),
    "integers": (keras3(replace(KERNEL, np.ones(SHAPE, np.int32))), "is int32; weights are"),
    "texts": (keras3(replace(KERNEL, np.full(SHAPE, b"x"))), "weights are float16"),
    "a number": (keras3(replace(KERNEL, np.float32(1))), "neither a matrix nor a row"),
    "a group": (keras3(lambda f: f.move(KERNEL, "x") or f.create_group(KERNEL)), "is no array"),
    "nan": (keras3(replace(KERNEL, NAN)), "lstm_1/kernel has values that are not finite"),
    "overflow": (keras3(replace(KERNEL, np.full(SHAPE, 1e99))), "values that are not finite"),
    "wide": (
        keras3(replace(KERNEL, np.ones((3, 20), np.float32))),
        "reads 3 numbers a character; charlstm's reads 1 (id / 17) or 17 (one-hot)",
    ),
    "units": (
        keras3(replace("layers/lstm_1/cell/vars/1", np.ones((6, 20), np.float32))),
        "lstm_2/recurrent_kernel is (6, 20); 2 LSTM layers of 5 units over 17 characters have",
    ),
    "one character": (
        keras3(
            lambda f: (
                replace("layers/dense/vars/0", np.ones((UNITS, 1), np.float32))(f),
                replace("layers/dense/vars/1", np.ones(1, np.float32))(f),
            )
        ),
        "the vocabulary size must be a whole number from 2",
    ),
    "gru": (keras3(gru), "lstm_1/kernel is (1, 15); 2 LSTM layers of 5 units"),
    "no bias": (keras3(lambda f: f.pop(f"{KERNEL[:-1]}2")), "has 2 arrays, not 3: kernel"),
    "no layer": (keras3(lambda f: f.pop("layers/dense")), "2 LSTM layers and 0 Dense"),
    "no layers": (keras3(lambda f: f.pop("layers")), "/optimizer/vars/0 is int64"),
    "two outputs": (
        keras3(lambda f: f.copy("layers/dense", "layers/dense_1")),
        "2 LSTM layers and 2 Dense",
    ),
    "another layer": (
        keras3(lambda f: f.create_group("layers/embedding/vars")),
        "has a layer embedding, which charlstm has not",
    ),
    "many layers": (
        keras3(lambda f: [f.create_group(f"layers/dropout_{n}") for n in range(2, 1_100)]),
        "has 1,103 entries",
    ),
    "wrapped": (
        keras2(lambda f: f.copy("lstm/lstm/lstm_cell", "lstm/lstm/backward")),
        "lstm has two arrays",
    ),
    "normalised": (
        keras2(lambda f: f.create_dataset("batch/gamma:0", data=np.ones(3, np.float32))),
        "has a layer batch with gamma, neither LSTM nor Dense",
    ),
    "no order": (
        keras2(lambda f: f.attrs.pop("layer_names")),
        "does not say in which order its LSTM layers are",
    ),
    "a link in an older file": (
        keras2(lambda f: (f.pop("dense") and None) or f.__setitem__("dense", h5py.SoftLink("/x"))),
        "/dense is a link to another place",
    ),
    "hard sigmoid": (
        keras2(lambda f: None, version="2.2.4"),
        "written by Keras 2.2.4, whose LSTM had hard_sigmoid gates",
    ),
    "steering": (
        keras3(lambda f: f.create_group("layers/\x1b]0;evil\x07")),
        r"has a layer \x1b]0;evil\x07, which charlstm has not",
    ),
    "empty": (lambda path: path.write_bytes(b"") and None, "is no file of Keras"),
    "a text": (lambda path: path.write_text("Hello.\n") and None, "is no file of Keras"),
    "an empty file of HDF5": (lambda path: h5py.File(path, "w").close(), "0 LSTM layers"),
}


@pytest.mark.parametrize("what", ODD_FILES)
def test_odd_files_are_refused(tmp_path, what):
    make, part = ODD_FILES[what]
    path = tmp_path / "odd.h5"
    make(path)
    with pytest.raises(InputError) as caught:
        read_here(path)
    assert part in caught.value.message
    assert caught.value.message.isprintable()
    assert "odd.h5" in caught.value.message


def with_layer(entry: dict[str, Any], at: int = 2) -> list[dict[str, Any]]:
    layers = article_layers()
    return [*layers[:at], entry, *layers[at:]]


def custom() -> list[dict[str, Any]]:
    layers = article_layers()
    layers[1]["module"] = "evil.layers"
    return layers


def changed(at: int, **settings: Any) -> list[dict[str, Any]]:
    layers = article_layers()
    layers[at]["config"] |= settings
    return layers


LAMBDA = layer(
    "Lambda", "lambda", function={"class_name": "__lambda__", "config": {"code": "4w=="}}
)
ODD_CONFIGS: dict[str, tuple[Any, str]] = {
    "lambda": (with_layer(LAMBDA), "has a layer Lambda, which charlstm has not"),
    "custom": (custom(), "has a layer of its own: evil.layers"),
    "gru": (with_layer(layer("GRU", "gru")), "has a layer GRU"),
    "embedding": (with_layer(layer("Embedding", "e"), 1), "has a layer Embedding"),
    "bidirectional": (with_layer(layer("Bidirectional", "b")), "has a layer Bidirectional"),
    "relu": (article_layers(activation="relu"), "activation of lstm is relu; charlstm's LSTM has"),
    "a function": (
        article_layers(activation={"class_name": "function", "config": "evil"}),
        "activation of lstm is {",
    ),
    "hard sigmoid": (
        article_layers(recurrent_activation="hard_sigmoid"),
        "recurrent_activation of lstm is hard_sigmoid",
    ),
    "no bias": (article_layers(use_bias=False), "use_bias of lstm is False"),
    "backwards": (article_layers(go_backwards=True), "go_backwards of lstm is True"),
    "stateful": (article_layers(stateful=True), "stateful of lstm is True"),
    "last output": (article_layers(return_sequences=False), "gives its last output only"),
    "sigmoid": (changed(5, activation="sigmoid"), "the activation of dense is sigmoid"),
    "after": (with_layer(layer("Reshape", "r"), 6), "has a layer Reshape"),
    "lstm after": (
        [*changed(3, return_sequences=True), layer("LSTM", "l")],
        "has a layer LSTM above the softmax",
    ),
    "no output": (article_layers()[:5], "has 2 LSTM layers and 0 Dense"),
    "fewer": (
        [entry for entry in article_layers() if entry["config"]["name"] != "lstm_1"],
        "2 LSTM layers and 1 Dense with weights",
    ),
    "scaled": (
        with_layer(layer("Rescaling", "s", scale=0.25, offset=0.0), 1),
        "scales ids by 0.25; charlstm by 1 / 17",
    ),
    "moved": (with_layer(layer("Rescaling", "s", scale=0.1, offset=1.0), 1), "Rescaling"),
    "length": (changed(0, batch_shape=[None, 1_000_000, 1]), "seq-length must be a whole number"),
}


@pytest.mark.parametrize("what", ODD_CONFIGS)
def test_networks_of_another_kind_are_refused(tmp_path, what):
    layers, part = ODD_CONFIGS[what]
    write_archive(tmp_path / "odd.keras", sequential(*layers))
    with pytest.raises(InputError) as caught:
        read_here(tmp_path / "odd.keras")
    assert part in caught.value.message
    # The older format says the same of itself.
    if what != "fewer":
        write_keras2(
            tmp_path / "odd.h5",
            NETWORK,
            random_weights(NETWORK),
            inside="model_weights",
            model_config=json.dumps(sequential(*layers)),
        )
        with pytest.raises(InputError) as caught:
            read_here(tmp_path / "odd.h5")
        assert part in caught.value.message


def test_a_window_of_no_length_is_fifty(tmp_path):
    write_archive(tmp_path / "f.keras", sequential(*changed(0, batch_shape=[None, None, 1])))
    read = read_here(tmp_path / "f.keras")
    assert (read.network.seq_length, read.has_seq_length) == (50, False)


@pytest.mark.parametrize(
    "config",
    [
        None,
        7,
        [],
        {},
        {"class_name": "Sequential"},
        {"class_name": ["Sequential"], "config": []},
        {"class_name": "Sequential", "config": {"layers": 3}},
        {"class_name": "Sequential", "config": [{"class_name": "LSTM"}]},
        {"class_name": "Sequential", "config": [None]},
        {"class_name": "Subclassed", "config": []},
        sequential(layer("InputLayer", "i") | {"inbound_nodes": {"keras_history": 3}}),
        sequential(layer("LSTM", "i") | {"config": {"name": {}}}),
    ],
)
def test_configurations_that_make_no_sense(tmp_path, config):
    write_archive(tmp_path / "odd.keras", config)
    with pytest.raises(InputError) as caught:
        read_here(tmp_path / "odd.keras")
    assert caught.value.message.isprintable()


def test_archives_that_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "odd.keras"
    good = sequential(*article_layers())

    def refused() -> str:
        with pytest.raises(InputError) as caught:
            read_here(path)
        return caught.value.message

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "odd.keras has no config.json" in refused()
    write_archive(path, good, b"\0" * (8 << 20), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert "model.weights.h5 has 8,388,608 bytes; at most 1," in refused()
    write_archive(path, {"class_name": "x" * (5 << 20)})
    assert "config.json has 5," in refused()
    write_archive(path, good, compression=zipfile.ZIP_BZIP2)
    assert "packed in a way that Keras does not use" in refused()
    write_archive(path, good, b"no HDF5 at all")
    assert "odd.keras is damaged" in refused()
    write_archive(path, good)
    data = bytearray(path.read_bytes())
    data[data.index(b"\x89HDF") + 5_000] ^= 1
    path.write_bytes(data)
    assert "Bad CRC-32" in refused()
    monkeypatch.setattr(kerasfile, "MAX_FILE_BYTES", 10_000)
    assert "at most 10,000 are read" in refused()


def test_nothing_of_an_archive_is_put_on_the_disk(workplace):
    """Names that lead out of a folder mean nothing: no member is ever extracted."""
    evil = {"../evil.txt": b"x", "/tmp/charlstm-evil.txt": b"x", "assets/a.txt": b"x"}
    write_archive(Path("lstm.keras"), sequential(*article_layers()), extra=evil)
    assert_imported(run("import", "lstm.keras", "king.txt"))
    assert {p.name for p in workplace.iterdir()} == {
        "lstm.keras",
        "king.txt",
        "checkpoints",
        "prepared",
    }
    assert not (workplace.parent / "evil.txt").exists()
    assert not Path("/tmp/charlstm-evil.txt").exists()


@pytest.mark.parametrize("name", ["lstm.weights.h5", "lstm.h5", "lstm.keras"])
def test_cut_off_files_are_refused(tmp_path, name):
    whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
    if name.endswith("keras"):
        write_archive(whole, sequential(*article_layers()))
    else:
        write = write_keras3 if "weights" in name else write_keras2
        write(whole, NETWORK, random_weights(NETWORK))
    data = whole.read_bytes()
    for length in (*range(0, 100, 7), *range(100, len(data), 997), len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_here(cut)


# --- the process that reads ---------------------------------------------------------------


def test_odd_files_by_the_command(workplace):
    """What is refused is said by the command in its two lines, and leaves nothing behind."""
    Path("folder.keras").mkdir()
    ODD_FILES["external link"][0](Path("link.h5"))
    Path("text.h5").write_text("Hello.\n")
    before = {p.name for p in workplace.iterdir()}
    for file, part in {
        "nowhere.h5": "there is no file nowhere.h5",
        "folder.keras": "folder.keras is a folder",
        "text.h5": "text.h5 is no file of Keras",
        "link.h5": "is a link to another place",
        "\x1b[2J.h5": r"\x1b[2J.h5",
    }.items():
        assert_refused(run("import", file, "king.txt"), part)
    assert {p.name for p in workplace.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")
def test_a_link_that_a_person_names_is_followed_and_a_pipe_is_not(lstm_file, workplace):
    Path("link.h5").symlink_to(lstm_file)
    assert_imported(run("import", "link.h5", "king.txt"))
    os.mkfifo("pipe.h5")
    assert_refused(run("import", "pipe.h5", "king.txt", "--model", "p"), "not a plain file")


def test_a_reader_that_does_not_end_or_dies(lstm_file, workplace, monkeypatch):
    real = subprocess.run

    def instead(code: str) -> None:
        def start(command: list[str], **options: Any) -> Any:
            options["timeout"] = min(options["timeout"], 3)
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(kerasfile.subprocess, "run", start)

    cases = {
        "import time; time.sleep(60)": "reading it does not end",
        f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})": "it stops its reader",
        "raise ValueError('odd')": "it stops its reader (ValueError: odd)",
        "print('{}')": "lstm.weights.h5 is damaged",
        "print('no JSON')": "lstm.weights.h5 is damaged",
    }
    for code, part in cases.items():
        instead(code)
        assert_refused(run("import", str(lstm_file), "king.txt"), part)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for its memory")
def test_the_reader_has_little_memory(tmp_path):
    code = "from charlstm.kerasfile import _limit_memory; _limit_memory(0); bytearray(1 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "MemoryError"


def test_the_reader_hands_over_what_it_reads(tmp_path):
    config = network(layers=3, seq_length=50)
    weights = random_weights(config, 8)
    write_keras2(tmp_path / "w.h5", config, weights)
    apart, here = read_keras_file(tmp_path / "w.h5"), read_here(tmp_path / "w.h5")
    assert_same_arrays(apart.weights, weights)
    assert (apart.name, apart.sha256, apart.network) == (here.name, here.sha256, config)


PROBE = """
import atexit, sys
heavy = {"tensorflow", "keras", "h5py"}
atexit.register(lambda: sys.stderr.write("heavy: " + ",".join(sorted(heavy & set(sys.modules)))))
from charlstm.cli import cli
cli(prog_name="charlstm")
"""
READER_PROBE = """
import sys
from pathlib import Path
from charlstm.kerasfile import read_here
read_here(Path(sys.argv[1]))
print(sorted({"tensorflow", "keras", "click"} & set(sys.modules)), "h5py" in sys.modules)
"""


def test_tensorflow_is_not_imported(lstm_file, workplace):
    # Nor is what lies in the working folder, here or in the reader.
    for name in ("h5py", "safetensors", "charlstm"):
        Path(f"{name}.py").write_text("open('evil', 'w')\nraise SystemExit(3)\n")
    command = [sys.executable, "-P", "-c", PROBE, "import", str(lstm_file), "king.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("heavy: "), done.stderr
    assert not Path("evil").exists()
    done = subprocess.run(
        [sys.executable, "-P", "-c", READER_PROBE, str(lstm_file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[] True\n", done.stderr
