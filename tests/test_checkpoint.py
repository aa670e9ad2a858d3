"""Saved models: what is written is read again, and damage is never taken for a model."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from helpers import (
    CHARACTERS,
    VOCABULARY,
    assert_same_arrays,
    change_manifest,
    forge,
    forge_json,
    make_config,
    make_network,
    make_state,
    random_weights,
    save,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    TrainingState,
    load_checkpoint,
    load_training_state,
    weight_shapes,
    write_checkpoint,
)
from charlstm.errors import (
    CharlstmError,
    CheckpointError,
    InputError,
    ModelNotFoundError,
    OutputError,
)
from charlstm.logs import append_log, cut_logs, read_log
from charlstm.models import (
    best_checkpoint,
    choose_checkpoint,
    clear_model,
    describe_model,
    find_model,
    list_checkpoints,
    list_models,
    lock_model,
    model_path,
    open_checkpoint,
)

FILES = (
    "weights.safetensors",
    "config.json",
    "vocabulary.json",
    "state.safetensors",
    "trainer.json",
    "manifest.json",
)
LOADED_FOR_WRITING_TEXT = FILES[:3]
NEWER_HINT = "install a newer charlstm"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "tale"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where `checkpoints/` would be."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def steps(model: Path) -> list[int]:
    return [info.step for info in list_checkpoints(model)]


def folders(model: Path) -> list[str]:
    return sorted(entry.name for entry in model.iterdir())


def assert_holds(info: CheckpointInfo, random_seed: int) -> None:
    """The checkpoint loads and holds what `save` wrote with that random seed."""
    loaded, state = load_checkpoint(info), load_training_state(info)
    assert_same_arrays(loaded.weights, random_weights(make_network(), random_seed))
    assert loaded.vocabulary == VOCABULARY
    assert loaded.network == make_network()
    assert_same_arrays(state.arrays, make_state(loaded.network).arrays)


def held_by(info: CheckpointInfo) -> int:
    """Tell with which random seed `save` wrote a whole checkpoint."""
    load_training_state(info)
    weights = load_checkpoint(info).weights
    for random_seed in range(10):
        expected = random_weights(make_network(), random_seed)
        if all(np.array_equal(weights[name], expected[name]) for name in expected):
            return random_seed
    raise AssertionError(f"{info.path} holds weights that nobody saved")


def assert_work_failed(error: CharlstmError, *parts: str) -> None:
    assert isinstance(error, CheckpointError)
    assert error.exit_code == 1
    assert "\n" not in error.message
    for part in parts:
        assert part in error.message


# --- what is written is read again ------------------------------------------------


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_loaded_checkpoint_is_the_saved_one(model: Path, kind: str, layers: int) -> None:
    network = make_network(input=kind, layers=layers, carries_state=kind == "one_hot")
    weights, config = random_weights(network, 5), make_config(network)
    written = save(
        model,
        30,
        network=network,
        weights=weights,
        epoch=2.75,
        train_loss=1.75,
        val_loss=None,
        now=1_234.5,
    )
    info = choose_checkpoint(model, "last")
    assert info == written
    assert info.path == model / "step-00000030"
    assert (info.step, info.epoch, info.train_loss, info.val_loss) == (30, 2.75, 1.75, None)
    assert info.written_at == 1_234.5
    loaded = load_checkpoint(info)
    assert loaded.info == info
    assert loaded.network == network
    assert loaded.vocabulary.characters == tuple(sorted(CHARACTERS))
    assert loaded.config == {"format_version": 1} | config
    assert loaded.text_options.lowercase is True
    assert loaded.seed_windows == config["seed_windows"]
    assert_same_arrays(loaded.weights, weights)
    state = load_training_state(info)
    assert state.trainer == {"format_version": 1} | make_state().trainer
    assert_same_arrays(state.arrays, make_state(loaded.network).arrays)


def test_the_files_of_a_checkpoint(model: Path) -> None:
    # Read by hand, byte by byte, so that another program could do it.
    save(model, 30, epoch=2.75, train_loss=1.75, val_loss=2.25, now=1_234.5)
    folder = model / "step-00000030"
    assert folders(folder) == sorted(FILES)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    expected = {
        "format_version": 1,
        "step": 30,
        "epoch": 2.75,
        "train_loss": 1.75,
        "val_loss": 2.25,
        "written_at": 1_234.5,
    }
    assert manifest.items() >= expected.items()
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    vocabulary = json.loads((folder / "vocabulary.json").read_bytes())
    assert vocabulary == {"format_version": 1, "characters": sorted(CHARACTERS)}
    data = (folder / "weights.safetensors").read_bytes()
    (n_header,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n_header])
    weights = random_weights(make_network())
    assert set(header) - {"__metadata__"} == set(weights)
    for name, array in weights.items():
        assert header[name]["dtype"] == "F32"
        assert tuple(header[name]["shape"]) == array.shape
        start, end = (8 + n_header + offset for offset in header[name]["data_offsets"])
        assert data[start:end] == array.astype("<f4").tobytes()


@pytest.mark.parametrize(
    "reorder",
    [
        lambda array: np.asfortranarray(array),
        lambda array: array.T.copy().T,
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    ],
    ids=["Fortran order", "transposed", "every other"],
)
def test_arrays_are_saved_by_value_whatever_their_layout(
    model: Path, reorder: Callable[[np.ndarray], np.ndarray]
) -> None:
    # safetensors writes the memory behind an array, strides and all: a
    # transposed view came back with its numbers in another order, unnoticed.
    weights, arrays = random_weights(make_network()), make_state().arrays
    info = save(
        model,
        10,
        weights={name: reorder(array) for name, array in weights.items()},
        state=TrainingState(
            trainer={},
            arrays={n: reorder(array) if array.ndim else array for n, array in arrays.items()},
        ),
    )
    assert_same_arrays(load_checkpoint(info).weights, weights)
    assert_same_arrays(load_training_state(info).arrays, arrays)


def test_half_precision_weights_are_widened(model: Path) -> None:
    half = {name: a.astype(np.float16) for name, a in random_weights(make_network()).items()}
    info = save(model, 10, weights=half)
    widened = {name: array.astype(np.float32) for name, array in half.items()}
    assert_same_arrays(load_checkpoint(info).weights, widened)


def test_the_clock_dates_a_checkpoint_unless_told_otherwise(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 4_321.5)
        save(model, 10, now=None)
    assert choose_checkpoint(model, "last").written_at == 4_321.5


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
def test_weight_shapes_are_those_of_keras(layers: int, kind: str) -> None:
    network = make_network(layers=layers, input=kind)
    shapes = weight_shapes(network)
    assert list(shapes)[:3] == ["lstm_1/kernel", "lstm_1/recurrent_kernel", "lstm_1/bias"]
    assert list(shapes)[-2:] == ["dense/kernel", "dense/bias"]
    assert shapes["lstm_1/kernel"] == (7 if kind == "one_hot" else 1, 20)
    for layer in range(1, layers + 1):
        assert shapes[f"lstm_{layer}/recurrent_kernel"] == (5, 20)
        assert shapes[f"lstm_{layer}/bias"] == (20,)
    assert all(shapes[f"lstm_{n}/kernel"] == (5, 20) for n in range(2, layers + 1))
    assert (shapes["dense/kernel"], shapes["dense/bias"]) == ((5, 7), (7,))
    assert len(shapes) == 3 * layers + 2
    assert sum(math.prod(shape) for shape in shapes.values()) == network.parameters


def test_the_articles_network_has_the_articles_parameters() -> None:
    shapes = weight_shapes(make_network(units=300, input="scaled", vocabulary_size=38))
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total == 362_400 + 721_200 + 301 * 38


# --- retention, best and last -----------------------------------------------------


@pytest.mark.parametrize(
    ("val_losses", "kept", "best"),
    [
        ([2.5, 2.0, 2.2, 2.3, 2.4], [20, 40, 50], 20),
        ([2.5, 2.4, 2.3, 2.2, 2.1], [40, 50], 50),
        ([2.5, 2.1, 2.3, 2.2, 2.4], [20, 40, 50], 20),
        ([1.0, 2.0, 3.0, 4.0, 0.5], [40, 50], 50),
        # The later of equals.
        ([2.0, 2.0, 3.0, 3.0, 3.0], [20, 40, 50], 20),
        ([2.0, 2.0, 2.0, 2.0, 2.0], [40, 50], 50),
        # A checkpoint between evaluations has no loss and is not the best.
        ([2.5, None, None, None, None], [10, 40, 50], 10),
        ([None, 2.5, None, 2.6, None], [20, 40, 50], 20),
    ],
)
def test_the_best_and_the_last_two_are_kept(
    model: Path, val_losses: list[float | None], kept: list[int], best: int
) -> None:
    for n, val_loss in enumerate(val_losses, 1):
        # Training losses fall, and must not be what is compared.
        save(model, 10 * n, random_seed=n, val_loss=val_loss, train_loss=1.0 - 0.1 * n)
    assert steps(model) == kept
    assert folders(model) == [f"step-{step:08d}" for step in kept]
    assert choose_checkpoint(model, "best").step == best
    assert choose_checkpoint(model, "last").step == 50
    for info in list_checkpoints(model):
        assert_holds(info, info.step // 10)


@pytest.mark.parametrize(
    ("train_losses", "best"),
    [
        ([2.5, 2.0, 2.2, 2.3], 20),
        ([2.0, 2.5, 2.0, 2.3], 30),
        ([None, 9.0, None, None], 20),
        ([None, None, None, None], 40),
    ],
)
def test_without_validation_the_training_loss_decides(
    model: Path, train_losses: list[float | None], best: int
) -> None:
    for n, train_loss in enumerate(train_losses, 1):
        save(model, 10 * n, val_loss=None, train_loss=train_loss)
    assert choose_checkpoint(model, "best").step == best
    assert steps(model) == sorted({best, 30, 40})


losses = st.one_of(st.none(), st.integers(0, 4).map(float))


@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=8))
def test_the_best_checkpoint_is_the_best_in_any_order(
    pairs: list[tuple[float | None, float | None]],
) -> None:
    infos = [
        CheckpointInfo(
            path=Path(f"step-{n:08d}"),
            step=n,
            epoch=n / 2,
            train_loss=train_loss,
            val_loss=val_loss,
            written_at=0.0,
            files={},
        )
        for n, (val_loss, train_loss) in enumerate(pairs, 1)
    ]
    evaluated = [info for info in infos if info.val_loss is not None]
    trained = [info for info in infos if info.train_loss is not None]
    if evaluated:
        lowest = min(info.val_loss for info in evaluated)
        expected = [info for info in evaluated if info.val_loss == lowest][-1]
    elif trained:
        lowest = min(info.train_loss for info in trained)
        expected = [info for info in trained if info.train_loss == lowest][-1]
    else:
        expected = infos[-1]
    for order in (infos, infos[::-1], infos[len(infos) // 2 :] + infos[: len(infos) // 2]):
        assert best_checkpoint(order) == expected


def test_checkpoints_are_listed_by_number_not_by_name(model: Path) -> None:
    # 100,000,000 has a digit more than the folders' eight, and sorts first as text.
    save(model, 100_000_000, val_loss=2.0)
    save(model, 99_999_999, val_loss=3.0)
    assert steps(model) == [99_999_999, 100_000_000]
    assert choose_checkpoint(model, "last").step == 100_000_000


def test_what_was_just_written_is_never_retired(model: Path) -> None:
    # As after --resume from an earlier checkpoint because the later ones are
    # damaged inside: their manifests can still be read, and their steps are higher.
    save(model, 10, random_seed=1, val_loss=2.0)
    for n in (2, 3):
        save(model, 10 * n, random_seed=n, val_loss=3.0)
        (model / f"step-{10 * n:08d}" / "weights.safetensors").write_bytes(b"torn")
    written = save(model, 15, random_seed=4, val_loss=2.5)
    assert 15 in steps(model)
    assert_holds(written, 4)


def test_the_same_step_is_replaced(model: Path) -> None:
    save(model, 10, random_seed=1)
    save(model, 20, random_seed=2, val_loss=None)
    info = save(model, 20, random_seed=3, val_loss=1.5)
    assert steps(model) == [10, 20]
    assert folders(model) == ["step-00000010", "step-00000020"]
    assert info.val_loss == 1.5
    assert_holds(choose_checkpoint(model, "last"), 3)
    assert_holds(choose_checkpoint(model, "10"), 1)


# --- finding ----------------------------------------------------------------------


def spoil(folder: Path, kind: str) -> None:
    """Damage a checkpoint so that its manifest cannot be read."""
    manifest = folder / "manifest.json"
    if kind == "no manifest":
        manifest.unlink()
    elif kind == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "empty manifest":
        manifest.write_bytes(b"")
    elif kind == "not JSON":
        manifest.write_bytes(manifest.read_bytes()[:-30])
    elif kind == "not an object":
        manifest.write_bytes(b"[1, 2]")
    elif kind == "nested too deeply":
        manifest.write_bytes(b"[" * 200_000)
    elif kind == "not text":
        manifest.write_bytes(b"\xff\xfe\x00\x01\x80")
    elif kind == "too large":
        manifest.write_bytes(b" " * (1 << 21) + manifest.read_bytes())
    elif kind == "a folder as manifest":
        manifest.unlink()
        manifest.mkdir()
    elif kind == "a link as manifest":
        manifest.rename(folder.parent / "elsewhere.json")
        manifest.symlink_to(folder.parent / "elsewhere.json")
    elif kind == "a pipe as manifest":
        manifest.unlink()
        os.mkfifo(manifest)
    elif kind == "a file as folder":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    else:
        raise AssertionError(kind)


SPOILED = (
    "no manifest",
    "empty folder",
    "empty manifest",
    "not JSON",
    "not an object",
    "nested too deeply",
    "not text",
    "too large",
    "a folder as manifest",
    "a link as manifest",
    "a pipe as manifest",
    "a file as folder",
)


@pytest.mark.parametrize("kind", SPOILED)
def test_damaged_folders_are_not_listed(model: Path, kind: str) -> None:
    for step, val_loss in ((10, 1.0), (20, 3.0), (30, 2.0)):
        save(model, step, val_loss=val_loss)
    spoil(model / "step-00000010", kind)
    assert steps(model) == [20, 30]
    assert choose_checkpoint(model, "best").step == 30
    with pytest.raises(InputError) as caught:
        choose_checkpoint(model, "10")
    assert caught.value.hint == "best, last or one of 20, 30"


TOO_LARGE = 10**400  # for a float


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", None),
        ("step", "x"),
        ("step", [10]),
        ("step", math.nan),
        ("step", math.inf),
        ("step", -10),
        ("step", 11),  # the folder says 10: one of the two is wrong
        ("epoch", None),
        ("epoch", "much"),
        ("epoch", TOO_LARGE),
        ("train_loss", "low"),
        ("val_loss", {}),
        ("val_loss", math.nan),
        ("written_at", None),
        ("written_at", TOO_LARGE),
        ("written_at", math.nan),
        ("files", None),
        ("files", ["config.json"]),
        ("files", {"config.json": 12}),
        ("files", {"config.json": {"n_bytes": math.inf, "sha256": ""}}),
        ("files", {"config.json": {"n_bytes": 12}}),
        ("format_version", 0),
        ("format_version", "1"),
        ("format_version", True),
        ("format_version", None),
    ],
    ids=lambda value: "too large" if value is TOO_LARGE else None,
)
def test_an_impossible_manifest_is_not_listed(model: Path, field: str, value: object) -> None:
    # One flipped byte is enough: 12345 bytes become 1e345, which is infinite.
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=2.0)
    change_manifest(model / "step-00000010", lambda manifest: manifest.update({field: value}))
    assert steps(model) == [20]
    assert choose_checkpoint(model, "best").step == 20


@pytest.mark.parametrize(
    "field", ["step", "epoch", "train_loss", "val_loss", "written_at", "files", "format_version"]
)
def test_an_incomplete_manifest_is_not_listed(model: Path, field: str) -> None:
    save(model, 10)
    save(model, 20)
    change_manifest(model / "step-00000020", lambda manifest: manifest.pop(field))
    assert steps(model) == [10]


@contextlib.contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Refuse what is in a folder, as the system refuses it to another user."""

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (os, "stat"),
            (os, "lstat"),
            (os, "open"),
            (os, "listdir"),
            (os, "scandir"),
            (io, "open"),
            (builtins, "open"),
        ):
            patch.setattr(module, name, guarded(getattr(module, name)))
        yield


