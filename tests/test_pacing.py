"""Whether steps fit their time budget, with whole runs played on a false clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm.pacing import EVALUATIONS_IN_A_RUN, Pace

CHARACTERS = 1_600


class Machine:
    """A run: start-up, steps, evaluations, as `training` goes about it."""

    def __init__(
        self,
        *,
        minutes: float,
        step_seconds: Callable[[float], float],
        evaluation_seconds: float,
        start_up: float = 3.0,
        tracing: float = 1.0,
    ) -> None:
        self.now = 100.0
        self.pace = Pace(lambda: self.now, started=100.0, budget=minutes * 60)
        self.now += start_up
        self.tracing = tracing
        self.step_seconds = step_seconds
        self.evaluation_seconds = evaluation_seconds
        self.step = 0
        self.planned: int | None = None
        self.eval_every: int | None = None
        self.is_final = False
        self.evaluations = 0
        self.plans = 0

    def plan(self) -> None:
        plan = self.pace.plan(
            step=self.step,
            planned=self.planned,
            eval_every=self.eval_every,
            is_final=self.is_final,
            last_seconds=0.0,
        )
        if plan is not None:
            self.plans += 1
            self.planned = self.step + plan.steps
            self.is_final = plan.is_final
            self.eval_every = plan.eval_every or self.eval_every
            if self.eval_every is None:
                self.eval_every = max(1, round(plan.steps / EVALUATIONS_IN_A_RUN))

    def run(self) -> None:
        while self.pace.seconds_left != 0 and self.step != self.planned:
            seconds = self.step_seconds(self.pace.seconds)
            if self.step == 0:
                seconds += self.tracing
            self.now += seconds
            self.step += 1
            self.pace.count_step(seconds, CHARACTERS, step=self.step)
            self.plan()
            is_due = self.eval_every is not None and self.step % self.eval_every == 0
            if is_due or self.step == self.planned:
                self.evaluations += 1
                self.now += self.evaluation_seconds
                self.pace.count_evaluation(self.evaluation_seconds)


@given(
    minutes=st.floats(0.5, 600),
    step=st.floats(0.002, 0.5),
    evaluation=st.floats(0.01, 1.5),
)
@settings(max_examples=60, deadline=None)
def test_a_steady_machine_ends_within_a_twentieth_of_its_time(minutes, step, evaluation):
    """And finishes its plan but for a step, so that the learning rate has come down."""
    step = max(step, minutes * 60 / 20_000)  # bounds the length of this test
    machine = Machine(minutes=minutes, step_seconds=lambda _: step, evaluation_seconds=evaluation)
    machine.run()
    assert machine.planned is not None
    assert machine.planned - machine.step <= 1 + 0.02 * machine.planned
    assert 0.9 * minutes * 60 - 3 <= machine.pace.seconds <= minutes * 60 + step + evaluation
    assert machine.evaluations <= 2 * EVALUATIONS_IN_A_RUN
    if minutes >= 1:
        assert machine.pace.seconds >= 0.95 * minutes * 60 - 1.5


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_a_machine_that_changes_its_speed_gets_another_plan(factor):
    """A laptop that leaves the plug, or another program that ends."""
    machine = Machine(
        minutes=10,
        step_seconds=lambda seconds: 0.04 * (factor if seconds > 200 else 1),
        evaluation_seconds=0.5,
    )
    machine.run()
    assert machine.step == machine.planned
    assert machine.plans > 2
    assert 570 <= machine.pace.seconds <= 600


def test_evaluations_take_a_small_share_of_a_short_run():
    machine = Machine(minutes=2, step_seconds=lambda _: 0.04, evaluation_seconds=2.0)
    machine.run()
    assert 2 <= machine.evaluations <= 5
    assert 114 <= machine.pace.seconds <= 120


def test_tracing_is_left_out_of_the_speed():
    now = [0.0]
    pace = Pace(lambda: now[0], started=0.0)
    for step, seconds in enumerate([5.0, 0.5, 0.5, 0.5, 0.5], 1):
        now[0] += seconds
        pace.count_step(seconds, 100, step=step)
    assert pace.seconds_a_step == 0.5
    assert pace.characters_per_second == 200
    assert pace.is_known
    now[0] += 3.0
    pace.leave_out(3.0)
    assert pace.seconds_a_step_in_all(5) == pytest.approx(0.5)
    now[0] += 1.0
    assert pace.seconds_a_step_in_all(5) == pytest.approx(0.75)
    assert pace.time_for(4, step=5) == pytest.approx(3.0)
    assert pace.seconds == 11.0
    assert pace.seconds_left is None


def test_earlier_sessions_count():
    pace = Pace(lambda: 7.0, started=5.0, earlier=50.0, budget=60.0)
    assert pace.seconds == 52.0
    assert pace.seconds_left == 8.0
    assert Pace(lambda: 7.0, started=5.0, earlier=90.0, budget=60.0).seconds_left == 0.0


def test_nothing_is_planned_before_the_speed_is_known():
    now = [0.0]
    none = {"eval_every": None, "is_final": False, "last_seconds": 0.0}
    pace = Pace(lambda: now[0], started=0.0, budget=60.0)
    assert pace.characters_per_second == pace.seconds_a_step == pace.seconds_a_step_in_all(0) == 0
    for step in (1, 2, 3):
        assert pace.plan(step=step, planned=None, **none) is None
        now[0] += 0.7
        pace.count_step(0.7, 100, step=step)
    now[0] += 0.7
    pace.count_step(0.7, 100, step=4)
    plan = pace.plan(step=4, planned=None, **none)
    assert plan is not None
    assert not plan.is_final
    assert plan.steps == int((60 - 2.8) * 0.9 / 0.7)
    without = Pace(lambda: now[0], started=0.0)
    assert without.plan(step=4, planned=None, **none) is None
