"""Training: one loop, from the first step to the last checkpoint.

The loop counts optimizer steps. Everything that shapes the weights is a
function of (configuration, step): which characters come, what is dropped, the
learning rate. A checkpoint adds the weights, the optimizer's slots and the
carried states, so going on from it is the same as never having stopped.

What one step is, `trainers` says for each recipe.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from charlstm import __version__
from charlstm.batching import documents_within
from charlstm.checkpoint import (
    Arrays,
    Checkpoint,
    CheckpointInfo,
    TrainingState,
    load_checkpoint,
    load_training_state,
)
from charlstm.config import (
    NetworkConfig,
    TrainingConfig,
    default_training_characters,
    useful_epochs,
)
from charlstm.corpus import Corpus, split_corpus
from charlstm.devices import find_device
from charlstm.engine import LSTMStep
from charlstm.errors import CheckpointError, TrainingError
from charlstm.generation import Voice, write_texts
from charlstm.logs import HISTORY, LOGS, SAMPLES, append_log, cut_logs, replace_logs
from charlstm.machine import describe_machine
from charlstm.model import get_weights, set_weights, transfer_weights
from charlstm.models import (
    best_checkpoint,
    clear_model,
    drop_later_checkpoints,
    drop_other_runs,
    list_checkpoints,
    return_point,
    save_checkpoint,
)
from charlstm.pacing import EVALUATIONS_IN_A_RUN, PLAN_TOLERANCE, Pace
from charlstm.progress import Progress, Reporter
from charlstm.scoring import unigram_entropy
from charlstm.shards import sample_ids
from charlstm.stopping import StopRules
from charlstm.storage import shown
from charlstm.trainers import ENOUGH_CHARACTERS, WARM_UP_STEPS, TrainerState, make_trainer

if TYPE_CHECKING:
    from charlstm.distribution import Group

Stopped = Literal["epochs", "minutes", "early", "interrupted"]

# A kill loses at most a minute: this, a step and the writing.
CHECKPOINT_SECONDS = 45.0
WORTH_TELLING_SECONDS = 5.0  # of a new plan
# The promise to go on exactly is worth more than a few minutes.
KEPT_PLAN_TOLERANCE = 0.25
MAX_TRAINING_EVALUATION = 200_000
MAX_FINAL_EVALUATION = 1_000_000
SAMPLE_LENGTH = 160
ARTICLE_SAMPLE_LENGTH = 60  # each character costs a window
MAX_FAILURES = 3
# Closer to the entropy of single characters than this, in nats, is nothing learned.
_LITTLE = 0.05
# Cell states that ran away are in the hundreds, or, a window after they were
# zero, near 50; those of networks that learn were under 15 by then.
_RUN_AWAY = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        stopped: Why: "epochs", "minutes", "early" or "interrupted".
        epochs: Passes over the training text.
        steps: Optimizer steps.
        characters: Characters trained on.
        val_characters: Length of the held-out tail.
        seconds: Wall time since the process started.
        chars_per_second: Of the training steps after the first, in this
            session; 0 if there was none.
        train_loss: Nats/char since the last evaluation but one, or None; with
            dropout and over changing weights, so not to be compared with
            `val_loss`.
        val_loss: Last validation loss, or None.
        best_val_loss: That of the best checkpoint.
        evaluated_characters: How much of the tail, from its beginning, that
            loss is of.
        best_step: The best checkpoint's step; None if nothing was saved.
    """

    stopped: Stopped
    epochs: float
    steps: int
    characters: int
    val_characters: int
    seconds: float
    chars_per_second: float
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    evaluated_characters: int
    best_step: int | None


def _stored_state(stored: dict[str, Any], info: CheckpointInfo) -> TrainerState:
    """Read `trainer.json`, whose numbers a stranger may have written."""
    kinds = {f.name: f.type for f in dataclasses.fields(TrainerState)}
    values = {name: value for name, value in stored.items() if name in kinds}
    for name, value in values.items():
        kind = str(kinds[name])
        is_of_kind = type(value).__name__ in kind or (value == 0 and "float" in kind)
        if not is_of_kind and not (value is None and "None" in kind):
            raise _unsound(info)
    if values.get("step") != info.step or 0 in (
        values.get("eval_every"),
        values.get("total_steps"),
    ):
        raise _unsound(info)
    return TrainerState(**values)


