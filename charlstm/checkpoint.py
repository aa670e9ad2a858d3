"""Saved models on disk: write, list, verify, load.

`checkpoints/<model>/` holds one folder for each checkpoint, `step-%08d/`:

    weights.safetensors   the network, float32, names as in `weight_shapes`
    config.json           network, training choices, corpus, seed windows
    vocabulary.json       the characters
    state.safetensors     optimizer slots, carried LSTM states
    trainer.json          step, plan, losses, early-stop state
    manifest.json         size and sha256 of each file, losses, time; written last

Each is written to a temporary folder, flushed to disk and renamed, so there is
a whole checkpoint or none. Best and last are derived from the manifests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.errors import (
    CharlstmError,
    CheckpointError,
    ConfigError,
    InputError,
    ModelNotFoundError,
    NewerFormatError,
    OutputError,
    printable,
)
from charlstm.reading import CorpusOptions
from charlstm.vocabulary import Vocabulary, check_format_version

FORMAT_VERSION = 1
CHECKPOINTS_FOLDER = "checkpoints"
KEEP_LAST = 2
_MAX_MANIFEST_BYTES = 1 << 20
_STEP_FOLDER = re.compile(r"step-(\d{8,})")
_LOGS = ("history.jsonl", "samples.jsonl")
_LOCK = ".lock"

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
    """

    path: Path
    step: int
    epoch: float
    train_loss: float | None
    val_loss: float | None
    written_at: float
    files: Mapping[str, tuple[int, str]]


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


# --- finding models and checkpoints -----------------------------------------


def model_path(name: str) -> Path:
    """Turn what `--model` was given into a folder.

    Args:
        name: A bare word is `checkpoints/<word>`; anything with a path
            separator is a folder.

    Returns:
        The folder, which may not exist.

    Raises:
        InputError: If the name is empty or cannot be a folder's.
    """
    if not name or name in (".", "..") or "\0" in name:
        raise InputError(
            f"'{printable(name)}' cannot be a model's name",
            hint="give a word, or a path with a separator such as ./mine",
        )
    has_separator = os.sep in name or (os.altsep is not None and os.altsep in name)
    return Path(name) if has_separator else Path(CHECKPOINTS_FOLDER) / name


def list_checkpoints(model: Path) -> list[CheckpointInfo]:
    """List a model's checkpoints whose manifests can be read, oldest step first.

    Args:
        model: The model's folder.

    Returns:
        One entry a checkpoint; damaged ones are left out.

    Raises:
        NewerFormatError: If a newer program wrote one.
    """
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted(model.iterdir()):
            if _STEP_FOLDER.fullmatch(entry.name) and entry.is_dir():
                try:
                    found.append(_read_manifest(entry))
                except NewerFormatError:
                    raise  # not damaged, and not to be trained over
                except CheckpointError:
                    continue
    return sorted(found, key=lambda info: info.step)


def holds_model(model: Path) -> bool:
    """Tell whether a folder has checkpoints, good or damaged.

    Args:
        model: The folder.

    Returns:
        True if anything there is named as a checkpoint.
    """
    try:
        return any(_STEP_FOLDER.fullmatch(entry.name) for entry in model.iterdir())
    except OSError:
        return False


def best_checkpoint(checkpoints: list[CheckpointInfo]) -> CheckpointInfo:
    """Choose the checkpoint with the lowest loss.

    Args:
        checkpoints: At least one.

    Returns:
        The one with the lowest validation loss; without any, that with the
        lowest training loss; without that, the last. The later of equals.
    """

    def rank(info: CheckpointInfo) -> tuple[float, float, int]:
        val = math.inf if info.val_loss is None else info.val_loss
        train = math.inf if info.train_loss is None else info.train_loss
        return (val, train if math.isinf(val) else 0.0, -info.step)

    return min(checkpoints, key=rank)


def list_models(root: Path | None = None) -> list[Path]:
    """List the models, the one written last first.

    Args:
        root: Folder of models; `checkpoints/` by default.

    Returns:
        Folders with at least one checkpoint.
    """
    dated = []
    with contextlib.suppress(OSError):
        for entry in sorted((root or Path(CHECKPOINTS_FOLDER)).iterdir()):
            checkpoints = []
            with contextlib.suppress(NewerFormatError):
                checkpoints = list_checkpoints(entry)
            if checkpoints:
                dated.append((max(info.written_at for info in checkpoints), entry))
    return [entry for _, entry in sorted(dated, key=lambda pair: -pair[0])]


