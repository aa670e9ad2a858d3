"""The weights of an LSTM network in a file that Keras wrote, taken out without Keras.

Three kinds of files hold them: the HDF5 of `model.save_weights` in Keras 3
(`layers/lstm/cell/vars/0`, …), the older HDF5 of `model.save("x.h5")` and of
Keras 2 (`lstm/lstm/lstm_cell/kernel:0`, …), and `.keras`, a zip with the former
and a `config.json`.

A file may be a stranger's, and both formats can do harm. Keras is not asked: it
would build layers as the file says, and those can hold code. Here a
configuration is JSON of which some words and numbers are looked at. Of HDF5,
which can have other files of the disk read, only groups and arrays that lie in
the file itself, in one piece and not compressed, are touched, as Keras writes
them: no links, no external or virtual storage, no filters. So what is read is
never more than the file holds. A zip is read in memory, up to a size.

The HDF5 library itself is not made for strangers' files: one wrong byte in a
file of 44 KB had it read a text without end. So it is run in a process of its
own, with a limit on time and memory, which hands back numbers or one error.

What the network is for, and the text, is for `importing`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.checkpoint import Arrays, weight_shapes
from charlstm.config import SEQ_LENGTH, NetworkConfig
from charlstm.errors import CheckpointError, ConfigError, InputError, printable
from charlstm.storage import open_plain, shown

# 80 million numbers with Adam's slots. More costs its sender nothing if it is zeros.
MAX_FILE_BYTES = 1 << 30
_MAX_CONFIG_BYTES = 1 << 22
# Weights hardly get smaller in a zip: what grows more is there to fill the memory.
_MAX_GROWTH, _FREE_BYTES = 4, 1 << 20
# Texts in HDF5 can all be one text of the file's size: so much is read of them.
_MAX_TEXT_BYTES = 1 << 29
_MAX_NAMES = 1_000  # 64 layers, each with dropout, have 130
# More than a slow disk needs; for each byte, ten times what a fast one does.
_SECONDS, _SECONDS_A_BYTE = 20.0, 1e-7
_SPARE_BYTES, _BYTES_A_BYTE = 512 << 20, 6
_MAX_GROUPS = 20  # in a layer, which has four
_ZIP, _HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ARTICLE = "the article's network is Input, LSTM, Dropout, LSTM, Dropout, Dense"
_LSTM_PARTS = ("kernel", "recurrent_kernel", "bias")
_DENSE_PARTS = ("kernel", "bias")
# What a layer may be called; the last two are in what `charlstm export` writes.
_KERAS3_LAYERS = re.compile(r"(lstm|dropout|dense|input_layer|reshape|rescaling)(?:_(\d+))?")
# What an LSTM must be, where the configuration says: `engine` knows no other.
_LSTM_SETTINGS = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "use_bias": True,
    "go_backwards": False,
    "stateful": False,
    "time_major": False,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasNetwork:
    """What a file of Keras holds.

    Attributes:
        name: The file's.
        sha256: Of the file, hexadecimal.
        network: The network's shape; windows of 50 where the file does not say.
        has_seq_length: Whether it says.
        weights: Float32 arrays by name, as in `checkpoint.weight_shapes`.
    """

    name: str
    sha256: str
    network: NetworkConfig
    has_seq_length: bool
    weights: Arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Configured:
    """What a configuration says of a network.

    Attributes:
        lstms: Names of the LSTM layers, from the input on.
        seq_length: Characters in a window, or None.
        scale: What the network itself multiplies ids by, or None.
        gives_state: Whether the LSTM layers give their state back.
    """

    lstms: tuple[str, ...]
    seq_length: int | None
    scale: float | None
    gives_state: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """Arrays in an open file, by part, that are not read yet."""

    lstms: list[Mapping[str, Any]]
    dense: Mapping[str, Any]


def read_keras_file(path: Path) -> KerasNetwork:
    """Read the network that a file of Keras holds, never running or building any of it.

    Args:
        path: A `.weights.h5`, `.h5`, `.hdf5` or `.keras`, told by its content.

    Returns:
        The network.

    Raises:
        InputError: If it is none, is damaged, is of another network than LSTM
            layers of one size and a softmax, or holds what it need not.
    """
    import safetensors.numpy

    name = printable(path.name)
    with _opened(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
    # -P: a module in the working folder is not to be taken for one of Python's.
    command = [sys.executable, "-P", "-m", "charlstm.kerasfile", str(path)]
    # Where this package is, installed or not.
    paths = [os.environ.get("PYTHONPATH"), str(Path(__file__).parent.parent)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS + _SECONDS_A_BYTE * n_bytes,
            check=False,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                # Its threads would only take memory, which is counted.
                "OPENBLAS_NUM_THREADS": "1",
            },
        )
    except subprocess.TimeoutExpired as error:
        raise _unreadable(name, "reading it does not end") from error
    head, _, data = done.stdout.partition(b"\n")
    with _damage_told(name):
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise _unreadable(name, f"it stops its reader ({last or done.returncode})")
        about = json.loads(head)
        if "error" in about:
            raise InputError(about["error"], hint=about["hint"])
        network = NetworkConfig(**about.pop("network"))
        weights: Arrays = dict(safetensors.numpy.load(data))
        if {key: array.shape for key, array in weights.items()} != weight_shapes(network):
            raise ValueError("the arrays are others than were announced")
        return KerasNetwork(network=network, weights=weights, **about)


def _main(path: Path) -> None:
    """Read a file in a process of its own, and write what it holds to stdout."""
    import h5py  # noqa: F401 (before memory is limited)
    import safetensors.numpy

    data = b""
    try:
        _limit_memory(path.stat().st_size)
        read = read_here(path)
    except (InputError, MemoryError) as error:
        if isinstance(error, MemoryError):
            error = _unreadable(printable(path.name), "reading it takes too much memory")
        about: dict[str, Any] = {"error": error.message, "hint": error.hint}
    else:
        data = safetensors.numpy.save(read.weights)
        about = {field.name: getattr(read, field.name) for field in dataclasses.fields(read)}
        about |= {"network": dataclasses.asdict(read.network)}
        del about["weights"]
    sys.stdout.buffer.write(json.dumps(about).encode() + b"\n" + data)


def _limit_memory(n_bytes: int) -> None:
    """Let this process have what a file of that size can need, where the system can do that."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        n_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = n_pages * resource.getpagesize() + _SPARE_BYTES + _BYTES_A_BYTE * n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_here(path: Path) -> KerasNetwork:
    """Read a file in this process, which it may end: as `read_keras_file` otherwise.

    Args:
        path: The file.

    Returns:
        The network.

    Raises:
        InputError: As `read_keras_file`.
    """
    name = printable(path.name)
    with _opened(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        n_bytes = file.tell()
        file.seek(0)
        start = file.read(8)
        file.seek(0)
        configured = None
        source: BufferedReader | BytesIO = file
        with _damage_told(name):
            if start.startswith(_ZIP):
                configured, data = _read_archive(file, n_bytes, name)
                source, n_bytes = BytesIO(data), len(data)
            elif start != _HDF5:
                raise InputError(
                    f"{name} is no file of Keras: neither HDF5 nor a .keras archive",
                    hint='model.save_weights("name.weights.h5") in Keras writes one',
                )
            network, has_seq_length, weights = _read_hdf5(source, n_bytes, configured, name)
    return KerasNetwork(
        name=name,
        sha256=sha256,
        network=network,
        has_seq_length=has_seq_length,
        weights=weights,
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open the file that a person named, links to it followed."""
    if path.is_dir():
        raise InputError(
            f"{shown(path)} is a folder",
            hint='give the file that Keras saved: model.save("name.keras") writes one',
        )
    if not path.exists():
        raise InputError(f"there is no file {shown(path)}", hint="give the file that Keras saved")
    try:
        with open_plain(path.resolve(), limit=MAX_FILE_BYTES) as file:
            yield file
    except CheckpointError as error:
        raise InputError(
            error.message, hint='model.save_weights("name.weights.h5") writes the weights alone'
        ) from error


@contextlib.contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Turn what the libraries raise at odd bytes into one error."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (
        OSError,  # HDF5's own
        RuntimeError,  # likewise, and a zip with a password
        NotImplementedError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise _unreadable(name, str(error) or type(error).__name__) from error


def _unreadable(name: str, why: str) -> InputError:
    return InputError(
        f"{name} is damaged: {printable(why):.200}", hint="save it in Keras again, or copy it again"
    )


# --- .keras: a zip --------------------------------------------------------------


def _read_archive(file: BufferedReader, n_bytes: int, name: str) -> tuple[_Configured, bytes]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        limit = min(MAX_FILE_BYTES, _FREE_BYTES + _MAX_GROWTH * n_bytes)
        config = _read_member(archive, members, _CONFIG, limit=_MAX_CONFIG_BYTES, name=name)
        configured = _read_config(json.loads(config), name)
        return configured, _read_member(archive, members, _WEIGHTS, limit=limit, name=name)


def _read_member(
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    member: str,
    *,
    limit: int,
    name: str,
) -> bytes:
    if member not in members:
        raise InputError(
            f"{name} has no {member}, so it is no .keras archive",
            hint='model.save("name.keras") in Keras writes one',
        )
    about = members[member]
    if about.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name}: {member} is packed in a way that Keras does not use")
    with archive.open(about) as file:
        data = file.read(limit + 1)
    if max(len(data), about.file_size) > limit:
        raise InputError(
            f"{name}: {member} has {about.file_size:,} bytes; at most {limit:,} are read"
        )
    if len(data) != about.file_size:
        raise EOFError(f"{member} is cut off")
    return data


# --- a configuration: JSON of which some words and numbers count ---------------------


def _read_config(content: Any, name: str) -> _Configured:
    """Check that a configuration is of layers that charlstm has, one above the other."""
    kind = content["class_name"]
    if kind not in ("Sequential", "Functional", "Model"):
        raise InputError(f"{name} is a {_said(kind)}, not a Sequential", hint=_ARTICLE)
    body = content["config"]
    layers = body if isinstance(body, list) else body["layers"]  # a list before Keras 2.3
    inputs: set[str] = set()
    lstms: list[str] = []
    shapes: list[Any] = [(content.get("build_config") or {}).get("input_shape")]
    before = scale = None
    n_dense = 0
    gives_state = True
    last_gives_all = True
    for layer in layers:
        kind, settings = layer["class_name"], layer["config"]
        label = settings["name"]
        module = layer.get("module")
        if "module" in layer and str(module).partition(".")[0] not in ("keras", "tf_keras"):
            raise InputError(f"{name} has a layer of its own: {_said(module)}", hint=_ARTICLE)
        if not lstms:
            shapes[:0] = [settings.get("batch_shape"), settings.get("batch_input_shape")]
        if kind == "InputLayer":
            inputs.add(label)
            continue
        if kind == "LSTM":
            _check_lstm(settings, _said(label), name)
            if not last_gives_all:
                raise InputError(
                    f"{name}: the LSTM below {_said(label)} gives its last output only"
                )
            last_gives_all = settings["return_sequences"] is True
            gives_state = gives_state and settings.get("return_state") is True
            lstms.append(label)
        elif kind == "Dense":
            n_dense += 1
            # Without its softmax it gives logits, of the same weights.
            if settings.get("activation") not in ("softmax", "linear"):
                raise InputError(
                    f"{name}: the activation of {_said(label)} is "
                    f"{_said(settings.get('activation'))}, not softmax",
                    hint=_ARTICLE,
                )
        elif kind == "Rescaling" and not lstms and settings["offset"] == 0:
            scale = float(settings["scale"])
        elif kind not in ("Dropout", *(() if lstms else ("Reshape", "OneHot"))):
            raise InputError(
                f"{name} has a layer {_said(kind)}, which charlstm has not", hint=_ARTICLE
            )
        if n_dense and kind != "Dense" and kind != "Dropout":
            raise InputError(f"{name} has a layer {_said(kind)} above the softmax", hint=_ARTICLE)
        below = _names_below(layer.get("inbound_nodes"))
        if below is not None and below - inputs != ({before} if before else set()):
            raise InputError(f"{name}: {_said(label)} does not read the layer below", hint=_ARTICLE)
        before = label
    if not lstms or n_dense != 1:
        raise InputError(f"{name} has {len(lstms)} LSTM layers and {n_dense} Dense", hint=_ARTICLE)
    return _Configured(
        lstms=tuple(lstms),
        seq_length=_seq_length(shapes),
        scale=scale,
        gives_state=gives_state,
    )


def _check_lstm(settings: Mapping[str, Any], label: str, name: str) -> None:
    """Refuse what would make other numbers of the same weights."""
    for setting, wanted in _LSTM_SETTINGS.items():
        has = settings.get(setting, wanted)
        if has != wanted:
            raise InputError(
                f"{name}: {setting} of {label} is {_said(has)}; "
                f"charlstm's LSTM has {_said(wanted)}",
                hint="the network has to be trained anew, with Keras's defaults",
            )


def _names_below(nodes: Any) -> set[str] | None:
    """List the layers whose outputs a layer reads; None in a Sequential, which is a chain."""
    if nodes is None:
        return None
    found: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            history = value.get("keras_history")
            if history is not None:
                found.add(history[0])
            else:
                for part in value.values():
                    walk(part)
        elif isinstance(value, list):
            # Keras 2 has ["lstm", 0, 0, {}].
            if len(value) in (3, 4) and isinstance(value[0], str):
                found.add(value[0])
                value = value[3:]
            for part in value:
                walk(part)

    walk(nodes)
    return found


def _seq_length(shapes: list[Any]) -> int | None:
    """Take the window's length from the first input shape that has one."""
    for shape in shapes:
        if isinstance(shape, list) and len(shape) == 3 and type(shape[1]) is int:
            length: int = shape[1]
            return length
    return None


def _said(value: Any) -> str:
    """Show what a stranger wrote."""
    return f"{printable(str(value)):.60}"


# --- HDF5 -----------------------------------------------------------------------


def _read_hdf5(
    source: BufferedReader | BytesIO, n_bytes: int, configured: _Configured | None, name: str
) -> tuple[NetworkConfig, bool, Arrays]:
    import h5py

    with h5py.File(source, "r") as file:
        groups = _names(file, name)
        for layers in ("layers", "_layer_checkpoint_dependencies"):  # the second: Keras 2.13
            if layers in groups:
                found = _find_in_keras3(_group(file, layers, name), configured, name)
                break
        else:
            root = _group(file, "model_weights", name) if "model_weights" in groups else file
            text = _text(file, "model_config", n_bytes)
            if text is not None and len(text) > _MAX_CONFIG_BYTES:
                raise InputError(f"{name}: its configuration has {len(text):,} characters")
            if text is not None:
                configured = _read_config(json.loads(text), name)
            else:
                _refuse_hard_sigmoid(_text(root, "keras_version", n_bytes), name)
            found = _find_in_older(root, configured, n_bytes, name)
        network = _network_of(found, configured, name)
        arrays = [array for layer in [*found.lstms, found.dense] for array in layer.values()]
        # Where two lie in one place, little of a file would be much of memory.
        if sum(array.id.get_storage_size() for array in arrays) > n_bytes:
            raise InputError(f"{name} has less in it than its arrays need")
        has_seq_length = configured is not None and configured.seq_length is not None
        weights = {
            key: _read_array(array, key, name)
            for key, array in zip(weight_shapes(network), arrays, strict=True)
        }
    return network, has_seq_length, weights


def _names(group: Any, name: str) -> list[str]:
    """List what is in a group, without following any of it."""
    if len(group) > _MAX_NAMES:
        raise InputError(f"{name}: {_said(group.name)} has {len(group):,} entries")
    return list(group)


def _child(group: Any, key: str, name: str) -> Any:
    """Open what lies in a group itself: a link could lead to any file of the disk."""
    import h5py

    where = f"{_said(group.name).rstrip('/')}/{_said(key)}"
    try:
        # Not `key in group` nor `group.get`, which open what a link leads to.
        kind = group.id.links.get_info(key.encode()).type
    except KeyError as error:
        raise InputError(f"{name} has no {where}", hint=_ARTICLE) from error
    if kind != h5py.h5l.TYPE_HARD:
        raise InputError(
            f"{name}: {where} is a link to another place", hint="Keras writes none: do not trust it"
        )
    return group[key]


def _group(group: Any, key: str, name: str) -> Any:
    import h5py

    child = _child(group, key, name)
    if not isinstance(child, h5py.Group):
        raise InputError(f"{name}: {_said(child.name)} is no group", hint=_ARTICLE)
    return child


def _array(group: Any, key: str, name: str) -> Any:
    """Open an array that lies in the file as Keras writes it; its numbers are not read."""
    import h5py

    array = _child(group, key, name)
    where = f"{name}: {_said(array.name)}"
    if not isinstance(array, h5py.Dataset):
        raise InputError(f"{where} is no array", hint=_ARTICLE)
    # Asked before its shape: that of a virtual array has other files opened.
    storage = array.id.get_create_plist()
    is_here = storage.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not is_here or storage.get_external_count():
        raise InputError(
            f"{where} does not lie in the file in one piece",
            hint="Keras writes it so; save the network in Keras again",
        )
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise InputError(
            f"{where} is {_said(array.dtype)}; weights are float16, float32 or float64"
        )
    if array.id.get_storage_size() != math.prod(array.shape) * array.dtype.itemsize:
        raise InputError(f"{where} has less in it than its shape {array.shape} needs")
    return array


def _text(group: Any, key: str, n_bytes: int) -> str | None:
    """Read a text that is attached to a group, if it is there."""
    texts = _texts(group, key, n_bytes)
    return texts[0] if texts is not None and len(texts) == 1 else None


def _texts(group: Any, key: str, n_bytes: int) -> list[str] | None:
    """Read texts that are attached to a group; None if there is none, or too much of it."""
    if key not in list(group.attrs):
        return None
    about = group.attrs.get_id(key)
    n = math.prod(about.shape)
    if not 1 <= n <= _MAX_NAMES or about.get_storage_size() > n_bytes:
        return None
    if n > 1 and n * n_bytes > _MAX_TEXT_BYTES:
        return None
    values = np.ravel(group.attrs[key]).tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _read_array(array: Any, key: str, name: str) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values: npt.NDArray[np.float32] = np.asarray(array[()]).astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"{name}: {key} has values that are not finite",
            hint="take a file that was saved before the loss became nan",
        )
    return values


def _find_in_keras3(layers: Any, configured: _Configured | None, name: str) -> _Found:
    """Find the arrays where Keras 3 has them: by kinds of layers, numbered, without names."""
    by_kind: dict[str, dict[int, str]] = {}
    for key in _names(layers, name):
        match = _KERAS3_LAYERS.fullmatch(key)
        if match is None:
            raise InputError(
                f"{name} has a layer {_said(key)}, which charlstm has not", hint=_ARTICLE
            )
        by_kind.setdefault(match[1], {})[int(match[2] or 0)] = key
    lstms = [key for _, key in sorted(by_kind.get("lstm", {}).items())]
    dense = list(by_kind.get("dense", {}).values())
    n_configured = len(lstms) if configured is None else len(configured.lstms)
    if not lstms or len(dense) != 1 or len(lstms) != n_configured:
        raise InputError(
            f"{name} has {len(lstms)} LSTM layers and {len(dense)} Dense with weights",
            hint=_ARTICLE,
        )
    return _Found(
        lstms=[
            _numbered(_group(_group(layers, key, name), "cell", name), _LSTM_PARTS, name)
            for key in lstms
        ],
        dense=_numbered(_group(layers, dense[0], name), _DENSE_PARTS, name),
    )


def _numbered(layer: Any, parts: tuple[str, ...], name: str) -> Mapping[str, Any]:
    variables = _group(layer, "vars", name)
    keys = [str(n) for n in range(len(parts))]
    if sorted(_names(variables, name)) != keys:
        raise InputError(
            f"{name}: {_said(layer.name)} has {len(variables)} arrays, not {len(parts)}: "
            f"{', '.join(parts)}",
            hint=_ARTICLE,
        )
    return {part: _array(variables, key, name) for part, key in zip(parts, keys, strict=True)}


def _find_in_older(root: Any, configured: _Configured | None, n_bytes: int, name: str) -> _Found:
    """Find the arrays where Keras 2 and `model.save("x.h5")` have them: by the layers' names."""
    found: dict[str, dict[str, Any]] = {}
    for key in _names(root, name):
        arrays = _arrays_below(_group(root, key, name), name)
        if arrays:
            found[key] = arrays
    lstms = {key for key, arrays in found.items() if set(arrays) == set(_LSTM_PARTS)}
    dense = {key for key, arrays in found.items() if set(arrays) == set(_DENSE_PARTS)}
    others = sorted(found.keys() - lstms - dense)
    if others:
        parts = ", ".join(sorted(map(_said, found[others[0]])))
        raise InputError(
            f"{name} has a layer {_said(others[0])} with {parts:.100}, neither LSTM nor Dense",
            hint=_ARTICLE,
        )
    if not lstms or len(dense) != 1:
        raise InputError(
            f"{name} has {len(lstms)} LSTM layers and {len(dense)} Dense with weights",
            hint=_ARTICLE,
        )
    order = _texts(root, "layer_names", n_bytes) if configured is None else configured.lstms
    ordered = [key for key in order or () if key in lstms]
    if len(ordered) != len(lstms):
        raise InputError(
            f"{name} does not say in which order its LSTM layers are",
            hint='model.save("name.keras") in Keras writes that too',
        )
    return _Found(
        lstms=[{part: found[key][part] for part in _LSTM_PARTS} for key in ordered],
        dense={part: found[min(dense)][part] for part in _DENSE_PARTS},
    )


def _arrays_below(layer: Any, name: str) -> dict[str, Any]:
    """Collect a layer's arrays, however deep they are, by their plain names."""
    import h5py

    arrays: dict[str, Any] = {}
    groups = [layer]
    n_groups = 0
    while groups:
        group = groups.pop()
        n_groups += 1
        for key in _names(group, name):
            if n_groups + len(groups) > _MAX_GROUPS:  # one can be in itself
                raise InputError(f"{name}: {_said(layer.name)} has too many groups", hint=_ARTICLE)
            child = _child(group, key, name)
            if isinstance(child, h5py.Group):
                groups.append(child)
                continue
            plain = key.removesuffix(":0")
            if plain in arrays:
                raise InputError(
                    f"{name}: {_said(layer.name)} has two arrays {_said(plain)}", hint=_ARTICLE
                )
            arrays[plain] = _array(group, key, name)
    return arrays


def _refuse_hard_sigmoid(version: str | None, name: str) -> None:
    """Refuse weights whose gates were, by default, of another function.

    An LSTM of Keras before 2.3 and of TensorFlow 1 had `hard_sigmoid`. Weights
    alone do not say so; "2.2.4-tf" was written by TensorFlow 1.14 to 2.1, so it
    is taken for what the last of them did.
    """
    match = re.match(r"(\d+)\.(\d+)", version or "")
    if version is None or match is None or version == "2.2.4-tf":
        return
    if (int(match[1]), int(match[2])) < (2, 3):
        raise InputError(
            f"{name} was written by Keras {_said(version)}, whose LSTM had hard_sigmoid gates "
            "unless told otherwise; charlstm's has sigmoid",
            hint="if it was told, save all of it: model.save() writes that too",
        )


# --- what network it is ---------------------------------------------------------------


def _network_of(found: _Found, configured: _Configured | None, name: str) -> NetworkConfig:
    """Work the network's shape out of its arrays', and check that all fit it."""
    shapes = [array.shape for layer in [*found.lstms, found.dense] for array in layer.values()]
    if any(len(shape) not in (1, 2) for shape in shapes):
        raise InputError(f"{name} has an array that is neither a matrix nor a row", hint=_ARTICLE)
    n_inputs, units = shapes[0][0], shapes[1][0]
    size = shapes[-1][0]
    if n_inputs not in (1, size):
        raise InputError(
            f"{name}: its first layer reads {n_inputs:,} numbers a character; charlstm's reads 1 "
            f"(id / {size}) or {size:,} (one-hot)",
            hint=_ARTICLE,
        )
    is_scaled = n_inputs == 1
    seq_length = configured.seq_length if configured is not None else None
    try:
        network = NetworkConfig(
            vocabulary_size=size,
            units=units,
            layers=len(found.lstms),
            seq_length=SEQ_LENGTH if seq_length is None else seq_length,
            input="scaled" if is_scaled else "one_hot",
            # Who gives the state out takes it back in; others begin each window anew.
            carries_state=not is_scaled and configured is not None and configured.gives_state,
        )
    except ConfigError as error:
        raise InputError(f"{name}: {error.message}", hint=error.hint) from error
    for (key, shape), has in zip(weight_shapes(network).items(), shapes, strict=True):
        if has != shape:
            raise InputError(
                f"{name}: {key} is {has}; {network.layers} LSTM layers of {units:,} units over "
                f"{size:,} characters have {shape}",
                hint="charlstm's layers are LSTMs of one size, without other layers between",
            )
    scale = configured.scale if configured is not None else None
    if scale is not None and not (is_scaled and math.isclose(scale * size, 1, rel_tol=1e-6)):
        raise InputError(f"{name} scales ids by {scale:g}; charlstm by 1 / {size}", hint=_ARTICLE)
    return network


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