def test_a_forbidden_folder_does_not_hide_those_after_it(model: Path) -> None:
    # Tests often run as root, whom no mode stops: the refusal is simulated.
    for n in (1, 2, 3):
        save(model, 10 * n, random_seed=n, val_loss=n)
    with unreadable(model / "step-00000010"):
        assert steps(model) == [20, 30]


def test_a_forbidden_file_is_a_damaged_checkpoint(model: Path) -> None:
    info = save(model, 10)
    for load in (load_checkpoint, load_training_state):
        with unreadable(info.path), pytest.raises(CheckpointError) as caught:
            load(info)
        assert_work_failed(caught.value, "step-00000010")


@pytest.mark.parametrize(
    "name",
    ["step-10", "step-0000001x", "Step-00000010", "step-00000010.bak", ".step-00000010", "x"],
)
def test_folders_of_another_name_are_not_checkpoints(model: Path, name: str) -> None:
    info = save(model, 10)
    info.path.rename(model / name)
    assert list_checkpoints(model) == []


def test_there_are_no_checkpoints_where_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file", "missing/deeper", "x" * 5_000):
        assert list_checkpoints(tmp_path / name) == []
        assert list_models(tmp_path / name) == []


def test_the_newest_model_is_so_by_its_own_record(workplace: Path) -> None:
    # Copying turns the files' times round; the manifests stay as they were.
    for n, (name, written_at) in enumerate({"old": 100.0, "newest": 300.0, "new": 200.0}.items()):
        save(workplace / "checkpoints" / name, 10, now=written_at)
        for path in (workplace / "checkpoints" / name).rglob("*"):
            os.utime(path, (1_000 * (n + 1) - written_at,) * 2)
    # A model's date is that of its latest write, not of its highest step.
    save(workplace / "checkpoints" / "old", 5, now=250.0)
    (workplace / "checkpoints" / "empty").mkdir()
    (workplace / "checkpoints" / "notes.txt").write_text("no model")
    assert [path.name for path in list_models()] == ["newest", "old", "new"]
    assert find_model(None) == Path("checkpoints/newest")
    assert list_models(workplace / "checkpoints") == [
        workplace / "checkpoints" / name for name in ("newest", "old", "new")
    ]