def find_model(name: str | None) -> Path:
    """Find the model that a person means.

    Args:
        name: As given to `--model`; None for the newest model.

    Returns:
        A folder with at least one checkpoint.

    Raises:
        ModelNotFoundError: If there is none; lists those there are.
    """
    models = list_models()
    if name is None:
        if not models:
            raise ModelNotFoundError(
                f"there is no model in {CHECKPOINTS_FOLDER}/ yet",
                hint="train one first: charlstm train macbeth.txt",
            )
        return models[0]
    model = model_path(name)
    if list_checkpoints(model):
        return model
    if holds_model(model):
        raise CheckpointError(
            f"the checkpoints of {_shown(model)} are damaged: none has a good manifest",
            hint="train it anew with --overwrite, or name another model",
        )
    known = ", ".join(printable(m.name) for m in models)
    hint = f"models here: {known}" if known else "train one first: charlstm train macbeth.txt"
    raise ModelNotFoundError(f"there is no model {printable(name)} ({_shown(model)})", hint=hint)


def _shown(path: Path) -> str:
    return printable(str(path))


def choose_checkpoint(model: Path, which: str) -> CheckpointInfo:
    """Choose a checkpoint of a model.

    Args:
        model: The model's folder.
        which: "best", "last" or a step number.

    Returns:
        Its manifest.

    Raises:
        ModelNotFoundError: If the model has none.
        InputError: If there is no checkpoint of that step.
    """
    checkpoints = list_checkpoints(model)
    if not checkpoints:
        raise ModelNotFoundError(f"{_shown(model)} has no checkpoint")
    if which == "best":
        return best_checkpoint(checkpoints)
    if which == "last":
        return checkpoints[-1]
    for info in checkpoints:
        if str(info.step) == which:
            return info
    steps = ", ".join(str(info.step) for info in checkpoints)
    raise InputError(
        f"{_shown(model)} has no checkpoint {printable(which)}",
        hint=f"best, last or one of {steps}",
    )


# --- reading ----------------------------------------------------------------


def _read_bytes(path: Path, *, limit: int) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise CheckpointError(f"{_shown(path)} is missing or not a plain file")
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{_shown(path)} has {size:,} bytes; at most {limit:,} are read")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {_shown(path)}: {error.strerror}") from error


def _parse_object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{_shown(path)} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{_shown(path)} is damaged: not a JSON object")
    check_format_version(content, known=FORMAT_VERSION, source=_shown(path))
    return content


