"""How fast a run goes, and how many steps fit its time budget.

Plain arithmetic on a clock, so that it can be tested with a false one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

EVALUATIONS_IN_A_RUN = 20
MAX_EVALUATION_SHARE = 0.05  # of a time budget, saving included
# The speed is known after this many seconds of steps, or this share of a budget.
_SPEED_SECONDS, _SPEED_SHARE = 2.0, 0.05
# Kept free at the end of a time budget for the last evaluation and checkpoint.
_LAST_SECONDS, _SAVING_SECONDS = 1.0, 0.3
# The speed of the machine may change; a plan that is off by more is made anew.
PLAN_TOLERANCE = 0.05
_LOOKS_IN_A_RUN = 20
# Fewer say nothing about the speed.
_FEW_STEPS = 5


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Where a run ends, and how it is evaluated until then.

    Attributes:
        total_steps: Optimizer steps, those done included.
        eval_every: Steps between evaluations; None to leave it as it is.
        is_final: Whether it waits for nothing more.
    """

    total_steps: int
    eval_every: int | None
    is_final: bool


class Pace:
    """The clock of a run and what it has shown.

    Args:
        read: Seconds that only grow.
        started: When the run began, by `read`.
        earlier: Seconds of the run's earlier sessions.
        budget: Seconds for the whole run; None for no limit.
        tolerance: By what share the end of a final plan may be off before
            another is made.
        slack: What share of the budget a final plan may take beyond it.
    """

    def __init__(
        self,
        read: Callable[[], float],
        *,
        started: float,
        earlier: float = 0.0,
        budget: float | None = None,
        tolerance: float = PLAN_TOLERANCE,
        slack: float = 0.0,
    ) -> None:
        """Start with nothing known."""
        self.read = read
        self.budget = budget
        self._tolerance = tolerance
        self._slack = slack
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

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and self.seconds >= self.budget * (1 + self._slack)

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

    def go_back(self, step: int) -> None:
        """Take note that the run goes on from an earlier step.

        Args:
            step: Steps done, as it is now.
        """
        self._marked_at, self._marked_step = self.seconds, step

    def _mark(self, step: int) -> None:
        """Look at the speed from here on, because a machine's changes."""
        self._last_a_step = self.seconds_a_step_in_all(step)
        self._marked_at, self._marked_step = self.seconds, step

    @property
    def is_known(self) -> bool:
        """Whether there were steps enough to tell the speed."""
        enough = _SPEED_SECONDS
        if self.budget is not None:
            enough = min(enough, _SPEED_SHARE * self.budget)
        return self._n_steps >= 2 and self._step_seconds >= enough

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
        asked: int | None,
        evaluation_seconds: float,
        last_seconds: float,
    ) -> StepPlan | None:
        """Fit the steps to the time that is left; to be asked after each step.

        A first plan is made when the speed is known, and the final one after
        the first evaluation, whose cost is then known too. That one stands,
        unless the machine changes its speed by more than the tolerance.

        Args:
            step: Steps done.
            planned: Where the plan by time so far ends; None if there is none.
            eval_every: Steps between evaluations; None if not planned.
            is_final: Whether it is the final one.
            asked: More steps than these are not wanted; None for no limit.
            evaluation_seconds: What an evaluation would take, as long as
                there was none.
            last_seconds: What the run does after its last step, beyond an
                evaluation and a checkpoint.

        Returns:
            The new plan; None to keep what there is.
        """
        if self.budget is None or not self.is_known:
            return None
        is_measured = self._evaluation_seconds is not None
        if planned is not None and not is_final and not is_measured:
            return None
        if (
            planned is not None
            and is_final
            and step - self._marked_step < planned / _LOOKS_IN_A_RUN
        ):
            return None
        cost = evaluation_seconds
        if self._evaluation_seconds is not None:
            cost = self._evaluation_seconds
        ending = max(_LAST_SECONDS, 1.1 * cost + _SAVING_SECONDS) + last_seconds
        left = self.budget - self.seconds - ending
        a_step = self.seconds_a_step_in_all(step) or self.seconds_a_step
        if asked is not None:
            evaluating = cost * EVALUATIONS_IN_A_RUN
            if eval_every:
                evaluating = cost * (asked - step) / eval_every
            if (asked - step) * a_step + evaluating <= left:
                self._mark(step)
                return None if is_final and planned == asked else StepPlan(asked, None, True)
        if is_final and planned is not None:
            evaluating = cost / eval_every if eval_every else 0.0
            total = step + max(0, int(left / (a_step + evaluating)))
            total = total if asked is None else min(asked, total)
            self._mark(step)
            is_near = abs(total - planned) <= self._tolerance * (planned - 0.8 * step)
            return None if is_near else StepPlan(total, None, True)
        # As many evaluations as take a small share of the time.
        share = MAX_EVALUATION_SHARE * max(0.0, left)
        n_evaluations = min(EVALUATIONS_IN_A_RUN, int(share / max(cost, 1e-9)))
        steps = max(0, int((left - n_evaluations * cost) / a_step))
        total = step + steps if asked is None else min(asked, step + steps)
        self._mark(step)
        every = max(1, (total - step) // n_evaluations) if n_evaluations else total
        return StepPlan(total, every, is_final=is_measured or n_evaluations == 0)
