"""A model: a folder of checkpoints, of which the best and the last are derived.

`checkpoints/<model>/` holds `step-…` folders (`checkpoint`), two logs (`logs`)
and a lock. There is no pointer to the best or the last one that could go
stale: both follow from the manifests. Only who holds the lock writes, and what
is kept is the best, the last two, and the one that a loss that is not finite
would go back to; what is damaged is left where it is.

A model ships with the package, for who has trained none yet. It is found after
a person's own, read like any other, and never locked or written to.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charlstm.checkpoint import (
    HIDDEN_PREFIX,
    Checkpoint,
    CheckpointInfo,
    cannot_save,
    load_checkpoint,
    load_config,
    read_manifest,
    verify_checkpoint,
    write_checkpoint,
)
from charlstm.config import NetworkConfig
from charlstm.errors import (
    CharlstmError,
    CheckpointError,
    InputError,
    ModelNotFoundError,
    NewerFormatError,
    OutputError,
    printable,
)
from charlstm.logs import HISTORY, LOGS, read_log
from charlstm.storage import (
    is_plain,
    make_hidden_folder,
    make_writable_folder,
    remove,
    shown,
)

CHECKPOINTS_FOLDER = "checkpoints"
DEFAULT_SHIPPED = "macbeth"
KEEP_LAST = 2
_STEP_FOLDER = re.compile(r"step-(\d{8,18})")
_LOCK = ".lock"
_TRAIN_ONE = "train one first: charlstm train macbeth.txt"
# A reader that meets a checkpoint as it is retired looks again.
_LOOKS = 20


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


def checkpoint_folders(model: Path) -> list[Path]:
    """List what is named as a checkpoint, good or damaged, by step.

    Args:
        model: The model's folder.

    Returns:
        The entries; none if the folder cannot be read.
    """
    try:
        entries = [entry for entry in model.iterdir() if _STEP_FOLDER.fullmatch(entry.name)]
    except OSError:
        return []
    return sorted(entries, key=lambda entry: int(entry.name.removeprefix("step-")))


def holds_model(model: Path) -> bool:
    """Tell whether a folder has checkpoints, good or damaged.

    Args:
        model: The folder.

    Returns:
        True if anything there is named as a checkpoint.
    """
    return bool(checkpoint_folders(model))


def list_checkpoints(model: Path) -> list[CheckpointInfo]:
    """List a model's checkpoints whose manifests can be read, oldest step first.

    Where a run that replaced another was killed before it had removed the old
    checkpoints, only those of the newer run are listed.

    Args:
        model: The model's folder.

    Returns:
        One entry a checkpoint; damaged ones are left out.

    Raises:
        NewerFormatError: If a newer program wrote one.
    """
    return list_with_problems(model)[0]


def list_with_problems(model: Path) -> tuple[list[CheckpointInfo], list[str]]:
    """List a model's checkpoints, and say which manifests cannot be read.

    Args:
        model: The model's folder.

    Returns:
        As `list_checkpoints`, and a line for each that was left out.

    Raises:
        NewerFormatError: If a newer program wrote one.
    """
    found, problems = [], []
    for folder in checkpoint_folders(model):
        try:
            found.append(read_manifest(folder))
        except NewerFormatError:
            raise  # not damaged, and not to be trained over
        except CheckpointError as error:
            if os.path.lexists(folder):  # else a run has just retired it
                problems.append(error.message)
    if len({info.run for info in found}) > 1:
        newest = max(found, key=lambda info: info.written_at)
        found = [info for info in found if info.run == newest.run]
    return found, problems


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


def shipped_folder() -> Path:
    """Return the folder of the package that holds its models, if it has one."""
    return Path(str(importlib.resources.files("charlstm"))) / "shipped"


def shipped_models() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    with contextlib.suppress(OSError):
        entries = sorted(shipped_folder().iterdir())
        return {entry.name: entry for entry in entries if holds_model(entry)}
    return {}


def is_shipped(model: Path) -> bool:
    """Tell whether a folder is, or would be, in that of the models that ship.

    Args:
        model: The folder, which may not exist.

    Returns:
        True however the way there is written, links included.
    """
    shipped = shipped_folder()
    real = Path(os.path.realpath(model))
    for folder in (real, *real.parents):
        # Compared as files, since two spellings can be one folder on some systems.
        with contextlib.suppress(OSError):
            if folder.samefile(shipped):
                return True
    return False


def refuse_shipped(model: Path) -> None:
    """Refuse to write where the models that ship are.

    Args:
        model: The folder to write to.

    Raises:
        InputError: If it is there.
    """
    if is_shipped(model):
        raise InputError(
            f"{shown(model)} ships with charlstm and is never written to",
            hint="give --model another name; --from MODEL begins with its weights",
        )


def model_names() -> list[str]:
    """List what `--model` can be given as a bare word.

    Returns:
        Own models, the one written last first; then those that ship, less
        those whose name an own one has.
    """
    return [model.name for model in list_models()] + list(unshadowed_models())


def unshadowed_models() -> dict[str, Path]:
    """Return the models that ship and whose name no own one has, by name."""
    own = Path(CHECKPOINTS_FOLDER)
    return {name: path for name, path in shipped_models().items() if not holds_model(own / name)}


def find_model(name: str | None) -> Path:
    """Find the model that a person means: an own one, or else one that ships.

    Args:
        name: As given to `--model`; None for the newest own model, or the one
            that ships if there is none.

    Returns:
        A folder with at least one checkpoint.

    Raises:
        ModelNotFoundError: If there is none; lists those there are.
        CheckpointError: If all its checkpoints are damaged.
    """
    model = locate_model(name)
    if not list_checkpoints(model):
        raise CheckpointError(
            f"the checkpoints of {shown(model)} are damaged: none has a good manifest",
            hint="train it anew with --overwrite, or name another model",
        )
    return model


def locate_model(name: str | None) -> Path:
    """Find the folder of the model that a person means, even if all in it is damaged.

    A damaged own model is not passed over for one that ships: text of another
    model must not be taken for its.

    Args:
        name: As `find_model`.

    Returns:
        A folder that `holds_model`.

    Raises:
        ModelNotFoundError: If there is none; lists those there are.
    """
    shipped = shipped_models()
    if name is None:
        own = list_models() or damaged_models()
        if own:
            return own[0]
        if DEFAULT_SHIPPED in shipped:
            return shipped[DEFAULT_SHIPPED]
        raise ModelNotFoundError(
            f"there is no model in {CHECKPOINTS_FOLDER}/, and none ships with this charlstm",
            hint=_TRAIN_ONE,
        )
    model = model_path(name)
    if holds_model(model):
        return model
    if name in shipped:  # no name with a separator is
        return shipped[name]
    known = {
        "models here: ": [entry.name for entry in list_models()],
        "shipped with charlstm: ": list(unshadowed_models()),
    }
    hints = [what + ", ".join(map(printable, names)) for what, names in known.items() if names]
    raise ModelNotFoundError(
        f"there is no model {printable(name)} ({shown(model)})",
        hint="; ".join(hints) or _TRAIN_ONE,
    )


def damaged_models() -> list[Path]:
    """List the models in `checkpoints/` if none of them has a checkpoint to list."""
    with contextlib.suppress(OSError):
        return [e for e in sorted(Path(CHECKPOINTS_FOLDER).iterdir()) if holds_model(e)]
    return []


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
    return _choose(list_checkpoints(model), which, model)


def _choose(checkpoints: list[CheckpointInfo], which: str, model: Path) -> CheckpointInfo:
    """Choose among a model's checkpoints, as `choose_checkpoint` does."""
    if not checkpoints:
        raise ModelNotFoundError(f"{shown(model)} has no checkpoint")
    if which == "best":
        return best_checkpoint(checkpoints)
    if which == "last":
        return checkpoints[-1]
    for info in checkpoints:
        if str(info.step) == which:
            return info
    steps = ", ".join(str(info.step) for info in checkpoints)
    raise InputError(
        f"{shown(model)} has no checkpoint {printable(which)}",
        hint=f"best, last or one of {steps}",
    )