def _stored_logs(stored: dict[str, Any], info: CheckpointInfo) -> dict[str, list[Any]] | None:
    """Read the logs that the first checkpoint of an overwriting run carries."""
    logs = stored.get("logs")
    if logs is not None:
        lists = logs.values() if isinstance(logs, dict) else [None]
        if not all(isinstance(records, list) for records in lists):
            raise _unsound(info)
    return logs


def _unsound(info: CheckpointInfo) -> CheckpointError:
    return CheckpointError(f"{shown(info.path / 'trainer.json')} is damaged: it does not fit")


class _Point(NamedTuple):
    """What a run can go back to."""

    state: TrainerState
    weights: Arrays
    arrays: Arrays


class Run:
    """One training run on one model folder, whose lock the caller holds.

    Args:
        corpus: What to learn.
        network: The network's shape.
        config: How to train.
        model: The model's folder.
        resume_from: The checkpoint to go on from, or None to start.
        start_from: A model whose weights to begin with, or None.
        sample_every: Seconds between samples; 0 for none.
        reserved: Seconds of a time budget that are kept for what comes after
            the run.
        started: When the command began, by `clock`.
        clock: Seconds that only grow.
        should_stop: Asked after each step; True saves and stops.
        should_save: Asked after each step; True saves and goes on.
        reporter: Told what happens.
        group: The devices or workers that train together, whose `clock` and
            `should_stop` are then given too; None to train alone. Only its
            first worker reads and writes the model.
    """

    def __init__(
        self,
        corpus: Corpus,
        network: NetworkConfig,
        config: TrainingConfig,
        *,
        model: Path,
        resume_from: CheckpointInfo | None = None,
        start_from: Checkpoint | None = None,
        sample_every: float = 30.0,
        reserved: float = 0.0,
        started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        should_stop: Callable[[], bool] = lambda: False,
        should_save: Callable[[], bool] = lambda: False,
        reporter: Reporter | None = None,
        group: Group | None = None,
    ) -> None:
        """Build the trainer and restore the checkpoint, if any."""
        self.corpus = corpus
        self.group = group
        self.is_writer = group is None or group.is_writer
        self.network = network
        self.config = config
        self.model = model
        self.sample_every = sample_every
        self.should_stop = should_stop
        self.should_save = should_save
        self.reporter = reporter or Reporter()
        split = split_corpus(
            len(corpus.ids),
            seq_length=network.seq_length,
            val_fraction=config.val_fraction,
            name=corpus.name,
        )
        self.split = split
        self.n_train = split.train_characters
        self.val_ids = corpus.ids[split.train_characters :]
        starts = corpus.documents
        # Beside empty texts one alone is not told apart from itself.
        is_apart = not config.join_documents and bool(
            ((starts > 0) & (starts < len(corpus.ids))).any()
        )
        self.val_documents = (
            documents_within(starts, self.n_train, len(corpus.ids)) if is_apart else None
        )
        make = make_trainer if group is None else group.make_trainer
        train_ids = corpus.ids[: split.train_characters]
        self.trainer = make(network, config, train_ids, starts if is_apart else None)
        self.started_from: dict[str, Any] | None = None
        if start_from is not None:
            self._begin_with(start_from)
        self.state = TrainerState()
        self.run_id = os.urandom(8).hex() if resume_from is None else resume_from.run
        self.saved_step: int | None = None
        self.keeps_plan = False
        self.reserved = reserved
        now = self.good = self.initial = self._point()
        if resume_from is not None:
            now = self._restore(resume_from)
        if group is not None:
            self._begin_alike(group, now)
        self.process_started = clock() if started is None else started
        # A stored plan is finished as it was made: starting again costs it no
        # steps, and it is given up only on a machine of quite another speed.
        if started is None or self.keeps_plan:
            started = clock()
        self.pace = Pace(
            clock,
            started=started,
            earlier=self.state.seconds,
            budget=None
            if config.minutes is None
            else max(0.0, config.minutes * 60 - self.reserved),
            tolerance=KEPT_PLAN_TOLERANCE if self.keeps_plan else PLAN_TOLERANCE,
            slack=PLAN_TOLERANCE if self.keeps_plan else 0.0,
        )
        self.is_planned_by_time = self.keeps_plan
        self.replaces_old = False
        self.held_records: list[tuple[str, dict[str, Any]]] = []
        self._set_plan_by_steps()
        self.is_duration_told = False
        self.is_evaluation_timed = False
        self.seconds_a_chunk = 0.0
        n_val, chunks = len(self.val_ids), self.trainer.evaluation_chunks
        self.n_chunks = chunks(min(n_val, MAX_TRAINING_EVALUATION)) if n_val else 0
        # At the end the best checkpoint is evaluated again, if there is more to read.
        self.n_last_chunks = 0
        if n_val > MAX_TRAINING_EVALUATION:
            self.n_last_chunks = chunks(min(n_val, MAX_FINAL_EVALUATION))
        self.last_save = self.last_sample = clock()

    # -- the plan --------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass."""
        return self.trainer.batches.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Passes done, fractional."""
        return self.state.step / self.steps_per_epoch

    @property
    def _steps_asked(self) -> int | None:
        """Steps that --epochs asks for, or the corpus size when nothing does."""
        if self.config.epochs is not None:
            return max(1, round(self.config.epochs * self.steps_per_epoch))
        if self.config.minutes is not None:
            return None
        characters = default_training_characters(self.n_train)
        return max(1, round(characters / self.trainer.batches.characters_per_step))

    @property
    def _most_steps(self) -> int | None:
        """Steps that are asked for, or with minutes alone those that can be of use."""
        if self._steps_asked is not None or self.config.recipe == "article":
            return self._steps_asked
        return max(1, round(useful_epochs(self.n_train) * self.steps_per_epoch))

    def _set_plan_by_steps(self) -> None:
        """Plan what is bounded by steps; a time budget waits for the speed."""
        state, asked = self.state, self._steps_asked
        if self.keeps_plan:
            return
        if asked is not None:
            if state.total_steps != asked:
                self._plan(asked)
        elif self.config.minutes is not None and state.step and state.seconds:
            # Going on with another budget: until the speed is known, as if it
            # were what it has been, so that the learning rate makes no leap.
            share = state.seconds / (self.config.minutes * 60)
            self._plan(max(state.step, round(state.step / share)))

    def _plan(self, total_steps: int) -> None:
        most = self._most_steps
        self.state.total_steps = total_steps if most is None else min(most, total_steps)
        if self.config.recipe == "article":
            self.state.eval_every = self.steps_per_epoch
        elif self.state.eval_every is None:
            rest = self.state.total_steps - self.state.step
            self.state.eval_every = max(1, round(rest / EVALUATIONS_IN_A_RUN))

    def _plan_by_time(self) -> None:
        """Fit the steps to the minutes that are left, and say so if that changed.

        The final plan is stored and kept, by a resumed session too.
        """
        if self.pace.budget is None or not self.pace.is_known:
            return
        state = self.state
        self._time_evaluation()
        plan = self.pace.plan(
            step=state.step,
            planned=state.total_steps if self.is_planned_by_time else None,
            eval_every=state.eval_every,
            is_final=state.is_plan_final,
            asked=self._most_steps,
            evaluation_seconds=self.n_chunks * self.seconds_a_chunk,
            last_seconds=self.n_last_chunks * self.seconds_a_chunk,
        )
        if plan is None:
            return
        if state.is_plan_final:
            off = abs(plan.total_steps - (state.total_steps or 0))
            if off * self.pace.seconds_a_step_in_all(state.step) > WORTH_TELLING_SECONDS:
                self.reporter.note(
                    f"the machine's speed changed: {plan.total_steps:,} steps fit the "
                    f"time, not {state.total_steps:,}"
                )
        self.is_planned_by_time = True
        state.is_plan_final = plan.is_final
        state.eval_every = plan.eval_every or state.eval_every
        self._plan(plan.total_steps)

    def _time_evaluation(self) -> None:
        """Trace the graph of an evaluation, once, and for a time budget see what one takes.

        Tracing is no part of that.
        """
        if self.is_evaluation_timed or not self.n_chunks:
            return
        self.is_evaluation_timed = True
        started = self.pace.seconds
        seconds = []
        for _ in range(1 if self.pace.budget is None else 4):
            before = self.pace.seconds
            self._validate(MAX_TRAINING_EVALUATION, max_chunks=1)
            seconds.append(self.pace.seconds - before)
        # In the second one worker still waits until the others have traced.
        self.seconds_a_chunk = min(seconds[2:], default=0.0)
        self.pace.leave_out(self.pace.seconds - started)

    # -- the loop --------------------------------------------------------------

    def run(self, *, overwrite: bool = False) -> TrainingResult:
        """Train until the budget ends, the loss stops falling, or someone asks.

        Args:
            overwrite: Remove the checkpoints that the folder has.

        Returns:
            How it ended.

        Raises:
            TrainingError: If the loss was not finite too often.
            OutputError: If a checkpoint cannot be written.
        """
        # The old model stays until the first checkpoint of the new one is there.
        self.replaces_old = overwrite
        if self.saved_step is None and not overwrite and self.is_writer:
            cut_logs(self.model, step=0)  # of a run that died before its first checkpoint
        state = self.state
        stopped = self._reason_to_stop()
        while stopped is None:
            before = self.pace.seconds
            loss, n_chars = self.trainer.train_step(state)
            seconds = self.pace.seconds - before
            if not math.isfinite(loss):
                self._recover()
                state = self.state
                continue
            state.step += 1
            state.characters += n_chars
            state.loss_sum += loss * n_chars
            state.loss_count += n_chars
            self.pace.count_step(seconds, n_chars, step=state.step)
            self._report(loss)
            self._plan_by_time()
            self._tell_duration()
            is_due = state.eval_every is not None and state.step % state.eval_every == 0
            if is_due or state.step == state.total_steps:
                self._time_evaluation()
                before = self.pace.seconds
                self._evaluate()
                if self._is_lost():
                    self._begin_anew()
                    state = self.state
                    continue
                self._save()
                self.pace.count_evaluation(self.pace.seconds - before)
                self._plan_by_time()
            elif self.should_save():
                self._save()
                self.reporter.note(f"saved at step {state.step:,}, as was asked")
            elif self.pace.read() - self.last_save > CHECKPOINT_SECONDS:
                self._save()
            self._maybe_sample()
            stopped = self._reason_to_stop()
        return self._finish(stopped)

    def _reason_to_stop(self) -> Stopped | None:
        state, config = self.state, self.config
        if self.should_stop():
            return "interrupted"
        if state.total_steps is not None and state.step >= state.total_steps:
            if self._most_steps is None or state.step < self._most_steps:
                return "minutes"
            return "early" if self._steps_asked is None else "epochs"
        if self.pace.is_over and state.step:  # one step at least, to have a model
            return "minutes"
        if config.patience and state.stale_evaluations >= config.patience:
            return "early"
        return None

    def _tell_duration(self) -> None:
        """Say once, as soon as the speed is known, how long the run will take."""
        state = self.state
        if self.is_duration_told or state.total_steps is None or not self.pace.is_known:
            return
        self.is_duration_told = True
        left = self.pace.time_for(state.total_steps - state.step, step=state.step)
        self.reporter.note(
            f"about {state.total_steps:,} steps in all "
            f"({state.total_steps / self.steps_per_epoch:.0f} epochs), "
            f"{self.pace.characters_per_second:,.0f} chars/s: about {left / 60:.1f} minutes left"
        )

    def _report(self, step_loss: float) -> None:
        state = self.state
        left = self.pace.seconds_left
        if state.total_steps is not None and self.pace.characters_per_second:
            left = self.pace.time_for(state.total_steps - state.step, step=state.step)
        self.reporter.progress(
            Progress(
                step=state.step,
                total_steps=state.total_steps,
                epoch=self.epoch,
                step_loss=step_loss,
                # A microsecond: the step is over, its loss was waited for.
                gradient_norm=float(self.trainer.gradient_norm),
                train_loss=state.loss_sum / state.loss_count,
                val_loss=state.val_loss,
                chars_per_second=self.pace.characters_per_second,
                seconds_left=left,
            )
        )

    def _evaluate(self) -> None:
        """Take the training loss since the last time, and the validation loss."""
        state = self.state
        if state.loss_count:
            state.train_loss = state.loss_sum / state.loss_count
            state.loss_sum, state.loss_count = 0.0, 0
        if len(self.val_ids):
            before = self.pace.seconds
            state.val_loss = self._validate(MAX_TRAINING_EVALUATION)
            self.seconds_a_chunk = (self.pace.seconds - before) / self.n_chunks
        loss = state.train_loss if state.val_loss is None else state.val_loss
        if loss is not None and (state.best_loss is None or loss < state.best_loss):
            state.best_loss, state.stale_evaluations = loss, 0
        else:
            state.stale_evaluations += 1
        record = {
            "step": state.step,
            "epoch": round(self.epoch, 4),
            "characters": state.characters,
            "seconds": round(self.pace.seconds, 3),
            "train_loss": state.train_loss,
            "val_loss": state.val_loss,
            "learning_rate": float(self.trainer.optimizer.learning_rate.numpy()),
            "chars_per_second": round(self.pace.characters_per_second, 1),
        }
        self._log(HISTORY, record)
        self.good = self._point()
        self.reporter.evaluated(record)
        self.reporter.network(state.step, self.good.weights)

    def _validate(self, most: int, *, max_chunks: int | None = None) -> float:
        """Return the loss on the held-out tail, up to so many characters."""
        return self.trainer.evaluate(
            self.val_ids[:most], documents=self.val_documents, max_chunks=max_chunks
        )

    def _point(self) -> _Point:
        """Copy where training is."""
        return _Point(
            dataclasses.replace(self.state),
            get_weights(self.trainer.model),
            self.trainer.arrays(),
        )

    def _recover(self) -> None:
        """Go back to the last good point with half the learning rate."""
        failed = self.state
        if failed.n_failures >= MAX_FAILURES:
            raise TrainingError(
                f"the loss is not finite at step {failed.step + 1:,}, after {MAX_FAILURES} "
                f"attempts with half the learning rate each{self._what_is_kept()}",
                hint="train anew with a smaller --learning-rate",
            )
        self._go_back(self.good)
        self.reporter.note(
            f"the loss is not finite at step {failed.step + 1:,}: going on from step "
            f"{self.state.step:,} with half the learning rate"
        )

    def _what_is_kept(self) -> str:
        if not self.is_writer:
            return ""
        checkpoints = list_checkpoints(self.model)
        if not checkpoints:
            return "; there is no checkpoint yet"
        if self.replaces_old:
            return "; the old model is kept"
        return f"; the best checkpoint, of step {best_checkpoint(checkpoints).step:,}, is kept"

    def _is_lost(self) -> bool:
        """Say whether the cell states ran away before anything was learned.

        Long after the warm-up the loss is then still that of guessing by how
        frequent each character is, and no gradient brings the states back. A
        text that has no more to learn ends there too, with states near 0.
        """
        state = self.state
        is_early = state.step < 2 * WARM_UP_STEPS or self.config.recipe == "article"
        # What another model has learned cannot be told from its beginning.
        if is_early or state.n_failures or self.started_from or state.train_loss is None:
            return False
        ids = sample_ids(self.corpus.ids[: self.n_train], ENOUGH_CHARACTERS)
        if state.train_loss < unigram_entropy(ids) - _LITTLE:
            return False
        return any(np.abs(c).max() > _RUN_AWAY for _, c in self.trainer.carried_states())

    def _begin_anew(self) -> None:
        """Begin again, once, with the same weights and half the learning rate."""
        failed = self.state
        self._go_back(self.initial)
        self._set_plan_by_steps()
        self.is_planned_by_time = self.state.is_plan_final = False
        self.reporter.note(
            f"after {failed.step:,} steps nothing is learned but how frequent each character "
            "is: beginning anew with half the learning rate"
        )

    def _go_back(self, point: _Point) -> None:
        """Go on from an earlier point, with half the learning rate.

        That it went back is not saved: a run killed now meets the same loss at
        the same step again, and goes back to the same point.
        """
        self.trainer.restore(point.weights, point.arrays)
        failed = self.state
        self.state = dataclasses.replace(
            point.state,
            n_failures=failed.n_failures + 1,
            total_steps=failed.total_steps,
            eval_every=failed.eval_every,
            is_plan_final=failed.is_plan_final,
        )
        step = self.state.step
        self.pace.go_back(step)
        self.reporter.went_back(step)
        self.saved_step = None
        if self.replaces_old:  # nothing of this run is in the folder yet
            self.held_records = [r for r in self.held_records if r[1]["step"] <= step]
            return
        if not self.is_writer:
            return
        cut_logs(self.model, step=step)
        # What was saved on the way to the failure need not be gone on from.
        drop_later_checkpoints(self.model, step=step)

    def _maybe_sample(self) -> None:
        if not self.sample_every or self.pace.read() - self.last_sample < self.sample_every:
            return
        self.last_sample = self.pace.read()
        if not self.is_writer:
            return
        text = self._write_sample()
        self._log(SAMPLES, {"step": self.state.step, "text": text})
        self.reporter.sample(self.state.step, text)

    def _write_sample(self) -> str:
        is_article = self.config.recipe == "article"
        rng = np.random.default_rng([self.config.random_seed, self.state.step])
        start = int(rng.integers(self.n_train - self.network.seq_length + 1))
        seed_text = self.corpus.seed_text(start, start + self.network.seq_length)
        vocabulary = self.corpus.vocabulary
        step = LSTMStep(self.network, get_weights(self.trainer.model))
        pieces = write_texts(
            Voice(parts=((step, vocabulary, 1.0),), vocabulary=vocabulary),
            [seed_text],
            random_seeds=[int(rng.integers(2**63))],
            rules=StopRules(length=ARTICLE_SAMPLE_LENGTH if is_article else SAMPLE_LENGTH),
        )
        return "".join(piece.text for piece in pieces)

    # -- saving and ending -----------------------------------------------------

    def _save(self) -> None:
        state = self.state
        if self.saved_step == state.step:
            return
        arrays = self.trainer.arrays()  # of all workers
        if not self.is_writer:
            self.saved_step, self.last_save = state.step, self.pace.read()
            return
        is_evaluated = state.loss_count == 0
        stored = dataclasses.asdict(state) | {"seconds": self.pace.seconds}
        logs = {name: [r for n, r in self.held_records if n == name] for name in LOGS}
        if self.replaces_old:
            stored["logs"] = logs  # a kill before they are in place loses none
        info = save_checkpoint(
            self.model,
            step=state.step,
            epoch=self.epoch,
            train_loss=state.train_loss if is_evaluated else None,
            val_loss=state.val_loss if is_evaluated else None,
            config=self._config_json(),
            vocabulary=self.corpus.vocabulary,
            weights=get_weights(self.trainer.model),
            state=TrainingState(trainer=stored, arrays=arrays),
            run=self.run_id,
        )
        self.saved_step = state.step
        self.last_save = self.pace.read()
        if self.replaces_old:
            self.replaces_old = False
            clear_model(self.model, keep=info.path)
            replace_logs(self.model, logs)

    def _log(self, name: str, record: dict[str, Any]) -> None:
        """Log, or hold back what must not mix with the log of an old model."""
        if not self.is_writer:
            return
        if self.replaces_old:
            self.held_records.append((name, record))
        else:
            append_log(self.model, name, record)

    def _config_json(self) -> dict[str, Any]:
        return {
            "charlstm_version": __version__,
            "versions": {
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
            },
            "machine": describe_machine() | {"device": find_device().describe()},
            "recipe": self.config.recipe,
            "network": dataclasses.asdict(self.network),
            "training": dataclasses.asdict(self.config),
            "corpus": self.corpus.describe(self.split),
            "started_from": self.started_from,
            "seed_windows": self.corpus.seed_windows(
                n_train=self.n_train,
                seq_length=self.network.seq_length,
                random_seed=self.config.random_seed,
            ),
        }

    def _begin_with(self, source: Checkpoint) -> None:
        model = self.trainer.model
        weights = transfer_weights(
            source.weights, source.vocabulary, get_weights(model), self.corpus.vocabulary
        )
        set_weights(model, weights)
        about = source.config["corpus"]
        n_shared = sum(c in source.vocabulary for c in self.corpus.vocabulary.characters)
        self.started_from = {
            "name": source.model.name,
            "step": source.info.step,
            "corpus": {"name": about["name"], "sha256": about["sha256"]},
        }
        self.reporter.note(
            f"beginning with {self.started_from['name']}, step {source.info.step:,}: "
            f"{n_shared} of {len(self.corpus.vocabulary)} characters are known to it"
        )

    def _restore(self, info: CheckpointInfo) -> _Point:
        checkpoint, saved = load_checkpoint(info), load_training_state(info)
        self.state = _stored_state(saved.trainer, info)
        self.trainer.restore(checkpoint.weights, saved.arrays)
        self.started_from = checkpoint.config.get("started_from")
        stored = checkpoint.config["training"]
        if any(stored[name] != getattr(self.config, name) for name in ("epochs", "minutes")):
            # Another budget: the decay is planned anew from this step, and a
            # run that had stopped early gets another chance.
            self.state.total_steps = self.state.eval_every = None
            self.state.is_plan_final = False
            self.state.stale_evaluations = 0
        self.keeps_plan = self.state.is_plan_final
        drop_other_runs(self.model, run=self.run_id)
        logs = _stored_logs(saved.trainer, info)
        if logs is None:
            cut_logs(self.model, step=self.state.step)
        else:
            replace_logs(self.model, logs)
        self.saved_step = self.state.step
        now = _Point(dataclasses.replace(self.state), checkpoint.weights, saved.arrays)
        self.good = self._last_good_point(info, now)
        return now

    def _begin_alike(self, group: Group, now: _Point) -> None:
        """Give all workers what worker 0 has begun with or read from a checkpoint."""
        names = ("run_id", "saved_step", "keeps_plan", "started_from", "reserved")
        for name, value in group.share({name: getattr(self, name) for name in names}).items():
            setattr(self, name, value)
        self.initial, self.good, now = (
            _Point(
                TrainerState(**group.share(dataclasses.asdict(point.state))),
                group.share_arrays(point.weights),
                group.share_arrays(point.arrays),
            )
            for point in (self.initial, self.good, now)
        )
        self.state = now.state
        self.trainer.restore(now.weights, now.arrays)

    def _last_good_point(self, info: CheckpointInfo, now: _Point) -> _Point:
        """Find what the run that is gone on with would have gone back to."""
        if info.is_evaluated:
            return now
        earlier = [c for c in list_checkpoints(self.model) if c.step < info.step]
        point = return_point(earlier)
        if point is None:
            # The beginning, which for another model's weights is gone.
            return now if self.started_from else self.initial
        try:
            saved = load_training_state(point)
            weights = load_checkpoint(point).weights
            return _Point(_stored_state(saved.trainer, point), weights, saved.arrays)
        except CheckpointError:
            return now

    def _finish(self, stopped: Stopped) -> TrainingResult:
        state = self.state
        if state.loss_count and stopped != "interrupted":
            self._evaluate()
            self.saved_step = None  # it may be saved already, without a loss
        if state.step:
            self._save()
        is_ours = self.is_writer and not self.replaces_old
        checkpoints = list_checkpoints(self.model) if is_ours else []
        best = best_checkpoint(checkpoints) if checkpoints else None
        best_val_loss = None if best is None else best.val_loss
        n_evaluated = min(len(self.val_ids), MAX_TRAINING_EVALUATION)
        # All workers evaluate, and none ends before the first one has saved.
        is_saved = best is not None if self.group is None else self.group.share(best is not None)
        if is_saved and self.n_last_chunks and stopped != "interrupted":
            weights = {} if best is None else load_checkpoint(best).weights
            if self.group is not None:
                weights = self.group.share_arrays(weights)
            set_weights(self.trainer.model, weights)
            best_val_loss = self._validate(MAX_FINAL_EVALUATION)
            n_evaluated = min(len(self.val_ids), MAX_FINAL_EVALUATION)
        return TrainingResult(
            stopped=stopped,
            epochs=self.epoch,
            steps=state.step,
            characters=state.characters,
            val_characters=len(self.val_ids),
            seconds=self.pace.read() - self.process_started,
            chars_per_second=self.pace.characters_per_second,
            train_loss=state.train_loss,
            val_loss=state.val_loss,
            best_val_loss=best_val_loss,
            evaluated_characters=n_evaluated,
            best_step=None if best is None else best.step,
        )
