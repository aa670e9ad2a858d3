"""Several processes, or devices, train as one would: real ones, on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY

from charlstm.checkpoint import load_checkpoint, load_training_state
from charlstm.cluster import choose_cluster
from charlstm.logs import read_log
from charlstm.models import list_checkpoints

pytestmark = pytest.mark.tf

# 18 rows: four workers get 4, 5, 4 and 5 of them, and both kinds of dropout act.
SHARED = [
    *TINY[:4], "--batch-size", "18", "--sample-every", "0", "--dropout", "0.3",
    "--recurrent-dropout", "0.2", "--patience", "0",
]  # fmt: skip
REPLICAS = Path(__file__).with_name("replicas.py")
# Between the sums of one process and those of several, after 40 steps.
TOLERANCE = 2e-5


def train(*arguments: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charlstm", "train", *arguments, "--quiet", "--threads", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **extra)


def end_of(model: str) -> dict[str, np.ndarray]:
    info = list_checkpoints(Path("checkpoints", model))[-1]
    return dict(load_checkpoint(info).weights) | load_training_state(info).arrays


def curve_of(model: str) -> np.ndarray:
    """Return step, training loss and validation loss of every evaluation."""
    fields = ("step", "train_loss", "val_loss")
    records = read_log(Path("checkpoints", model), "history.jsonl")
    return np.array([[record[field] for field in fields] for record in records])


def assert_alike(model: str, other: str, *, tolerance: float = TOLERANCE) -> None:
    ends, other_ends = end_of(model), end_of(other)
    assert ends.keys() == other_ends.keys()
    for name, array in ends.items():
        np.testing.assert_allclose(array, other_ends[name], atol=tolerance, rtol=0, err_msg=name)
    np.testing.assert_allclose(curve_of(model), curve_of(other), atol=tolerance, rtol=0)


# --- devices of one process ---------------------------------------------------


@pytest.mark.parametrize(
    ("n_replicas", "batch_size", "threads", "n_documents"),
    [
        (2, 24, 1, 1),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(3, 25, 2, 1), (2, 19, 2, 1), (3, 25, 2, 60)]
        ),
    ],
)
def test_devices_take_the_steps_of_one(n_replicas, batch_size, threads, n_documents):
    """Shares of unequal size, which begin and end within the parts that masks are drawn for."""
    result = subprocess.run(
        [
            *(sys.executable, str(REPLICAS)),
            *map(str, (n_replicas, batch_size, threads, n_documents)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["losses"]["together"] == pytest.approx(told["losses"]["alone"], rel=1e-6)
    assert told["losses"]["again"] == told["losses"]["together"]
    assert max(told["off"].values()) < 1e-6
    assert told["evaluated"][1] == pytest.approx(told["evaluated"][0], rel=1e-6)


# --- workers ------------------------------------------------------------------


def test_two_workers_train_as_one_process(workplace: Path):
    """The same curve, weights and states; worker 0 alone prints and writes."""
    one = train("king.txt", *SHARED, "--epochs", "3", "--model", "one", "--json")
    two = train(
        "king.txt", *SHARED, "--epochs", "3", "--model", "two", "--json", "--local-workers", "2"
    )
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert two.stderr == ""
    told, alone = json.loads(two.stdout), json.loads(one.stdout)
    assert (told["stopped"], told["steps"]) == (alone["stopped"], alone["steps"])
    assert told["best_val_loss"] == pytest.approx(alone["best_val_loss"], abs=TOLERANCE)
    assert_alike("two", "one")
    assert sorted(p.name for p in workplace.iterdir()) == ["checkpoints", "king.txt", "prepared"]
    assert [p.name for p in (workplace / "prepared").iterdir()] == ["king"]


@pytest.mark.slow
def test_workers_keep_documents_apart_as_one_process(workplace: Path):
    """Also from another model, and resumed by another number of workers."""
    text = (workplace / "king.txt").read_text(encoding="utf-8")
    (workplace / "texts").mkdir()
    for number, start in enumerate(range(0, len(text), 333)):
        name = workplace / "texts" / f"{number:02}.txt"
        name.write_text(text[start : start + 333], encoding="utf-8")
    assert train("king.txt", *SHARED, "--epochs", "1", "--model", "first").returncode == 0
    for n in (1, 2):
        begun = ["--from", "first", "--model", f"by{n}", "--local-workers", str(n)]
        assert train("texts", *SHARED, "--epochs", "2", *begun).returncode == 0
        more = ["--model", f"by{n}", "--local-workers", str(3 - n)]
        assert train("--resume", "--epochs", "3", *more).returncode == 0
    assert_alike("by2", "by1")


@pytest.mark.slow
def test_one_two_and_four_workers_give_the_same_curve(workplace: Path):
    """With four, parts of the batch that masks are drawn for are shared by two."""
    for n in (1, 2, 4):
        model = ["--model", f"by{n}", "--local-workers", str(n)]
        assert train("king.txt", *SHARED, "--epochs", "4", *model).returncode == 0
    assert len(curve_of("by1")) >= 10
    assert_alike("by2", "by1")
    assert_alike("by4", "by1")
    # What two have begun, one goes on with, and four.
    for n in (1, 4):
        shutil.copytree("checkpoints/by2", f"checkpoints/then{n}")
        more = ["--model", f"then{n}", "--local-workers", str(n)]
        assert train("--resume", "--epochs", "6", *more).returncode == 0
    assert_alike("then4", "then1")


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(workplace: Path):
    """Two workers, interrupted and resumed, against two that were not."""
    options = [*SHARED, "--epochs", "30", "--local-workers", "2"]
    assert train("king.txt", *options, "--model", "whole").returncode == 0
    with started("king.txt", *options, "--model", "stopped") as (first,):
        wait_for_steps("stopped")
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 130
    steps = list_checkpoints(Path("checkpoints/stopped"))[-1].step
    assert 0 < steps < list_checkpoints(Path("checkpoints/whole"))[-1].step
    resumed = train("--resume", "--model", "stopped", "--local-workers", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert_alike("stopped", "whole", tolerance=0.0)


@pytest.mark.slow
def test_a_budget_of_minutes_is_kept_by_all(workplace: Path):
    """Every decision by the clock is worker 0's, or the workers would wait for ever."""
    result = train(
        "king.txt", *SHARED, "--minutes", "0.25", "--json", "--local-workers", "2"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["stopped"] in ("minutes", "early")
    assert told["seconds"] < 25


# --- workers that were started by hand ----------------------------------------


@contextlib.contextmanager
def started(*arguments: str, workers: int = 0) -> Iterator[list[subprocess.Popen[str]]]:
    """Start one process, or so many workers, each as a person would on its machine."""
    places: list[list[str]] = [[]]
    if workers:
        cluster = choose_cluster(
            workers=None, worker_index=None, local_workers=workers, environment={}
        )
        assert cluster is not None
        addresses = ",".join(cluster.workers)
        places = [["--workers", addresses, "--worker-index", str(n)] for n in range(workers)]
    processes = []
    try:
        for place in places:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "charlstm", "train", *arguments, *place, "--quiet"],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.communicate()


