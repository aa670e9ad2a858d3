"""One checkpoint on disk: the format, the one way out, and the one way in.

A checkpoint is a folder `step-%08d/` in its model's folder (docs/formats.md):

    weights.safetensors   the network, float32 or float16, names as in `weight_shapes`
    config.json           network, training choices, corpus, seed windows
    vocabulary.json       the characters
    state.safetensors     optimizer slots, carried LSTM states
    trainer.json          step, plan, losses, early-stop state
    manifest.json         size and sha256 of each file, losses, time; written last

A checkpoint that is for writing text only lacks the training state, which is
two thirds of it: `state.safetensors` and `trainer.json`, in the manifest too.

`write_checkpoint` is the only way out: into a hidden folder, flushed to disk,
renamed. So there is a whole checkpoint or none. `read_manifest`, and then
`load_checkpoint` and `load_training_state`, are the only way in: every byte is
checked against the manifest, and everything in it against the configuration,
before anything is made of it. Nothing here can run code from a file.

Which checkpoints a model has, and which it keeps, is for `models`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from charlstm.config import NetworkConfig, RecipeName, TrainingConfig
from charlstm.errors import CheckpointError, InputError, OutputError, printable
from charlstm.reading import CorpusOptions
from charlstm.storage import (
    is_portable_name,
    make_hidden_folder,
    read_plain,
    read_verified,
    replace_folder,
    shown,
    sync_folder,
    write_synced,
)
from charlstm.vocabulary import FORMAT_VERSION as VOCABULARY_FORMAT_VERSION
from charlstm.vocabulary import MAX_VOCABULARY_BYTES, Vocabulary, check_format_version

FORMAT_VERSION = 1
# Folders that are being written, or were left over, begin with this.
HIDDEN_PREFIX = ".step-"
WEIGHTS, STATE = "weights.safetensors", "state.safetensors"
CONFIG, VOCABULARY, TRAINER = "config.json", "vocabulary.json", "trainer.json"
MANIFEST = "manifest.json"
# What is larger is no file of ours. JSON takes up to 35 times its size in memory.
MAX_JSON_BYTES = {
    MANIFEST: 1 << 18,
    CONFIG: 1 << 22,
    VOCABULARY: MAX_VOCABULARY_BYTES,
    TRAINER: 1 << 22,
}
_MAX_HEADER_BYTES = 1 << 19  # of a file of arrays; `read_verified` shows us twice that
_MAX_PATH = 4_096
_MAX_SAID = 300  # characters of what is wrong: it may hold what a stranger wrote
_SHA256 = re.compile(r"[0-9a-f]{64}")

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a manifest says of its checkpoint.

    Attributes:
        path: The `step-…` folder.
        step: Optimizer steps done.
        epoch: Passes over the training text, fractional.
        train_loss: Mean nats/char since the evaluation before, or None.
        val_loss: Nats/char of the held-out tail; None if not evaluated.
        written_at: Seconds since 1970, by the writer's clock.
        files: Size and sha256 by file name.
        run: Names the training run, resumed sessions included; may be "".
    """

    path: Path
    step: int
    epoch: float
    train_loss: float | None
    val_loss: float | None
    written_at: float
    files: Mapping[str, tuple[int, str]]
    run: str = ""

    @property
    def is_evaluated(self) -> bool:
        """Whether a loss was taken at this very step."""
        return self.val_loss is not None or self.train_loss is not None

    @property
    def has_state(self) -> bool:
        """Whether it was saved with a training state, be it still there or not."""
        return STATE in self.files or TRAINER in self.files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: all that writing text needs.

    Attributes:
        info: Its manifest.
        network: The network's shape.
        vocabulary: The characters.
        weights: Float32 arrays by name, shapes as in `weight_shapes`.
        config: The whole `config.json`.
    """

    info: CheckpointInfo
    network: NetworkConfig
    vocabulary: Vocabulary
    weights: Arrays
    config: dict[str, Any]

    @property
    def model(self) -> Path:
        """The model's folder, absolute."""
        return self.info.path.parent.resolve()

    @property
    def text_options(self) -> CorpusOptions:
        """How the corpus was read, and so how a seed text must be."""
        return CorpusOptions(**self.config["corpus"]["options"])

    @property
    def joins_documents(self) -> bool:
        """Whether several texts were learned as one, as before there was a choice."""
        return bool(self.config["training"].get("join_documents", True))

    @property
    def seed_windows(self) -> list[str]:
        """Windows of the training text to start from when no seed is given."""
        return list(self.config["seed_windows"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What `--resume` needs beyond the weights.

    Attributes:
        trainer: Plain values: step, plan, losses, early-stop state.
        arrays: Optimizer slots and carried LSTM states by name.
    """

    trainer: dict[str, Any]
    arrays: Arrays


def weight_shapes(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Name every weight and give its shape, layout as in `keras.layers.LSTM`.

    The 4·units columns are packed input gate, forget gate, candidate, output
    gate (i, f, g, o).

    Args:
        network: The network's shape.

    Returns:
        `lstm_1/kernel` (inputs, 4·units), `lstm_1/recurrent_kernel`
        (units, 4·units), `lstm_1/bias` (4·units,), … `dense/kernel`
        (units, vocab), `dense/bias` (vocab,), in order.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    n_inputs = network.input_size
    for layer in range(1, network.layers + 1):
        shapes[f"lstm_{layer}/kernel"] = (n_inputs, 4 * network.units)
        shapes[f"lstm_{layer}/recurrent_kernel"] = (network.units, 4 * network.units)
        shapes[f"lstm_{layer}/bias"] = (4 * network.units,)
        n_inputs = network.units
    shapes["dense/kernel"] = (network.units, network.vocabulary_size)
    shapes["dense/bias"] = (network.vocabulary_size,)
    return shapes


def state_shapes(network: NetworkConfig, training: TrainingConfig) -> dict[str, tuple[int, ...]]:
    """Name every array of `state.safetensors` and give its shape.

    Args:
        network: The network's shape.
        training: How it is trained.

    Returns:
        Adam's iteration, learning rate and two slots a weight; recipe default:
        the states carried to the next window, `(batch, units)`; recipe
        article: the states of Keras's dropout generators, two a layer.
    """
    shapes: dict[str, tuple[int, ...]] = {"optimizer/iteration": (), "optimizer/learning_rate": ()}
    for name, shape in weight_shapes(network).items():
        shapes[f"optimizer/{name}/momentum"] = shape
        shapes[f"optimizer/{name}/velocity"] = shape
    if training.recipe == "article":
        shapes |= {f"generator/{n}": (2,) for n in range(2 * network.layers)}
    else:
        for layer in range(1, network.layers + 1):
            for part in ("h", "c"):
                shapes[f"states/lstm_{layer}/{part}"] = (training.batch_size, network.units)
    return shapes


# --- the way in ---------------------------------------------------------------


def read_manifest(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself.

    Args:
        folder: A `step-…` folder.

    Returns:
        Its manifest.

    Raises:
        CheckpointError: If it is missing or not what was saved.
        NewerFormatError: If a newer program wrote it.
    """
    path = folder / MANIFEST
    if folder.is_symlink():
        raise CheckpointError(f"{shown(folder)} is a link, not a checkpoint")
    content = _parse_object(read_plain(path, limit=MAX_JSON_BYTES[MANIFEST]), path)
    try:
        if content.pop("seal", None) != _seal(content):
            raise ValueError("it is not what was saved")
        if folder_name(content["step"]) != folder.name:
            raise ValueError(f"it is of step {content['step']}")
        for key in ("val_loss", "train_loss", "epoch", "written_at"):
            if content[key] is not None and not math.isfinite(content[key]):
                raise ValueError(f"{key} is not finite")
        if not all(map(is_portable_name, content["files"])):
            raise ValueError("a name is none of a file")
        return CheckpointInfo(
            path=folder,
            step=int(content["step"]),
            epoch=float(content["epoch"]),
            train_loss=_float_or_none(content["train_loss"]),
            val_loss=_float_or_none(content["val_loss"]),
            written_at=float(content["written_at"]),
            run=str(content.get("run", "")),
            files={
                str(name): (int(entry["n_bytes"]), str(entry["sha256"]))
                for name, entry in content["files"].items()
            },
        )
    except _ODD_VALUES as error:
        raise _damaged(path, error) from error


def load_config(info: CheckpointInfo) -> dict[str, Any]:
    """Load and check a checkpoint's `config.json`.

    Args:
        info: From `read_manifest`.

    Returns:
        Its content, with all that this program reads of it there.

    Raises:
        CheckpointError: If it is not what was saved, or lacks something.
    """
    config = _load_object(info, CONFIG)
    try:
        network = NetworkConfig(**config["network"])
        training = TrainingConfig(**config["training"])
        about, windows = config["corpus"], config["seed_windows"]
        CorpusOptions(**about["options"])
        texts = [about["name"], about["sha256"], about.get("path", ""), *windows]
        if about.get("source_name") is not None:
            texts.append(about["source_name"])
        if len(about.get("path", "")) > _MAX_PATH:
            raise ValueError("the path of the text is too long")
        if not isinstance(windows, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is no text")
        if config["recipe"] not in get_args(RecipeName) or not _SHA256.fullmatch(about["sha256"]):
            raise ValueError("there is no such recipe or hash")
        claims = (network.carries_state, training.lowercase, training.join_documents)
        if not all(isinstance(claim, bool) for claim in claims):
            raise TypeError("what is true or false is neither")
        if type(about["characters"]) is not int:
            raise TypeError("the number of characters is none")
    except (InputError, *_ODD_VALUES) as error:
        raise _damaged(info.path / CONFIG, error) from error
    return config


def load_checkpoint(info: CheckpointInfo) -> Checkpoint:
    """Load and verify what writing text needs.

    Args:
        info: From `read_manifest`.

    Returns:
        The checkpoint, half-precision weights widened to float32.

    Raises:
        CheckpointError: If a file is missing, not what was saved, of a newer
            format, or does not fit the configuration.
    """
    # First, and what else the file holds is forgotten: two padded files at once
    # would take twice the memory.
    path = info.path / VOCABULARY
    vocabulary = Vocabulary.from_json(_load_object(info, VOCABULARY), source=shown(path))
    config = load_config(info)
    network = NetworkConfig(**config["network"])
    if vocabulary.n_ids != network.vocabulary_size:
        symbol = " and the unknown symbol" if vocabulary.has_unknown else ""
        raise CheckpointError(
            f"{shown(path)} has {len(vocabulary)} characters{symbol}; "
            f"config.json says {network.vocabulary_size}"
        )
    if not all(c in vocabulary for text in config["seed_windows"] for c in text):
        raise CheckpointError(f"{shown(info.path)}: a seed window has unknown characters")
    weights = _load_arrays(info, WEIGHTS, weight_shapes(network), what="weights")
    for name, array in weights.items():
        if array.dtype not in (np.float32, np.float16):
            raise _misfit(info.path / WEIGHTS, name, array, "float32", array.shape)
    return Checkpoint(
        info=info,
        network=network,
        vocabulary=vocabulary,
        weights={name: array.astype(np.float32, copy=False) for name, array in weights.items()},
        config=config,
    )


def load_training_state(info: CheckpointInfo) -> TrainingState:
    """Load and verify what `--resume` needs beyond `load_checkpoint`.

    Args:
        info: From `read_manifest`.

    Returns:
        The trainer's values and arrays.

    Raises:
        CheckpointError: If it was saved without, or a file is missing, not
            what was saved, or does not fit the configuration.
    """
    config = load_config(info)
    if not info.has_state:
        recipe = "" if config["recipe"] == "default" else f" --recipe {config['recipe']}"
        raise CheckpointError(
            f"{shown(info.path)} holds no training state: it can write, not be resumed",
            hint=f"charlstm train TEXT --from MODEL{recipe} begins with its weights",
        )
    shapes = state_shapes(NetworkConfig(**config["network"]), TrainingConfig(**config["training"]))
    del config  # as in `load_checkpoint`
    trainer = _load_object(info, TRAINER)
    if any(isinstance(v, int | float) and not 0 <= v < 1 << 63 for v in trainer.values()):
        raise _damaged(info.path / TRAINER, "a number is negative or too large")
    arrays = _load_arrays(info, STATE, shapes, what="arrays")
    for name, array in arrays.items():
        is_count = name == "optimizer/iteration" or name.startswith("generator/")
        wanted = np.dtype(np.int64 if is_count else np.float32)
        if array.dtype != wanted:
            raise _misfit(info.path / STATE, name, array, wanted.name, array.shape)
    return TrainingState(trainer=trainer, arrays=arrays)


def verify_checkpoint(info: CheckpointInfo) -> list[str]:
    """Check all of a checkpoint, as loading it would.

    Args:
        info: From `read_manifest`.

    Returns:
        What is wrong, a line each; nothing if it is whole, as it may be
        without a training state.
    """
    problems: list[str] = []
    loads: list[Callable[[CheckpointInfo], object]] = [load_checkpoint]
    if info.has_state:
        loads.append(load_training_state)
    for load in loads:
        try:
            load(info)
        except CheckpointError as error:
            if error.message not in problems:
                problems.append(error.message)
    return problems


def _load_object(info: CheckpointInfo, name: str) -> dict[str, Any]:
    data = _verified(info, name, limit=MAX_JSON_BYTES[name])
    known = VOCABULARY_FORMAT_VERSION if name == VOCABULARY else FORMAT_VERSION
    return _parse_object(data, info.path / name, known=known)


def _parse_object(data: bytes, path: Path, *, known: int = FORMAT_VERSION) -> dict[str, Any]:
    try:
        # None of ours has a number that is not finite: `_to_json` writes none.
        content = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{shown(path)} is damaged: not a JSON object")
    check_format_version(content, known=known, source=shown(path))
    return content


def _finite(token: str) -> float:
    number = float(token)
    if not math.isfinite(number):
        raise ValueError(f"{token:.20} is not a finite number")
    return number


def _load_arrays(
    info: CheckpointInfo, name: str, shapes: Mapping[str, tuple[int, ...]], *, what: str
) -> Arrays:
    """Read arrays that must have these names and shapes and finite values."""
    import safetensors
    import safetensors.numpy

    path = info.path / name
    # Eight bytes a number at most: a file that claims more is not read.
    limit = _MAX_HEADER_BYTES + 8 * sum(math.prod(shape) for shape in shapes.values())

    def check_start(start: bytes) -> None:
        if _claimed_shapes(start, path) != shapes:
            raise _damaged(path, "its header is of other arrays than config.json's")

    data = _verified(info, name, limit=limit, check_start=check_start)
    _claimed_shapes(data, path)
    try:
        arrays: Arrays = dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if set(arrays) != set(shapes):
        odd = ", ".join(sorted(printable(n) for n in set(arrays) ^ set(shapes)))
        raise CheckpointError(f"{shown(path)} has missing or extra {what}: {odd[:200]}")
    for key, shape in shapes.items():
        if arrays[key].shape != shape:
            raise _misfit(path, key, arrays[key], "float32", shape)
        if not np.isfinite(arrays[key]).all():
            raise CheckpointError(f"{shown(path)}: {key} has values that are not finite")
    return {key: arrays[key] for key in shapes}


def _claimed_shapes(data: bytes, path: Path) -> dict[str, tuple[int, ...]]:
    """Read which arrays a safetensors file, or its start, says that it has.

    Its own reader takes the last of two arrays of one name, and a header of a
    hundred megabytes.
    """
    n_bytes = int.from_bytes(data[:8], "little")
    if n_bytes > _MAX_HEADER_BYTES:
        raise _damaged(path, f"its header has {n_bytes:,} bytes")
    shapes: dict[str, tuple[int, ...]] = {}

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is there twice")
        return dict(pairs)

    try:
        header = json.loads(data[8 : 8 + n_bytes], object_pairs_hook=without_twins)
        header.pop("__metadata__", None)
        for name, about in header.items():
            shapes[name] = tuple(about["shape"])
    except _ODD_VALUES as error:
        raise _damaged(path, error) from error
    return shapes


def _verified(
    info: CheckpointInfo,
    name: str,
    *,
    limit: int,
    check_start: Callable[[bytes], None] = lambda start: None,
) -> bytes:
    """Read a file of a checkpoint and check it against the manifest."""
    path = info.path / name
    if name not in info.files:
        raise CheckpointError(f"{shown(path)} is not in the manifest")
    n_bytes, sha256 = info.files[name]
    return read_verified(path, n_bytes=n_bytes, sha256=sha256, limit=limit, check_start=check_start)


def _misfit(
    path: Path, name: str, array: npt.NDArray[Any], dtype: str, shape: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{shown(path)}: {name} is {array.dtype} {array.shape}, not {dtype} {shape}"
    )


# What comes of values of another kind than those that were saved.
_ODD_VALUES = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def _damaged(path: Path, why: Exception | str) -> CheckpointError:
    said = printable(why if isinstance(why, str) else repr(why))
    return CheckpointError(f"{shown(path)} is damaged: {said:.{_MAX_SAID}}")


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


# --- the way out --------------------------------------------------------------


def folder_name(step: int) -> str:
    """Name a checkpoint's folder.

    Args:
        step: Optimizer steps done.

    Returns:
        `step-00001234`.
    """
    return f"step-{step:08d}"


def write_checkpoint(
    model: Path,
    *,
    step: int,
    epoch: float,
    train_loss: float | None,
    val_loss: float | None,
    config: dict[str, Any],
    vocabulary: Vocabulary,
    weights: Arrays,
    state: TrainingState | None,
    run: str = "",
    now: float | None = None,
) -> CheckpointInfo:
    """Write a checkpoint, whole or not at all.

    The caller holds the model's lock. A checkpoint of the same step is
    replaced, as after a damaged one was passed over.

    Args:
        model: The model's folder.
        step: Optimizer steps done.
        epoch: Passes over the training text.
        train_loss: Nats/char, or None.
        val_loss: Nats/char, or None if not evaluated at this step.
        config: Content of `config.json`, less its format version.
        vocabulary: The characters.
        weights: Float32 or float16 arrays by name, as in `weight_shapes`.
        state: What `--resume` needs; None for a checkpoint that is for writing
            text only.
        run: Names the training run.
        now: Seconds since 1970; the clock's by default.

    Returns:
        The new checkpoint's manifest.

    Raises:
        OutputError: If it cannot be written; the earlier checkpoints stay.
    """
    version = {"format_version": FORMAT_VERSION}
    hidden = None
    try:
        hidden = make_hidden_folder(model, prefix=HIDDEN_PREFIX)
        contents = {
            WEIGHTS: _save_arrays(weights),
            CONFIG: _to_json(version | config),
            VOCABULARY: _to_json(vocabulary.to_json()),
        }
        if state is not None:
            contents[STATE] = _save_arrays(state.arrays)
            contents[TRAINER] = _to_json(version | state.trainer)
        for name, limit in MAX_JSON_BYTES.items():
            if len(contents.get(name, b"")) > limit:
                raise OutputError(f"{name} would have over {limit:,} bytes, and not be read again")
        for name, data in contents.items():
            write_synced(hidden / name, data)
        manifest: dict[str, Any] = version | {
            "step": step,
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "written_at": time.time() if now is None else now,
            "run": run,
            "files": {
                name: {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in contents.items()
            },
        }
        manifest["seal"] = _seal(manifest)
        write_synced(hidden / MANIFEST, _to_json(manifest))
        hidden.chmod(0o755)
        sync_folder(hidden)
        _move_into_place(hidden, model / folder_name(step))
        return read_manifest(model / folder_name(step))
    except OSError as error:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        raise cannot_save(model, error) from error


def cannot_save(model: Path, error: OSError) -> OutputError:
    """Say that a checkpoint cannot be written.

    Args:
        model: The model's folder.
        error: What the system says.

    Returns:
        The error to raise.
    """
    return OutputError(
        f"cannot save to {shown(model)}: {error.strerror or error}",
        hint="make room or choose another folder; earlier checkpoints are untouched",
    )


def _move_into_place(hidden: Path, final: Path) -> None:
    """Rename the whole folder, which is what makes it a checkpoint.

    What it replaces is swept away with the leftovers of killed writers.
    """
    replace_folder(hidden, final, prefix=HIDDEN_PREFIX)


def _save_arrays(arrays: Arrays) -> bytes:
    import safetensors.numpy

    # safetensors copies the memory behind an array and ignores its strides.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(plain)
    return data


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _seal(content: Mapping[str, Any]) -> str:
    """Hash a manifest's other entries: it vouches for all files, so it is vouched for too."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