def test_without_any_model_the_cure_is_named(workplace: Path) -> None:
    for name in (None, "tale"):
        with pytest.raises(ModelNotFoundError) as caught:
            find_model(name)
        assert caught.value.exit_code == 1
        assert caught.value.hint == "train one first: charlstm train macbeth.txt"
        expected = {
            None: "there is no model in checkpoints/ yet",
            "tale": "there is no model tale (checkpoints/tale)",
        }
        assert caught.value.message == expected[name]


def test_an_unknown_model_lists_the_known(workplace: Path) -> None:
    save(workplace / "checkpoints" / "hamlet", 10, now=100)
    save(workplace / "checkpoints" / "lear\x1b[2J", 10, now=200)
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("macbeth\n")
    assert caught.value.exit_code == 1
    assert caught.value.message == r"there is no model macbeth\n (checkpoints/macbeth\n)"
    assert caught.value.hint == r"models here: lear\x1b[2J, hamlet"
    assert find_model("hamlet") == Path("checkpoints/hamlet")
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("./hamlet")
    assert caught.value.message == "there is no model ./hamlet (hamlet)"


def test_a_model_may_be_anywhere(workplace: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "mine", 10)
    save(workplace / "mine", 10)
    assert find_model(str(tmp_path / "elsewhere" / "mine")) == tmp_path / "elsewhere" / "mine"
    assert find_model("./mine") == Path("mine")
    with pytest.raises(ModelNotFoundError):
        find_model("mine")


@given(
    st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(
        lambda word: word not in (".", "..")
    )
)
def test_a_bare_word_is_a_model_in_checkpoints(word: str) -> None:
    assert model_path(word) == Path("checkpoints") / word