def wait_for_steps(model: str, *, after: int = 0) -> None:
    """Wait for a checkpoint, after which training goes on for long."""
    deadline = time.monotonic() + 60
    while not any(c.step > after for c in list_checkpoints(Path("checkpoints", model))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


LONG = [*SHARED, "--epochs", "3000", "--threads", "2", "--model", "m"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="POSIX signals")
@pytest.mark.parametrize(
    ("victim", "how", "seconds"), [(2, "SIGKILL", 20), (0, "SIGKILL", 20), (1, "SIGSTOP", 40)]
)
def test_a_lost_worker_stops_all_and_is_named(workplace: Path, victim, how, seconds):
    """Dead, or deaf: the heartbeat finds the second out after ten seconds."""
    with started("king.txt", *LONG, workers=3) as workers:
        wait_for_steps("m")
        workers[victim].send_signal(getattr(signal, how))
        others = [(n, worker) for n, worker in enumerate(workers) if n != victim]
        deadline = time.monotonic() + seconds
        for n, worker in others:
            _, stderr = worker.communicate(timeout=max(1, deadline - time.monotonic()))
            assert worker.returncode == 1
            first, second = stderr.splitlines()[-2:]
            own = f"worker {n} of 3 (127.0.0.1:"
            assert first.startswith("Error: worker " if n == 0 else f"Error: {own}")
            assert f"worker {victim} of 3 (127.0.0.1:" in first
            assert "does not answer any more" in first
            assert second.startswith("hint: start all of them again with --resume")
    steps = list_checkpoints(Path("checkpoints/m"))[-1].step
    epochs = str(steps / 12 + 1)  # twelve steps an epoch
    resumed = train("--resume", "--model", "m", "--epochs", epochs, "--local-workers", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert list_checkpoints(Path("checkpoints/m"))[-1].step > steps


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_a_worker_answers_at_its_own_address_alone(workplace: Path):
    hosts, ports = ("127.0.0.1", "127.0.0.2"), []
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as two:
        ports += [one.getsockname()[1], two.getsockname()[1]]
    addresses = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    place = ["--workers", addresses, "--worker-index"]
    with (
        started("king.txt", *LONG, *place, "0") as (first,),
        started("king.txt", *LONG, *place, "1") as (second,),
    ):
        wait_for_steps("m")
        for own, port in zip(hosts, ports, strict=True):
            for host in (*hosts, "127.1.2.3"):
                try:
                    socket.create_connection((host, port), timeout=1).close()
                except TimeoutError:
                    assert host != own
                else:
                    assert host == own
        first.send_signal(signal.SIGINT)
        told = [worker.communicate(timeout=60)[1] for worker in (first, second)]
        assert [worker.returncode for worker in (first, second)] == [130, 130]
    assert told[0].startswith("the workers' ports have no password: let a firewall admit")
    assert told[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_ctrl_c_on_any_worker_saves_and_stops_all(workplace: Path, victim):
    """A wish for a checkpoint, too, reaches both workers at the same step."""
    with started("king.txt", *LONG, workers=2) as workers:
        wait_for_steps("m")
        before = list_checkpoints(Path("checkpoints/m"))[-1].step
        Path("checkpoints/m/save-now").touch()
        wait_for_steps("m", after=before)
        workers[victim].send_signal(signal.SIGINT)
        told = [worker.communicate(timeout=60) for worker in workers]
        assert [worker.returncode for worker in workers] == [130, 130]
    assert told[0][0].startswith("interrupted: ")
    assert told[1] == ("", "")
    checkpoints = list_checkpoints(Path("checkpoints/m"))
    assert f"interrupted: {checkpoints[-1].step:,} steps" in told[0][0]


@pytest.mark.slow
def test_ctrl_c_is_heard_while_waiting_for_the_others(workplace: Path):
    cluster = choose_cluster(workers=None, worker_index=None, local_workers=2, environment={})
    assert cluster is not None
    place = ["--workers", ",".join(cluster.workers), "--worker-index", "0"]
    with started("king.txt", *SHARED, *place) as (alone,):
        time.sleep(12)  # TensorFlow is imported by now, and waits
        alone.send_signal(signal.SIGINT)
        _, stderr = alone.communicate(timeout=20)
        assert alone.returncode == 130
        assert "Error: interrupted" in stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "other", "message"),
    [
        (1, ["--epochs", "5"], "--epochs is 5.0 here; on worker 0 it is 4.0"),
        (1, ["--dropout", "0.4"], "--dropout is 0.4 here; on worker 0 it was not given"),
    ],
)
def test_workers_that_were_told_otherwise_refuse(workplace: Path, index, other, message):
    cluster = choose_cluster(workers=None, worker_index=None, local_workers=2, environment={})
    assert cluster is not None
    both = ["--workers", ",".join(cluster.workers), "--worker-index"]
    options = [*TINY, "--epochs", "4"]
    with (
        started("king.txt", *options, *both, "0") as (first,),
        started("king.txt", *options, *other, *both, "1") as (second,),
    ):
        for worker in (first, second):
            _, stderr = worker.communicate(timeout=60)
            assert worker.returncode == 2
            assert f"Error: {cluster.name(1)}: {message}" in stderr
    assert not list_checkpoints(Path("checkpoints/king"))
