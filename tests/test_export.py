"""Exports, each read in its own ecosystem's runtime where charlstm is never imported."""

from __future__ import annotations

import ast
import errno
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from conftest import run
from helpers import make_checkpoint, make_network, random_weights, save, sigmoid

from charlstm import cli, export, storage
from charlstm.checkpoint import Checkpoint
from charlstm.engine import LSTMState, LSTMStep
from charlstm.errors import InputError, OutputError
from charlstm.export import TARGETS, export_model
from charlstm.models import open_checkpoint, shipped_models
from charlstm.vocabulary import Vocabulary

BATCH, TIME = 3, 11  # beside 7 characters, 5 units, and 2 or 3 layers
# Float32 sums in another order; a swapped gate differs by more than 0.1.
TOLERANCE = 1e-4
MODELS = ("tiny", "article", "macbeth")
WITHOUT_TENSORFLOW = ("onnx", "torch")
NETWORK_FILES = {
    "keras": {"model.keras"},
    "onnx": {"model.onnx"},
    "torch": {"weights.safetensors", "charlstm_model.py"},
}
COMMON_FILES = {"vocabulary.json", "README.md", "export.json"}
PIP_LINE = "pip install 'charlstm[export]'"

targets = pytest.mark.parametrize(
    "target",
    [
        pytest.param("keras", marks=pytest.mark.tf),
        pytest.param("saved-model", marks=pytest.mark.tf),
        "onnx",
        pytest.param(
            "torch",
            marks=pytest.mark.skipif(
                # Not `importorskip`: two frameworks in one process get in each other's way.
                importlib.util.find_spec("torch") is None,
                reason="torch is not installed",
            ),
        ),
    ],
)
models = pytest.mark.parametrize("name", MODELS)


# --- the same numbers in another runtime ------------------------------------------

# Each defines `load()`, which makes `read(ids, state) -> logits, state` of the
# folder it is in, with h_1, c_1, … as `(batch, units)` arrays.
RUNTIMES = {
    "keras": """
import keras

def load():
    model = keras.models.load_model("model.keras", safe_mode=True)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}

    def read(ids, state):
        outputs = model({"ids": ids.astype(np.int32)} | state)
        outputs = {name: keras.ops.convert_to_numpy(x) for name, x in outputs.items()}
        return outputs.pop("logits"), outputs

    return read
""",
    "saved-model": """
import tensorflow as tf

def load():
    loaded = tf.saved_model.load("saved_model")
    signature = loaded.signatures["serving_default"]

    def read(ids, state):
        tensors = {name: tf.constant(x) for name, x in state.items()}
        outputs = signature(ids=tf.constant(ids, tf.int32), **tensors)
        outputs = {name: x.numpy() for name, x in outputs.items()}
        return outputs.pop("logits"), outputs

    return read
""",
    "onnx": """
import onnxruntime

def load():
    session = onnxruntime.InferenceSession("model.onnx")
    names = [output.name for output in session.get_outputs()]

    def read(ids, state):
        outputs = session.run(None, {"ids": ids} | state)
        outputs = {n.removeprefix("new_"): x for n, x in zip(names, outputs, strict=True)}
        return outputs.pop("logits"), outputs

    return read
""",
    "torch": """
import importlib
import torch
from safetensors.torch import load_file

def load():
    sys.modules.pop("charlstm_model", None)
    sys.path[0] = os.getcwd()
    model = importlib.import_module("charlstm_model").CharLSTM()
    model.load_state_dict(load_file("weights.safetensors"), strict=True)

    def read(ids, state):
        n_layers = len(state) // 2
        before = [
            torch.from_numpy(np.stack([state[f"{part}_{n + 1}"] for n in range(n_layers)]))
            for part in "hc"
        ]
        with torch.inference_mode():
            logits, after = model(torch.from_numpy(ids), tuple(before))
        after = dict(zip("hc", after, strict=True))
        return logits.numpy(), {
            f"{part}_{n + 1}": after[part][n].numpy() for part in "hc" for n in range(n_layers)
        }

    return read
""",
}
NO_CHARLSTM = """
import sys
assert not [m for m in sys.modules if m.partition(".")[0] == "charlstm"]
"""
COMPARE = """
import json, os, sys
import numpy as np
{runtime}
for folder, given, result in json.loads(sys.argv[1]):
    os.chdir(folder)
    state = dict(np.load(given))
    ids = state.pop("ids")
    read = load()
    logits, after = read(ids, state)
    steps = []
    for t in range(ids.shape[1]):
        step, state = read(ids[:, t : t + 1], state)
        steps.append(step)
    carried = {{"carried_" + name: x for name, x in state.items()}}
    np.savez(result, logits=logits, steps=np.concatenate(steps, 1), **after, **carried)
"""
RUN_READMES = """
import json, os, sys
for folder, code in json.loads(sys.argv[1]):
    os.chdir(folder)
    exec(code, {"__name__": "__main__"})
    print(end="\\f", flush=True)
"""