@given(
    st.text(st.characters(exclude_characters="\0")), st.text(st.characters(exclude_characters="\0"))
)
def test_what_has_a_separator_is_a_folder(before: str, after: str) -> None:
    name = f"{before}{os.sep}{after}"
    assert model_path(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", "''"), (".", "'.'"), ("..", "'..'"), ("a\0b", r"'a\x00b'"), ("./\0", r"'./\x00'")],
)
def test_what_cannot_be_a_name_is_refused(name: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        model_path(name)
    assert caught.value.message == f"{shown} cannot be a model's name"
    assert caught.value.hint == "give a word, or a path with a separator such as ./mine"
    assert caught.value.exit_code == 2


# --- choosing ---------------------------------------------------------------------


def test_choosing_a_checkpoint(model: Path) -> None:
    for step, val_loss in ((10, 1.0), (20, 3.0), (30, 2.0)):
        save(model, step, val_loss=val_loss)
    chosen = {which: choose_checkpoint(model, which).step for which in ("best", "last", "20")}
    assert chosen == {"best": 10, "last": 30, "20": 20}


@pytest.mark.parametrize("which", ["25", "", "BEST", "010", "1_0", "-10", "10 ", "1\x1b0"])
def test_an_unknown_checkpoint_lists_the_known(model: Path, which: str) -> None:
    save(model, 10)
    save(model, 20)
    with pytest.raises(InputError) as caught:
        choose_checkpoint(model, which)
    shown = which.replace("\x1b", r"\x1b")
    assert caught.value.message == f"{model} has no checkpoint {shown}"
    assert caught.value.hint == "best, last or one of 10, 20"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("which", ["best", "last", "10"])
def test_a_model_without_checkpoints_has_none_to_choose(model: Path, which: str) -> None:
    for choose in (choose_checkpoint, open_checkpoint):
        with pytest.raises(ModelNotFoundError) as caught:
            choose(model, which)
        assert caught.value.message == f"{model} has no checkpoint"
        assert caught.value.exit_code == 1


# --- damage -----------------------------------------------------------------------


def mutations(path: Path) -> Iterator[str]:
    """Damage a file in one way after the other; it is whole again after each."""
    whole = path.read_bytes()
    n_bytes = len(whole)
    spots = sorted({*np.linspace(0, n_bytes - 1, 60).astype(int).tolist(), *range(12)})

    def write(data: bytes) -> None:
        path.write_bytes(data)

    for length in sorted({*spots[::3], n_bytes - 1, 1, 7, 8, 9}):
        write(whole[:length])
        yield f"{path.name} cut to {length} bytes"
    for spot in spots:
        for flip in (0x01, 0x10, 0xFF):
            write(whole[:spot] + bytes([whole[spot] ^ flip]) + whole[spot + 1 :])
            yield f"{path.name}, byte {spot} flipped by {flip:#04x}"
    for extra in (b"\0", b"\n", b"{}", whole):
        write(whole + extra)
        yield f"{path.name} with {len(extra)} bytes more"
    write(bytes(n_bytes))
    yield f"{path.name} all zeros"
    write(whole[::-1])
    yield f"{path.name} backwards"
    path.unlink()
    yield f"{path.name} removed"
    path.mkdir()
    yield f"{path.name} a folder"
    path.rmdir()
    other = path.parent.parent / "other"
    other.write_bytes(whole[: n_bytes // 2])
    path.symlink_to(other)
    yield f"{path.name} a link to something else"
    path.unlink()
    path.symlink_to(path)
    yield f"{path.name} a link to itself"
    path.unlink()
    path.symlink_to(path.parent.parent / "nowhere")
    yield f"{path.name} a link to nothing"
    path.unlink()
    write(whole)


@dataclasses.dataclass
class Damage:
    """How many ways were tried, and how many of them were refused."""

    tried: int = 0
    refused: int = 0


def assert_refused_or_unchanged(
    load: Callable[[], Checkpoint | TrainingState], whole: Any, what: str, damage: Damage
) -> None:
    damage.tried += 1
    try:
        loaded = load()
    except CheckpointError as error:
        damage.refused += 1
        assert error.exit_code == 1, what
        assert error.message.isprintable(), what
        return
    except Exception as error:
        raise AssertionError(f"{what}: {error!r} instead of a CheckpointError") from error
    if isinstance(loaded, Checkpoint):
        assert_same_arrays(loaded.weights, whole.weights)
        assert loaded.vocabulary == whole.vocabulary, what
        assert loaded.config == whole.config, what
    else:
        assert_same_arrays(loaded.arrays, whole.arrays)
        assert loaded.trainer == whole.trainer, what


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_or_harmless(model: Path, name: str) -> None:
    info = save(model, 10)
    whole, whole_state = load_checkpoint(info), load_training_state(info)
    damage = Damage()
    for what in mutations(info.path / name):
        # By the manifest as it was, and by whatever can be read of it now.
        infos = [info]
        try:
            infos += list_checkpoints(model)
        except CheckpointError:
            pass  # a flip can make its format look newer
        except Exception as error:
            raise AssertionError(f"{what}: listing ended in {error!r}") from error
        for now in infos:
            assert_refused_or_unchanged(lambda: load_checkpoint(now), whole, what, damage)  # noqa: B023
            assert_refused_or_unchanged(
                lambda: load_training_state(now),  # noqa: B023
                whole_state,
                what,
                damage,
            )
    assert damage.tried > 400
    if name != "manifest.json":
        # Each file is read by one of the two, the configuration by both.
        n_readers = 2 if name == "config.json" else 1
        assert damage.refused == damage.tried * n_readers // 2
    assert_holds(info, 0)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_with_its_file(model: Path, name: str) -> None:
    info = save(model, 10)
    path = info.path / name
    load = load_checkpoint if name in LOADED_FOR_WRITING_TEXT else load_training_state
    if name == "manifest.json":
        path.write_bytes(b"torn")
        with pytest.raises(ModelNotFoundError):
            choose_checkpoint(model, "last")
        return
    data = path.read_bytes()
    for damaged, said in (
        (data[:-1], "is damaged: it is not what was saved"),
        (data[:-1] + bytes([data[-1] ^ 1]), "is damaged: it is not what was saved"),
        (data + b"\n", f"has {len(data) + 1:,} bytes; at most {len(data):,} are read"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load(info)
        assert caught.value.message == f"{path} {said}"
        assert caught.value.exit_code == 1
    path.unlink()
    with pytest.raises(CheckpointError) as caught:
        load(info)
    assert caught.value.message == f"{path} is missing or not a plain file"


def test_a_changed_manifest_is_refused_or_says_the_same(model: Path) -> None:
    # A loss that changed would make another checkpoint the best, and the
    # retention remove the true one; a step that changed would be resumed from.
    info = save(model, 10, val_loss=2.0625, train_loss=1.9375, epoch=2.75)
    path = info.path / "manifest.json"
    whole = path.read_bytes()
    wrong = []
    for spot, flip in itertools.product(range(len(whole)), (0x01, 0x04)):
        path.write_bytes(whole[:spot] + bytes([whole[spot] ^ flip]) + whole[spot + 1 :])
        listed = []
        with contextlib.suppress(CheckpointError):  # its format may look newer
            listed = list_checkpoints(model)
        for now in listed:
            if dataclasses.replace(now, files=info.files) != info:
                wrong.append((spot, now.step, now.epoch, now.train_loss, now.val_loss))
    assert not wrong, f"{len(wrong)} of {2 * len(whole)} flips change what a manifest says"


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("name", LOADED_FOR_WRITING_TEXT)
def test_the_newest_other_checkpoint_stands_in(model: Path, which: str, name: str) -> None:
    save(model, 10, random_seed=1, val_loss=1.0)
    save(model, 20, random_seed=2, val_loss=3.0)
    save(model, 30, random_seed=3, val_loss=2.0)
    chosen = choose_checkpoint(model, which)
    (chosen.path / name).write_bytes(b"torn")
    checkpoint, warnings = open_checkpoint(model, which)
    assert checkpoint.info.step == {"best": 30, "last": 20}[which]
    assert_holds(checkpoint.info, checkpoint.info.step // 10)
    assert warnings == [f"{chosen.path / name} is damaged: it is not what was saved"]


def test_several_damaged_checkpoints_give_a_warning_each(model: Path) -> None:
    for n in (1, 2, 3):
        save(model, 10 * n, random_seed=n, val_loss=n)
    for step in (10, 30):
        (model / f"step-{step:08d}" / "config.json").unlink()
    checkpoint, warnings = open_checkpoint(model)
    assert checkpoint.info.step == 20
    assert [Path(warning.split(" ")[0]).parent.name for warning in warnings] == [
        "step-00000010",
        "step-00000030",
    ]


def test_a_whole_checkpoint_gives_no_warning(model: Path) -> None:
    save(model, 10, random_seed=1, val_loss=1.0)
    save(model, 20, random_seed=2, val_loss=3.0)
    opened = {which: open_checkpoint(model, which) for which in ("best", "last", "10")}
    assert {which: c.info.step for which, (c, _) in opened.items()} == {
        "best": 10,
        "last": 20,
        "10": 10,
    }
    assert all(warnings == [] for _, warnings in opened.values())
    checkpoint, _ = open_checkpoint(model)
    assert checkpoint.info.step == 10


def test_a_step_number_has_no_stand_in(model: Path) -> None:
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=3.0)
    (model / "step-00000010" / "weights.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model, "10")
    assert_work_failed(caught.value, "step-00000010", "is missing or not a plain file")
    assert caught.value.hint == ("choose another checkpoint with --checkpoint, or another --model")


@pytest.mark.parametrize("which", ["best", "last"])
def test_if_none_can_be_read_the_chosen_one_is_named(model: Path, which: str) -> None:
    for step, val_loss in ((10, 1.0), (20, 3.0)):
        save(model, step, val_loss=val_loss)
        (model / f"step-{step:08d}" / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model, which)
    assert_work_failed(caught.value, {"best": "step-00000010", "last": "step-00000020"}[which])
    assert caught.value.hint


# --- files whose sums are right and whose content is not ---------------------------


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "trainer.json"])
def test_a_newer_format_is_refused(model: Path, name: str) -> None:
    info = save(model, 10)
    forge_json(info.path, name, lambda content: content.update(format_version=2))
    load = load_training_state if name == "trainer.json" else load_checkpoint
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert (
        caught.value.message
        == f"{info.path / name} has format version 2; this charlstm reads up to 1"
    )
    assert caught.value.hint == NEWER_HINT
    assert caught.value.exit_code == 1


def make_newer(folder: Path) -> None:
    """Turn a checkpoint into what a newer program would have written."""
    for name in ("config.json", "vocabulary.json", "trainer.json"):
        forge_json(folder, name, lambda content: content.update(format_version=2))
    change_manifest(folder, lambda manifest: manifest.update(format_version=2))


@pytest.mark.parametrize("find", ["find_model", "choose_checkpoint", "open_checkpoint", "describe"])
def test_a_model_of_a_newer_program_is_not_called_missing(workplace: Path, find: str) -> None:
    # docs/formats.md: "A program that meets a newer format version says so and
    # stops". Told that there is no model, a person would train it anew.
    model = workplace / "checkpoints" / "tale"
    make_newer(save(model, 10).path)
    with pytest.raises(CheckpointError) as caught:
        if find == "find_model":
            find_model("tale")
        elif find == "choose_checkpoint":
            choose_checkpoint(model, "best")
        elif find == "open_checkpoint":
            open_checkpoint(model)
        else:
            describe_model(model)
    assert_work_failed(caught.value, "has format version 2; this charlstm reads up to 1")
    assert caught.value.hint == NEWER_HINT


def test_a_newer_checkpoint_is_not_passed_over(model: Path) -> None:
    # A newer charlstm went on with the model: its text must not silently be
    # written from what is left of the older one.
    save(model, 10, val_loss=2.0)
    make_newer(save(model, 20, val_loss=1.0).path)
    for which in ("best", "last"):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(model, which)
        assert_work_failed(caught.value, "step-00000020", "has format version 2")
        assert caught.value.hint == NEWER_HINT


def test_the_hint_for_a_newer_format_reaches_the_person(model: Path) -> None:
    info = save(model, 10)
    forge_json(info.path, "config.json", lambda content: content.update(format_version=2))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(model)
    assert_work_failed(caught.value, "has format version 2; this charlstm reads up to 1")
    assert caught.value.hint == NEWER_HINT


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "trainer.json"])
@pytest.mark.parametrize("version", [None, 0, -1, "1", True, 1.0, [1]])
def test_an_odd_format_version_is_refused(model: Path, name: str, version: object) -> None:
    info = save(model, 10)
    forge_json(info.path, name, lambda content: content.update(format_version=version))
    load = load_training_state if name == "trainer.json" else load_checkpoint
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / name), "has no usable format_version")