def open_checkpoint(model: Path, which: str = "best") -> tuple[Checkpoint, list[str]]:
    """Load a checkpoint of a model, or the newest good one if that is damaged.

    Args:
        model: The model's folder.
        which: "best", "last" or a step number; a step number has no stand-in.

    Returns:
        The checkpoint, and a warning for each that was passed over, as may be
        one whose manifest cannot be read: it could be the best.

    Raises:
        CheckpointError: If none can be read.
    """
    for _ in range(_LOOKS):
        listed, unlisted = list_with_problems(model)
        chosen = _choose(listed, which, model)
        others = [c for c in reversed(listed) if c.path != chosen.path]
        if which not in ("best", "last"):
            others, unlisted = [], []
        warnings: list[str] = []
        for info in [chosen, *others]:
            try:
                return load_checkpoint(info), [*unlisted, *warnings]
            except NewerFormatError:
                raise
            except CharlstmError as error:
                if not info.path.exists():
                    break  # a run that is training has just retired it
                warnings.append(error.message)
        else:
            break
    raise CheckpointError(
        (warnings or [f"the checkpoints of {shown(model)} change too fast"])[0],
        hint="choose another checkpoint with --checkpoint, or another --model",
    )


# --- writing ------------------------------------------------------------------


@contextlib.contextmanager
def lock_model(model: Path) -> Iterator[None]:
    """Hold a model for writing; a crashed holder's lock is free again.

    Args:
        model: The model's folder, made if there is none.

    Yields:
        Nothing.

    Raises:
        InputError: If it is one that ships.
        OutputError: If another run writes it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    refuse_shipped(model)
    try:
        # Refuses a read-only folder now, not after a night of training.
        make_writable_folder(model)
        # A link would be followed, and a device acts on being opened.
        if os.path.lexists(model / _LOCK) and not is_plain(model / _LOCK):
            raise OutputError(
                f"{shown(model / _LOCK)} is a link or a device, not a lock",
                hint="remove it, or the model",
            )
        lock = FileLock(model / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another run is writing {shown(model)}", hint="wait for it, or give another --model"
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot write {shown(model)}: {reason}",
            hint="choose a folder that can be written with --model",
        ) from error
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(model: Path, **content: Any) -> CheckpointInfo:
    """Write a checkpoint and retire those that are not to be kept.

    The caller holds the model's lock.

    Args:
        model: The model's folder.
        **content: As `write_checkpoint` takes it.

    Returns:
        The new checkpoint's manifest.

    Raises:
        OutputError: If it cannot be written; the earlier checkpoints stay.
    """
    try:
        _remove_leftovers(model)
        info = write_checkpoint(model, **content)
        _retire(model, keep=info)
        _remove_leftovers(model)
    except OSError as error:
        raise cannot_save(model, error) from error
    return info


def return_point(checkpoints: list[CheckpointInfo]) -> CheckpointInfo | None:
    """Choose the checkpoint that a loss that is not finite goes back to.

    Args:
        checkpoints: In order.

    Returns:
        The last one with a loss; None if there is none.
    """
    return next((info for info in reversed(checkpoints) if info.is_evaluated), None)


def _retire(model: Path, *, keep: CheckpointInfo) -> None:
    """Remove what is neither the best, the last two, nor the point of return.

    Only what is whole takes part: a damaged checkpoint must not crowd out a
    good one, and is not ours to remove.
    """
    listed = list_checkpoints(model)
    if len(listed) <= KEEP_LAST:
        return
    whole = [info for info in listed if info.path == keep.path or not verify_checkpoint(info)]
    kept = {info.path for info in whole[-KEEP_LAST:]}
    kept |= {best_checkpoint(whole).path, keep.path}
    point = return_point(whole)
    if point is not None:
        kept.add(point.path)
    _remove_checkpoints(model, [info.path for info in whole if info.path not in kept])


def drop_later_checkpoints(model: Path, *, step: int) -> None:
    """Remove the checkpoints after a step to which training went back.

    Args:
        model: The model's folder, whose lock the caller holds.
        step: The last one that stays.
    """
    _remove_checkpoints(model, [c.path for c in list_checkpoints(model) if c.step > step])


def clear_model(model: Path, *, keep: Path | None = None) -> None:
    """Remove a model's checkpoints and logs, and nothing else in the folder.

    Args:
        model: The model's folder, whose lock the caller holds.
        keep: A checkpoint that stays.
    """
    _remove_checkpoints(model, [c for c in checkpoint_folders(model) if c != keep])
    for name in LOGS:
        if os.path.lexists(model / name):
            remove(model / name)


def drop_other_runs(model: Path, *, run: str) -> None:
    """Finish what a killed run began: remove the model that it replaced.

    Args:
        model: The model's folder, whose lock the caller holds.
        run: The run whose checkpoints stay, with all that cannot be read.
    """
    others = []
    for folder in checkpoint_folders(model):
        with contextlib.suppress(CheckpointError):
            if read_manifest(folder).run != run:
                others.append(folder)
    _remove_checkpoints(model, others)


def _remove_checkpoints(model: Path, folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink():
            # Out of sight first: a kill half-way must not leave half a checkpoint.
            folder.replace(make_hidden_folder(model, prefix=HIDDEN_PREFIX) / "retired")
        else:
            remove(folder)
    _remove_leftovers(model)


def _remove_leftovers(model: Path) -> None:
    """Remove what a killed writer left: whoever holds the lock is the only writer."""
    for entry in model.iterdir():
        if entry.name.startswith(HIDDEN_PREFIX):
            remove(entry)


# --- what a model is ----------------------------------------------------------


def verify_model(model: Path) -> list[tuple[Path, list[str]]]:
    """Check all that is named as a checkpoint, as loading it would.

    Args:
        model: The model's folder.

    Returns:
        Each checkpoint's folder and what is wrong with it, by step.
    """
    results = []
    for folder in checkpoint_folders(model):
        try:
            problems = verify_checkpoint(read_manifest(folder))
        except CheckpointError as error:
            problems = [error.message]
        results.append((folder, problems))
    return results


def describe_model(model: Path) -> dict[str, Any]:
    """Say what a model is, as `info --json` prints it.

    Args:
        model: A folder with at least one checkpoint.

    Returns:
        Plain values: name, path, shipped (with the package), recipe,
        parameters, layers, units, seq_length, vocabulary_size, corpus,
        training, versions, checkpoints.

    Raises:
        CheckpointError: If no checkpoint can be read.
    """
    checkpoints = list_checkpoints(model)
    if not checkpoints:
        raise CheckpointError(f"{shown(model)} has no checkpoint that can be read")
    config = _newest_config(checkpoints)
    network = NetworkConfig(**config["network"])
    best, last = best_checkpoint(checkpoints), checkpoints[-1]
    return {
        "name": model.resolve().name,
        "path": str(model.resolve()),
        "shipped": is_shipped(model),
        "recipe": config.get("recipe"),
        "parameters": network.parameters,
        "layers": network.layers,
        "units": network.units,
        "seq_length": network.seq_length,
        "vocabulary_size": network.vocabulary_size,
        "corpus": config["corpus"],
        "training": config.get("training"),
        "versions": config.get("versions"),
        "evaluations": sum(1 for _ in read_log(model, HISTORY)),
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
