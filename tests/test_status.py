"""Where a run is, told to who asks from outside, and what can be asked of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.errors import ModelNotFoundError
from charlstm.logs import SAMPLES, append_log
from charlstm.progress import Progress, Reporter
from charlstm.status import STATUS, SaveRequest, Status, StatusReporter, follow, read_status


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Listener(Reporter):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.samples: list[tuple[int, str]] = []

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress.step)

    def sample(self, step: int, text: str) -> None:
        self.samples.append((step, text))


def at(step: int, **changes: float | None) -> Progress:
    fields: dict[str, float | None] = {
        "total_steps": 90,
        "epoch": step / 30,
        "step_loss": 2.5,
        "gradient_norm": 0.75,
        "train_loss": 2.25,
        "val_loss": None,
        "chars_per_second": 1_234.5,
        "seconds_left": 60.5,
    }
    return Progress(step=step, **(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tale").mkdir()
    return tmp_path / "tale"


def test_a_status_is_what_was_told(folder: Path) -> None:
    reporter = StatusReporter(folder, clock=Clock())
    status = read_status(folder)
    assert status is not None
    assert (status.progress, status.stopped, status.is_gone) == (None, None, False)
    reporter.progress(at(7))
    assert read_status(folder).progress == at(7)
    reporter.evaluated({"step": 7, "val_loss": 1.5})
    assert read_status(folder).progress == at(7, val_loss=1.5)
    reporter.ended("epochs")
    status = read_status(folder)
    assert (status.progress, status.stopped) == (at(7, val_loss=1.5), "epochs")
    assert status.is_gone is False
    content = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    assert not {"pid", "host"} & set(content)  # of no use any more


def test_it_is_written_every_two_seconds(folder: Path) -> None:
    clock = Clock()
    reporter = StatusReporter(folder, clock=clock)
    seen = []
    for step in range(1, 9):
        clock.now = step * 0.75
        reporter.progress(at(step))
        seen.append(read_status(folder).progress.step)
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7]


def test_a_process_that_is_gone_is_told(folder: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from charlstm.status import StatusReporter\n"
        "StatusReporter(Path(sys.argv[1])); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False, timeout=60)
    assert read_status(folder).is_gone is True


def test_a_process_of_another_machine_cannot_be_told(folder: Path) -> None:
    StatusReporter(folder)
    content = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    (folder / STATUS).write_text(json.dumps(content | {"host": "elsewhere"}), encoding="utf-8")
    assert read_status(folder).is_gone is None


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_refuses_is_no_reason_to_stop_read_only(folder: Path) -> None:
    folder.chmod(0o500)
    StatusReporter(folder).progress(at(1))
    assert read_status(folder) is None


def test_a_folder_that_refuses_is_no_reason_to_stop(tmp_path: Path) -> None:
    reporter = StatusReporter(tmp_path / "nowhere")
    reporter.progress(at(1))
    reporter.ended("epochs")
    assert read_status(tmp_path / "nowhere") is None


def test_a_link_is_replaced_and_not_followed(folder: Path) -> None:
    other = folder.parent / "other.txt"
    other.write_text("mine", encoding="utf-8")
    (folder / STATUS).symlink_to(other)
    (folder / f".{STATUS}.new").symlink_to(other)
    assert read_status(folder) is None  # nor read
    StatusReporter(folder).progress(at(3))
    assert read_status(folder).progress.step == 3
    assert other.read_text(encoding="utf-8") == "mine"


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.text(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: st.dictionaries(
                st.sampled_from(["progress", "updated", "stopped", "pid", "host", "step"]), inner
            ),
            max_leaves=8,
        ).map(json.dumps),
    )
)
def test_whatever_a_stranger_wrote_is_a_status_or_none(folder: Path, content: str) -> None:
    (folder / STATUS).write_text(content, encoding="utf-8", errors="replace")
    status = read_status(folder)
    assert status is None or isinstance(status, Status)


# --- following ------------------------------------------------------------------


def test_following_tells_steps_and_new_samples_until_the_end(folder: Path) -> None:
    clock = Clock()
    reporter = StatusReporter(folder, clock=clock)
    reporter.progress(at(1))
    append_log(folder, SAMPLES, {"step": 1, "text": "old"})
    events = iter(
        [
            lambda: (setattr(clock, "now", 9.0), reporter.progress(at(5))),
            lambda: append_log(folder, SAMPLES, {"step": 5, "text": "new"}),
            lambda: None,
            lambda: reporter.ended("minutes"),
        ]
    )
    listener, told = Listener(), []
    status = follow(
        folder, listener, told=told.append, sleep=lambda seconds: next(events)() and None
    )
    assert status.stopped == "minutes"
    assert listener.steps == [1, 5, 5]
    assert listener.samples == [(5, "new")]
    assert [t.stopped for t in told] == [None, None, "minutes"]


def test_following_nobody_is_an_error(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no run has told of itself"):
        follow(folder, Reporter())


# --- asking for a checkpoint ----------------------------------------------------


def test_a_file_asks_once(folder: Path) -> None:
    clock = Clock()
    (folder / "save-now").touch()
    wanted = SaveRequest(folder, clock=clock)
    assert not wanted()  # an earlier run's
    (folder / "save-now").touch()
    clock.now = 0.5
    assert not wanted()  # it looks once a second
    clock.now = 1.5
    assert wanted()
    clock.now = 3.0
    assert not wanted()
    assert not (folder / "save-now").exists()


def test_a_signal_asks_once(folder: Path) -> None:
    wanted = SaveRequest(folder, clock=Clock())
    wanted.is_asked = True
    assert wanted()
    assert not wanted()


def test_a_folder_by_that_name_asks_for_nothing(folder: Path) -> None:
    wanted = SaveRequest(folder, clock=Clock())
    (folder / "save-now").mkdir()
    assert not wanted()
