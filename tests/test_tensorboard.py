"""What a run writes for TensorBoard, and that it changes nothing else."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, run
from helpers import make_network, random_weights

from charlstm.activations import GATES, ObservedStep, observe
from charlstm.checkpoint import load_checkpoint, load_training_state
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.corpus import prepare_corpus
from charlstm.errors import OutputError
from charlstm.logs import read_log
from charlstm.models import list_checkpoints
from charlstm.progress import Progress, Reporter, Reporters
from charlstm.reading import CorpusOptions

pytestmark = pytest.mark.tf

NETWORK = make_network()  # vocabulary 7, units 5, layers 2
EXCERPT = np.random.default_rng(4).integers(0, 7, 120)


@pytest.fixture(scope="module", autouse=True)
def tensorboard():
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import charlstm.tensorboard

    return charlstm.tensorboard


# --- reading events ---------------------------------------------------------------


def read_events(folder: Path) -> list[Any]:
    """Return all events in the order in which TensorBoard reads them."""
    import tensorflow as tf

    events = []
    for path in sorted(folder.glob("*tfevents*")):
        events += list(tf.compat.v1.train.summary_iterator(str(path)))
    return events


def shown(folder: Path) -> dict[str, dict[int, Any]]:
    """Return by tag and step what TensorBoard shows: a restart takes back what was after it."""
    import tensorflow as tf

    points: dict[str, dict[int, Any]] = {}
    n_starts = 0
    for event in read_events(folder):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            n_starts += 1
            if n_starts == 1:  # it takes the first for the beginning
                continue
            for steps in points.values():
                for step in [s for s in steps if s >= event.step]:
                    del steps[step]
        for value in event.summary.value:
            steps = points.setdefault(value.tag, {})
            assert all(step < event.step for step in steps), (value.tag, event.step)
            steps[event.step] = tf.make_ndarray(value.tensor)
    return {tag: steps for tag, steps in points.items() if steps}


def restarts(folder: Path) -> list[int]:
    starts = [event.step for event in read_events(folder) if event.HasField("session_log")]
    assert starts[::2] == starts[1::2]
    return starts[::2]


def numbers(points: dict[int, Any]) -> dict[int, float]:
    return {step: float(value) for step, value in points.items()}


def history(model: str) -> list[dict[str, Any]]:
    return list(read_log(Path("checkpoints") / model, "history.jsonl"))


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(step: int, **changes: Any) -> Progress:
    values: dict[str, Any] = {
        "step": step, "total_steps": 40, "epoch": step / 8, "step_loss": 2.0, "gradient_norm": 0.5,
        "train_loss": 9.0, "val_loss": None, "chars_per_second": 1e3, "seconds_left": None,
    }  # fmt: skip
    return Progress(**(values | changes))


def record(step: int, **changes: Any) -> dict[str, Any]:
    values = {"step": step, "val_loss": 1.75, "learning_rate": 0.004, "chars_per_second": 5e3}
    return values | changes


@pytest.fixture
def make(tensorboard, tmp_path):
    def make(**changes: Any):
        options = {"network": NETWORK, "excerpt": EXCERPT}
        return tensorboard.TensorBoardReporter(tmp_path / "runs", **(options | changes))

    return make


# --- what is written --------------------------------------------------------------


def test_a_point_is_the_mean_since_the_last_one(make, tmp_path):
    clock = Clock()
    reporter = make(clock=clock)
    for step, (loss, norm, seconds) in enumerate(
        [(4.0, 1.0, 0.5), (3.0, 2.0, 0.6), (2.0, 8.0, 0.1), (1.0, 4.0, 1.0), (7.0, 6.0, 0.1)], 1
    ):
        clock.now += seconds
        reporter.progress(progress(step, step_loss=loss, gradient_norm=norm))
    reporter.evaluated(record(5))
    reporter.close()
    points = shown(tmp_path / "runs")
    assert numbers(points["loss/training"]) == {2: 3.5, 4: 1.5, 5: 7.0}
    assert numbers(points["training/gradient_norm"]) == {2: 1.5, 4: 6.0, 5: 6.0}
    assert numbers(points["loss/validation"]) == {5: 1.75}
    assert numbers(points["training/learning_rate"]) == pytest.approx({5: 0.004})
    assert numbers(points["training/chars_per_second"]) == {5: 5e3}


def test_without_held_out_text_there_is_no_validation_loss(make, tmp_path):
    reporter = make()
    reporter.evaluated(record(5, val_loss=None))
    reporter.close()
    assert set(shown(tmp_path / "runs")) == {"training/learning_rate", "training/chars_per_second"}


@pytest.mark.parametrize(
    ("network", "n_warming"),
    [(NETWORK, 50), (make_network(input="scaled", carries_state=False), 0)],
)
def test_gates_are_those_of_the_excerpt(make, tmp_path, network, n_warming):
    weights = random_weights(network)
    for name in weights:
        weights[name] = 3 * weights[name]  # some gates shut, some open
    reporter = make(network=network)
    reporter.network(30, weights)
    reporter.close()
    points = shown(tmp_path / "runs")
    seen = observe(ObservedStep(network, weights), EXCERPT)
    shares = []
    for gate in GATES:
        for layer in range(2):
            values = getattr(seen, gate)[layer, n_warming:].ravel()
            name = f"layer_{layer + 1}/{gate}"
            table = points[f"gates/{name}"][30]
            assert table.shape == (20, 3)
            for low, high, count in table.tolist():
                inside = (values >= np.float32(low)) & (values < np.float32(high))
                assert count == np.sum(inside | (values == 1.0) & (high == 1.0))
            assert table[:, 2].sum() == 5 * (len(EXCERPT) - n_warming)
            for side, share in (("left", np.mean(values < 0.1)), ("right", np.mean(values > 0.9))):
                got = float(points[f"saturation/{name}_{side}"][30])
                assert got == pytest.approx(share, abs=1e-6)
                shares.append(got)
    assert len({round(share, 6) for share in shares}) > 6  # else a mix-up could pass


def test_how_each_is_to_be_shown(make, tmp_path):
    """The few bytes that the package `tensorboard` would add."""
    reporter = make()
    reporter.describe_run({"units": 5, "text": "a\nb"})
    reporter.network(3, random_weights(NETWORK))
    reporter.sample(4, "Thou *art* <b>\n\x1b[31mred\ud800")
    reporter.close()
    kinds = {}
    for event in read_events(tmp_path / "runs"):
        for value in event.summary.value:
            data = value.metadata
            kinds[value.tag] = (data.plugin_data.plugin_name, data.data_class)
            assert data.summary_description
    assert kinds.pop("settings") == kinds.pop("samples") == ("text", 2)
    assert kinds.pop("gates/layer_2/forget") == ("histograms", 2)
    assert kinds["saturation/layer_2/forget_left"] == ("scalars", 1)
    points = shown(tmp_path / "runs")
    # Indented, so that Markdown leaves it as it is; and nothing steers a terminal.
    sample = points["samples"][4].item().decode()
    assert sample == "    Thou *art* <b>\n    \\x1b[31mred\\ud800"
    assert points["settings"][0].item().decode() == "    units: 5\n    text: a\n    b"


def test_tensorboard_reads_it(make, tmp_path):
    """With the package that draws, where it is installed."""
    pytest.importorskip("tensorboard", reason="the viewer is not needed to write")
    import subprocess
    import sys

    reporter = make()
    for step in (1, 2, 3, 4):
        reporter.evaluated(record(step, val_loss=float(step)))
    reporter.went_back(2)
    reporter.evaluated(record(3, val_loss=30.0))
    reporter.network(3, random_weights(NETWORK))
    reporter.sample(3, "text")
    reporter.close()
    code = """
