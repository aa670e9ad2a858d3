"""Nothing is lost: a run that dies anywhere goes on as if it had not.

The runs are real ones, of TensorFlow, over a network of 6 units; the trainer
is built once and put back to its first state for each, which saves tracing its
graph a thousand times.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from faults import Disk, Faults, Killed, disk_full
from helpers import forge_json

from charlstm.checkpoint import load_checkpoint, load_training_state
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.corpus import Corpus, prepare_corpus
from charlstm.errors import CharlstmError, CheckpointError, OutputError
from charlstm.logs import read_log
from charlstm.models import list_checkpoints, lock_model, open_checkpoint
from charlstm.reading import CorpusOptions

pytestmark = pytest.mark.tf

CLOCK_FIELDS = ("seconds", "chars_per_second")
UNITS, TIME = 6, 9
# Tries of a fast run are this far apart; the slow run tries every operation.
STRIDE = 9


@pytest.fixture(scope="module", autouse=True)
def training() -> Any:
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import charlstm.training

    return charlstm.training


class Stage:
    """A text, a network and a trainer that every run begins with anew."""

    def __init__(self, training: Any, folder: Path, recipe: str) -> None:
        rng = np.random.default_rng(11)
        words = ["to", "be", "or", "not", "king", "thane", "sleep,\n", "no", "more."]
        n_words = 90 if recipe == "article" else 200
        text = " ".join(words[i] for i in rng.integers(0, len(words), n_words))
        (folder / "words.txt").write_text(text, encoding="utf-8")
        self.training = training
        self.corpus: Corpus = prepare_corpus(
            folder / "words.txt", options=CorpusOptions(), output=folder / "prepared"
        )
        is_article = recipe == "article"
        self.network = NetworkConfig(
            vocabulary_size=len(self.corpus.vocabulary),
            units=UNITS,
            seq_length=TIME,
            input="scaled" if is_article else "one_hot",
            carries_state=not is_article,
        )
        self.config = TrainingConfig(
            recipe=recipe,  # type: ignore[arg-type]
            batch_size=30 if is_article else 5,
            val_fraction=0.0 if is_article else 0.1,
            epochs=2 if is_article else 0.7,
            patience=0,
            dropout=0.2,
            recurrent_dropout=0.0 if is_article else 0.2,
        )
        self.trainer = training.make_trainer(self.network, self.config, self.corpus.ids[:-60])
        self.fresh = (self._weights(), self.trainer.arrays())

    def _weights(self) -> dict[str, np.ndarray]:
        weights: dict[str, np.ndarray] = self.training.get_weights(self.trainer.model)
        return weights

    def reset(self, *_: object) -> Any:
        """Stand in for `make_trainer`."""
        self.trainer.restore(*self.fresh)
        return self.trainer

    def run(
        self,
        model: Path,
        *,
        faults: Faults | None = None,
        overwrite: bool = False,
        saved: list[int] | None = None,
        step: Callable[[Any, Any], Any] | None = None,
    ) -> Any:
        """Train, or go on training, as the command does; a checkpoint every other step."""
        faults = faults or Faults()
        real_save, real_step = self.training.save_checkpoint, type(self.trainer).train_step

        def save(folder: Path, **content: Any) -> Any:
            info = real_save(folder, **content)
            if saved is not None:
                saved.append(info.step)
            return info

        ticks = itertools.count(step=4.0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.training, "make_trainer", self.reset)
            patch.setattr(self.training, "save_checkpoint", save)
            # Checkpoints with a loss and without, in turns.
            patch.setattr(self.training, "EVALUATIONS_IN_A_RUN", 4)
            if step is not None:
                real = functools.partial(real_step, self.trainer)
                patch.setattr(self.trainer, "train_step", lambda state: step(real, state))
            faults.install(patch)
            with lock_model(model):
                checkpoints = [] if overwrite else list_checkpoints(model)
                return self.training.Run(
                    self.corpus,
                    self.network,
                    self.config,
                    model=model,
                    resume_from=checkpoints[-1] if checkpoints else None,
                    sample_every=500.0,
                    clock=lambda: next(ticks),
                ).run(overwrite=overwrite)


@pytest.fixture(scope="module", params=["default", pytest.param("article", marks=pytest.mark.slow)])
def stage(
    request: pytest.FixtureRequest, training: Any, tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    return Stage(training, tmp_path_factory.mktemp("stage"), request.param)


@pytest.fixture(scope="module")
def streams(training: Any, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(training, tmp_path_factory.mktemp("stage"), "default")


def end_of(model: Path) -> dict[str, Any]:
    """All that a finished run leaves, less what the clock says."""
    info = list_checkpoints(model)[-1]
    state = load_training_state(info)
    trainer = {k: v for k, v in state.trainer.items() if k not in ("seconds", "logs")}
    arrays = load_checkpoint(info).weights | state.arrays
    history = [
        {k: v for k, v in record.items() if k not in CLOCK_FIELDS}
        for record in read_log(model, "history.jsonl")
    ]
    return {"step": info.step, "trainer": trainer, "arrays": arrays, "history": history}


def differences(got: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Say what is not the same to the last bit."""
    wrong = [k for k in ("step", "trainer", "history") if got[k] != expected[k]]
    if got["arrays"].keys() != expected["arrays"].keys():
        return [*wrong, "the names of arrays"]
    return wrong + [
        name
        for name, array in expected["arrays"].items()
        if array.dtype != got["arrays"][name].dtype
        or not np.array_equal(array, got["arrays"][name])
    ]