def with_value(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(weights: dict[str, np.ndarray]) -> None:
        weights[name].flat[3] = value

    return change


def with_array(name: str, array: np.ndarray) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda weights: weights.update({name: array})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_value("dense/bias", math.nan), "dense/bias has values that are not finite"),
        (with_value("lstm_2/kernel", math.inf), "lstm_2/kernel has values that are not finite"),
        (with_value("lstm_1/bias", -math.inf), "lstm_1/bias has values that are not finite"),
        (
            with_array("dense/kernel", np.zeros((7, 5), np.float32)),
            "dense/kernel is float32 (7, 5), not float32 (5, 7)",
        ),
        (
            with_array("dense/bias", np.zeros((1, 7), np.float32)),
            "dense/bias is float32 (1, 7), not float32 (7,)",
        ),
        (
            with_array("lstm_1/kernel", np.zeros((7, 0), np.float32)),
            "lstm_1/kernel is float32 (7, 0), not float32 (7, 20)",
        ),
        (
            with_array("dense/bias", np.zeros(7, np.float64)),
            "dense/bias is float64 (7,), not float32 (7,)",
        ),
        (
            with_array("dense/bias", np.zeros(7, np.int32)),
            "dense/bias is int32 (7,), not float32 (7,)",
        ),
        (
            with_array("dense/bias", np.zeros(7, np.bool_)),
            "dense/bias is bool (7,), not float32 (7,)",
        ),
        (lambda weights: weights.pop("dense/bias"), "has missing or extra weights: dense/bias"),
        (lambda weights: weights.clear(), "has missing or extra weights: dense/bias, dense/kernel"),
        (
            with_array("lstm_3/bias", np.zeros(20, np.float32)),
            "has missing or extra weights: lstm_3/bias",
        ),
        (
            with_array("\x1b[2J", np.zeros(3, np.float32)),
            r"has missing or extra weights: \x1b[2J",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    model: Path, change: Callable[[dict[str, np.ndarray]], None], said: str
) -> None:
    info = save(model, 10)
    weights = random_weights(make_network())
    change(weights)
    forge(info.path, "weights.safetensors", safetensors.numpy.save(weights))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / "weights.safetensors"), said)


