"""The training loop: gradients, plans, exact resume, budgets."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from charlstm.checkpoint import load_checkpoint, load_training_state
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.corpus import Corpus, prepare_corpus
from charlstm.engine import LSTMStep
from charlstm.errors import TrainingError
from charlstm.logs import read_log
from charlstm.models import best_checkpoint, choose_checkpoint, list_checkpoints
from charlstm.progress import Progress, Reporter
from charlstm.reading import CorpusOptions
from charlstm.scoring import score_ids, unigram_entropy

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module", autouse=True)
def training():
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import charlstm.training

    return charlstm.training


@pytest.fixture(scope="module")
def trainers(training):
    import charlstm.trainers

    return charlstm.trainers


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    rng = np.random.default_rng(11)
    words = ["to", "be", "or", "not", "king", "thane", "sleep,\n", "no", "more."]
    text = " ".join(words[i] for i in rng.integers(0, len(words), 700))
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8")
    return prepare_corpus(path, options=CorpusOptions(), output=tmp_path / "prepared")


# Of the text's about 3,200 characters: some in the middle of a window, an empty one, one
# of a single character, and some in the held-out tail.
STARTS = (0, 7, 411, 411, 412, 1_300, 2_222, 2_950, 3_001)


def of_documents(corpus: Corpus, starts=STARTS) -> Corpus:
    assert len(corpus.ids) > STARTS[-1]
    return dataclasses.replace(corpus, documents=np.array(starts, np.uint64))


def make(training, corpus, model, *, recipe="default", steps_of=None, **options):
    """Make a run over a tiny network of 6 units."""
    settings = {
        key: options.pop(key)
        for key in (
            *("epochs", "minutes", "patience", "learning_rate", "dropout", "random_seed"),
            *("join_documents", "val_fraction"),
        )
        if key in options
    }
    is_article = recipe == "article"
    config = TrainingConfig(
        recipe=recipe,
        **(
            {
                "batch_size": 30 if is_article else 5,
                "val_fraction": 0.0 if is_article else 0.1,
                "patience": 0,
                "dropout": 0.2,
            }
            | settings
        ),
    )
    network = NetworkConfig(
        vocabulary_size=len(corpus.vocabulary),
        units=6,
        seq_length=9,
        input="scaled" if is_article else "one_hot",
        carries_state=not is_article,
    )
    return training.Run(corpus, network, config, model=model, sample_every=0, **options)


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


# --- one step -------------------------------------------------------------------


def test_step_is_clipped_truncated_backpropagation(training, trainers, corpus, tmp_path):
    """One step with plain SGD equals the same step written with stock Keras layers."""
    import keras
    import tensorflow as tf

    run = make(training, corpus, folder(tmp_path, "m"), epochs=1, dropout=0.0)
    trainer = run.trainer
    trainer.optimizer = keras.optimizers.SGD(1.0)
    trainer.optimizer.build(trainer.model.trainable_variables)
    size = len(corpus.vocabulary)
    lstms = [keras.layers.LSTM(6, return_sequences=True, return_state=True) for _ in range(2)]
    dense = keras.layers.Dense(size)
    lstms[0].build((None, None, size))
    lstms[1].build((None, None, 6))
    dense.build((None, None, 6))
    variables = [*lstms[0].weights, *lstms[1].weights, *dense.weights]
    for mine, theirs in zip(variables, trainer.model.trainable_variables, strict=True):
        mine.assign(theirs * 3.0)
        theirs.assign(theirs * 3.0)
    state = trainers.TrainerState(total_steps=100)
    carried = [[tf.zeros((5, 6))] * 2, [tf.zeros((5, 6))] * 2]
    for step in range(3):
        inputs, targets, _ = trainer.batches.batch(step)
        with tf.GradientTape() as tape:
            x = tf.one_hot(inputs, size)
            for n, lstm in enumerate(lstms):
                x, h, c = lstm(x, initial_state=carried[n])
                carried[n] = [tf.stop_gradient(h), tf.stop_gradient(c)]
            log_p = tf.nn.log_softmax(dense(x))
            loss = -tf.reduce_mean(tf.gather(log_p, targets, batch_dims=2))
        gradients = tape.gradient(loss, variables)
        norm = math.sqrt(sum(float(tf.reduce_sum(g * g)) for g in gradients))
        assert norm > run.config.clip_norm  # else nothing is clipped here
        rate = trainers.learning_rate_at(step, total_steps=100, peak=run.config.learning_rate)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(rate * gradient * run.config.clip_norm / norm)
        state.step = step
        ours, n_chars = trainer.train_step(state)
        assert n_chars == 5 * 9
        assert ours == pytest.approx(float(loss), rel=1e-5)
        assert float(trainer.gradient_norm) == pytest.approx(norm, rel=1e-4)  # before clipping
    for mine, theirs in zip(variables, trainer.model.trainable_variables, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("n_chars", [2, 700, 2_350])
def test_keras_and_numpy_agree_on_the_loss(training, corpus, tmp_path, n_chars):
    run = make(training, corpus, folder(tmp_path, "m"), epochs=1)
    run.run()
    ids = np.asarray(corpus.ids[:n_chars])
    checkpoint = load_checkpoint(choose_checkpoint(tmp_path / "m", "last"))
    score = score_ids(LSTMStep(checkpoint.network, checkpoint.weights), ids)
    assert run.trainer.evaluate(ids) == pytest.approx(score.nats_per_char, abs=1e-4)


# --- learning rate ----------------------------------------------------------------


def test_learning_rate_rises_then_falls_to_a_hundredth(training, trainers):
    rates = [trainers.learning_rate_at(s, total_steps=4_000, peak=2.0) for s in range(4_000)]
    assert rates[0] == pytest.approx(2.0 / 200, rel=1e-3)
    assert max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates[198] < 2.0 * 0.9999
    assert rates[199:2_401] == pytest.approx([2.0] * (2_401 - 199))  # three fifths of the run
    assert all(a > b for a, b in itertools.pairwise(rates[2_400:]))
    assert rates[3_200] == pytest.approx(1.01, rel=1e-3)  # halfway down: 0.5 * (1 + 0.01) * 2
    assert rates[-1] == pytest.approx(0.02, rel=0.01)


def test_a_short_run_rises_no_faster_and_comes_down_too(training, trainers):
    long, short = (
        [trainers.learning_rate_at(s, total_steps=n, peak=1.0) for s in range(40)]
        for n in (4_000, 40)
    )
    assert all(a <= b for a, b in zip(short, long, strict=True))
    assert max(short) > 0.05
    assert short[-1] < 0.05 * max(short)


# --- exact resume -------------------------------------------------------------------


def everything(model: Path) -> dict[str, np.ndarray]:
    info = list_checkpoints(model)[-1]
    return dict(load_checkpoint(info).weights) | load_training_state(info).arrays


def history(model: Path) -> list[dict]:
    clock_fields = ("seconds", "chars_per_second")
    return [
        {k: v for k, v in record.items() if k not in clock_fields}
        for record in read_log(model, "history.jsonl")
    ]


class StopAt:
    """Asks to stop after so many steps of this session."""

    def __init__(self, steps: int) -> None:
        self.left = steps + 1

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    ("recipe", "epochs", "stops"),
    # 90 steps an epoch of streams: mid-epoch, on an evaluation, twice in a row.
    [
        ("default", 2, (1, 37, 52)),
        pytest.param("documents", 2, (1, 37, 52), marks=pytest.mark.slow),
        ("article", 0.2, (4, 11)),
    ],
)
def test_a_resumed_run_is_the_run_never_interrupted(
    training, corpus, tmp_path, recipe, epochs, stops
):
    if recipe == "documents":
        recipe, corpus = "default", of_documents(corpus)
    whole, pieces = folder(tmp_path, "whole"), folder(tmp_path, "pieces")
    make(training, corpus, whole, recipe=recipe, epochs=epochs).run()
    for stop in stops:
        last = list_checkpoints(pieces)
        run = make(
            training,
            corpus,
            pieces,
            recipe=recipe,
            epochs=epochs,
            resume_from=last[-1] if last else None,
            should_stop=StopAt(stop),
        )
        assert run.run().stopped == "interrupted"
    run = make(
        training,
        corpus,
        pieces,
        recipe=recipe,
        epochs=epochs,
        resume_from=list_checkpoints(pieces)[-1],
    )
    assert run.run().stopped == "epochs"
    expected, got = everything(whole), everything(pieces)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert history(pieces) == history(whole)


@pytest.mark.slow
def test_documents_change_what_is_learned_unless_there_is_one_or_they_are_joined(
    training, corpus, tmp_path
):
    def learned(name, corpus, **options):
        model = folder(tmp_path, name)
        result = make(training, corpus, model, epochs=1, **options).run()
        return everything(model), result

    one, _ = learned("one", corpus)
    for name, other, options in [
        ("single", of_documents(corpus, [0]), {}),
        # Empty texts at either end are no boundary.
        ("empty", of_documents(corpus, [0, 0, len(corpus.ids)]), {}),
        ("joined", of_documents(corpus), {"join_documents": True}),
    ]:
        same, _ = learned(name, other, **options)
        assert same.keys() == one.keys()
        for key, array in one.items():
            np.testing.assert_array_equal(same[key], array, err_msg=f"{name} {key}")
    apart, result = learned("apart", of_documents(corpus))
    assert not np.array_equal(apart["dense/kernel"], one["dense/kernel"])
    # What it printed is what NumPy makes of the tail, each document from zero.
    checkpoint = load_checkpoint(list_checkpoints(tmp_path / "apart")[-1])
    about = checkpoint.config["corpus"]
    start = about["train_characters"]
    tail = np.asarray(corpus.ids[start:])
    starts = [n - start for n in STARTS if n > start]
    assert len(starts) == 2
    step = LSTMStep(checkpoint.network, checkpoint.weights)
    score = score_ids(step, tail, documents=np.array(starts, np.uint64))
    assert score.n_scored == about["val_characters"] - 1 - len(starts)
    assert result.val_loss == pytest.approx(score.nats_per_char, abs=1e-4)


def test_more_epochs_go_on_and_plan_the_decay_anew(training, trainers, corpus, tmp_path):
    model = folder(tmp_path, "m")
    first = make(training, corpus, model, epochs=1).run()
    info = list_checkpoints(model)[-1]
    more = make(training, corpus, model, epochs=2, resume_from=info)
    rate = trainers.learning_rate_at(first.steps, total_steps=more.state.total_steps, peak=1.0)
    # Halfway through the longer run, so not falling yet, and still on the way up.
    assert rate == pytest.approx((first.steps + 1) / trainers.WARM_UP_STEPS, rel=0.01)
    result = more.run()
    assert result.steps == 2 * first.steps
    assert result.stopped == "epochs"


def test_many_more_epochs_are_evaluated_as_seldom_as_a_fresh_run(training, corpus, tmp_path):
    model = folder(tmp_path, "m")
    make(training, corpus, model, epochs=0.1).run()
    more = make(training, corpus, model, epochs=10, resume_from=list_checkpoints(model)[-1])
    fresh = make(training, corpus, folder(tmp_path, "fresh"), epochs=10)
    assert more.state.eval_every == pytest.approx(fresh.state.eval_every, rel=0.05)


# --- how a run ends -----------------------------------------------------------------


class Clock:
    """A clock that a test moves: so many seconds a look."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def at_work(run, clock, *, a_step: float, a_chunk: float):
    """Let the clock go on while the run takes steps and evaluates, and at no other time."""
    take_step, evaluate = run.trainer.train_step, run.trainer.evaluate
    # Tracing; and of several workers the first then waits for the others.
    once = [2.0, 0.7]

    def step(state):
        clock.now += a_step
        return take_step(state)

    def validate(ids, *, documents=None, max_chunks=None):
        clock.now += a_chunk * (max_chunks or run.trainer.evaluation_chunks(len(ids)))
        clock.now += once.pop(0) if once else 0.0
        return evaluate(ids, documents=documents, max_chunks=max_chunks)

    run.trainer.train_step, run.trainer.evaluate = step, validate
    return run