import json, sys
from tensorboard.backend.event_processing import plugin_event_accumulator as reading
from tensorboard.util import tensor_util
events = reading.EventAccumulator(sys.argv[1]).Reload()
kinds = {t: events.SummaryMetadata(t).plugin_data.plugin_name for t in events.Tags()["tensors"]}
losses = [(e.step, float(tensor_util.make_ndarray(e.tensor_proto)))
          for e in events.Tensors("loss/validation")]
print(json.dumps([kinds, losses]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds, losses = json.loads(done.stdout)
    assert losses == [[1, 1.0], [2, 2.0], [3, 30.0]]
    assert kinds["gates/layer_1/input"] == "histograms"
    assert kinds["samples"] == "text"
    assert kinds["loss/validation"] == "scalars"


# --- the command ------------------------------------------------------------------


def train(*options: str):
    return run("train", "king.txt", *TINY, *options)


def test_the_curves_are_those_of_the_history(workplace):
    result = train("--epochs", "3", "--tensorboard", "runs", "--sample-every", "0.001")
    assert result.exit_code == 0, result.output
    assert "tensorboard --logdir runs" in result.stderr
    points = shown(workplace / "runs" / "king")
    records = history("king")
    assert len(records) > 3
    for tag, key in (
        ("loss/validation", "val_loss"),
        ("training/learning_rate", "learning_rate"),
        ("training/chars_per_second", "chars_per_second"),
    ):
        assert numbers(points[tag]) == pytest.approx({r["step"]: r[key] for r in records}, rel=1e-6)
    assert set(points["gates/layer_1/forget"]) == {r["step"] for r in records}
    assert max(points["loss/training"]) == records[-1]["step"]
    assert all(0 < norm < 100 for norm in numbers(points["training/gradient_norm"]).values())
    samples = {r["step"]: r["text"] for r in read_log(Path("checkpoints/king"), "samples.jsonl")}
    assert samples
    assert {step: value.item().decode() for step, value in points["samples"].items()} == {
        step: "\n".join(f"    {line}" for line in text.split("\n"))
        for step, text in samples.items()
    }
    settings = points["settings"][0].item().decode()
    assert "    units: 6\n" in settings
    assert str(workplace) not in settings


def test_the_article_has_them_too(workplace):
    result = train("--recipe", "article", "--epochs", "0.2", "--tensorboard", "runs")
    assert result.exit_code == 0, result.output
    points = shown(workplace / "runs" / "king")
    assert "loss/validation" not in points
    assert set(points["gates/layer_2/output"]) == {r["step"] for r in history("king")}
    assert all(norm > 0 for norm in numbers(points["training/gradient_norm"]).values())


def everything(model: str) -> dict[str, np.ndarray]:
    info = list_checkpoints(Path("checkpoints") / model)[-1]
    return dict(load_checkpoint(info).weights) | load_training_state(info).arrays


@pytest.mark.parametrize("recipe", ["default", "article"])
def test_it_does_not_change_the_training(workplace, recipe):
    budget = ["--recipe", recipe, "--epochs", "2" if recipe == "default" else "0.1"]
    for name, options in (("without", []), ("with", ["--tensorboard", "runs"])):
        assert train(*budget, "--model", name, *options).exit_code == 0
    expected, got = everything("without"), everything("with")
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.mark.slow
def test_models_stand_side_by_side_and_a_resumed_run_goes_on(workplace):
    for name in ("king", "queen"):
        assert train("--epochs", "1", "--model", name, "--tensorboard", "runs").exit_code == 0
    folder = workplace / "runs" / "king"
    assert {p.name for p in (workplace / "runs").iterdir()} == {"king", "queen"}
    assert restarts(folder) == []
    (*_, info) = list_checkpoints(Path("checkpoints/king"))
    more = run(
        "train", "--resume", "--model", "king", "--epochs", "2", "--tensorboard", "runs", "-q"
    )
    assert (more.exit_code, more.stderr) == (0, "")
    assert restarts(folder) == [info.step + 1]  # what the first run wrote at its end stays
    assert list(shown(folder)["loss/validation"]) == [r["step"] for r in history("king")]


@pytest.mark.slow
def test_an_overwritten_model_begins_anew(workplace):
    assert train("--epochs", "2", "--tensorboard", "runs").exit_code == 0
    again = train("--epochs", "1", "--overwrite", "--tensorboard", "runs")
    assert again.exit_code == 0
    assert restarts(workplace / "runs" / "king") == [0]
    points = shown(workplace / "runs" / "king")
    assert list(points["loss/validation"]) == [r["step"] for r in history("king")]
    assert list(points["settings"]) == [0]


# --- when it cannot be written ------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_before_tensorflow(workplace, monkeypatch):
    monkeypatch.setattr("charlstm.backend.start_tensorflow", lambda **_: pytest.fail("started"))
    (workplace / "runs").mkdir()
    (workplace / "runs" / "king").write_text("a file", encoding="utf-8")
    result = train("--epochs", "1", "--tensorboard", "runs")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "Error: cannot write runs/king: File exists",
        "hint: give --tensorboard another folder",
    ]
    assert not Path("checkpoints/king").exists()
    result = train("--epochs", "1", "--tensorboard", "king.txt")
    assert result.exit_code == 2
    assert "king.txt" in result.stderr


def full_disk(*args: object, **extra: object) -> None:
    import tensorflow as tf

    message = "{{function_node x}} runs/x.v2; No space left on device\n\tFailed [Op:WriteSummary]"
    raise tf.errors.ResourceExhaustedError(None, None, message)


@pytest.mark.slow
def test_a_disk_that_fills_up_costs_the_curves_only(workplace, monkeypatch):
    import tensorflow as tf

    assert train("--epochs", "2", "--model", "whole").exit_code == 0
    real, n_written = tf.summary.write, 0

    def write(*args: Any, **extra: Any) -> Any:
        nonlocal n_written
        n_written += 1
        return real(*args, **extra) if n_written < 30 else full_disk()

    monkeypatch.setattr(tf.summary, "write", write)
    result = train("--epochs", "2", "--tensorboard", "runs")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "cannot write" in line]
    assert lines == [
        "warning: cannot write runs/king: No space left on device; going on without TensorBoard"
    ]
    assert n_written == 30
    for name, array in everything("whole").items():
        np.testing.assert_array_equal(everything("king")[name], array, err_msg=name)


