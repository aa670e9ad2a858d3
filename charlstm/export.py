"""A model in the formats of Keras, TensorFlow, ONNX and PyTorch.

An export is a folder for people who do not have charlstm:

    model.keras, saved_model/, model.onnx,
    or weights.safetensors and charlstm_model.py     the network, float32
    vocabulary.json                                  the characters
    README.md                                        the lines of Python that use it
    export.json                                      what it was made of, and all its files

The network is that of `checkpoint.weight_shapes` with the same interface
everywhere: ids and the state of each layer in, logits and the new state out,
so that one file reads a character or a whole text. Dropout is for training and
is left out, and so is the softmax.

Each ecosystem packs an LSTM's gates in its own order. charlstm and Keras have
i, f, g, o; ONNX has i, o, f, g (which it calls c), PyTorch i, f, g, o with two
biases. Keras is imported by the targets that need it; the others never load
TensorFlow. Which checkpoint is exported is for `models`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm import __version__
from charlstm.checkpoint import Arrays, Checkpoint
from charlstm.config import NetworkConfig
from charlstm.errors import CharlstmError, CheckpointError, InputError, OutputError, printable
from charlstm.models import is_shipped
from charlstm.storage import (
    make_folder,
    make_hidden_folder,
    read_plain,
    replace_folder,
    shown,
    sync_folder,
    write_synced,
)

FORMAT_VERSION = 1
VOCABULARY, README, MARKER = "vocabulary.json", "README.md", "export.json"
_MAX_MARKER_BYTES = 1 << 20
# A protobuf message cannot be larger; some is for what is not a weight.
MAX_ONNX_BYTES = (1 << 31) - (1 << 20)
# Of 2022; nothing since is used here, and newer runtimes read older files.
_ONNX_OPSET, _ONNX_IR_VERSION = 17, 8
_SEED_LENGTH = 24
# Beside the files of an export, what using it leaves behind.
_LEFT_BY_PYTHON = "__pycache__"

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: The folder, absolute.
        target: One of `TARGETS`.
        model: The model's folder, absolute.
        step: Of the checkpoint.
        files: Size in bytes by name, relative to the folder.
    """

    path: Path
    target: str
    model: Path
    step: int
    files: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Target:
    """One format.

    Attributes:
        title: What reads it.
        write: Puts the network into a folder.
        code: The lines of Python that use it, for the README.
        install: What `pip install` needs to run those lines.
        interface: What goes in and what comes out, as rows of a table.
        needs: The package that writes it and comes with an extra, or None.
    """

    title: str
    write: Callable[[Checkpoint, Path], None]
    code: Callable[[Checkpoint], str]
    install: str
    interface: Callable[[NetworkConfig], list[tuple[str, str, str]]]
    needs: str | None = None


def export_model(
    checkpoint: Checkpoint, *, target: str, output: Path, overwrite: bool = False
) -> ExportResult:
    """Write a model for another ecosystem, whole or not at all.

    Args:
        checkpoint: The model; half-precision weights are float32 once loaded.
        target: One of `TARGETS`.
        output: The folder to make, which may not exist.
        overwrite: Replace it if it is an export and holds nothing else.

    Returns:
        What was written.

    Raises:
        InputError: If there is no such target, the folder exists or is not
            one to be replaced, or the network is too large for the format.
        CharlstmError: If a package is missing.
        OutputError: If it cannot be written; what was there before stays.
    """
    if target not in _TARGETS:
        raise InputError(
            f"there is no target {printable(target)}", hint=f"one of {', '.join(TARGETS)}"
        )
    output = Path(os.path.abspath(output))  # noqa: PTH100 (a link stays a link)
    _check_output(output, overwrite=overwrite)
    about = _TARGETS[target]
    if about.needs is not None:
        _require(about.needs, target)
    if target == "onnx":
        _check_onnx_size(checkpoint.network)
    try:
        with _new_folder(output) as hidden:
            about.write(checkpoint, hidden)
            checkpoint.vocabulary.save(hidden / VOCABULARY)
            write_synced(hidden / README, _readme(checkpoint, target).encode())
            _write_marker(checkpoint, target, hidden)
            files = {name: (hidden / name).stat().st_size for name in _files_in(hidden)}
    except OSError as error:
        raise OutputError(
            f"cannot write {shown(output)}: {error.strerror or error}",
            hint="make room or choose another folder; what was there is untouched",
        ) from error
    return ExportResult(
        path=output,
        target=target,
        model=checkpoint.model,
        step=checkpoint.info.step,
        files=files,
    )


