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
        asked: int | None = None,
        guess: float | None = None,
    ) -> None:
        self.now = 100.0
        self.pace = Pace(lambda: self.now, started=100.0, budget=minutes * 60)
        self.now += start_up
        self.tracing = tracing
        self.step_seconds = step_seconds
        self.evaluation_seconds = evaluation_seconds
        self.step = 0
        self.last_evaluated = -1
        self.asked = asked
        self.guess = evaluation_seconds if guess is None else guess
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
            asked=self.asked,
            evaluation_seconds=self.guess,
            last_seconds=0.0,
        )
        if plan is not None:
            self.plans += 1
            self.planned = plan.total_steps
            self.is_final = plan.is_final
            self.eval_every = plan.eval_every or self.eval_every

    def run(self) -> None:
        while not self.pace.is_over and self.step != self.planned:
            seconds = self.step_seconds(self.pace.seconds)
            self.now += seconds + (self.tracing if self.step == 0 else 0)
            self.step += 1
            self.pace.count_step(seconds, CHARACTERS, step=self.step)
            self.plan()
            is_due = self.eval_every is not None and self.step % self.eval_every == 0
            if is_due or self.step == self.planned:
                self.evaluate()
                self.plan()
        if self.last_evaluated != self.step:
            self.evaluate()

    def evaluate(self) -> None:
        self.last_evaluated = self.step
        self.evaluations += 1
        self.now += self.evaluation_seconds
        self.pace.count_evaluation(self.evaluation_seconds)


@given(
    minutes=st.floats(0.3, 600),
    step=st.floats(0.002, 0.5),
    evaluation=st.floats(0.01, 5),
    guess=st.floats(0.5, 2),
)
@settings(max_examples=100, deadline=None)
def test_a_steady_machine_ends_within_a_twentieth_of_its_time(minutes, step, evaluation, guess):
    """And finishes its plan but for a step, so that the learning rate has come down."""
    seconds = minutes * 60
    step = max(step, seconds / 20_000)  # bounds the length of this test
    evaluation = min(evaluation, seconds / 10)
    machine = Machine(
        minutes=minutes,
        step_seconds=lambda _: step,
        evaluation_seconds=evaluation,
        guess=evaluation * guess,
    )
    machine.run()
    assert machine.planned is not None
    assert machine.planned - machine.step <= 1 + 0.02 * machine.planned
    # It cannot be finer: one and a half guessed evaluations are kept for the last one.
    grain = 2 * step + evaluation * max(0.5, 1.5 * guess - 1)
    assert 0.95 * seconds - 1 - grain <= machine.pace.seconds <= 1.05 * seconds + grain
    assert machine.evaluations <= 2 * EVALUATIONS_IN_A_RUN


@pytest.mark.parametrize(
    ("minutes", "step", "evaluation"),
    [(1, 0.03, 20), (1, 0.03, 10), (2, 0.03, 25), (3, 10, 35), (0.1, 0.03, 0.5), (0.5, 0.05, 10)],
)
def test_costly_evaluations_and_slow_steps_stay_in_the_budget(minutes, step, evaluation):
    """Where an evaluation takes a good part of the time there is one, at the end."""
    machine = Machine(
        minutes=minutes,
        step_seconds=lambda _: step,
        evaluation_seconds=evaluation,
        guess=evaluation,
    )
    machine.run()
    seconds = minutes * 60
    assert machine.evaluations == 1
    assert seconds - 2 - 0.6 * evaluation - step <= machine.pace.seconds <= 1.02 * seconds + step
    assert machine.step == machine.planned


def test_an_evaluation_that_is_longer_than_the_budget_is_made_once():
    machine = Machine(minutes=0.5, step_seconds=lambda _: 0.05, evaluation_seconds=40)
    machine.run()
    assert machine.evaluations == 1
    assert machine.step < 60


def test_epochs_that_fit_the_time_are_the_plan():
    """From the first step on, with the evaluations that they would have had."""
    machine = Machine(minutes=20, step_seconds=lambda _: 0.03, evaluation_seconds=0.3, asked=1_260)
    machine.planned, machine.eval_every = 1_260, 63
    machine.run()
    assert machine.step == 1_260
    assert machine.evaluations == 20
    assert machine.plans <= 1


def test_epochs_that_do_not_fit_the_time_are_cut():
    machine = Machine(minutes=1, step_seconds=lambda _: 0.03, evaluation_seconds=0.1, asked=100_000)
    machine.run()
    assert machine.planned == machine.step < 2_000
    assert 57 <= machine.pace.seconds <= 60


def test_a_plan_that_is_kept_stands_on_a_machine_somewhat_slower():
    machine = Machine(minutes=2, step_seconds=lambda _: 0.045, evaluation_seconds=0.1)
    machine.pace = Pace(
        lambda: machine.now, started=machine.now, earlier=60.0, budget=120.0,
        tolerance=0.25, slack=0.05,
    )  # fmt: skip
    machine.step, machine.planned, machine.eval_every, machine.is_final = 1_500, 2_840, 142, True
    machine.run()  # 1,340 steps left for 60 seconds
    assert machine.step == 2_840
    assert machine.plans == 0
    assert 120 < machine.pace.seconds < 126


def test_a_plan_that_is_kept_is_given_up_on_a_machine_much_slower():
    machine = Machine(minutes=2, step_seconds=lambda _: 0.09, evaluation_seconds=0.1)
    machine.pace = Pace(
        lambda: machine.now, started=machine.now, earlier=60.0, budget=120.0,
        tolerance=0.25, slack=0.05,
    )  # fmt: skip
    machine.step, machine.planned, machine.eval_every, machine.is_final = 1_500, 3_000, 150, True
    machine.run()
    assert machine.step == machine.planned < 2_250
    assert machine.pace.seconds < 121


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
    none = {
        "eval_every": None,
        "is_final": False,
        "asked": None,
        "evaluation_seconds": 0.1,
        "last_seconds": 0.0,
    }
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
    # A second is kept for the end, 2 for 20 evaluations.
    assert plan.total_steps == 4 + int((60 - 2.8 - 1 - 20 * 0.1) / 0.7)
    without = Pace(lambda: now[0], started=0.0)
    assert without.plan(step=4, planned=None, **none) is None