def python(code: str, *arguments: str, folder: Path) -> str:
    """Run code in a process of its own, which must not have met charlstm in the end."""
    done = subprocess.run(
        [sys.executable, "-c", code + NO_CHARLSTM, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    article = make_network(input="scaled", carries_state=False, layers=3)
    return {
        "tiny": make_checkpoint(folder / "tiny"),
        "article": make_checkpoint(folder / "article", article, recipe="article"),
        "macbeth": open_checkpoint(shipped_models()["macbeth"])[0],
    }


@pytest.fixture(scope="module")
def given(checkpoints: dict[str, Checkpoint]) -> dict[str, dict[str, np.ndarray]]:
    """Ids and a state that is not zero, every array of it another."""
    rng = np.random.default_rng(3)
    inputs: dict[str, dict[str, np.ndarray]] = {}
    for name, checkpoint in checkpoints.items():
        network = checkpoint.network
        inputs[name] = {"ids": rng.integers(0, network.vocabulary_size, (BATCH, TIME))}
        for n, part in itertools.product(range(1, network.layers + 1), "hc"):
            state = rng.uniform(-1, 1, (BATCH, network.units))
            inputs[name][f"{part}_{n}"] = state.astype(np.float32)
    return inputs


@pytest.fixture(scope="module")
def expected(
    checkpoints: dict[str, Checkpoint], given: dict[str, dict[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """What charlstm's own engine makes of it."""
    results = {}
    for name, checkpoint in checkpoints.items():
        step = LSTMStep(checkpoint.network, checkpoint.weights)
        state = LSTMState(checkpoint.network, BATCH)
        for n in range(checkpoint.network.layers):
            state.h[n][:] = given[name][f"h_{n + 1}"]
            state.c[n][:] = given[name][f"c_{n + 1}"]
        logits = []
        for ids in given[name]["ids"].T:
            step.advance(ids, state)
            logits.append(step.logits(state))
        results[name] = {"logits": np.stack(logits, 1)}
        for n in range(checkpoint.network.layers):
            results[name] |= {f"h_{n + 1}": state.h[n], f"c_{n + 1}": state.c[n]}
    return results


class Exports:
    """Each target's exports of all models, and what its runtime made of them."""

    def __init__(
        self,
        folder: Path,
        checkpoints: dict[str, Checkpoint],
        given: dict[str, dict[str, np.ndarray]],
    ) -> None:
        self.folder = folder
        self.checkpoints = checkpoints
        self.given = given
        self._results: dict[str, dict[str, dict[str, np.ndarray]]] = {}

    def path(self, target: str, name: str) -> Path:
        path = self.folder / f"{name}-{target}"
        if not path.exists():
            export_model(self.checkpoints[name], target=target, output=path)
        return path

    def results(self, target: str) -> dict[str, dict[str, np.ndarray]]:
        if target not in self._results:
            jobs = []
            for name in MODELS:
                files = [self.folder / f"{name}-{target}-{what}.npz" for what in ("in", "out")]
                np.savez(files[0], **self.given[name])  # type: ignore[arg-type]
                jobs.append([str(self.path(target, name)), *map(str, files)])
            code = COMPARE.format(runtime=RUNTIMES[target])
            python(code, json.dumps(jobs), folder=self.folder)
            self._results[target] = {
                name: dict(np.load(job[2])) for name, job in zip(MODELS, jobs, strict=True)
            }
        return self._results[target]


@pytest.fixture(scope="module")
def exports(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoints: dict[str, Checkpoint],
    given: dict[str, dict[str, np.ndarray]],
) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"), checkpoints, given)


@targets
@models
def test_logits_and_states_are_those_of_the_engine(exports, expected, target, name):
    result = exports.results(target)[name]
    network = exports.checkpoints[name].network
    assert result["logits"].shape == (BATCH, TIME, network.vocabulary_size)
    assert result["logits"].dtype == np.float32
    for key, array in expected[name].items():
        np.testing.assert_allclose(result[key], array, atol=TOLERANCE, rtol=0, err_msg=key)


@targets
@models
def test_single_steps_with_the_state_carried_are_the_sequence(exports, target, name):
    result = exports.results(target)[name]
    np.testing.assert_allclose(result["steps"], result["logits"], atol=TOLERANCE, rtol=0)
    states = [key for key in result if re.fullmatch(r"[hc]_\d", key)]
    assert len(states) == 2 * exports.checkpoints[name].network.layers
    for key in states:
        np.testing.assert_allclose(
            result[f"carried_{key}"], result[key], atol=TOLERANCE, rtol=0, err_msg=key
        )


def test_the_comparison_would_notice_a_swapped_gate(checkpoints, given, expected):
    """The tolerance is far below what packing the gates as another format does would change."""
    checkpoint = checkpoints["tiny"]
    weights = dict(checkpoint.weights)
    for key in [key for key in weights if key.startswith("lstm")]:
        i, f, g, o = np.split(weights[key], 4, axis=-1)
        weights[key] = np.concatenate([i, o, f, g], axis=-1)
    state = LSTMState(checkpoint.network, BATCH)
    step = LSTMStep(checkpoint.network, weights)
    step.advance(given["tiny"]["ids"][:, 0], state)
    assert np.abs(step.logits(state) - expected["tiny"]["logits"][:, 0]).max() > 0.1


def test_the_arrays_for_torch_fit_its_equations(checkpoints, given, expected):
    """As the documentation of `torch.nn.LSTM` has them, in float64; no torch needed."""
    for name in MODELS:
        checkpoint = checkpoints[name]
        network = checkpoint.network
        arrays = {k: np.asarray(x, np.float64) for k, x in export.torch_arrays(checkpoint).items()}
        ids = given[name]["ids"]
        h = {n: given[name][f"h_{n + 1}"].astype(np.float64) for n in range(network.layers)}
        c = {n: given[name][f"c_{n + 1}"].astype(np.float64) for n in range(network.layers)}
        for t in range(TIME):
            if network.input == "one_hot":
                x = np.eye(network.vocabulary_size)[ids[:, t]]
            else:
                x = ids[:, t : t + 1] / network.vocabulary_size
            for n in range(network.layers):
                z = x @ arrays[f"lstm.weight_ih_l{n}"].T + arrays[f"lstm.bias_ih_l{n}"]
                z += h[n] @ arrays[f"lstm.weight_hh_l{n}"].T + arrays[f"lstm.bias_hh_l{n}"]
                i, f, g, o = (z[:, k * network.units : (k + 1) * network.units] for k in range(4))
                c[n] = sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
                h[n] = sigmoid(o) * np.tanh(c[n])
                x = h[n]
            logits = x @ arrays["dense.weight"].T + arrays["dense.bias"]
            np.testing.assert_allclose(
                logits, expected[name]["logits"][:, t], atol=TOLERANCE, rtol=0
            )


def test_weights_for_torch_are_named_and_shaped_as_its_own(exports):
    import safetensors

    path = exports.path("torch", "tiny") / "weights.safetensors"
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert {key: array.shape for key, array in arrays.items()} == {
        "lstm.weight_ih_l0": (20, 7),
        "lstm.weight_hh_l0": (20, 5),
        "lstm.bias_ih_l0": (20,),
        "lstm.bias_hh_l0": (20,),
        "lstm.weight_ih_l1": (20, 5),
        "lstm.weight_hh_l1": (20, 5),
        "lstm.bias_ih_l1": (20,),
        "lstm.bias_hh_l1": (20,),
        "dense.weight": (7, 5),
        "dense.bias": (7,),
    }
    for key, array in export.torch_arrays(exports.checkpoints["tiny"]).items():
        np.testing.assert_array_equal(arrays[key], array)
    assert not arrays["lstm.bias_hh_l0"].any()
    assert metadata["charlstm_model"] == "tiny"


def test_half_precision_is_exported_as_float32(exports):
    """The model that ships has float16 on disk."""
    import safetensors.numpy

    path = exports.path("torch", "macbeth") / "weights.safetensors"
    arrays = safetensors.numpy.load_file(path)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    kernel = exports.checkpoints["macbeth"].weights["lstm_2/kernel"]
    np.testing.assert_array_equal(arrays["lstm.weight_ih_l1"], kernel.T)


@models
def test_onnx_has_the_operator_of_its_own_and_free_axes(exports, name):
    import onnx

    model = onnx.load(exports.path("onnx", name) / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    network = exports.checkpoints[name].network
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("LSTM") == network.layers
    assert "Loop" not in operators
    assert {node.domain for node in model.graph.node} == {""}

    def axes(value: Any) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    states = [f"{part}_{n}" for n in range(1, network.layers + 1) for part in "hc"]
    units = network.units
    assert {value.name: axes(value) for value in model.graph.input} == {
        "ids": ["batch", "time"]
    } | {name: ["batch", units] for name in states}
    assert {value.name: axes(value) for value in model.graph.output} == {
        "logits": ["batch", "time", network.vocabulary_size]
    } | {f"new_{name}": ["batch", units] for name in states}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["charlstm_model"] == exports.checkpoints[name].model.name


def test_onnx_refuses_what_its_files_cannot_hold(checkpoints, tmp_path, monkeypatch):
    network = checkpoints["tiny"].network
    monkeypatch.setattr(export, "MAX_ONNX_BYTES", 4 * network.parameters - 1)
    with pytest.raises(InputError, match="file of ONNX holds"):
        export_model(checkpoints["tiny"], target="onnx", output=tmp_path / "out")
    monkeypatch.setattr(export, "MAX_ONNX_BYTES", 4 * network.parameters)
    export_model(checkpoints["tiny"], target="onnx", output=tmp_path / "out")


@pytest.mark.tf
@models
def test_keras_model_has_as_many_parameters(exports, name):
    exports.path("keras", name)  # starts TensorFlow
    checkpoint = exports.checkpoints[name]
    assert export.build_keras_model(checkpoint).count_params() == checkpoint.network.parameters


# --- the folder --------------------------------------------------------------------


def readme_code(folder: Path) -> str:
    (code,) = re.findall(
        r"^```python\n(.*?)^```$",
        (folder / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return str(code)


@pytest.mark.slow
@targets
def test_the_lines_of_the_readme_run_as_they_stand(exports, target):
    """They write 100 characters after a seed text."""
    names = ("macbeth", "article")
    folders = [exports.path(target, name) for name in names]
    codes = [readme_code(folder) for folder in folders]
    if target == "torch":  # a module of one name in every folder
        texts = [python(code, folder=f) for code, f in zip(codes, folders, strict=True)]
    else:
        jobs = list(zip(map(str, folders), codes, strict=True))
        texts = python(RUN_READMES, json.dumps(jobs), folder=exports.folder).split("\f")[:-1]
    for name, code, text in zip(names, codes, texts, strict=True):
        checkpoint = exports.checkpoints[name]
        (seed_text,) = map(
            ast.literal_eval, re.findall(r"^text = read = (.*)$", code, re.MULTILINE)
        )
        assert any(seed_text in window for window in checkpoint.seed_windows)
        assert text.startswith(seed_text)
        assert len(text) == len(seed_text) + 100 + 1
        assert set(text[:-1]) <= set(checkpoint.vocabulary.characters)
        assert len(code.splitlines()) < 30


def test_the_readme_of_an_article_model_slides_its_window(exports):
    sliding, carried = (
        (exports.path("onnx", name) / "README.md").read_text(encoding="utf-8")
        for name in ("article", "macbeth")
    )
    assert "read = text[-8:]" in sliding
    assert "the last 8 from zeros" in sliding
    assert "read = text[-1:]" in carried
    assert "zero state" not in carried
    assert "lower-cased" in sliding  # as `make_config` has it
    assert "lower-cased" not in carried


@pytest.mark.parametrize("target", [pytest.param("keras", marks=pytest.mark.tf), "onnx", "torch"])
def test_the_folder_holds_what_it_lists(exports, target):
    folder = exports.path(target, "tiny")
    found = {entry.name for entry in folder.iterdir()} - {"__pycache__"}
    assert found == NETWORK_FILES[target] | COMMON_FILES
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert set(about["files"]) == found
    assert about["format_version"] == 1
    assert (about["target"], about["model"], about["step"]) == (target, "tiny", 40)
    assert about["network"]["units"] == 5
    assert about["text"]["lowercase"] is True
    checkpoint = exports.checkpoints["tiny"]
    assert Vocabulary.load(folder / "vocabulary.json") == checkpoint.vocabulary
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.tf
def test_a_saved_model_is_listed_with_all_its_files(exports):
    folder = exports.path("saved-model", "tiny")
    listed = json.loads((folder / "export.json").read_text(encoding="utf-8"))["files"]
    assert "saved_model/saved_model.pb" in listed
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == set(listed)


def test_a_name_cannot_break_out_of_the_readme(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "a`b\n# c")
    path = export_model(checkpoint, target="torch", output=tmp_path / "out").path
    assert (path / "README.md").read_text(encoding="utf-8").splitlines()[0] == (
        "# `a'b\\n# c` for PyTorch"
    )
    assert readme_code(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `tiny`: steps 8 (the best) and 16."""
    folder = tmp_path / "work"
    save(folder / "checkpoints" / "tiny", 8, random_seed=1, val_loss=1.5)
    save(folder / "checkpoints" / "tiny", 16, random_seed=2, val_loss=1.75)
    monkeypatch.chdir(folder)
    return folder


def to_torch(*options: str, output: str = "out") -> Result:
    return run("export", "tiny", "--to", "torch", "-o", output, *options)


def exported_step(folder: Path) -> int:
    return int(json.loads((folder / "export.json").read_text(encoding="utf-8"))["step"])


def assert_refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    error, *hints = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert len(hints) <= 1
    for part in parts:
        assert part in result.stderr


def test_streams(tiny):
    result = to_torch()
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].startswith("tiny, step 8, for torch: 5 files, ")
    assert result.stdout.splitlines()[1] == "exported: out"
    assert result.stderr == f"{Path('out', 'README.md')} has the lines that use it\n"
    quiet = to_torch("--quiet", output="deep/er")
    assert quiet.exit_code == 0
    assert quiet.stderr == ""
    assert (tiny / "deep" / "er" / "README.md").is_file()


def test_json(tiny):
    result = to_torch("--json")
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    about = json.loads(line)
    assert about == {
        "path": str(tiny / "out"),
        "target": "torch",
        "model": str(tiny / "checkpoints" / "tiny"),
        "checkpoint": 8,
        "files": sorted(NETWORK_FILES["torch"] | COMMON_FILES),
        "n_bytes": sum(path.stat().st_size for path in (tiny / "out").iterdir()),
    }


@pytest.mark.tf
def test_the_commands_of_the_guide_run_as_they_stand(empty_workplace):
    guide = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
    commands = [shlex.split(c) for c in re.findall("^charlstm (export .*)$", guide, re.MULTILINE)]
    assert {command[command.index("--to") + 1] for command in commands} == set(TARGETS)
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0, result.output
    (line,) = re.findall("^python -c .*$", guide, re.MULTILINE)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", line],
        cwd="macbeth-onnx",
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert len(done.stdout) > 100


@pytest.mark.tf
@pytest.mark.parametrize("target", ["keras", "saved-model"])
def test_what_keras_and_tensorflow_say_is_not_printed(tiny, target):
    command = [sys.executable, "-m", "charlstm", "export", "tiny", "--to", target]
    done = subprocess.run(
        [*command, "-o", "out", "--json", "--quiet"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["target"] == target


@pytest.mark.parametrize(("which", "random_seed"), [("best", 1), ("last", 2), ("16", 2)])
def test_the_checkpoint_is_chosen(tiny, which, random_seed):
    import safetensors.numpy

    assert to_torch("--checkpoint", which).exit_code == 0
    arrays = safetensors.numpy.load_file(tiny / "out" / "weights.safetensors")
    weights = random_weights(make_network(), random_seed)
    np.testing.assert_array_equal(arrays["dense.weight"], weights["dense/kernel"].T)


def test_wrong_requests(tiny):
    assert_refused(run("export", "tiny", "--to", "tflite", "-o", "out"), 2, "'tflite'", "'onnx'")
    assert_refused(run("export", "tiny", "-o", "out"), 2, "--to")
    assert_refused(run("export", "tiny", "--to", "onnx"), 2, "--output")
    assert_refused(run("export", "tale", "--to", "onnx", "-o", "out"), 1, "no model tale", "tiny")
    assert_refused(to_torch("--checkpoint", "9"), 2, "no checkpoint 9")
    assert_refused(to_torch(output="."), 2, "exists already")
    assert [entry.name for entry in tiny.iterdir()] == ["checkpoints"]


def test_the_library_refuses_an_unknown_target(checkpoints, tmp_path):
    with pytest.raises(InputError, match="no target caffe") as caught:
        export_model(checkpoints["tiny"], target="caffe", output=tmp_path / "out")
    assert caught.value.hint == "one of keras, saved-model, onnx, torch"
    assert not (tmp_path / "out").exists()


def test_the_command_knows_all_targets():
    assert cli.export.params[1].type.choices == TARGETS  # type: ignore[attr-defined]


def test_a_damaged_model(tiny):
    best, last = (tiny / "checkpoints" / "tiny" / f"step-{step:08d}" for step in (8, 16))
    with (best / "weights.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x55")
    result = to_torch()
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "using step 16 instead" in result.stderr
    assert exported_step(tiny / "out") == 16
    (last / "weights.safetensors").unlink()
    assert_refused(to_torch(output="other"), 1, "damaged")
    assert not (tiny / "other").exists()


# --- whole or not at all --------------------------------------------------------------


def test_an_existing_folder_is_refused_and_an_export_replaced(tiny):
    assert to_torch().exit_code == 0
    before = contents(tiny / "out")
    assert_refused(to_torch("--checkpoint", "16"), 2, "out exists already", "--overwrite")
    assert contents(tiny / "out") == before
    # Using it leaves this behind.
    (tiny / "out" / "__pycache__").mkdir()
    (tiny / "out" / "__pycache__" / "charlstm_model.cpython-311.pyc").write_bytes(b"")
    result = to_torch("--checkpoint", "16", "--overwrite")
    assert result.exit_code == 0, result.output
    assert exported_step(tiny / "out") == 16
    assert set(contents(tiny / "out")) == set(before)
    assert sorted(entry.name for entry in tiny.iterdir()) == ["checkpoints", "out"]


def strangers() -> Iterator[tuple[str, Any]]:
    def empty(out: Path) -> None:
        out.mkdir()

    def a_file(out: Path) -> None:
        out.write_text("mine")

    def a_link_to_an_export(out: Path) -> None:
        assert to_torch(output="elsewhere").exit_code == 0
        out.symlink_to("elsewhere")

    def a_broken_link(out: Path) -> None:
        out.symlink_to("nowhere")

    def a_project(out: Path) -> None:
        out.mkdir()
        for name in ("README.md", "vocabulary.json", "export.json", "thesis.tex"):
            (out / name).write_text("{}")

    def an_export_with_more(out: Path) -> None:
        assert to_torch().exit_code == 0
        (out / "notes").mkdir()
        (out / "notes" / "thesis.tex").write_text("years of work")

    def an_export_with_a_link(out: Path) -> None:
        assert to_torch().exit_code == 0
        (out.parent / "elsewhere").mkdir()
        (out / "mine").symlink_to("../elsewhere")

    for make in (
        empty,
        a_file,
        a_link_to_an_export,
        a_broken_link,
        a_project,
        an_export_with_more,
        an_export_with_a_link,
    ):
        yield make.__name__, make


@pytest.mark.parametrize("make", [make for _, make in strangers()], ids=dict(strangers()))
def test_what_no_export_made_is_never_replaced(tiny, make):
    make(tiny / "out")
    before = contents(tiny)
    assert_refused(to_torch("--overwrite"), 2, "out")
    assert contents(tiny) == before


def test_nothing_is_written_where_the_shipped_models_are(checkpoints):
    shipped = shipped_models()["macbeth"].parent
    with pytest.raises(InputError, match="belongs to charlstm"):
        export_model(checkpoints["tiny"], target="torch", output=shipped / "mine")
    assert not (shipped / "mine").exists()


class Failing:
    """Stands for a function and fails at a call of it."""

    def __init__(self, function: Any, *, at: int, error: BaseException) -> None:
        self.function, self.at, self.error = function, at, error

    def __call__(self, *args: Any) -> Any:
        self.at -= 1
        if self.at == 0:
            raise self.error
        return self.function(*args)


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(monkeypatch: pytest.MonkeyPatch, function: str, *, at: int) -> None:
    """Let a function fail at a call of it, where the export finds it."""
    module = storage if function == "put_in_place" else export
    monkeypatch.setattr(module, function, Failing(getattr(module, function), at=at, error=FULL))


@pytest.mark.parametrize("target", WITHOUT_TENSORFLOW)
@pytest.mark.parametrize(
    ("function", "at"),
    [("write_synced", 1), ("write_synced", 2), ("_write_marker", 1), ("put_in_place", 1)],
)
def test_a_failed_export_leaves_nothing(checkpoints, tmp_path, monkeypatch, target, function, at):
    (tmp_path / "there").mkdir()
    fail(monkeypatch, function, at=at)
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left") as caught:
        export_model(
            checkpoints["tiny"], target=target, output=tmp_path / "there" / "a" / "b" / "out"
        )
    assert "untouched" in str(caught.value.hint)
    assert contents(tmp_path) == {"there": b""}


@pytest.mark.tf
@pytest.mark.parametrize("target", ["keras", "saved-model"])
def test_a_failed_export_of_keras_leaves_nothing(checkpoints, tmp_path, monkeypatch, target):
    monkeypatch.setattr(export, "_sync_files", Failing(None, at=1, error=FULL))
    with pytest.raises(OutputError, match="No space left"):
        export_model(checkpoints["tiny"], target=target, output=tmp_path / "out")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("function", ["write_synced", "put_in_place"])
def test_a_failed_export_leaves_the_one_before(tiny, monkeypatch, function):
    assert to_torch().exit_code == 0
    before = contents(tiny)
    fail(monkeypatch, function, at=1)
    assert_refused(to_torch("--overwrite", "--checkpoint", "16"), 1, "cannot write", "untouched")
    assert contents(tiny) == before


def test_an_interrupted_export_leaves_nothing(tiny, monkeypatch):
    before = contents(tiny)
    failing = Failing(export.write_synced, at=2, error=KeyboardInterrupt())
    monkeypatch.setattr(export, "write_synced", failing)
    result = to_torch()
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "\nError: interrupted\n"  # after the terminal's ^C
    assert contents(tiny) == before


def test_a_folder_that_cannot_be_made(tiny):
    (tiny / "file").write_text("mine")
    assert_refused(to_torch(output="file/out"), 1, "cannot write")
    assert (tiny / "file").read_text() == "mine"


# --- what it needs -----------------------------------------------------------------


def test_a_missing_package_gives_the_pip_line(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = run("export", "tiny", "--to", "onnx", "-o", "out")
    assert_refused(result, 1, "package onnx", f"hint: {PIP_LINE}")
    assert not (tiny / "out").exists()
    # The others do without.
    assert to_torch().exit_code == 0


def test_the_extra_of_the_pip_line_is_there():
    import tomllib

    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    names = {re.split("[<>=]", requirement)[0] for requirement in extras["export"]}
    assert names == {"onnx", "onnxruntime"}
    assert set(extras["export"]) <= set(extras["test"])


PROBE = """
import atexit, sys
heavy = {"tensorflow", "keras", "torch", "onnx", "onnxruntime"}
atexit.register(lambda: sys.stderr.write("heavy: " + ",".join(sorted(heavy & set(sys.modules)))))
from charlstm.cli import cli
cli(prog_name="charlstm")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "heavy"),
    [
        (["--help"], 0, ""),
        (["tiny", "--to", "torch", "-o", "out"], 0, ""),
        (["tiny", "--to", "onnx", "-o", "out"], 0, "onnx"),
        (["tiny", "--to", "keras", "-o", "checkpoints"], 2, ""),  # exists
        (["tale", "--to", "keras", "-o", "out"], 1, ""),
    ],
)
def test_only_what_a_target_needs_is_imported(tiny, arguments, code, heavy):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "export", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.rpartition("heavy: ")[2] == heavy