def _read_manifest(folder: Path) -> CheckpointInfo:
    path = folder / "manifest.json"
    content = _parse_object(_read_bytes(path, limit=_MAX_MANIFEST_BYTES), path)
    try:
        _check_manifest(content, folder)
        files = {
            str(name): (int(entry["n_bytes"]), str(entry["sha256"]))
            for name, entry in content["files"].items()
        }
        losses = [
            None if content[key] is None else float(content[key])
            for key in ("train_loss", "val_loss")
        ]
        return CheckpointInfo(
            path=folder,
            step=int(content["step"]),
            epoch=float(content["epoch"]),
            train_loss=losses[0],
            val_loss=losses[1],
            written_at=float(content["written_at"]),
            files=files,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{_shown(path)} is damaged: {error!r}") from error


def _seal(content: Mapping[str, Any]) -> str:
    """Hash a manifest's other entries: it vouches for all files, so it is vouched for too."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_manifest(content: dict[str, Any], folder: Path) -> None:
    if content.pop("seal", None) != _seal(content):
        raise ValueError("it is not what was saved")
    if f"step-{content['step']:08d}" != folder.name:
        raise ValueError(f"it is of step {content['step']}")
    for key in ("val_loss", "train_loss", "epoch", "written_at"):
        if content[key] is not None and not math.isfinite(content[key]):
            raise ValueError(f"{key} is not finite")


def _verified(info: CheckpointInfo, name: str) -> bytes:
    """Read a file of a checkpoint and check it against the manifest."""
    path = info.path / name
    if name not in info.files:
        raise CheckpointError(f"{_shown(path)} is not in the manifest")
    n_bytes, sha256 = info.files[name]
    data = _read_bytes(path, limit=n_bytes)
    if len(data) != n_bytes or hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{_shown(path)} is damaged: it is not what was saved")
    return data


def _read_arrays(info: CheckpointInfo, name: str) -> Arrays:
    import safetensors
    import safetensors.numpy

    data = _verified(info, name)
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{_shown(info.path / name)} is damaged: {error}") from error


def load_config(info: CheckpointInfo) -> dict[str, Any]:
    """Load and check a checkpoint's `config.json`.

    Args:
        info: From `list_checkpoints`.

    Returns:
        Its content, with all that this program reads of it there.

    Raises:
        CheckpointError: If it is not what was saved, or lacks something.
    """
    path = info.path / "config.json"
    config = _parse_object(_verified(info, path.name), path)
    try:
        NetworkConfig(**config["network"])
        TrainingConfig(**config["training"])
        about = config["corpus"]
        CorpusOptions(**about["options"])
        texts = [config["recipe"], about["name"], about["sha256"], about.get("path", "")]
        if not all(isinstance(text, str) for text in [*texts, *config["seed_windows"]]):
            raise TypeError("a text is no text")
        int(about["characters"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{_shown(path)} is damaged: {error!r}") from error
    return config


def load_checkpoint(info: CheckpointInfo) -> Checkpoint:
    """Load and verify what writing text needs.

    Args:
        info: From `choose_checkpoint`.

    Returns:
        The checkpoint, half-precision weights widened to float32.

    Raises:
        CheckpointError: If a file is missing, not what was saved, of a newer
            format, or does not fit the configuration.
    """
    path = info.path / "config.json"
    config = load_config(info)
    try:
        network = NetworkConfig(**config["network"])
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{_shown(path)} is damaged: {error!r}") from error
    path = info.path / "vocabulary.json"
    vocabulary = Vocabulary.from_json(
        _parse_object(_verified(info, path.name), path), source=_shown(path)
    )
    if len(vocabulary) != network.vocabulary_size:
        raise CheckpointError(
            f"{_shown(path)} has {len(vocabulary)} characters; "
            f"config.json says {network.vocabulary_size}"
        )
    if not all(c in vocabulary for text in config["seed_windows"] for c in text):
        raise CheckpointError(f"{_shown(info.path)}: a seed window has unknown characters")
    return Checkpoint(
        info=info,
        network=network,
        vocabulary=vocabulary,
        weights=_load_weights(info, network),
        config=config,
    )


def _load_weights(info: CheckpointInfo, network: NetworkConfig) -> Arrays:
    name = "weights.safetensors"
    arrays = _read_arrays(info, name)
    shapes = weight_shapes(network)
    shown = _shown(info.path / name)
    if set(arrays) != set(shapes):
        odd = ", ".join(sorted(printable(n) for n in set(arrays) ^ set(shapes)))
        raise CheckpointError(f"{shown} has missing or extra weights: {odd}")
    weights: Arrays = {}
    for key, shape in shapes.items():
        array = arrays[key]
        if array.shape != shape or array.dtype not in (np.float32, np.float16):
            raise CheckpointError(
                f"{shown}: {key} is {array.dtype} {array.shape}, not float32 {shape}"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{shown}: {key} has values that are not finite")
        weights[key] = array.astype(np.float32, copy=False)
    return weights


def load_training_state(info: CheckpointInfo) -> TrainingState:
    """Load what `--resume` needs beyond `load_checkpoint`.

    Args:
        info: From `choose_checkpoint`.

    Returns:
        The trainer's values and arrays.

    Raises:
        CheckpointError: If a file is missing or not what was saved.
    """
    path = info.path / "trainer.json"
    return TrainingState(
        trainer=_parse_object(_verified(info, path.name), path),
        arrays=_read_arrays(info, "state.safetensors"),
    )


# --- writing ----------------------------------------------------------------


@contextlib.contextmanager
def lock_model(model: Path) -> Iterator[None]:
    """Hold a model for writing; a crashed holder's lock is free again.

    Args:
        model: The model's folder, made if there is none.

    Yields:
        Nothing.

    Raises:
        OutputError: If another run writes it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        model.mkdir(parents=True, exist_ok=True)
        # Refuses a read-only folder now, not after a night of training.
        with tempfile.TemporaryFile(dir=model):
            pass
        lock = FileLock(model / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another run is writing {_shown(model)}", hint="wait for it, or give another --model"
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot write {_shown(model)}: {reason}",
            hint="choose a folder that can be written with --model",
        ) from error
    try:
        yield
    finally:
        lock.release()


def clear_model(model: Path, *, keep: Path | None = None) -> None:
    """Remove a model's checkpoints and logs, and nothing else in the folder.

    Args:
        model: The model's folder.
        keep: A checkpoint that stays.
    """
    for entry in list(model.iterdir()):
        if entry == keep:
            continue
        if _STEP_FOLDER.fullmatch(entry.name) or _is_leftover(entry):
            if entry.is_symlink():
                entry.unlink()
            elif entry.is_dir():
                shutil.rmtree(entry)
        elif entry.name in _LOGS:
            entry.unlink()


def _is_leftover(entry: Path) -> bool:
    return entry.name.startswith(".step-") and entry.is_dir()


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
    state: TrainingState,
    now: float | None = None,
) -> CheckpointInfo:
    """Write a checkpoint, whole or not at all, and retire old ones.

    Kept are the best and the last two. The caller holds the model's lock.

    Args:
        model: The model's folder.
        step: Optimizer steps done.
        epoch: Passes over the training text.
        train_loss: Nats/char, or None.
        val_loss: Nats/char, or None if not evaluated at this step.
        config: Content of `config.json`, less its format version.
        vocabulary: The characters.
        weights: Arrays by name, as in `weight_shapes`.
        state: What `--resume` needs.
        now: Seconds since 1970; the clock's by default.

    Returns:
        The new checkpoint's manifest.

    Raises:
        OutputError: If it cannot be written; the earlier checkpoints stay.
    """
    version = {"format_version": FORMAT_VERSION}
    final = model / f"step-{step:08d}"
    temporary = None
    try:
        for entry in model.iterdir():
            if _is_leftover(entry):
                shutil.rmtree(entry)
        temporary = Path(tempfile.mkdtemp(prefix=".step-", dir=model))
        contents = {
            "weights.safetensors": _save_arrays(weights),
            "config.json": _to_json(version | config),
            "vocabulary.json": _to_json(vocabulary.to_json()),
            "state.safetensors": _save_arrays(state.arrays),
            "trainer.json": _to_json(version | state.trainer),
        }
        manifest: dict[str, Any] = version | {
            "step": step,
            "epoch": epoch,
            "train_loss": train_loss,
            "val_loss": val_loss,
            "written_at": time.time() if now is None else now,
            "files": {
                name: {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in contents.items()
            },
        }
        for name, data in contents.items():
            _write_synced(temporary / name, data)
        manifest["seal"] = _seal(manifest)
        _write_synced(temporary / "manifest.json", _to_json(manifest))
        temporary.chmod(0o755)
        _sync_folder(temporary)
        if final.exists():
            # The same step again, as after a damaged one was passed over.
            aside = Path(tempfile.mkdtemp(prefix=".step-", dir=model))
            final.replace(aside / "replaced")
            try:
                temporary.replace(final)
            except BaseException:
                (aside / "replaced").replace(final)
                raise
        else:
            temporary.replace(final)
        _sync_folder(model)
        info = _read_manifest(final)
        _retire(model, keep=final)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise OutputError(
            f"cannot save to {_shown(model)}: {error.strerror or error}",
            hint="make room or choose another folder; earlier checkpoints are untouched",
        ) from error
    return info


def drop_later_checkpoints(model: Path, *, step: int) -> None:
    """Remove the checkpoints after a step to which training went back.

    Args:
        model: The model's folder, whose lock the caller holds.
        step: The last one that stays.
    """
    _remove(model, [info for info in list_checkpoints(model) if info.step > step])


def _retire(model: Path, *, keep: Path) -> None:
    checkpoints = list_checkpoints(model)
    kept = {info.path for info in checkpoints[-KEEP_LAST:]}
    kept |= {best_checkpoint(checkpoints).path, keep}
    _remove(model, [info for info in checkpoints if info.path not in kept])


def _remove(model: Path, checkpoints: list[CheckpointInfo]) -> None:
    for info in checkpoints:
        # Out of sight first: a kill half-way must not leave half a checkpoint.
        info.path.replace(Path(tempfile.mkdtemp(prefix=".step-", dir=model)) / "retired")
    for entry in model.iterdir():
        if _is_leftover(entry):
            shutil.rmtree(entry)


def _save_arrays(arrays: Arrays) -> bytes:
    import safetensors.numpy

    # safetensors copies the memory behind an array and ignores its strides.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(plain)
    return data


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the logs beside the checkpoints -----------------------------------------


def append_log(model: Path, name: str, record: Mapping[str, Any]) -> None:
    """Add a line to `history.jsonl` or `samples.jsonl`.

    Args:
        model: The model's folder.
        name: The file.
        record: One JSON object.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        with (model / name).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
    except OSError as error:
        raise OutputError(f"cannot write {_shown(model / name)}: {error.strerror}") from error


def read_log(model: Path, name: str) -> list[dict[str, Any]]:
    """Read `history.jsonl` or `samples.jsonl`; torn lines are left out.

    Args:
        model: The model's folder.
        name: The file.

    Returns:
        The records in order; empty if there is no file.
    """
    with contextlib.suppress(OSError):
        return _records(model / name)
    return []


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
    return records


def truncate_logs(model: Path, *, step: int) -> None:
    """Forget what was logged after a step, before training goes on from it.

    Args:
        model: The model's folder.
        step: The checkpoint's step; its own lines stay.

    Raises:
        OutputError: If a log cannot be written.
    """
    for name in _LOGS:
        temporary = model / f"{name}.new"
        try:
            if (model / name).exists():
                kept = [r for r in _records(model / name) if _is_by(r, step)]
                text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept)
                _write_synced(temporary, text.encode())
                temporary.replace(model / name)
        except OSError as error:
            raise OutputError(f"cannot write {_shown(model / name)}: {error.strerror}") from error


def _is_by(record: dict[str, Any], step: int) -> bool:
    at = record.get("step")
    return isinstance(at, int) and at <= step


def open_checkpoint(model: Path, which: str = "best") -> tuple[Checkpoint, list[str]]:
    """Load a checkpoint of a model, or the newest good one if that is damaged.

    Args:
        model: The model's folder.
        which: "best", "last" or a step number; a step number has no stand-in.

    Returns:
        The checkpoint, and a warning for each that was passed over.

    Raises:
        CheckpointError: If none can be read.
    """
    chosen = choose_checkpoint(model, which)
    others = [c for c in reversed(list_checkpoints(model)) if c.path != chosen.path]
    candidates = [chosen] if which not in ("best", "last") else [chosen, *others]
    warnings: list[str] = []
    for info in candidates:
        try:
            return load_checkpoint(info), warnings
        except NewerFormatError:
            raise
        except CharlstmError as error:
            warnings.append(error.message)
    raise CheckpointError(
        warnings[0], hint="choose another checkpoint with --checkpoint, or another --model"
    )


def _newest_config(checkpoints: list[CheckpointInfo]) -> dict[str, Any]:
    errors: list[CheckpointError] = []
    for info in reversed(checkpoints):
        try:
            return load_config(info)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            errors.append(error)
    raise errors[0]


def describe_model(model: Path) -> dict[str, Any]:
    """Say what a model is, as `info --json` prints it.

    Args:
        model: A folder with at least one checkpoint.

    Returns:
        Plain values: name, path, recipe, parameters, layers, units,
        seq_length, vocabulary_size, corpus, training, versions, checkpoints.

    Raises:
        CheckpointError: If no checkpoint can be read.
    """
    checkpoints = list_checkpoints(model)
    config = _newest_config(checkpoints)
    network = NetworkConfig(**config["network"])
    best, last = best_checkpoint(checkpoints), checkpoints[-1]
    return {
        "name": model.resolve().name,
        "path": str(model.resolve()),
        "recipe": config.get("recipe"),
        "parameters": network.parameters,
        "layers": network.layers,
        "units": network.units,
        "seq_length": network.seq_length,
        "vocabulary_size": network.vocabulary_size,
        "corpus": config["corpus"],
        "training": config.get("training"),
        "versions": config.get("versions"),
        "evaluations": len(read_log(model, "history.jsonl")),
        "checkpoints": [
            {
                "step": info.step,
                "epoch": info.epoch,
                "train_loss": info.train_loss,
                "val_loss": info.val_loss,
                "best": info.path == best.path,
                "last": info.path == last.path,
            }
            for info in checkpoints
        ],
    }
