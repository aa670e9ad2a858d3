"""Real processes: what they import, closed pipes, signals, locales."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_TEXT, run

from charlstm.checkpoint import load_checkpoint, load_training_state
from charlstm.logs import read_log
from charlstm.models import list_checkpoints

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and pipes of Unix")
tf = pytest.mark.tf

COMMAND = [sys.executable, "-m", "charlstm"]
# A run that no test waits for the end of.
ENDLESS = ["train", "king.txt", *TINY, "--epochs", "100000", "--patience", "0"]


def charlstm(*args: str, **extra) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], capture_output=True, text=True, timeout=120, encoding="utf-8", **extra
    )


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], what: str) -> str:
    """Read stderr until a line has `what`; a minute at most."""
    seen = ""
    deadline = time.monotonic() + 60
    assert process.stderr is not None
    while time.monotonic() < deadline:
        if select.select([process.stderr], [], [], 1)[0]:
            line = process.stderr.readline()
            seen += line
            if what in line or not line:
                break
    assert what in seen, seen
    return seen


# --- import weight ------------------------------------------------------------

PROBE = """
import atexit, sys
atexit.register(lambda: sys.stderr.write("heavy: " + ",".join(
    sorted(m for m in ("tensorflow", "keras", "matplotlib") if m in sys.modules))))