@contextlib.contextmanager
def scratch(parent: Path, name: str) -> Iterator[Path]:
    """A folder that is gone afterwards: a thousand of them would fill a small disk."""
    folder = parent / name
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def leftovers(model: Path) -> list[str]:
    return [e.name for e in model.iterdir() if e.name.startswith(".step-") or "new" in e.name]


# --- the process dies ---------------------------------------------------------


def violations_after_a_death(
    stage: Stage, folder: Path, at: int, expected: dict[str, Any], *, is_power_cut: bool = False
) -> list[str] | None:
    """Let a run die at an operation, go on, and say what was lost.

    Returns:
        None if the run ends before that operation.
    """
    disk = Disk() if is_power_cut else None
    root, model = folder / "checkpoints", folder / "checkpoints" / "tale"
    root.mkdir()
    faults, saved = Faults(at, disk=disk), []  # type: ignore[var-annotated]
    with contextlib.suppress(Killed):
        stage.run(model, faults=faults, saved=saved)
    if not faults.has_struck:
        if disk is not None:
            disk.close()
        return None
    if disk is not None:
        disk.restore(root, folder / "rest")
        disk.close()
        model = folder / "rest" / "tale"
    wrong = []
    if saved:
        try:
            checkpoint, warnings = open_checkpoint(model, "last")
        except (CharlstmError, OSError) as error:
            return [f"nothing can be loaded: {error}"]
        if warnings:
            wrong.append(f"damaged: {warnings}")
        if checkpoint.info.step < saved[-1]:
            wrong.append(f"step {saved[-1]} was saved, and is lost")
    try:
        stage.run(model)
        wrong += differences(end_of(model), expected)
    except Exception as error:
        return [*wrong, f"it cannot go on: {error!r}"]
    if leftovers(model):
        wrong.append(f"left over: {leftovers(model)}")
    return wrong


def expected_end(stage: Stage, folder: Path) -> dict[str, Any]:
    with scratch(folder, "whole") as whole:
        stage.run(whole / "tale")
        return end_of(whole / "tale")


def sweep(
    stage: Stage,
    tmp_path: Path,
    *,
    start: int = 0,
    stride: int = 1,
    is_power_cut: bool = False,
    stops_at_first: bool = False,
) -> tuple[int, list[str]]:
    """Let runs die at one operation after the other; return how many, and what was lost."""
    expected = expected_end(stage, tmp_path)
    assert len(expected["history"]) >= 1
    wrong: list[str] = []
    for tried, at in enumerate(itertools.count(start, stride)):
        with scratch(tmp_path, f"try-{at}") as folder:
            found = violations_after_a_death(stage, folder, at, expected, is_power_cut=is_power_cut)
        if found is None or (wrong and stops_at_first):
            return tried, wrong
        wrong += [f"operation {at}: {what}" for what in found]
    raise AssertionError


def test_a_run_that_dies_goes_on_as_if_it_had_not(stage: Stage, tmp_path: Path) -> None:
    tried, wrong = sweep(stage, tmp_path, start=3, stride=STRIDE)
    assert tried > 10
    assert not wrong


@pytest.mark.slow
def test_a_run_may_die_at_every_operation(stage: Stage, tmp_path: Path) -> None:
    tried, wrong = sweep(stage, tmp_path)
    assert tried > 100
    assert not wrong


linux_only = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux only")


@linux_only
def test_a_power_cut_takes_nothing_that_was_saved(stage: Stage, tmp_path: Path) -> None:
    tried, wrong = sweep(stage, tmp_path, start=5, stride=STRIDE, is_power_cut=True)
    assert tried > 10
    assert not wrong


@linux_only
@pytest.mark.slow
def test_the_power_may_be_cut_at_every_operation(stage: Stage, tmp_path: Path) -> None:
    tried, wrong = sweep(stage, tmp_path, is_power_cut=True)
    assert tried > 100
    assert not wrong


