"""How fast a run goes, and how many steps fit its time budget.

Plain arithmetic on a clock, so that it can be tested with a false one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

EVALUATIONS_IN_A_RUN = 20
MAX_EVALUATION_SHARE = 0.05  # of a time budget, saving included
# The speed is known after this many seconds of steps.
_SPEED_SECONDS = 2.0
# Kept free at the end of a time budget for the last evaluation and checkpoint.
_LAST_SECONDS = 1.0
# Of the time left, for evaluations whose cost is not known yet.
_GUESSED_SHARE_OF_STEPS = 0.9
# The speed of the machine may change; a plan that is off by more is made anew.
_PLAN_TOLERANCE = 0.05
_LOOKS_IN_A_RUN = 20
# Fewer say nothing about the speed.
_FEW_STEPS = 5


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """How many steps are still to come, and how they are evaluated.

    Attributes:
        steps: Optimizer steps.
        eval_every: Steps between evaluations; None to leave it as it is.
        is_final: Whether the cost of an evaluation is known.
    """

    steps: int
    eval_every: int | None
    is_final: bool


class Pace:
    """The clock of a run and what it has shown.

    Args:
        read: Seconds that only grow.
        started: When the run began, by `read`.
        earlier: Seconds of the run's earlier sessions.
        budget: Seconds for the whole run; None for no limit.
    """

    def __init__(
        self,
        read: Callable[[], float],
        *,
        started: float,
        earlier: float = 0.0,
        budget: float | None = None,
    ) -> None:
        """Start with nothing known."""
        self.read = read
        self.budget = budget
        self._started = started
        self._earlier = earlier
        self._step_seconds = 0.0
        self._characters = 0
        self._n_steps = -1  # the first step traces the graph and does not count
        self._marked_at, self._marked_step = self.seconds, 0
        self._last_a_step = 0.0
        self._evaluation_seconds: float | None = None  # of the last one
        self._evaluations_seconds = 0.0  # of all

    @property
    def seconds(self) -> float:
        """Wall time of the run, earlier sessions counted in."""
        return self._earlier + self.read() - self._started

    @property
    def seconds_left(self) -> float | None:
        """What is left of the budget, at least 0; None without one."""
        return None if self.budget is None else max(0.0, self.budget - self.seconds)

    def count_step(self, seconds: float, characters: int, *, step: int) -> None:
        """Take note of a step.

        Args:
            seconds: What it took.
            characters: What it learned from.
            step: Steps done, this one included.
        """
        self._n_steps += 1
        if self._n_steps == 0:
            self._mark(step)
            return
        self._step_seconds += seconds
        self._characters += characters

    def count_evaluation(self, seconds: float) -> None:
        """Take note of an evaluation, which is not part of the steps' time.

        Args:
            seconds: What it took, saving included.
        """
        self._evaluation_seconds = seconds
        self._evaluations_seconds += seconds
        self.leave_out(seconds)

    def leave_out(self, seconds: float) -> None:
        """Forget time that will not be spent again, as for tracing a graph.

        Args:
            seconds: How long it was, since the last step.
        """
        self._marked_at += seconds

    def _mark(self, step: int) -> None:
        """Look at the speed from here on, because a machine's changes."""
        self._last_a_step = self.seconds_a_step_in_all(step)
        self._marked_at, self._marked_step = self.seconds, step

    @property
    def is_known(self) -> bool:
        """Whether there were steps enough to tell the speed."""
        return self._n_steps >= 2 and self._step_seconds >= _SPEED_SECONDS

    @property
    def characters_per_second(self) -> float:
        """Of training steps alone; 0 before the second."""
        return self._characters / self._step_seconds if self._step_seconds else 0.0

    @property
    def seconds_a_step(self) -> float:
        """Of training steps alone; 0 before the second."""
        return self._step_seconds / self._n_steps if self._n_steps > 0 else 0.0

    def seconds_a_step_in_all(self, step: int) -> float:
        """Return a step's time with its share of sampling and saving, of late.

        Args:
            step: Steps done.

        Returns:
            Seconds, evaluations left out; 0 before the second step.
        """
        if self._n_steps < 1:
            return 0.0
        n_steps = step - self._marked_step
        if n_steps < _FEW_STEPS and self._last_a_step:
            return self._last_a_step
        return (self.seconds - self._marked_at) / max(1, n_steps)

    def time_for(self, steps: int, *, step: int) -> float:
        """Guess how long the steps to come will take.

        Args:
            steps: How many.
            step: Steps done.

        Returns:
            Seconds, evaluations included, within the budget.
        """
        evaluating = self._evaluations_seconds / max(1, self._n_steps)
        seconds = steps * (self.seconds_a_step_in_all(step) + evaluating)
        return seconds if self.seconds_left is None else min(seconds, self.seconds_left)

    def plan(
        self,
        *,
        step: int,
        planned: int | None,
        eval_every: int | None,
        is_final: bool,
        last_seconds: float,
    ) -> StepPlan | None:
        """Fit the steps to the time that is left; to be asked after each step.

        A first plan is made when the speed is known, and the final one after
        the first evaluation, whose cost is then known too. That one stands,
        unless the machine changes its speed by more than a few per cent.

        Args:
            step: Steps done.
            planned: Where the plan so far ends; None if there is none.
            eval_every: Its steps between evaluations; None if there is none.
            is_final: Whether it is the final one.
            last_seconds: What the run does after its last step, beyond an
                evaluation and a checkpoint.

        Returns:
            The new plan; None to keep what there is.
        """
        if self.budget is None or not self.is_known:
            return None
        left = self.budget - self.seconds
        if planned is None:
            steps = max(1, int(left * _GUESSED_SHARE_OF_STEPS / self.seconds_a_step))
            return StepPlan(steps, None, is_final=False)
        cost = self._evaluation_seconds
        if cost is None:
            return None
        left -= max(_LAST_SECONDS, 1.5 * cost) + last_seconds
        if is_final:
            if step - self._marked_step < planned / _LOOKS_IN_A_RUN:
                return None
            evaluating = cost / eval_every if eval_every else 0.0
            steps = max(1, int(left / (self.seconds_a_step_in_all(step) + evaluating)))
            self._mark(step)
            off = abs(steps - (planned - step))
            if off <= _PLAN_TOLERANCE * (planned - step + step * 0.2):
                return None
            return StepPlan(steps, None, is_final=True)
        # As many evaluations as take a small share of the time.
        share = MAX_EVALUATION_SHARE * left
        n_evaluations = max(1, min(EVALUATIONS_IN_A_RUN, int(share / max(cost, 1e-9))))
        steps = max(1, int((left - n_evaluations * cost) / self.seconds_a_step))
        self._mark(step)
        return StepPlan(steps, max(1, steps // n_evaluations), is_final=True)