def test_minutes_are_an_upper_bound_that_is_used(training, corpus, tmp_path):
    class Rates(Reporter):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def evaluated(self, record) -> None:
            self.rates.append(record["learning_rate"])

    clock, reporter = Clock(0.05), Rates()
    run = make(
        training,
        corpus,
        folder(tmp_path, "m"),
        minutes=2,
        clock=clock,
        started=0.0,
        reporter=reporter,
    )
    result = run.run()
    assert result.stopped == "minutes"
    assert 0.95 * 120 < result.seconds <= 120 * 1.01
    # The schedule was fitted to the time: it ends where a finished one does.
    assert reporter.rates[-1] < 0.02 * run.config.learning_rate


def test_half_the_minutes_give_a_finished_schedule_too(training, corpus, tmp_path):
    clock = Clock(0.05)
    run = make(training, corpus, folder(tmp_path, "m"), minutes=1, clock=clock, started=0.0)
    result = run.run()
    assert result.steps == run.state.total_steps
    assert 0.9 * 60 < result.seconds <= 60 * 1.01


def test_minutes_that_a_short_text_has_no_use_for_are_left(training, corpus, tmp_path, monkeypatch):
    """The schedule is fitted to what is of use, not to the minutes."""
    monkeypatch.setattr(training, "useful_epochs", lambda n_train: 1.5)
    run = make(training, corpus, folder(tmp_path, "m"), minutes=60, clock=Clock(0.3), started=0.0)
    result = run.run()
    assert result.stopped == "early"
    assert result.epochs == pytest.approx(1.5, abs=0.02)
    assert result.seconds < 60 * 60 / 2
    record = list(read_log(run.model, "history.jsonl"))[-1]
    assert record["learning_rate"] < 0.02 * run.config.learning_rate