@pytest.mark.slow
def test_a_run_may_die_again_and_again(stage: Stage, tmp_path: Path) -> None:
    expected = expected_end(stage, tmp_path)
    rng = random.Random(4)
    n_deaths = 0
    for n in range(30):
        with scratch(tmp_path, f"try-{n}") as folder:
            model = folder / "tale"
            for _ in range(200):
                faults = Faults(rng.randrange(1, 90))
                with contextlib.suppress(Killed):
                    stage.run(model, faults=faults)
                n_deaths += faults.has_struck
                if not faults.has_struck:
                    break
            assert not differences(end_of(model), expected)
            assert not leftovers(model)
    assert n_deaths > 60


# --- each guarantee, taken out ------------------------------------------------


def write_unsynced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def forget(*_: object, **__: object) -> None:
    """Stand in for what is taken out."""


@linux_only
@pytest.mark.parametrize(
    ("taken_out", "stand_in"),
    [
        (("charlstm.checkpoint.write_synced",), write_unsynced),
        (("charlstm.checkpoint.sync_folder", "charlstm.storage.sync_folder"), forget),
        (("charlstm.checkpoint.sync_folder",), forget),
    ],
    ids=["files are not flushed", "no folder is flushed", "the hidden folder is not flushed"],
)
def test_without_flushing_a_power_cut_would_be_noticed(
    streams: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taken_out: tuple[str, ...],
    stand_in: Callable[..., None],
) -> None:
    for name in taken_out:
        monkeypatch.setattr(name, stand_in)
    _, wrong = sweep(streams, tmp_path, start=40, stride=25, is_power_cut=True, stops_at_first=True)
    assert wrong


def write_in_place(hidden: Path, final: Path) -> None:
    """Copy file by file, the manifest somewhere among them."""
    final.mkdir(exist_ok=True)
    for entry in sorted(hidden.iterdir()):
        (final / entry.name).write_bytes(entry.read_bytes())
        os.fsync(os.open(final, os.O_RDONLY))  # counts as an operation: a place to die


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("charlstm.checkpoint._move_into_place", write_in_place),
        ("charlstm.training.cut_logs", forget),
        ("charlstm.models._remove_leftovers", forget),
    ],
    ids=["not renamed whole", "logs not cut", "leftovers not removed"],
)
def test_without_a_protection_a_death_would_be_noticed(
    streams: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stand_in: Any
) -> None:
    monkeypatch.setattr(name, stand_in)
    _, wrong = sweep(streams, tmp_path, start=20, stride=3, stops_at_first=True)
    assert wrong


# --- a loss that is not finite, and a death after it ----------------------------


def poisoned(n_times: int) -> Callable[[Any, Any], Any]:
    """Make the ninth step go wrong until the learning rate was halved so often."""

    def step(real: Callable[[Any], Any], state: Any) -> Any:
        if state.step == 8 and state.n_failures < n_times:
            return float("nan"), 45
        return real(state)

    return step


def test_going_back_is_the_same_after_a_death(streams: Stage, tmp_path: Path) -> None:
    """Whether it died before, on the way to, or after the loss that was not finite."""
    with scratch(tmp_path, "whole") as whole:
        streams.run(whole / "tale", step=poisoned(2))
        expected = end_of(whole / "tale")
    assert expected["trainer"]["n_failures"] == 2
    for at in range(30, 1_000, 17):
        with scratch(tmp_path, f"try-{at}") as folder:
            faults = Faults(at)
            with contextlib.suppress(Killed):
                streams.run(folder / "tale", faults=faults, step=poisoned(2))
            if not faults.has_struck:
                break
            streams.run(folder / "tale", step=poisoned(2))
            assert not differences(end_of(folder / "tale"), expected), f"operation {at}"
    assert at > 150


# --- one model in the place of another -------------------------------------------


