"""What a person sees on stderr, with the clock and the terminal faked."""

from __future__ import annotations

import io
import sys

import pytest

from charlstm import terminal
from charlstm.progress import Progress, Reporter


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(step: int, **changes) -> Progress:
    values = {
        "step": step,
        "total_steps": 200,
        "epoch": step / 40,
        "step_loss": 1.5,
        "gradient_norm": 0.25,
        "train_loss": 1.23456,
        "val_loss": 2.5,
        "chars_per_second": 23_456.0,
        "seconds_left": 125.0,
    }
    return Progress(**(values | changes))


def test_a_line_has_everything_in_its_order():
    assert terminal.describe(progress(60)) == (
        "epoch 1.5  step 60/200  loss 1.235  val 2.500  23.5k chars/s  2:05 left"
    )
    bare = progress(1, total_steps=None, val_loss=None, chars_per_second=0.0, seconds_left=None)
    assert terminal.describe(bare) == "epoch 0.0  step 1  loss 1.235"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3_599, "59:59"), (7_384, "2:03:04")]
)
def test_durations(seconds, text):
    assert terminal.format_seconds(seconds) == text


def test_lines_come_at_a_steady_rate_and_at_the_end(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    now = iter([0.0, 0.0, 3.0, 9.9, 10.0, 10.0, 11.0, 12.0, 12.0])
    reporter = terminal.LineReporter(clock=lambda: next(now))
    for step in (1, 2, 3, 4, 5):
        reporter.progress(progress(step))
    reporter.progress(progress(200))
    steps = [line.split()[3] for line in sys.stderr.getvalue().splitlines()]
    assert steps == ["1/200", "4/200", "200/200"]


def test_the_bar_writes_to_stderr_only(monkeypatch, capsys):
    screen = FakeTerminal()
    monkeypatch.setattr(sys, "stderr", screen)
    reporter = terminal.make_reporter(quiet=False)
    assert isinstance(reporter, terminal.BarReporter)
    reporter.progress(progress(1, total_steps=None))
    reporter.progress(progress(100))
    reporter.evaluated({})
    reporter.sample(100, "To be\x1b[2J or")
    reporter.close()
    shown = screen.getvalue()
    assert "step 100/200" in shown
    assert "50%|" in shown
    # A text cannot steer the terminal.
    assert "\\x1b[2J or" in shown
    assert capsys.readouterr().out == ""


def test_quiet_is_silent_and_a_pipe_gets_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(terminal.make_reporter(quiet=True)) is Reporter
    assert isinstance(terminal.make_reporter(quiet=False), terminal.LineReporter)