def test_epochs_that_fit_the_minutes_are_planned_from_the_first_step(training, corpus, tmp_path):
    """And are the run that has no minutes, to the last evaluation."""
    both, alone = folder(tmp_path, "both"), folder(tmp_path, "alone")
    reporter = Notes()
    result = make(
        training, corpus, both, epochs=2, minutes=30, clock=Clock(0.05), started=0.0,
        reporter=reporter,
    ).run()  # fmt: skip
    make(training, corpus, alone, epochs=2).run()
    assert result.stopped == "epochs"
    assert history(both) == history(alone)
    assert not any("speed changed" in note for note in reporter.notes)


def test_more_minutes_go_on_without_a_leap_of_the_learning_rate(training, corpus, tmp_path):
    model = folder(tmp_path, "m")

    def begin(**options):
        clock = Clock(0.0)
        run = make(training, corpus, model, clock=clock, started=0.0, **options)
        return at_work(run, clock, a_step=0.3, a_chunk=0.05)

    begin(minutes=1).run()
    info = list_checkpoints(model)[-1]
    more = begin(minutes=1.25, resume_from=info)
    assert more.state.total_steps == pytest.approx(1.25 * info.step, rel=0.05)
    rates = []
    take_step = more.trainer.train_step

    def noted(state):
        loss = take_step(state)
        rates.append(float(more.trainer.optimizer.learning_rate.numpy()))
        return loss

    more.trainer.train_step = noted
    more.run()
    # Four fifths of the longer run are done: halfway down its fall.
    assert max(rates) < 0.52 * more.config.learning_rate
    # The plan may be off by a tenth of what was left when it was resumed.
    assert rates[-1] < 0.06 * more.config.learning_rate