@pytest.mark.parametrize(
    "stride", [7, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_a_death_while_replacing_a_model_mixes_nothing(
    streams: Stage, training: Any, tmp_path: Path, stride: int
) -> None:
    """Either the old model is whole, or the new run goes on to its own end."""
    expected = expected_end(streams, tmp_path)
    old = tmp_path / "old"
    fresh = streams.fresh
    streams.fresh = ({n: w * np.float32(0.5) for n, w in fresh[0].items()}, fresh[1])
    streams.run(old)
    streams.fresh = fresh
    old_end = end_of(old)
    assert differences(old_end, expected)
    outcomes = []
    for at in itertools.count(0, stride):
        with scratch(tmp_path, f"try-{at}") as folder:
            model = folder / "tale"
            shutil.copytree(old, model)
            faults = Faults(at)
            with contextlib.suppress(Killed):
                streams.run(model, faults=faults, overwrite=True)
            if not faults.has_struck:
                break
            open_checkpoint(model)
            is_old = not differences(end_of(model), old_end)
            streams.run(model)
            wrong = differences(end_of(model), old_end if is_old else expected)
            assert not wrong, f"operation {at}, {is_old}"
            outcomes.append(is_old)
    assert True in outcomes
    assert False in outcomes


# --- the disk is full -----------------------------------------------------------


@pytest.mark.parametrize("is_final", [True, False], ids=["for good", "once"])
def test_a_full_disk_stops_the_run_and_loses_nothing(
    streams: Stage, tmp_path: Path, is_final: bool
) -> None:
    expected = expected_end(streams, tmp_path)
    n_stopped = 0
    for at in itertools.count(2, 11):
        with scratch(tmp_path, f"try-{at}") as folder:
            model = folder / "tale"
            kinds = ("write", "make", "fsync")
            faults = Faults(at, disk_full(), is_final=is_final, kinds=kinds)
            saved: list[int] = []
            try:
                streams.run(model, faults=faults, saved=saved)
            except OutputError as error:
                assert error.exit_code == 1
                assert "No space left on device" in error.message
                n_stopped += 1
            if not faults.has_struck:
                break
            if saved:
                assert open_checkpoint(model, "last")[0].info.step >= saved[-1]
            streams.run(model)
            assert not differences(end_of(model), expected), f"operation {at}"
            assert not leftovers(model)
    assert n_stopped > 5


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small file system")
def test_a_really_full_disk(streams: Stage, tmp_path: Path) -> None:
    """A tmpfs with room for a checkpoint or two, and the rest taken by somebody else."""
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=512k tmpfs {small} 2>/dev/null") != 0:
        pytest.skip("may not mount a file system")
    try:
        expected = expected_end(streams, tmp_path)
        filler, model = small / "filler", small / "tale"
        filler.write_bytes(bytes(512 * 1024 - 60_000))
        with pytest.raises(OutputError, match="No space left on device"):
            streams.run(model)
        steps = [info.step for info in list_checkpoints(model)]
        for info in list_checkpoints(model):
            load_checkpoint(info)
            load_training_state(info)
        filler.unlink()
        streams.run(model)
        assert steps == [] or steps[-1] < expected["step"]
        assert not differences(end_of(model), expected)
    finally:
        os.system(f"umount {small}")


# --- kill -9 ------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Unix only")
@pytest.mark.slow
def test_kill_9_at_100_random_moments_changes_nothing(workplace: Path) -> None:
    """Real processes of the real command, against one that was left alone."""
    script = Path(__file__).with_name("killing.py")
    options = ["king.txt", *TINY, "--epochs", "90", "--patience", "0", "-q"]
    ends = {}
    for name, kills in (("whole", 0), ("killed", 100)):
        command = [sys.executable, script, workplace, str(kills), "5", "train", "--resume"]
        done = subprocess.run(
            [*command, "--model", name, *options],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == {"killed": kills, "exit": 0}
        model = workplace / "checkpoints" / name
        ends[name] = end_of(model)
        lines = (model / "history.jsonl").read_text().splitlines()
        assert len(lines) == len(ends[name]["history"])  # none is torn
        assert not leftovers(model)
    assert not differences(ends["killed"], ends["whole"])


def test_the_longest_windows_fit_into_a_checkpoint(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Characters that JSON writes with 12 bytes each, in windows of 100,000."""
    text = "".join(chr(0x1F600 + n % 7) for n in range(230_000))
    (tmp_path / "faces.txt").write_text(text, encoding="utf-8")
    corpus = prepare_corpus(
        tmp_path / "faces.txt", options=CorpusOptions(), output=tmp_path / "prepared"
    )
    network = NetworkConfig(vocabulary_size=7, units=2, seq_length=100_000)
    config = TrainingConfig(batch_size=1, epochs=1, val_fraction=0.0)
    run = training.Run(corpus, network, config, model=tmp_path / "faces")
    (tmp_path / "faces").mkdir()
    run.state.step = 1
    run._save()
    (info,) = list_checkpoints(tmp_path / "faces")
    assert {len(window) for window in load_checkpoint(info).seed_windows} == {100_000}


@pytest.mark.parametrize(
    ("field", "value"),
    [("eval_every", 0), ("eval_every", 2.5), ("step", None), ("n_failures", "1")],
)
def test_a_plan_that_is_none_is_refused(
    streams: Stage, tmp_path: Path, field: str, value: object
) -> None:
    model = tmp_path / "tale"
    with contextlib.suppress(Killed):
        streams.run(model, faults=Faults(150))
    folder = list_checkpoints(model)[-1].path
    forge_json(folder, "trainer.json", lambda content: content.__setitem__(field, value))
    with pytest.raises(CheckpointError, match=r"trainer\.json is damaged"):
        streams.run(model)