@pytest.mark.parametrize("error", [full_disk, lambda: (_ for _ in ()).throw(OSError(5, "Gone"))])
def test_what_fails_at_the_end_or_on_going_back_is_only_said(make, tmp_path, monkeypatch, error):
    for act in ("close", "went_back"):
        notes: list[str] = []
        reporter = make(note=notes.append)
        monkeypatch.setattr(reporter._writer, "close", error)
        reporter.close() if act == "close" else reporter.went_back(0)
        assert len(notes) == 1
        reporter.progress(progress(1))
        reporter.evaluated(record(1))
        reporter.network(1, {})  # not even looked at
        reporter.went_back(0)
        reporter.close()
        assert len(notes) == 1


def test_a_folder_that_is_none_is_said(make, tmp_path):
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(OutputError, match=r"cannot write .*runs"):
        make()


# --- the run ----------------------------------------------------------------------


def tiny_run(tmp_path: Path, reporter: Reporter, **options: Any):
    from charlstm.training import Run

    words = ["to", "be", "or", "not", "king", "thane", "sleep,\n", "no", "more."]
    rng = np.random.default_rng(11)
    text = " ".join(words[i] for i in rng.integers(0, len(words), 700))
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    corpus = prepare_corpus(
        tmp_path / "words.txt", options=CorpusOptions(), output=tmp_path / "prepared"
    )
    config = {
        key: options.pop(key) for key in ("epochs", "minutes", "random_seed") if key in options
    }
    network = NetworkConfig(vocabulary_size=len(corpus.vocabulary), units=6, seq_length=9)
    (tmp_path / "m").mkdir()
    return Run(
        corpus, network, TrainingConfig(batch_size=5, patience=0, **config),
        model=tmp_path / "m", sample_every=0, reporter=reporter, **options,
    )  # fmt: skip