@pytest.mark.parametrize("minutes", [1, 3])
@pytest.mark.parametrize("a_chunk", [0.05, 0.5])
@pytest.mark.parametrize("limits", [(200, 10_000), (300, 500), (10_000, 10_000)])
def test_minutes_hold_the_evaluation_at_the_end(
    training, corpus, tmp_path, monkeypatch, minutes, a_chunk, limits
):
    """Of the best checkpoint, on more of the held-out text than before."""
    for name, limit in zip(("TRAINING", "FINAL"), limits, strict=True):
        monkeypatch.setattr(training, f"MAX_{name}_EVALUATION", limit)
    clock = Clock(0.0)
    run = make(
        training, corpus, folder(tmp_path, "m"), minutes=minutes, val_fraction=0.5, clock=clock,
        started=0.0,
    )  # fmt: skip
    n_val = run.split.val_characters
    assert n_val > 1_000
    result = at_work(run, clock, a_step=0.4, a_chunk=a_chunk).run()
    assert 0.93 * minutes * 60 < result.seconds < 1.01 * minutes * 60
    assert result.evaluated_characters == min(n_val, limits[1])


def test_the_printed_loss_is_of_the_characters_that_it_names(
    training, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "MAX_TRAINING_EVALUATION", 100)
    monkeypatch.setattr(training, "MAX_FINAL_EVALUATION", 250)
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=2)
    result = run.run()
    best = load_checkpoint(best_checkpoint(list_checkpoints(model)))
    assert result.evaluated_characters == 250 < result.val_characters
    score = score_ids(LSTMStep(best.network, best.weights), np.asarray(run.val_ids[:250]))
    assert result.best_val_loss == pytest.approx(score.nats_per_char, abs=1e-4)
    asked = make(training, corpus, model, epochs=3, should_stop=iter([False] * 9 + [True]).__next__,
        resume_from=list_checkpoints(model)[-1])  # fmt: skip
    assert asked.run().evaluated_characters == 100