from charlstm.cli import cli
cli(prog_name="charlstm")
"""


@tf
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["prepare", "king.txt", "--output", "other"],
        ["generate", "-n", "5"],
        ["evaluate", "king.txt"],
        ["info"],
        ["info", "king"],
        ["report", "king"],
        ["train", "king.txt", "--model", "new", "--tensorboard", "king.txt"],  # no folder
        ["explain", "--seed", "The king", "-o", "page.html"],
        ["neurons", "king"],
        ["train", "nowhere.txt"],
        ["train", "king.txt"],  # the model exists
        ["train", "king.txt", "--dropout", "2"],
    ],
)
def test_tensorflow_is_not_imported(trained, arguments):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.endswith("heavy: "), done.stderr
    assert "Traceback" not in done.stderr  # the probe once failed before it ran anything


@tf
def test_the_probe_sees_tensorflow():
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("import atexit", "import tensorflow, atexit"), "info"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "tensorflow" in done.stderr.rpartition("heavy: ")[2]


@pytest.mark.parametrize(
    "module",
    [
        "activations",
        "batching",
        "checkpoint",
        "config",
        "corpus",
        "errors",
        "explain",
        "generation",
        "importing",
        "kerasfile",
        "neurons",
        "planning",
        "reading",
        "report",
        "sampling",
        "scoring",
        "showing",
        "vocabulary",
    ],
)
def test_the_plain_layer_is_plain(module):
    code = f"import sys, charlstm.{module}; assert not {{'tensorflow', 'click'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- pipes and locales ----------------------------------------------------------


@tf
@pytest.mark.parametrize("options", [(), ("--output", "/dev/stdout")])
def test_a_closed_pipe_ends_quietly(trained, options):
    writer = subprocess.Popen(
        [*COMMAND, "generate", "-n", "10000000", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert len(writer.stdout.read(100)) == 100
    writer.stdout.close()
    assert writer.wait(timeout=60) == 0
    assert writer.stderr.read() == b""
    writer.stderr.close()


@tf
def test_stdout_closed_from_the_start_is_no_traceback(trained):
    for command in ("generate -n 20", "info --json", "--help"):
        done = subprocess.run(
            f"{sys.executable} -m charlstm {command} >&-",
            shell=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(workplace, closed):
    for command, code in (("prepare king.txt", 0), ("prepare -", 2 if "<" in closed else 0)):
        done = subprocess.run(
            f"echo a text too short | {sys.executable} -m charlstm {command} {closed}"
            if "<" not in closed
            else f"{sys.executable} -m charlstm {command} {closed}",
            shell=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        expected = 2 if command.endswith("-") else code
        assert done.returncode == expected, done.stderr
        assert "fault of charlstm" not in done.stderr


@pytest.mark.parametrize("command", ["--help", "--version", "train --help"])
def test_help_into_a_closed_pipe_ends_quietly(tmp_path, command):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m charlstm {command} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")


@tf
def test_evaluate_reads_a_pipe_like_a_file(trained):
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m charlstm evaluate <(printf 'The king \\xe9t la reine')",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "bad byte 0xe9 at offset 9" in done.stderr


@tf
def test_a_full_disk_is_an_error(trained):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "generate", "-n", "99"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) <= 2


@tf
def test_text_is_utf_8_whatever_the_locale(workplace):
    text = "Größe — naïve “quotes” 長恨歌。\n" * 40
    (workplace / "world.txt").write_text(text, encoding="utf-8")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    made = charlstm("train", "world.txt", *TINY, "--epochs", "1", "-q", env=plain)
    assert made.returncode == 0, made.stderr
    written = charlstm("generate", "--seed", "長恨歌", "-n", "30", env=plain)
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("長恨歌")
    assert len(written.stdout) == 33
    refused = charlstm("generate", "--seed", "ß☃", env=plain)
    assert "'☃' (U+2603, position 2)" in refused.stderr


@tf
def test_errors_show_a_traceback_only_when_asked(trained):
    quiet = charlstm("generate", "--model", "queen")
    loud = charlstm("generate", "--model", "queen", env={**os.environ, "CHARLSTM_DEBUG": "1"})
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


# --- signals ----------------------------------------------------------------------


@tf
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_saves_says_how_to_resume_and_can(workplace, number):
    process = start(*ENDLESS, "--json")
    wait_for(process, "chars/s")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume with: charlstm train --resume --model king" in stderr
    assert "Traceback" not in stderr
    about = json.loads(stdout)
    assert about["stopped"] == "interrupted"
    (*_, info) = list_checkpoints(workplace / "checkpoints" / "king")
    assert info.step == about["steps"] > 0
    epochs = str(about["epochs"] + 1)
    more = charlstm("train", "--resume", "--model", "king", "--epochs", epochs, "--json", "-q")
    assert more.returncode == 0, more.stderr
    assert json.loads(more.stdout)["steps"] > about["steps"]
    assert more.stderr == ""


@tf
def test_a_run_interrupted_before_its_first_step_has_saved_nothing(workplace):
    process = start(*ENDLESS)
    wait_for(process, "king: ")  # the line printed before TensorFlow is imported
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


@pytest.mark.slow
@tf
def test_killed_runs_lose_no_checkpoint_and_end_bit_identical(workplace):
    """Killed in its tracks twice, then resumed, against a run left alone."""
    budget = ["--epochs", "40", "--patience", "0", "-q"]
    whole = charlstm("train", "king.txt", *TINY, *budget, "--model", "whole")
    assert whole.returncode == 0, whole.stderr
    model = workplace / "checkpoints" / "killed"
    for _ in range(2):
        before = len(list_checkpoints(model)) and list_checkpoints(model)[-1].step
        options = ["--resume"] if before else TINY
        process = start("train", "king.txt", *options, *budget[:2], "--model", "killed")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            last = list_checkpoints(model)
            if last and last[-1].step > before:
                break
        process.kill()
        process.communicate()
    done = charlstm("train", "king.txt", "--resume", "--model", "killed", "-q")
    assert done.returncode == 0, done.stderr
    ends = []
    for name in ("whole", "killed"):
        (*_, info) = list_checkpoints(workplace / "checkpoints" / name)
        ends.append(dict(load_checkpoint(info).weights) | load_training_state(info).arrays)
    for name, array in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], array, err_msg=name)
    steps = [
        [record["step"] for record in read_log(workplace / "checkpoints" / name, "history.jsonl")]
        for name in ("whole", "killed")
    ]
    assert steps[0] == steps[1]


@pytest.mark.slow
@tf
def test_writing_text_while_a_run_saves_sees_whole_checkpoints(workplace):
    """Checkpoints come and go while another process reads, hundreds of times."""
    process = start("train", "king.txt", *TINY, "--epochs", "20", "--patience", "0", "-q")
    seen = set()
    while process.poll() is None:
        if not list_checkpoints(Path("checkpoints/king")):
            continue
        result = run("generate", "--json", "-n", "3", "--checkpoint", "last")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        seen.add(json.loads(result.stdout)["checkpoint"])
    process.communicate()
    assert process.returncode == 0
    assert len(seen) > 3


# --- threads and reproducibility ------------------------------------------------

PARTS = ["--units", "6", "--seq-length", "9", "--batch-size", "16", "--sample-every", "0"]


def newest(model: str):
    (*_, info) = list_checkpoints(Path("checkpoints") / model)
    return load_checkpoint(info)


@pytest.mark.slow
@tf
def test_the_same_command_gives_the_same_weights_in_another_process(workplace):
    """To the last bit, with two parts side by side and both kinds of dropout."""
    options = ["--epochs", "8", "--threads", "2", "--dropout", "0.4", "-q"]
    for name in ("one", "two"):
        done = charlstm("train", "king.txt", *PARTS, *options, "--model", name)
        assert done.returncode == 0, done.stderr
    one, two = newest("one"), newest("two")
    assert one.config["training"]["threads"] == 2
    for name, weights in one.weights.items():
        np.testing.assert_array_equal(two.weights[name], weights, err_msg=name)


@pytest.mark.slow
@tf
def test_one_thread_and_two_learn_the_same(workplace):
    """The parts of a batch change the order of sums and nothing else."""
    options = ["--epochs", "2", "--dropout", "0", "-q"]
    for n in ("1", "2"):
        done = charlstm("train", "king.txt", *PARTS, *options, "--threads", n, "--model", n)
        assert done.returncode == 0, done.stderr
    one, two = newest("1"), newest("2")
    for name, weights in one.weights.items():
        np.testing.assert_allclose(two.weights[name], weights, atol=1e-4, err_msg=name)


@tf
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_threads_follow_the_cores_that_the_process_may_use(workplace):
    core = min(os.sched_getaffinity(0))
    done = charlstm(
        "train", "king.txt", *PARTS, "--epochs", "0.5", "-q",
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert newest("king").config["training"]["threads"] == 1


@tf
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_while_training_does_not_grow_with_the_text(workplace):
    """Anonymous resident memory: the pages of the prepared text do not count."""
    peaks = {}
    for copies in (100, 20_000):  # 0.2 MB, 46 MB
        Path("text.txt").write_text(TINY_TEXT * copies, encoding="utf-8")
        done = charlstm("prepare", "text.txt")
        assert done.returncode == 0, done.stderr
        process = start(
            "train", "text.txt", *PARTS, "--minutes", "0.2", "--overwrite", "--json", "-q"
        )
        seen = []
        while process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                seen.append(int(status.split("RssAnon:")[1].split()[0]))  # kB
            time.sleep(0.05)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        peaks[copies] = max(seen)
    assert peaks[20_000] < 1.1 * peaks[100]


def test_a_killed_prepare_leaves_nothing_half_made(tmp_path):
    (tmp_path / "big.txt").write_text(TINY_TEXT * 20_000, encoding="utf-8")
    process = subprocess.Popen([*COMMAND, "prepare", "big.txt"], cwd=tmp_path)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(tmp_path.glob("prepared/.*")):
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert list((tmp_path / "prepared").iterdir()) == []


@pytest.mark.slow
@tf
def test_training_says_nothing_that_is_not_ours(workplace):
    done = charlstm("train", "king.txt", *TINY, "--epochs", "1")
    starts = ("king: ", "1,069 parameters, ", "a short text: ", "epoch ", "about ", "sample at ")
    for line in done.stderr.splitlines():
        assert line.startswith(starts), line
    assert Path("checkpoints/king/history.jsonl").exists()