def as_safetensors(header: object, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def claim(
    shape: list[int],
    dtype: str = "F32",
    offsets: tuple[int, int] = (0, 8),
    data: bytes = b"8 bytes!",
) -> bytes:
    """A file of one array `x` that says this of it, true or not."""
    return as_safetensors({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, data)


HOSTILE = {
    "empty": b"",
    "shorter than its length": b"\0" * 7,
    "nothing but a length": b"\xff" * 8,
    "a negative length": b"\xff" * 4_000,
    "a header of a terabyte": struct.pack("<Q", 1 << 40) + b"{}",
    "no JSON": as_safetensors(b"not JSON"),
    "nested too deeply": as_safetensors(b"[" * 100_000),
    "a list": as_safetensors([1, 2]),
    "more elements than memory": claim([1 << 60]),
    "a size that overflows": claim([1 << 32, 1 << 32]),
    "bytes cut off": claim([2], data=b"1234"),
    "bytes left over": claim([2], data=b"12345678901"),
    "offsets turned round": claim([2], offsets=(8, 0)),
    "a negative shape": claim([-2]),
    "an unknown type": claim([2], "WAT"),
    # Types that safetensors knows and NumPy does not.
    "brain floats": claim([4], "BF16"),
    "quarter floats": claim([8], "F8_E4M3"),
}


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors"])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays_are_refused(model: Path, name: str, data: bytes) -> None:
    info = save(model, 10)
    forge(info.path, name, data)
    load = load_checkpoint if name in LOADED_FOR_WRITING_TEXT else load_training_state
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / name), "is damaged")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("network"),
        lambda config: config.update(network=[]),
        lambda config: config.update(network=None),
        lambda config: config.update(network={}),
        lambda config: config["network"].update(units=0),
        lambda config: config["network"].update(units="5"),
        lambda config: config["network"].update(layers=10**9),
        lambda config: config["network"].update(colour="red"),
        lambda config: config["network"].update(input="audio"),
        lambda config: config.pop("corpus"),
        lambda config: config.update(corpus=[]),
        lambda config: config["corpus"].pop("options"),
        lambda config: config["corpus"].update(options=None),
        lambda config: config["corpus"]["options"].update(colour="red"),
        lambda config: config.pop("seed_windows"),
        lambda config: config.update(seed_windows=None),
        lambda config: config.update(seed_windows=[1, 2]),
    ],
)
def test_a_configuration_that_is_none_is_refused(
    model: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    info = save(model, 10)
    forge_json(info.path, "config.json", change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / "config.json"), "is damaged")


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "trainer.json"])
@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"9" * 9_999],
    ids=["empty", "torn", "list", "null", "not text", "nested too deeply", "a long number"],
)
def test_what_is_not_a_json_object_is_refused(model: Path, name: str, data: bytes) -> None:
    info = save(model, 10)
    forge(info.path, name, data)
    load = load_training_state if name == "trainer.json" else load_checkpoint
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / name), "is damaged")