def test_a_budget_of_no_time_at_all_gives_a_model(training, corpus, tmp_path):
    model = folder(tmp_path, "m")
    result = make(training, corpus, model, minutes=0.01, clock=Clock(0.05), started=-5.0).run()
    assert result.stopped == "minutes"
    assert result.steps == 1
    assert [info.step for info in list_checkpoints(model)] == [1]


def test_a_machine_that_slows_down_is_planned_for(training, corpus, tmp_path):
    clock = Clock(0.05)

    class SlowDown(Reporter):
        notes: list[str] = []  # noqa: RUF012

        def progress(self, progress: Progress) -> None:
            if clock.now > 50:
                clock.tick = 0.1

        def note(self, message: str) -> None:
            self.notes.append(message)

    run = make(
        training,
        corpus,
        folder(tmp_path, "m"),
        minutes=2,
        clock=clock,
        started=0.0,
        reporter=SlowDown(),
    )
    result = run.run()
    assert 0.9 * 120 < result.seconds <= 120 * 1.02
    assert result.steps == run.state.total_steps
    assert any("speed changed" in note for note in SlowDown.notes)


def test_early_stop_keeps_the_best(training, corpus, tmp_path, monkeypatch):
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=10, patience=3)
    losses = iter([2.0, 1.5, 1.6, 1.7, 1.8, 1.9])
    monkeypatch.setattr(
        run.trainer,
        "evaluate",
        lambda ids, documents=None, max_chunks=None: 0 if max_chunks else next(losses),
    )
    result = run.run()
    assert result.stopped == "early"
    assert result.best_val_loss == 1.5
    assert result.val_loss == 1.8
    assert result.best_step == run.state.eval_every * 2
    steps = [info.step for info in list_checkpoints(model)]
    assert steps == [run.state.eval_every * n for n in (2, 4, 5)]


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_loss_that_is_not_finite_goes_back_and_halves_the_learning_rate(
    training, trainers, corpus, tmp_path, monkeypatch
):
    import tensorflow as tf

    model, reporter = folder(tmp_path, "m"), Notes()
    run = make(training, corpus, model, epochs=2, reporter=reporter)
    real, poisoned = run.trainer._step, []

    def poison(inputs, targets, states, step, learning_rate):
        if int(step) == 30 and not poisoned:
            # As an overflow in the gradient would: the weights are lost.
            poisoned.append(run.state.total_steps)
            run.trainer.model.dense.kernel.assign_add(tf.fill((6, len(corpus.vocabulary)), np.nan))
        return real(inputs, targets, states, step, learning_rate)

    monkeypatch.setattr(run.trainer, "_step", poison)
    result = run.run()
    assert poisoned
    assert result.stopped == "epochs"
    (note,) = [n for n in reporter.notes if "not finite" in n]
    back_to = 30 // run.state.eval_every * run.state.eval_every
    assert note == (
        f"the loss is not finite at step 31: going on from step {back_to} "
        "with half the learning rate"
    )
    assert run.state.n_failures == 1
    records = list(read_log(model, "history.jsonl"))
    assert [r["step"] for r in records] == sorted({r["step"] for r in records})
    rates = [r["learning_rate"] for r in records]
    after = next(r for r in records if r["step"] > 30)
    expected = trainers.learning_rate_at(
        after["step"] - 1,
        total_steps=run.state.total_steps,
        peak=run.config.learning_rate,
    )
    assert after["learning_rate"] == pytest.approx(expected / 2, rel=1e-5)
    assert all(np.isfinite(rates))
    assert all(np.isfinite(a).all() for a in everything(model).values())


