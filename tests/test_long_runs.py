"""Runs that nobody sits beside: watched, asked, paused, killed, and flat in memory."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY, run

from charlstm.models import list_checkpoints
from charlstm.status import read_status

pytestmark = [
    pytest.mark.tf,
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here"),
]
MODEL = Path("checkpoints/king")
COMMAND = [sys.executable, "-m", "charlstm"]


def wait_for(is_so: Callable[[], object], *, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def step_of(model: Path = MODEL) -> int:
    status = read_status(model)
    return 0 if status is None or status.progress is None else status.progress.step


@pytest.fixture
def running(workplace: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that would go on for hours."""
    process = subprocess.Popen(
        [*COMMAND, "train", "king.txt", *TINY, "--epochs", "9999999", "--patience", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: step_of() > 0 or process.poll() is not None)
        assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_run_is_asked_for_checkpoints_and_goes_on(running: subprocess.Popen[bytes]) -> None:
    for ask in (
        lambda: running.send_signal(signal.SIGUSR1),
        lambda: (MODEL / "save-now").touch(),
    ):
        before = [info.step for info in list_checkpoints(MODEL)]
        ask()
        # At this speed neither an evaluation nor the 45 seconds are near.
        wait_for(lambda: [i.step for i in list_checkpoints(MODEL)] != before)  # noqa: B023
        saved = list_checkpoints(MODEL)[-1].step
        wait_for(lambda: step_of() > saved)  # noqa: B023
        assert not (MODEL / "save-now").exists()
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr.count(b"as was asked") == 2
    status = read_status(MODEL)
    assert status is not None
    assert status.stopped == "interrupted"


def test_a_run_is_watched_from_another_terminal(running: subprocess.Popen[bytes]) -> None:
    watcher = subprocess.Popen(
        [*COMMAND, "info", "king", "--follow", "--json"], stdout=subprocess.PIPE
    )
    assert watcher.stdout is not None
    first, second = (json.loads(watcher.stdout.readline()) for _ in range(2))
    assert first["progress"]["step"] < second["progress"]["step"]
    assert first["stopped"] is None
    running.send_signal(signal.SIGINT)
    rest, _ = watcher.communicate(timeout=60)
    assert json.loads(rest.splitlines()[-1])["stopped"] == "interrupted"
    assert watcher.returncode == 0


@pytest.mark.slow
def test_watching_a_run_that_is_killed(running: subprocess.Popen[bytes]) -> None:
    watcher = subprocess.Popen(
        [*COMMAND, "info", "king", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watcher.stderr is not None
    assert re.match(rb"epoch .* step \d+", watcher.stderr.readline())
    running.kill()
    running.wait()
    _, stderr = watcher.communicate(timeout=60)
    assert watcher.returncode == 1
    assert b"the run is gone at step" in stderr
    assert b"charlstm train --resume --model king goes on" in stderr


@pytest.mark.slow
def test_a_watcher_that_is_interrupted_leaves_the_run_alone(
    running: subprocess.Popen[bytes],
) -> None:
    watcher = subprocess.Popen(
        [*COMMAND, "info", "king", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert watcher.stderr is not None
    watcher.stderr.readline()
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    at = step_of()
    wait_for(lambda: step_of() > at)
    assert running.poll() is None


@pytest.mark.slow
def test_a_paused_run_goes_on(running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGSTOP)
    time.sleep(3)  # longer than the status is old at most
    at = step_of()
    time.sleep(1)
    assert step_of() == at
    running.send_signal(signal.SIGCONT)
    wait_for(lambda: step_of() > at)


def test_a_run_that_ended_is_told_at_once(workplace: Path) -> None:
    assert run("train", "king.txt", *TINY, "--epochs", "0.1").exit_code == 0
    result = run("info", "king", "--follow")
    assert result.exit_code == 0
    assert re.fullmatch(r"ended at step \d+: epochs\n", result.stdout)


def test_following_is_refused_where_there_is_nobody(workplace: Path) -> None:
    result = run("info", "nobody", "--follow")
    assert result.exit_code == 1
    assert "no run has told of itself in checkpoints/nobody" in result.stderr
    assert run("info", "--follow").exit_code == 2
    assert run("info", "king", "--follow", "--verify").exit_code == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_a_hundred_thousand_steps(workplace: Path) -> None:
    """Within 3 MB, evaluations, checkpoints and samples included."""

    def anonymous_kb(pid: int) -> int:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"RssAnon:\s+(\d+) kB", text)[1])  # type: ignore[index]

    options = ["--units", "2", "--layers", "1", "--seq-length", "2", "--batch-size", "2"]
    steps_per_epoch = 2280 * 9 // 10 // 4
    epochs = 150_000 / steps_per_epoch  # so that it is not over when it is measured
    process = subprocess.Popen(
        [*COMMAND, "train", "king.txt", *options, "--epochs", str(epochs), "--patience", "0",
         "--sample-every", "5", "--threads", "1", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        seen = {}
        for step in (20_000, 60_000, 100_000):
            wait_for(lambda: step_of() >= step or process.poll() is not None, seconds=900)  # noqa: B023
            assert process.poll() is None
            seen[step] = anonymous_kb(process.pid)
        assert seen[100_000] - seen[20_000] < 3_000, seen
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
        process.communicate()