@pytest.mark.parametrize(
    ("characters", "said"),
    [
        (["a", "b", "c", "d", "e", "f"], "has 6 characters; config.json says 7"),
        (sorted(CHARACTERS)[::-1], "the characters are not in code-point order"),
        ([*sorted(CHARACTERS)[:6], "d"], "distinct single characters"),
        ([*sorted(CHARACTERS)[:6], "éé"], "distinct single characters"),
        ([*sorted(CHARACTERS)[:6], 7], "'characters' must be a list of characters"),
        (CHARACTERS, "'characters' must be a list of characters"),
        ([], "at least one character"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(model: Path, characters: object, said: str) -> None:
    info = save(model, 10)
    forge_json(info.path, "vocabulary.json", lambda content: content.update(characters=characters))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, str(info.path / "vocabulary.json"), said)


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_file_that_the_manifest_does_not_list_is_not_read(model: Path, name: str) -> None:
    info = save(model, 10)
    change_manifest(info.path, lambda manifest: manifest["files"].pop(name))
    load = load_checkpoint if name in LOADED_FOR_WRITING_TEXT else load_training_state
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert_work_failed(caught.value, f"{info.path / name} is not in the manifest")


# --- a write that fails -----------------------------------------------------------


class Killed(BaseException):
    """The process ends here: nothing after it runs."""


class Failing:
    """Lets calls pass until their number is up, then fails once."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at = at
        self.error = error
        self.calls = 0

    @property
    def has_failed(self) -> bool:
        return self.calls > self.at

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.at + 1:
            raise self.error


class FailingFile:
    """A file that takes half of what it is given and then fails."""

    def __init__(self, file: Any, failing: Failing) -> None:
        self._file = file
        self._failing = failing

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        try:
            self._failing.count()
        except BaseException:
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise
        written: int = self._file.write(data)
        return written


def break_down(monkeypatch: pytest.MonkeyPatch, kind: str, failing: Failing) -> None:
    """Make the writes, the flushes to disk or the renames fail."""
    real_fsync, real_replace, real_open = os.fsync, Path.replace, Path.open

    def fsync(descriptor: int) -> None:
        failing.count()
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        failing.count()
        return real_replace(self, target)

    def open_file(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = real_open(self, mode, *args, **options)
        return file if "r" in mode else FailingFile(file, failing)

    if kind == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    elif kind == "rename":
        monkeypatch.setattr(Path, "replace", replace)
    else:
        monkeypatch.setattr(Path, "open", open_file)


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


KINDS = {"write": 6, "fsync": 8, "rename": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [30, 20], ids=["a new step", "the same step"])
def test_a_failed_write_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    for at in itertools.count():
        model = tmp_path / f"tale-{at}"
        save(model, 10, random_seed=1, val_loss=1.0)
        save(model, 20, random_seed=2, val_loss=2.0)
        failing = Failing(at, disk_full())
        with monkeypatch.context() as patch:
            break_down(patch, kind, failing)
            try:
                save(model, step, random_seed=3, val_loss=1.5)
            except OutputError as error:
                assert failing.has_failed
                assert error.message == f"cannot save to {model}: No space left on device"
                assert error.hint == (
                    "make room or choose another folder; earlier checkpoints are untouched"
                )
                assert error.exit_code == 1
        if not failing.has_failed:
            break
        found = {info.step: info for info in list_checkpoints(model)}
        where = f"{kind} number {at + 1}"
        assert {10, 20} <= set(found), f"{where} failed, and an earlier one is lost"
        # When the very last flush fails, the new one is there already.
        for n, expected in ((10, {1}), (20, {2, 3} if step == 20 else {2}), (30, {3})):
            assert n not in found or held_by(found[n]) in expected, where
        # The next write succeeds and leaves nothing of the failed one.
        save(model, 40, random_seed=4, val_loss=1.6)
        assert set(steps(model)) >= {10, 40}
        assert folders(model) == [f"step-{n:08d}" for n in steps(model)], where
        for info in list_checkpoints(model):
            load_checkpoint(info)
    assert at >= KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_write_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for at in itertools.count():
        model = tmp_path / f"tale-{at}"
        save(model, 10, random_seed=1, val_loss=1.0)
        save(model, 20, random_seed=2, val_loss=2.0)
        failing = Failing(at, Killed())
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            break_down(patch, kind, failing)
            save(model, 30, random_seed=3, val_loss=1.5)
        if not failing.has_failed:
            break
        for info in list_checkpoints(model):
            assert_holds(info, info.step // 10)
        assert set(steps(model)) >= {10, 20}
        save(model, 40, random_seed=4, val_loss=1.6)
        assert folders(model) == [f"step-{n:08d}" for n in steps(model)]
        assert set(steps(model)) >= {10, 40}
    assert at >= KINDS[kind]


def test_a_killed_retirement_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Retiring removes six files, one after the other. Killed between two of
    # them, a folder that still looks like a checkpoint must not be left.
    real_unlink = os.unlink
    for at in itertools.count():
        model = tmp_path / f"tale-{at}"
        for n in (1, 2, 3):
            save(model, 10 * n, random_seed=n, val_loss=1.0 / n)
        assert steps(model) == [20, 30]
        failing = Failing(at, Killed())

        def unlink(path: Any, *args: Any, _failing: Failing = failing, **options: Any) -> None:
            _failing.count()
            real_unlink(path, *args, **options)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "unlink", unlink)
            save(model, 40, random_seed=4, val_loss=0.1)
        if not failing.has_failed:
            break
        for info in list_checkpoints(model):
            assert_holds(info, info.step // 10)
        assert {30, 40} <= set(steps(model))
        save(model, 50, random_seed=5, val_loss=0.05)
        assert folders(model) == ["step-00000040", "step-00000050"]
    assert at == len(FILES)


def test_a_model_cannot_be_saved_where_a_file_is(tmp_path: Path) -> None:
    model = tmp_path / "tale"
    model.write_bytes(b"no folder")
    network = make_network()
    with pytest.raises(OutputError) as caught:
        write_checkpoint(
            model,
            step=20,
            epoch=1.5,
            train_loss=None,
            val_loss=None,
            config=make_config(network),
            vocabulary=VOCABULARY,
            weights=random_weights(network),
            state=make_state(),
        )
    assert caught.value.message == f"cannot save to {model}: Not a directory"
    assert caught.value.exit_code == 1
    assert model.read_bytes() == b"no folder"


# --- the lock ---------------------------------------------------------------------


def test_a_model_has_one_writer_at_a_time(model: Path) -> None:
    with lock_model(model):
        with pytest.raises(OutputError) as caught, lock_model(model):
            pytest.fail("two runs hold one model")
        assert caught.value.message == f"another run is writing {model}"
        assert caught.value.hint == "wait for it, or give another --model"
        assert caught.value.exit_code == 1
        # Refusing the second does not free the first.
        with pytest.raises(OutputError), lock_model(model):
            pytest.fail("two runs hold one model")
        with lock_model(model.parent / "other"):
            pass
    with lock_model(model):
        pass


def test_a_lock_is_free_after_an_error(model: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_model(model):
        raise ZeroDivisionError
    # An error of the work is not mistaken for one of the lock.
    with pytest.raises(FileNotFoundError), lock_model(model):
        raise FileNotFoundError
    with lock_model(model):
        save(model, 10)
    assert steps(model) == [10]


HOLDER = """
import sys
from pathlib import Path
from charlstm.models import lock_model
with lock_model(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_crashed_holders_lock_is_free_again(model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(OutputError) as caught, lock_model(model):
                pytest.fail("two processes hold one model")
            assert caught.value.message == f"another run is writing {model}"
        finally:
            holder.kill()
    with lock_model(model):
        pass


def test_locking_makes_the_folder_and_nothing_that_counts(tmp_path: Path) -> None:
    model = tmp_path / "deep" / "er" / "tale"
    with lock_model(model):
        assert model.is_dir()
    assert list_checkpoints(model) == []


@pytest.mark.parametrize(("below", "reason"), [("", "File exists"), ("tale", "Not a directory")])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, below: str, reason: str
) -> None:
    # A file in the folder's place stops root too.
    (tmp_path / "file").write_bytes(b"kept")
    model = tmp_path / "file" / below if below else tmp_path / "file"
    with pytest.raises(OutputError) as caught, lock_model(model):
        pytest.fail("a file was locked as a folder")
    assert caught.value.message == f"cannot write {model}: {reason}"
    assert caught.value.hint == "choose a folder that can be written with --model"
    assert caught.value.exit_code == 1
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no mode stops root from writing"
)
def test_a_read_only_folder_is_refused(model: Path) -> None:
    model.mkdir()
    model.chmod(0o555)
    try:
        with pytest.raises(OutputError) as caught, lock_model(model):
            pytest.fail("a read-only folder was locked")
    finally:
        model.chmod(0o755)
    assert caught.value.message == f"cannot write {model}: Permission denied"


# --- clearing ---------------------------------------------------------------------


def test_clearing_removes_only_what_is_ours(model: Path) -> None:
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=2.0)
    (model / "step-00000030").mkdir()  # damaged, and still ours
    (model / ".step-x1y2").mkdir()
    (model / ".step-x1y2" / "weights.safetensors").write_bytes(b"torn")
    append_log(model, "history.jsonl", {"step": 10})
    append_log(model, "samples.jsonl", {"step": 10, "text": "a"})
    theirs = ["notes.txt", "step-12.txt", "history.jsonl.bak", ".steps", "weights.safetensors"]
    for name in theirs:
        (model / name).write_text(name)
    for name in ("step-10", "backup", "step-00000010 copy"):
        (model / name).mkdir()
        (model / name / "manifest.json").write_text(name)
    clear_model(model)
    assert folders(model) == sorted([*theirs, "step-10", "backup", "step-00000010 copy"])
    assert all((model / name).read_text() == name for name in theirs)
    assert (model / "backup" / "manifest.json").read_text() == "backup"
    clear_model(model)


def test_clearing_follows_no_link_and_stumbles_over_no_file(model: Path, tmp_path: Path) -> None:
    # Neither a link nor a file can be removed as a folder is.
    save(model, 10)
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere, 20)
    (model / "step-00000020").symlink_to(elsewhere / "step-00000020")
    (model / "step-00000030").write_text("a file")
    clear_model(model)
    assert list_checkpoints(model) == []
    assert_holds(choose_checkpoint(elsewhere, "20"), 0)


# --- logs -------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
records = st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4)