def test_a_gradient_that_is_not_finite_is_seen_at_once(training, corpus, tmp_path):
    run = make(training, corpus, folder(tmp_path, "m"), epochs=1)
    # The loss of saturated logits is finite; their gradient times these is not.
    run.trainer.model.dense.kernel.assign(run.trainer.model.dense.kernel * 1e38)
    loss, _ = run.trainer.train_step(run.state)
    assert not math.isfinite(loss)


def test_a_loss_that_stays_not_finite_stops_with_the_checkpoint_kept(
    training, corpus, tmp_path, monkeypatch
):
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=2)
    real = run.trainer.train_step
    monkeypatch.setattr(
        run.trainer, "train_step", lambda s: (math.nan, 45) if s.step == 30 else real(s)
    )
    with pytest.raises(TrainingError, match=r"not finite at step 31, after 3 attempts") as error:
        run.run()
    assert error.value.exit_code == 1
    (*_, info) = list_checkpoints(model)
    assert all(np.isfinite(w).all() for w in load_checkpoint(info).weights.values())


RAN_AWAY = [(np.zeros((5, 6)), np.full((5, 6), 3.0)), (np.zeros((5, 6)), np.eye(5, 6) * -50)]


def test_a_run_that_learns_nothing_begins_anew_once(training, corpus, tmp_path, monkeypatch):
    """As one whose cell states ran away in its first steps."""
    entropy = unigram_entropy(np.asarray(corpus.ids[:2_000]))
    model, reporter = folder(tmp_path, "m"), Notes()
    run = make(training, corpus, model, epochs=14, reporter=reporter)
    monkeypatch.setattr(run.trainer, "carried_states", lambda: RAN_AWAY)
    real = run.trainer.train_step
    monkeypatch.setattr(
        run.trainer,
        "train_step",
        lambda state: real(state) if state.n_failures else (entropy - 0.01, 45),
    )
    result = run.run()
    (note,) = [n for n in reporter.notes if "beginning anew" in n]
    assert "nothing is learned" in note
    assert result.steps == run.state.total_steps
    assert run.state.n_failures == 1
    every = run.state.eval_every
    steps = [record["step"] for record in read_log(model, "history.jsonl")]
    assert steps == sorted({*range(every, result.steps + 1, every), result.steps})
    assert result.train_loss < entropy - 0.3
    assert max(info.step for info in list_checkpoints(model)) == result.steps


def test_a_run_of_which_there_is_nothing_to_learn_goes_on(training, tmp_path):
    """Its loss is that of guessing by frequency, too, and its cell states are calm."""
    letters = np.random.default_rng(5).choice(list("acgt"), 3_000)
    (tmp_path / "acgt.txt").write_text("".join(letters), encoding="utf-8")
    corpus = prepare_corpus(
        tmp_path / "acgt.txt", options=CorpusOptions(), output=tmp_path / "prepared"
    )
    reporter = Notes()
    run = make(training, corpus, folder(tmp_path, "m"), epochs=10, reporter=reporter)
    result = run.run()
    assert result.steps > 420
    assert abs(result.train_loss - math.log(4)) < 0.05
    assert run.state.n_failures == 0
    assert not any("anew" in note for note in reporter.notes)


