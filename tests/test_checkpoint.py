"""One checkpoint: what is written is read again, and damage is never taken for a model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from faults import Faults, Killed, disk_full
from helpers import (
    CHARACTERS,
    FILES,
    LOADED_FOR_WRITING_TEXT,
    NEWER_HINT,
    VOCABULARY,
    assert_holds,
    assert_same_arrays,
    assert_work_failed,
    change_manifest,
    folders,
    forge,
    forge_json,
    held_by,
    make_config,
    make_network,
    make_state,
    random_weights,
    save,
    steps,
)

from charlstm.checkpoint import (
    Checkpoint,
    TrainingState,
    load_checkpoint,
    load_training_state,
    verify_checkpoint,
    weight_shapes,
    write_checkpoint,
)
from charlstm.errors import (
    CheckpointError,
    ModelNotFoundError,
    OutputError,
)
from charlstm.models import (
    choose_checkpoint,
    describe_model,
    find_model,
    list_checkpoints,
    open_checkpoint,
)

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


# --- for writing text only --------------------------------------------------------


def test_a_checkpoint_may_be_for_writing_text_only(model: Path) -> None:
    half = {name: a.astype(np.float16) for name, a in random_weights(make_network()).items()}
    info = save(model, 10, weights=half, state=None)
    assert folders(info.path) == sorted((*LOADED_FOR_WRITING_TEXT, "manifest.json"))
    assert set(info.files) == set(LOADED_FOR_WRITING_TEXT)
    assert not info.has_state
    checkpoint, warnings = open_checkpoint(model)
    assert_same_arrays(checkpoint.weights, {n: a.astype(np.float32) for n, a in half.items()})
    assert warnings == []
    assert verify_checkpoint(info) == []
    with pytest.raises(CheckpointError) as caught:
        load_training_state(info)
    assert caught.value.message == (
        f"{info.path} holds no training state: it can write, not be resumed"
    )
    assert caught.value.hint == "charlstm train TEXT --from MODEL begins with its weights"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", LOADED_FOR_WRITING_TEXT)
def test_damage_is_found_without_a_training_state_too(model: Path, name: str) -> None:
    info = save(model, 10, state=None)
    path = info.path / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify_checkpoint(info) == [f"{path} is damaged: it is not what was saved"]
    path.unlink()
    assert verify_checkpoint(info) == [f"{path} is missing or not a plain file"]


def test_a_training_state_that_was_saved_and_is_gone_is_damage(model: Path) -> None:
    # Not taken for a checkpoint that is for writing text only.
    info = save(model, 10)
    for name in ("state.safetensors", "trainer.json"):
        (info.path / name).unlink()
    assert choose_checkpoint(model, "last").has_state
    assert verify_checkpoint(info) == [
        f"{info.path / 'trainer.json'} is missing or not a plain file"
    ]


@pytest.mark.parametrize("name", ["state.safetensors", "trainer.json"])
def test_half_a_training_state_is_damage(model: Path, name: str) -> None:
    info = save(model, 10)
    change_manifest(info.path, lambda manifest: manifest["files"].pop(name))
    info = choose_checkpoint(model, "last")
    assert verify_checkpoint(info) == [f"{info.path / name} is not in the manifest"]


def test_a_training_state_that_is_not_listed_is_not_read(model: Path) -> None:
    info = save(model, 10, state=None)
    other = save(model.with_name("other"), 10)
    for name in ("state.safetensors", "trainer.json"):
        (info.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(CheckpointError, match="holds no training state"):
        load_training_state(choose_checkpoint(model, "last"))


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


@pytest.mark.parametrize(
    ("name", "known"), [("config.json", 1), ("vocabulary.json", 2), ("trainer.json", 1)]
)
def test_a_newer_format_is_refused(model: Path, name: str, known: int) -> None:
    info = save(model, 10)
    forge_json(info.path, name, lambda content: content.update(format_version=known + 1))
    load = load_training_state if name == "trainer.json" else load_checkpoint
    with pytest.raises(CheckpointError) as caught:
        load(choose_checkpoint(model, "last"))
    assert (
        caught.value.message == f"{info.path / name} has format version {known + 1}; "
        f"this charlstm reads up to {known}"
    )
    assert caught.value.hint == NEWER_HINT
    assert caught.value.exit_code == 1


def make_newer(folder: Path) -> None:
    """Turn a checkpoint into what a newer program would have written."""
    for name in ("config.json", "vocabulary.json", "trainer.json"):
        forge_json(folder, name, lambda content: content.update(format_version=2))
    change_manifest(folder, lambda manifest: manifest.update(format_version=2))


@pytest.mark.parametrize("find", ["find_model", "choose_checkpoint", "open_checkpoint", "describe"])
def test_a_model_of_a_newer_program_is_not_called_missing(empty_workplace: Path, find: str) -> None:
    # docs/formats.md: "A program that meets a newer format version says so and
    # stops". Told that there is no model, a person would train it anew.
    model = empty_workplace / "checkpoints" / "tale"
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
        failing = Faults(at, disk_full(), is_final=False, kinds=(kind,))
        with monkeypatch.context() as patch:
            failing.install(patch)
            try:
                save(model, step, random_seed=3, val_loss=1.5)
            except OutputError as error:
                assert failing.has_struck
                assert error.message == f"cannot save to {model}: No space left on device"
                assert error.hint == (
                    "make room or choose another folder; earlier checkpoints are untouched"
                )
                assert error.exit_code == 1
        if not failing.has_struck:
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
        failing = Faults(at, Killed(), is_final=False, kinds=(kind,))
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            failing.install(patch)
            save(model, 30, random_seed=3, val_loss=1.5)
        if not failing.has_struck:
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
    for at in itertools.count():
        model = tmp_path / f"tale-{at}"
        for n in (1, 2, 3):
            save(model, 10 * n, random_seed=n, val_loss=1.0 / n)
        assert steps(model) == [20, 30]
        failing = Faults(at, kinds=("remove",))
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            failing.install(patch)
            save(model, 40, random_seed=4, val_loss=0.1)
        if not failing.has_struck:
            break
        for info in list_checkpoints(model):
            assert_holds(info, info.step // 10)
        assert {30, 40} <= set(steps(model))
        save(model, 50, random_seed=5, val_loss=0.05)
        assert folders(model) == ["step-00000040", "step-00000050"]
    assert at >= len(FILES)


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