@given(records)
def test_a_log_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    model = tmp_path_factory.mktemp("log")
    for record in written:
        append_log(model, "samples.jsonl", record)
    assert list(read_log(model, "samples.jsonl")) == written
    assert list(read_log(model, "history.jsonl")) == []


def test_a_log_has_one_line_a_record(model: Path) -> None:
    model.mkdir()
    # U+2028 and U+0085 end a line for some readers, though not in this format.
    texts = ["a\nb\r\nc", "é \u2028 \u0085", "😀", "\0"]
    for n, text in enumerate(texts, 1):
        append_log(model, "samples.jsonl", {"step": n, "text": text})
    lines = (model / "samples.jsonl").read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert [json.loads(line)["text"] for line in lines[:-1]] == texts


# Characters of 1, 2, 3 and 4 bytes, so that a cut can fall inside one.
TORN_TEXT = 'a é € 😀 \\ " z'


def test_a_torn_last_line_is_left_out_wherever_it_is_cut(model: Path) -> None:
    model.mkdir()
    path = model / "samples.jsonl"
    first = {"step": 10, "text": "ein Stück €"}
    last = {"step": 20, "text": TORN_TEXT}
    append_log(model, "samples.jsonl", first)
    n_first = len(path.read_bytes())
    append_log(model, "samples.jsonl", last)
    whole = path.read_bytes()
    for length in range(n_first, len(whole)):
        path.write_bytes(whole[:length])
        # Without its newline alone a line is still whole.
        expected = [first, last] if length == len(whole) - 1 else [first]
        assert list(read_log(model, "samples.jsonl")) == expected, f"cut to {length} bytes"


@pytest.mark.parametrize("garbage", [b"\n", b"{}x\n", b"[1]\n", b"7\n", b"\xff\xfe\n", b"\0\0\0\n"])
def test_lines_that_are_no_records_are_left_out(model: Path, garbage: bytes) -> None:
    model.mkdir()
    (model / "history.jsonl").write_bytes(b'{"step": 1}\n' + garbage + b'{"step": 2}\n')
    assert list(read_log(model, "history.jsonl")) == [{"step": 1}, {"step": 2}]


def test_a_record_after_a_torn_line_is_not_lost(model: Path) -> None:
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 1})
    with (model / "history.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "val_l')
    append_log(model, "history.jsonl", {"step": 3})
    assert list(read_log(model, "history.jsonl")) == [{"step": 1}, {"step": 3}]


def test_logs_are_cut_back_to_a_step(model: Path) -> None:
    model.mkdir()
    for step in (5, 10, 15, 20):
        append_log(model, "history.jsonl", {"step": step, "val_loss": 1 / step})
        append_log(model, "samples.jsonl", {"step": step, "text": TORN_TEXT})
    with (model / "history.jsonl").open("ab") as file:
        file.write('{"step": 10, "text": "é'.encode()[:-1])
    cut_logs(model, step=10)
    assert [r["step"] for r in read_log(model, "history.jsonl")] == [5, 10]
    assert list(read_log(model, "samples.jsonl")) == [
        {"step": step, "text": TORN_TEXT} for step in (5, 10)
    ]
    assert folders(model) == ["history.jsonl", "samples.jsonl"]
    # What is added now is a line of its own.
    append_log(model, "history.jsonl", {"step": 12})
    assert [r["step"] for r in read_log(model, "history.jsonl")] == [5, 10, 12]


@pytest.mark.parametrize("record", [{}, {"step": None}, {"step": "5"}, {"text": "a"}])
def test_a_record_without_a_step_does_not_outlive_a_cut(
    model: Path, record: dict[str, Any]
) -> None:
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 5})
    append_log(model, "history.jsonl", record)
    cut_logs(model, step=10)
    assert list(read_log(model, "history.jsonl")) == [{"step": 5}]


def test_cutting_back_makes_no_logs(model: Path) -> None:
    model.mkdir()
    cut_logs(model, step=10)
    assert folders(model) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_survives_a_failed_cut(
    model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model.mkdir()
    for step in (5, 10, 15):
        append_log(model, "history.jsonl", {"step": step})
    before = (model / "history.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        break_down(patch, kind, Failing(0, disk_full()))
        cut_logs(model, step=10)
    assert (
        caught.value.message == f"cannot write {model / 'history.jsonl'}: No space left on device"
    )
    assert caught.value.exit_code == 1
    assert (model / "history.jsonl").read_bytes() == before


def test_a_log_that_cannot_be_read_is_not_emptied(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read as "no records", it would be rewritten with none.
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 5})
    before = (model / "history.jsonl").read_bytes()
    real_open = Path.open

    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open_file(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return (fail if "r" in mode else real_open)(self, mode, *args, **options)

    with monkeypatch.context() as patch, contextlib.suppress(OutputError):
        patch.setattr(Path, "open", open_file)
        patch.setattr(Path, "read_bytes", fail)
        patch.setattr(Path, "read_text", fail)
        cut_logs(model, step=10)
    assert (model / "history.jsonl").read_bytes() == before


def test_a_log_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for model, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "missing", "No such file or directory"),
    ):
        with pytest.raises(OutputError) as caught:
            append_log(model, "history.jsonl", {"step": 1})
        assert caught.value.message == f"cannot write {model / 'history.jsonl'}: {reason}"
        assert caught.value.exit_code == 1
        assert list(read_log(model, "history.jsonl")) == []


# --- what a model is --------------------------------------------------------------


def test_a_model_is_described(workplace: Path) -> None:
    model = Path("checkpoints/tale")
    save(model, 10, val_loss=1.0, train_loss=1.25, epoch=1.5)
    save(model, 20, val_loss=2.0, train_loss=None, epoch=2.5)
    save(model, 30, val_loss=None, train_loss=0.75, epoch=3.5)
    for step in (10, 20):
        append_log(model, "history.jsonl", {"step": step})
    config = make_config(make_network())
    described = describe_model(model)
    assert described == {
        "name": "tale",
        "path": str(workplace / "checkpoints" / "tale"),
        "recipe": "default",
        # By hand: 4·5·(7+5+1) + 4·5·(5+5+1) + (5+1)·7
        "parameters": 260 + 220 + 42,
        "layers": 2,
        "units": 5,
        "seq_length": 8,
        "vocabulary_size": 7,
        "corpus": config["corpus"],
        "training": config["training"],
        "versions": config["versions"],
        "evaluations": 2,
        "checkpoints": [
            {
                "step": step,
                "epoch": epoch,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "best": step == 10,
                "last": step == 30,
            }
            for step, epoch, train_loss, val_loss in (
                (10, 1.5, 1.25, 1.0),
                (20, 2.5, None, 2.0),
                (30, 3.5, 0.75, None),
            )
        ],
    }
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_a_model_whose_last_checkpoint_is_damaged_is_still_described(model: Path) -> None:
    save(model, 10)
    save(model, 20)
    (model / "step-00000020" / "config.json").unlink()
    assert describe_model(model)["units"] == 5
    (model / "step-00000010" / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        describe_model(model)
    assert_work_failed(caught.value, "step-00000020")