def test_a_text_of_two_halves_is_not_judged_by_its_first(training, trainers, tmp_path, monkeypatch):
    """Of a long text a sample is counted, which must be spread over all of it."""
    rng = np.random.default_rng(6)
    text = "".join(rng.choice(list("ab"), 2_000)) + "".join(
        rng.choice(list("cdefghijklmnop"), 2_000)
    )
    (tmp_path / "halves.txt").write_text(text, encoding="utf-8")
    corpus = prepare_corpus(
        tmp_path / "halves.txt", options=CorpusOptions(), output=tmp_path / "prepared"
    )
    for module in (training, trainers):
        monkeypatch.setattr(module, "ENOUGH_CHARACTERS", 1_000)
    run = make(training, corpus, folder(tmp_path, "m"), epochs=9, val_fraction=0.0)
    monkeypatch.setattr(run.trainer, "carried_states", lambda: RAN_AWAY)
    run.state.step, run.state.train_loss = 500, 1.9  # of 2.36 by frequency, and 0.7 in the first
    assert not run._is_lost()
    run.state.train_loss = 2.4
    assert run._is_lost()
    shares = np.exp(run.trainer.model.dense.bias.numpy())
    assert shares[:2] == pytest.approx(0.25, abs=0.03)
    assert shares[2:] == pytest.approx(0.5 / 14, abs=0.02)


def test_a_run_that_begins_anew_does_not_blame_the_machine(training, corpus, tmp_path, monkeypatch):
    reporter, clock = Notes(), Clock(0.0)
    run = make(
        training, corpus, folder(tmp_path, "m"), minutes=4, clock=clock, started=0.0,
        reporter=reporter,
    )  # fmt: skip
    monkeypatch.setattr(run.trainer, "carried_states", lambda: RAN_AWAY)
    real = run.trainer.train_step
    run.trainer.train_step = lambda state: real(state) if state.n_failures else (3.5, 45)
    result = at_work(run, clock, a_step=0.3, a_chunk=0.05).run()
    assert sum("beginning anew" in note for note in reporter.notes) == 1
    assert not any("speed changed" in note for note in reporter.notes)
    assert 0.9 * 240 < result.seconds <= 240 * 1.05


@pytest.mark.parametrize(
    ("bad_step", "overwrite", "told"),
    [
        (0, False, "there is no checkpoint yet"),
        (0, True, "there is no checkpoint yet"),
        (30, False, "the best checkpoint, of step 30, is kept"),
    ],
)
def test_what_is_kept_when_the_loss_stays_not_finite_is_told(
    training, corpus, tmp_path, monkeypatch, bad_step, overwrite, told
):
    run = make(training, corpus, folder(tmp_path, "m"), epochs=2)
    real = run.trainer.train_step
    monkeypatch.setattr(
        run.trainer, "train_step", lambda s: (math.nan, 45) if s.step >= bad_step else real(s)
    )
    with pytest.raises(TrainingError, match=told):
        run.run(overwrite=overwrite)


def test_an_old_model_that_is_kept_is_told(training, corpus, tmp_path, monkeypatch):
    model = folder(tmp_path, "m")
    make(training, corpus, model, epochs=0.2).run()
    (old, *_) = list_checkpoints(model)
    run = make(training, corpus, model, epochs=2)
    monkeypatch.setattr(run.trainer, "train_step", lambda s: (math.nan, 45))
    with pytest.raises(TrainingError, match="the old model is kept"):
        run.run(overwrite=True)
    assert old in list_checkpoints(model)


def test_going_back_drops_what_was_saved_on_the_way_to_the_failure(
    training, corpus, tmp_path, monkeypatch
):
    """Else a resumed run would go on from there, at the full learning rate."""
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=2)
    good = 5 * run.state.eval_every
    real, saved = run.trainer.train_step, []

    def step(state):
        if state.step == good + 1 and not saved:
            run.last_save = -math.inf  # as if a minute had gone
        if state.step == good + 3 and not saved:
            saved.extend(info.step for info in list_checkpoints(model))
            return math.nan, 45
        return real(state)

    monkeypatch.setattr(run.trainer, "train_step", step)
    run.should_stop = lambda: bool(saved)
    result = run.run()
    assert saved[-1] == good + 2
    assert result.stopped == "interrupted"
    (*_, info) = list_checkpoints(model)
    assert info.step == result.steps == good + 1  # one step further, it was asked to stop
    assert load_training_state(info).trainer["n_failures"] == 1