def test_a_run_that_goes_back_takes_its_points_back(make, tmp_path, monkeypatch):
    network = NetworkConfig(vocabulary_size=20, units=6, seq_length=9)
    reporter = make(network=network)
    monkeypatch.setattr(reporter, "network", lambda step, weights: None)
    training = tiny_run(tmp_path, reporter, epochs=2)
    real, failed = training.trainer.train_step, []

    def step(state):
        if state.step == 30 and not failed:
            failed.append(state.step)
            return math.nan, 45
        return real(state)

    monkeypatch.setattr(training.trainer, "train_step", step)
    training.run()
    reporter.close()
    back_to = 30 // training.state.eval_every * training.state.eval_every
    assert restarts(tmp_path / "runs") == [back_to + 1]
    records = list(read_log(tmp_path / "m", "history.jsonl"))
    assert numbers(shown(tmp_path / "runs")["loss/validation"]) == pytest.approx(
        {r["step"]: r["val_loss"] for r in records}, rel=1e-6
    )


def test_minutes_hold_whatever_a_listener_takes(tmp_path):
    class TickingClock(Clock):
        def __call__(self) -> float:
            self.now += 0.05
            return self.now

    clock = TickingClock()

    class Slow(Reporter):
        def network(self, step: int, weights: Any) -> None:
            clock.now += 1.0

        def progress(self, progress: Progress) -> None:
            clock.now += 0.02

    result = tiny_run(tmp_path, Slow(), minutes=2, clock=clock, started=100.0).run()
    assert result.stopped == "minutes"
    assert 0.95 * 120 < result.seconds <= 120 * 1.01


def test_time_for_what_comes_after_is_kept_free(tmp_path):
    class TickingClock(Clock):
        def __call__(self) -> float:
            self.now += 0.05
            return self.now

    options = {"clock": TickingClock(), "started": 100.0, "reserved": 20.0}
    result = tiny_run(tmp_path, Reporter(), minutes=2, **options).run()
    assert 0.95 * 100 < result.seconds <= 100 * 1.01


def test_several_reporters_are_all_told_everything():
    told: list[tuple[int, str, tuple[Any, ...]]] = []

    class Ear(Reporter):
        def __init__(self, number: int) -> None:
            self.number = number

        def __getattribute__(self, name: str) -> Any:
            if name in vars(Reporter) and not name.startswith("_"):
                return lambda *args: told.append((self.number, name, args))
            return super().__getattribute__(name)

    both = Reporters([Ear(1), Ear(2)])
    names = [name for name, _ in inspect.getmembers(Reporter, inspect.isfunction)]
    assert "network" in names
    for name in names:
        n_arguments = len(inspect.signature(getattr(Reporter, name)).parameters) - 1
        arguments = tuple(object() for _ in range(n_arguments))
        told.clear()
        getattr(both, name)(*arguments)
        assert told == [(1, name, arguments), (2, name, arguments)]