def _require(package: str, target: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise CharlstmError(
            f"--to {target} needs the package {package}, which is not installed",
            hint="pip install 'charlstm[export]'",
        ) from error


def _check_onnx_size(network: NetworkConfig) -> None:
    n_bytes = 4 * network.parameters
    if n_bytes > MAX_ONNX_BYTES:
        raise InputError(
            f"the network has {n_bytes:,} bytes; a file of ONNX holds {MAX_ONNX_BYTES:,}",
            hint="--to torch has no such limit",
        )


# --- the folder -----------------------------------------------------------------


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse to write where anything is that no export made."""
    elsewhere = "choose another folder with --output"
    if is_shipped(output):
        raise InputError(f"{shown(output)} belongs to charlstm itself", hint=elsewhere)
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise InputError(
            f"{shown(output)} exists already",
            hint=f"{elsewhere}; --overwrite replaces an export",
        )
    ours = _files_of_export(output)
    if ours is None:
        raise InputError(f"{shown(output)} is no export of charlstm", hint=elsewhere)
    strange = sorted(_files_in(output) - ours)
    if strange:
        raise InputError(
            f"{shown(output)} holds {printable(strange[0])}, which no export wrote",
            hint=f"move it, or {elsewhere}",
        )


def _files_of_export(folder: Path) -> set[str] | None:
    """Read which files an export wrote; None if the folder is no export."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    try:
        files = set(json.loads(read_plain(folder / MARKER, limit=_MAX_MARKER_BYTES))["files"])
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return files if {VOCABULARY, README, MARKER} <= files else None


def _files_in(folder: Path) -> set[str]:
    """List the files below a folder; a link counts as one, wherever it points."""
    found = set()
    for root, folders, files in os.walk(folder):
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        if _LEFT_BY_PYTHON in folders and _LEFT_BY_PYTHON not in links:
            folders.remove(_LEFT_BY_PYTHON)
        found |= {(here / name).relative_to(folder).as_posix() for name in (*files, *links)}
    return found


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Make a hidden folder beside, and rename it once it is complete."""
    missing = [folder for folder in output.parents if not folder.exists()]
    prefix = f".{output.name[:60]}-"
    hidden = None
    try:
        make_folder(output.parent)
        hidden = make_hidden_folder(output.parent, prefix=prefix)
        yield hidden
        hidden.chmod(0o755)
        for root, _, _ in os.walk(hidden):
            sync_folder(Path(root))
        replaced = replace_folder(hidden, output, prefix=prefix)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):  # another has begun to use it
                folder.rmdir()
        raise


def _write_marker(checkpoint: Checkpoint, target: str, folder: Path) -> None:
    """Write what the export was made of, and by which it is known as one."""
    content = {
        "format_version": FORMAT_VERSION,
        "charlstm_version": __version__,
        "target": target,
        "model": printable(checkpoint.model.name),
        "step": checkpoint.info.step,
        "recipe": checkpoint.config["recipe"],
        "network": dataclasses.asdict(checkpoint.network),
        "text": checkpoint.text_options.to_json(),
        "files": sorted(_files_in(folder) | {MARKER}),
    }
    write_synced(folder / MARKER, (json.dumps(content, indent=2) + "\n").encode())


def _sync_files(folder: Path) -> None:
    """Wait until what others have written is on the disk."""
    for name in _files_in(folder):
        with (folder / name).open("r+b") as file:
            os.fsync(file.fileno())


# --- Keras and TensorFlow ---------------------------------------------------------


def build_keras_model(checkpoint: Checkpoint) -> Any:
    """Build the network of stock Keras layers, with its state in and out.

    TensorFlow must have been started.

    Args:
        checkpoint: The model.

    Returns:
        A `keras.Model` from `ids`, `(batch, time)` int32, and `h_1`, `c_1`, …,
        `(batch, units)`, to `logits`, `(batch, time, vocab)`, and the new
        `h_1`, `c_1`, …, both as dictionaries.
    """
    import keras

    network, weights = checkpoint.network, checkpoint.weights
    # Whatever precision a person's Keras is set to.
    single = {"dtype": "float32"}
    ids = keras.Input((None,), dtype="int32", name="ids")  # (batch, time)
    if network.input == "one_hot":
        x = keras.ops.one_hot(ids, network.vocabulary_size, **single)  # (batch, time, vocab)
    else:
        x = keras.layers.Reshape((-1, 1), name="column", **single)(ids)  # (batch, time, 1)
        x = keras.layers.Rescaling(1 / network.vocabulary_size, name="scaled", **single)(x)
    inputs: dict[str, Any] = {"ids": ids}
    states: dict[str, Any] = {}
    for n in range(1, network.layers + 1):
        before = [keras.Input((network.units,), name=f"{part}_{n}", **single) for part in "hc"]
        lstm = keras.layers.LSTM(
            network.units, return_sequences=True, return_state=True, name=f"lstm_{n}", **single
        )
        x, h, c = lstm(x, initial_state=before)  # (batch, time, units)
        inputs |= {f"h_{n}": before[0], f"c_{n}": before[1]}
        states |= {f"h_{n}": h, f"c_{n}": c}
    logits = keras.layers.Dense(network.vocabulary_size, name="dense", **single)(x)
    model = keras.Model(inputs, {"logits": logits} | states, name="charlstm")
    for n in range(1, network.layers + 1):
        parts = ("kernel", "recurrent_kernel", "bias")
        model.get_layer(f"lstm_{n}").set_weights([weights[f"lstm_{n}/{part}"] for part in parts])
    model.get_layer("dense").set_weights([weights["dense/kernel"], weights["dense/bias"]])
    return model


@contextlib.contextmanager
def _keras_started() -> Iterator[None]:
    from charlstm.backend import available_cores, start_tensorflow

    start_tensorflow(threads=available_cores(), random_seed=0, parts=1)
    with warnings.catch_warnings():
        # Keras reads its variables in a way that NumPy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _write_keras(checkpoint: Checkpoint, folder: Path) -> None:
    with _keras_started():
        build_keras_model(checkpoint).save(folder / "model.keras")
    _sync_files(folder)


def _write_saved_model(checkpoint: Checkpoint, folder: Path) -> None:
    with _keras_started():
        import tensorflow as tf

        model = build_keras_model(checkpoint)
        try:
            # It prints what it has made, and Keras 3.5 cannot be told not to.
            with contextlib.redirect_stdout(io.StringIO()):
                model.export(str(folder / "saved_model"), format="tf_saved_model")
        except tf.errors.OpError as error:  # a full disk, among others
            raise OSError(printable(error.message)) from error
    _sync_files(folder)


def _keras_code(checkpoint: Checkpoint) -> str:
    network = checkpoint.network
    model = 'keras.models.load_model("model.keras", safe_mode=True)'
    if network.carries_state:
        call = [
            'state = model({"ids": ids} | state)',
            'logits = keras.ops.convert_to_numpy(state.pop("logits"))',
        ]
    else:
        call = ['logits = keras.ops.convert_to_numpy(model({"ids": ids} | state)["logits"])']
    return _python(
        checkpoint,
        imports=["import keras", "import numpy as np"],
        load=[
            f"model = {model}",
            "rng = np.random.default_rng()",
            f"zeros = keras.ops.zeros((1, {network.units}))",
            f"state = {{name: zeros for name in ({_state_names(network)})}}",
        ],
        # Of one kind with the state: Keras takes no mixture of tensors and arrays.
        ids='keras.ops.array([{ids}], "int32")',
        call=call,
        pick=_NUMPY_PICK,
    )


def _saved_model_code(checkpoint: Checkpoint) -> str:
    network = checkpoint.network
    if network.carries_state:
        call = [
            "state = model(ids=ids, **state)",
            'logits = state.pop("logits").numpy()',
        ]
    else:
        call = ['logits = model(ids=ids, **state)["logits"].numpy()']
    return _python(
        checkpoint,
        imports=["import numpy as np", "import tensorflow as tf"],
        load=[
            'loaded = tf.saved_model.load("saved_model")',
            'model = loaded.signatures["serving_default"]',
            "rng = np.random.default_rng()",
            f"zeros = tf.zeros((1, {network.units}))",
            f"state = {{name: zeros for name in ({_state_names(network)})}}",
        ],
        ids="tf.constant([{ids}], tf.int32)",
        call=call,
        pick=_NUMPY_PICK,
    )


def _keras_interface(network: NetworkConfig) -> list[tuple[str, str, str]]:
    return _interface(network, ids="int32", new="")


# --- ONNX -------------------------------------------------------------------------


def _write_onnx(checkpoint: Checkpoint, folder: Path) -> None:
    write_synced(folder / "model.onnx", build_onnx_model(checkpoint).SerializeToString())


def build_onnx_model(checkpoint: Checkpoint) -> Any:
    """Build the network of ONNX's own LSTM operator.

    That operator is time-major, takes the state with an axis of directions,
    and the weights as `(directions, 4·units, inputs)`, its gates packed i, o,
    f, c. Two biases are added; ours is the first, the second is zero.

    Args:
        checkpoint: The model.

    Returns:
        An `onnx.ModelProto`, checked, from `ids`, `(batch, time)` int64, and
        `h_1`, `c_1`, …, `(batch, units)`, to `logits`, `(batch, time, vocab)`,
        and `new_h_1`, `new_c_1`, …
    """
    import onnx
    from onnx import helper, numpy_helper

    network, weights = checkpoint.network, checkpoint.weights
    units, size = network.units, network.vocabulary_size
    constants: dict[str, npt.NDArray[Any]] = {
        "direction_of_state": np.array([0], np.int64),
        "direction_of_outputs": np.array([1], np.int64),
        "dense/kernel": weights["dense/kernel"],
        "dense/bias": weights["dense/bias"],
    }
    nodes = [helper.make_node("Transpose", ["ids"], ["ids_by_time"], perm=[1, 0])]
    if network.input == "one_hot":
        constants |= {"size": np.array([size], np.int64), "off_on": np.array([0, 1], np.float32)}
        x = "one_hot"  # (time, batch, vocab)
        nodes.append(helper.make_node("OneHot", ["ids_by_time", "size", "off_on"], [x], axis=-1))
    else:
        constants |= {"size": np.array(size, np.float32), "last": np.array([-1], np.int64)}
        x = "scaled"  # (time, batch, 1)
        nodes += [
            helper.make_node("Cast", ["ids_by_time"], ["floats"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "size"], ["shares"]),
            helper.make_node("Unsqueeze", ["shares", "last"], [x]),
        ]
    for n in range(1, network.layers + 1):
        bias = _repack(weights[f"lstm_{n}/bias"], "iofg")
        constants |= {
            f"lstm_{n}/W": _repack(weights[f"lstm_{n}/kernel"], "iofg").T[None],
            f"lstm_{n}/R": _repack(weights[f"lstm_{n}/recurrent_kernel"], "iofg").T[None],
            f"lstm_{n}/B": np.concatenate([bias, np.zeros_like(bias)])[None],
        }
        for part in "hc":
            inputs = [f"{part}_{n}", "direction_of_state"]
            nodes.append(helper.make_node("Unsqueeze", inputs, [f"initial_{part}_{n}"]))
        nodes.append(
            helper.make_node(
                "LSTM",
                [
                    x,
                    *(f"lstm_{n}/{name}" for name in "WRB"),
                    "",  # no lengths: all texts of a batch have one
                    f"initial_h_{n}",
                    f"initial_c_{n}",
                ],
                [f"Y_{n}", f"Y_h_{n}", f"Y_c_{n}"],
                name=f"lstm_{n}",
                hidden_size=units,
            )
        )
        x = f"outputs_{n}"  # (time, batch, units)
        nodes.append(helper.make_node("Squeeze", [f"Y_{n}", "direction_of_outputs"], [x]))
        for part in "hc":
            inputs = [f"Y_{part}_{n}", "direction_of_state"]
            nodes.append(helper.make_node("Squeeze", inputs, [f"new_{part}_{n}"]))
    nodes += [
        helper.make_node("Transpose", [x], ["outputs"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["outputs", "dense/kernel"], ["products"]),
        helper.make_node("Add", ["products", "dense/bias"], ["logits"]),
    ]

    def describe(name: str, kind: int, shape: list[str | int]) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    single = onnx.TensorProto.FLOAT
    states = _states(network)
    graph = helper.make_graph(
        nodes,
        "charlstm",
        [
            describe("ids", onnx.TensorProto.INT64, ["batch", "time"]),
            *(describe(name, single, ["batch", units]) for name in states),
        ],
        [
            describe("logits", single, ["batch", "time", size]),
            *(describe(f"new_{name}", single, ["batch", units]) for name in states),
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in constants.items()
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="charlstm",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", _ONNX_OPSET)],
        ir_version=_ONNX_IR_VERSION,
    )
    helper.set_model_props(model, _metadata(checkpoint))
    onnx.checker.check_model(model, full_check=True)
    return model


def _onnx_code(checkpoint: Checkpoint) -> str:
    network = checkpoint.network
    if network.carries_state:
        call = [
            'logits, *new_state = session.run(None, {"ids": ids} | state)',
            "state = dict(zip(state, new_state))",
        ]
    else:
        call = ['(logits,) = session.run(["logits"], {"ids": ids} | state)']
    return _python(
        checkpoint,
        imports=["import numpy as np", "import onnxruntime"],
        load=[
            'session = onnxruntime.InferenceSession("model.onnx")',
            "rng = np.random.default_rng()",
            f"zeros = np.zeros((1, {network.units}), np.float32)",
            f"state = {{name: zeros for name in ({_state_names(network)})}}",
        ],
        ids="np.array([{ids}], np.int64)",
        call=call,
        pick=_NUMPY_PICK,
    )


def _onnx_interface(network: NetworkConfig) -> list[tuple[str, str, str]]:
    return _interface(network, ids="int64", new="new_")


# --- PyTorch ----------------------------------------------------------------------

_TORCH_MODULE = '''\
"""The network of weights.safetensors. It needs PyTorch and nothing of charlstm."""

import torch
from torch import nn


class CharLSTM(nn.Module):
    """{layers} LSTM layers of {units} units over {size} characters."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM({n_inputs}, {units}, num_layers={layers}, batch_first=True)
        self.dense = nn.Linear({units}, {size})

    def forward(self, ids, state=None):
        """Read texts side by side.

        Args:
            ids: `(batch, time)` int64.
            state: h and c, each `({layers}, batch, {units})`; None for zeros.

        Returns:
            Logits of each next character, `(batch, time, {size})`, and the new state.
        """
        inputs = {inputs}
        outputs, state = self.lstm(inputs.to(self.dense.weight.dtype), state)
        return self.dense(outputs), state
'''


def torch_arrays(checkpoint: Checkpoint) -> Arrays:
    """Name and lay the weights out as PyTorch does.

    `nn.LSTM` packs its gates as Keras does, in rows, and adds two biases; ours
    is the first, the second is zero.

    Args:
        checkpoint: The model.

    Returns:
        Float32 arrays, a state dictionary of `lstm` and `dense`:
        `lstm.weight_ih_l0` (4·units, inputs), `lstm.weight_hh_l0`
        (4·units, units), `lstm.bias_ih_l0`, `lstm.bias_hh_l0` (4·units,), …
        `dense.weight` (vocab, units), `dense.bias` (vocab,).
    """
    weights = checkpoint.weights
    arrays: Arrays = {}
    for n in range(checkpoint.network.layers):
        bias = weights[f"lstm_{n + 1}/bias"]
        arrays[f"lstm.weight_ih_l{n}"] = weights[f"lstm_{n + 1}/kernel"].T
        arrays[f"lstm.weight_hh_l{n}"] = weights[f"lstm_{n + 1}/recurrent_kernel"].T
        arrays[f"lstm.bias_ih_l{n}"] = bias
        arrays[f"lstm.bias_hh_l{n}"] = np.zeros_like(bias)
    arrays["dense.weight"] = weights["dense/kernel"].T
    arrays["dense.bias"] = weights["dense/bias"]
    # safetensors copies the memory behind an array and ignores its strides.
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _write_torch(checkpoint: Checkpoint, folder: Path) -> None:
    import safetensors.numpy

    network = checkpoint.network
    metadata = {"format": "pt"} | _metadata(checkpoint)
    data = safetensors.numpy.save(torch_arrays(checkpoint), metadata=metadata)
    write_synced(folder / "weights.safetensors", data)
    if network.input == "one_hot":
        inputs = f"nn.functional.one_hot(ids, {network.vocabulary_size})"
    else:
        inputs = f"ids.unsqueeze(-1) / {network.vocabulary_size}"
    module = _TORCH_MODULE.format(
        layers=network.layers,
        units=network.units,
        size=network.vocabulary_size,
        n_inputs=network.input_size,
        inputs=inputs,
    )
    write_synced(folder / "charlstm_model.py", module.encode())


def _torch_code(checkpoint: Checkpoint) -> str:
    state = "state" if checkpoint.network.carries_state else "_"
    given = "ids, state" if checkpoint.network.carries_state else "ids"
    return _python(
        checkpoint,
        imports=[
            "import torch",
            "from charlstm_model import CharLSTM",
            "from safetensors.torch import load_file",
        ],
        load=[
            "model = CharLSTM()",
            'model.load_state_dict(load_file("weights.safetensors"))',
            "model.eval().requires_grad_(False)",
            *(["state = None"] if checkpoint.network.carries_state else []),
        ],
        ids="torch.tensor([{ids}])",
        call=[f"logits, {state} = model({given})"],
        pick="torch.multinomial(torch.softmax(logits[0, -1] / 0.8, 0), 1)",
    )


def _torch_interface(network: NetworkConfig) -> list[tuple[str, str, str]]:
    state = f"two of ({network.layers}, batch, {network.units})"
    return [
        ("`ids`, in", "int64", "(batch, time)"),
        ("`state` = (h, c), in and out; `None` for zeros", "float32", state),
        ("logits, out", "float32", f"(batch, time, {network.vocabulary_size})"),
    ]


# --- what the targets share ---------------------------------------------------------


def _repack(array: Floats, order: str) -> Floats:
    """Put the gates' columns, packed i, f, g, o, into another order."""
    gates = dict(zip("ifgo", np.split(array, 4, axis=-1), strict=True))
    return np.concatenate([gates[gate] for gate in order], axis=-1)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "charlstm_model": printable(checkpoint.model.name),
        "charlstm_step": str(checkpoint.info.step),
        "charlstm_recipe": str(checkpoint.config["recipe"]),
    }


def _interface(network: NetworkConfig, *, ids: str, new: str) -> list[tuple[str, str, str]]:
    before = ", ".join(f"`{name}`" for name in _states(network))
    after = ", ".join(f"`{new}{name}`" for name in _states(network))
    state = f"(batch, {network.units})"
    return [
        ("`ids`, in", ids, "(batch, time)"),
        (f"{before}, in: the state before, zeros where a text begins", "float32", state),
        ("`logits`, out", "float32", f"(batch, time, {network.vocabulary_size})"),
        (f"{after}, out: the state after", "float32", state),
    ]


def _state_names(network: NetworkConfig) -> str:
    return ", ".join(f'"{name}"' for name in _states(network))


def _states(network: NetworkConfig) -> list[str]:
    return [f"{part}_{n}" for n in range(1, network.layers + 1) for part in "hc"]


# --- the README ---------------------------------------------------------------------

# Adding Gumbel noise and taking the largest is a draw from the softmax.
_NUMPY_PICK = "np.argmax(logits[0, -1] / 0.8 + rng.gumbel(size=logits.shape[-1]))"


def _python(
    checkpoint: Checkpoint,
    *,
    imports: list[str],
    load: list[str],
    ids: str,
    call: list[str],
    pick: str,
) -> str:
    """Compose the lines that write some text; only the middle differs by target."""
    network = checkpoint.network
    # With the state carried the last character is all that is new.
    window = 1 if network.carries_state else network.seq_length
    has_unknown = checkpoint.vocabulary.has_unknown
    index = "characters.index(c)"
    if has_unknown:
        index += f" if c in characters else {checkpoint.vocabulary.unknown_id}"
    encoded = ids.format(ids=f"[{index} for c in read]")
    lines = [
        "import json",
        "from pathlib import Path",
        "",
        *imports,
        "",
        'vocabulary = json.loads(Path("vocabulary.json").read_text(encoding="utf-8"))',
        'characters = vocabulary["characters"]',
        *load,
        f"text = read = {_seed_text(checkpoint)!r}",
        "for _ in range(100):",
        f"    ids = {encoded}",
        *(f"    {line}" for line in call),
        *(["    logits = logits[..., :-1]  # not the unknown symbol"] if has_unknown else []),
        f"    text += characters[{pick}]",
        f"    read = text[-{window}:]",
        "print(text)",
    ]
    return "\n".join(lines) + "\n"


def _seed_text(checkpoint: Checkpoint) -> str:
    """Take some words of the training text that a README can begin with."""
    lines = [line for window in checkpoint.seed_windows[:3] for line in window.splitlines()]
    longest = max(lines, key=len, default="")
    return longest[:_SEED_LENGTH] or checkpoint.vocabulary.characters[0]


_README = """\
# {name} for {title}

A character model, written by `charlstm export --to {target}` (charlstm {version}):
{layers} LSTM layers of {units} units over {size} characters{symbol}, recipe {recipe},
checkpoint of step {step}. Nothing here needs charlstm.

```sh
pip install {install}
```

In this folder, these lines write 100 characters:

```python
{code}```

0.8 is the temperature: lower is safer, higher is bolder.

| | type | shape |
|---|---|---|
{interface}

An id is a character's index in `vocabulary.json`; a character that is not there
has {unknown_id}.{reading} Logits are before the softmax, those at a position are of the
character that follows it.
{state}
`export.json` says what this was made of and lists the files.
"""

_CARRIES_STATE = """
A text can be read at once or piece by piece: hand the state that comes out in
with the next piece.
"""
_SLIDES = """
This network was trained on windows of {seq_length} characters, each from a zero state.
So read the last {seq_length} from zeros for each new character, as above; what a
carried state would give it was never trained for.
"""


def _readme(checkpoint: Checkpoint, target: str) -> str:
    network, about = checkpoint.network, _TARGETS[target]
    name = printable(checkpoint.model.name).replace("`", "'")
    reading = " The text was lower-cased first." if checkpoint.text_options.lowercase else ""
    vocabulary = checkpoint.vocabulary
    unknown_id = "none"
    if vocabulary.has_unknown:
        unknown_id = f"the id {vocabulary.unknown_id}, the unknown symbol, which is only read"
    state = _CARRIES_STATE if network.carries_state else _SLIDES
    return _README.format(
        name=f"`{name}`",
        title=about.title,
        target=target,
        version=__version__,
        layers=network.layers,
        units=network.units,
        size=len(vocabulary),
        symbol=" and an unknown symbol" if vocabulary.has_unknown else "",
        unknown_id=unknown_id,
        recipe=checkpoint.config["recipe"],
        step=checkpoint.info.step,
        install=about.install,
        code=about.code(checkpoint),
        interface="\n".join(f"| {' | '.join(row)} |" for row in about.interface(network)),
        reading=reading,
        state=state.format(seq_length=network.seq_length),
    )


_TARGETS = {
    "keras": _Target(
        title="Keras",
        write=_write_keras,
        code=_keras_code,
        install="keras tensorflow",
        interface=_keras_interface,
    ),
    "saved-model": _Target(
        title="TensorFlow",
        write=_write_saved_model,
        code=_saved_model_code,
        install="tensorflow",
        interface=_keras_interface,
    ),
    "onnx": _Target(
        title="ONNX Runtime",
        write=_write_onnx,
        code=_onnx_code,
        install="numpy onnxruntime",
        interface=_onnx_interface,
        needs="onnx",
    ),
    "torch": _Target(
        title="PyTorch",
        write=_write_torch,
        code=_torch_code,
        install="torch safetensors",
        interface=_torch_interface,
    ),
}
TARGETS = tuple(_TARGETS)