def test_the_printed_loss_is_what_evaluate_gives(training, corpus, tmp_path):
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=3)
    result = run.run()
    checkpoint = load_checkpoint(choose_checkpoint(model, "best"))
    tail = np.asarray(corpus.ids[len(corpus.ids) - result.val_characters :])
    score = score_ids(LSTMStep(checkpoint.network, checkpoint.weights), tail)
    assert result.best_val_loss == pytest.approx(score.nats_per_char, abs=1e-4)
    assert checkpoint.info.step == result.best_step
    record = next(r for r in read_log(model, "history.jsonl") if r["step"] == result.best_step)
    assert record["val_loss"] == pytest.approx(score.nats_per_char, abs=1e-4)


def test_it_learns(training, tmp_path):
    text = tmp_path / "abc.txt"
    text.write_text("abcdefgh" * 300, encoding="utf-8")
    corpus = prepare_corpus(text, options=CorpusOptions(), output=tmp_path / "prepared")
    run = make(training, corpus, folder(tmp_path, "m"), epochs=12, learning_rate=0.05, dropout=0.0)
    result = run.run()
    assert result.best_val_loss < 0.05  # of ln 8 = 2.08 at the start


def test_history_has_what_the_contract_names(training, corpus, tmp_path):
    model = folder(tmp_path, "m")
    result = make(training, corpus, model, epochs=1).run()
    lines = (model / "history.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert set(records[0]) == {
        "step",
        "epoch",
        "characters",
        "seconds",
        "train_loss",
        "val_loss",
        "learning_rate",
        "chars_per_second",
    }
    assert [r["step"] for r in records] == sorted({r["step"] for r in records})
    assert records[-1]["step"] == result.steps
    assert records[-1]["characters"] == result.characters == result.steps * 5 * 9


def test_samples_come_from_the_network_as_it_is(training, corpus, tmp_path):
    class Samples(Reporter):
        texts: list[str] = []  # noqa: RUF012

        def sample(self, step: int, text: str) -> None:
            self.texts.append(text)

    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=1, reporter=Samples(), clock=Clock(0.05))
    run.sample_every = 2.0
    run.run()
    logged = list(read_log(model, "samples.jsonl"))
    assert len(logged) >= 2
    assert [r["text"] for r in logged] == Samples.texts
    assert all(len(t) == training.SAMPLE_LENGTH for t in Samples.texts)


def test_random_seed_decides_the_weights(training, corpus, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = folder(tmp_path, name)
        make(training, corpus, model, epochs=0.3, random_seed=seed).run()
        weights.append(everything(model)["dense/kernel"])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_trainer_state_is_stored_whole(training, trainers, corpus, tmp_path):
    model = folder(tmp_path, "m")
    run = make(training, corpus, model, epochs=1)
    run.run()
    stored = load_training_state(list_checkpoints(model)[-1]).trainer
    for field in dataclasses.fields(trainers.TrainerState):
        if field.name != "seconds":
            assert stored[field.name] == getattr(run.state, field.name)


def test_transfer_moves_rows_and_columns_by_character(training):
    from charlstm.checkpoint import weight_shapes
    from charlstm.model import transfer_weights
    from charlstm.vocabulary import Vocabulary

    old, new = Vocabulary("abde"), Vocabulary("bcdxyz")
    rng = np.random.default_rng(0)

    def weights(vocabulary):
        network = NetworkConfig(vocabulary_size=len(vocabulary), units=3)
        shapes = weight_shapes(network).items()
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}

    source, fresh = weights(old), weights(new)
    moved = transfer_weights(source, old, fresh, new)
    for character, row in new.char_to_id.items():
        side, at = (source, old.char_to_id.get(character)) if character in old else (fresh, row)
        np.testing.assert_array_equal(moved["lstm_1/kernel"][row], side["lstm_1/kernel"][at])
        np.testing.assert_array_equal(moved["dense/kernel"][:, row], side["dense/kernel"][:, at])
        assert moved["dense/bias"][row] == side["dense/bias"][at]
    for name in ("lstm_1/recurrent_kernel", "lstm_2/kernel", "lstm_1/bias"):
        np.testing.assert_array_equal(moved[name], source[name])
