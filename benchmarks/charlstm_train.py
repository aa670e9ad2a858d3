"""charlstm's training steps under a clock: the other side of `article_code.py train`.

Plans a run as `charlstm train` does and calls the trainer's own step, without
evaluation, samples and checkpoints. Writes `prepared/` into the working
folder. Run by `article.py`; one process:

    python benchmarks/charlstm_train.py corpora/macbeth.txt --recipe default
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, get_args

from charlstm.backend import available_cores, start_tensorflow
from charlstm.config import RecipeName
from charlstm.planning import TrainingPlan, TrainingRequest, plan_training

RANDOM_SEED = 0


def plan(text: Path, recipe: RecipeName, **typed: Any) -> TrainingPlan:
    """Plan a run as `charlstm train` does.

    Args:
        text: A UTF-8 text.
        recipe: "default" or "article".
        typed: Options as one would type them.

    Returns:
        The plan.
    """
    request = TrainingRequest(
        corpus=str(text),
        recipe=recipe,
        typed={"random_seed": RANDOM_SEED, **typed},
        default_threads=available_cores(),
    )
    return plan_training(request)


def start(planned: TrainingPlan) -> None:
    """Start TensorFlow as `charlstm train` does."""
    config = planned.config
    start_tensorflow(threads=config.threads, random_seed=RANDOM_SEED, parts=config.n_parts)


def reach(text: Path, loss: float, *, every: int, minutes: float, started: float) -> dict[str, Any]:
    """Train until the held-out loss is as low as a given one.

    The clock stops while the loss is taken.

    Args:
        text: A UTF-8 text; lower-cased, as the article does.
        loss: Nats/char to reach on its last tenth.
        every: Steps between evaluations.
        minutes: The budget that the schedule is made for.
        started: When the process was started, by `time.time`.

    Returns:
        Seconds from the end of the first step, and from the start of the
        process, until a step after which the loss was reached; and the way
        there, as (seconds, loss) pairs.
    """
    planned = plan(text, "default", lowercase=True, minutes=minutes)
    start(planned)
    from charlstm.corpus import split_corpus
    from charlstm.trainers import TrainerState, make_trainer

    ids = planned.corpus.ids
    split = split_corpus(
        len(ids),
        seq_length=planned.network.seq_length,
        val_fraction=planned.config.val_fraction,
        name=planned.corpus.name,
    )
    trainer = make_trainer(planned.network, planned.config, ids[: split.train_characters])
    val_ids = ids[split.train_characters :]
    # Two cores' speed, about: the schedule of a run of that many minutes.
    state = TrainerState(total_steps=int(minutes * 60 * 25))
    seconds, first_step, way = 0.0, 0.0, [(0.0, math.inf)]
    while way[-1][1] > loss and state.step < (state.total_steps or 0):
        before = time.perf_counter()
        trainer.train_step(state)
        state.step += 1
        if state.step == 1:
            first_step = time.time() - started
            continue
        seconds += time.perf_counter() - before
        if state.step % every == 0:
            way.append((seconds, trainer.evaluate(val_ids)))
    return {
        "seconds": seconds,
        "seconds_in_all": first_step + seconds,
        "steps": state.step,
        "characters": state.step * trainer.batches.characters_per_step,
        "val_characters": len(val_ids),
        "loss": way[-1][1],
        "way": way[1:],
    }


def measure(text: Path, recipe: RecipeName, *, warm_up: int, steps: int) -> dict[str, float]:
    """Train a few steps and time them.

    Args:
        text: A UTF-8 text.
        recipe: "default" or "article".
        warm_up: Steps that are not timed, at least 1; the first traces the graph.
        steps: Steps that are.

    Returns:
        Seconds, steps, characters learned from, and the sizes behind them.
    """
    planned = plan(text, recipe, val_fraction=0.0)  # the article holds nothing out
    start(planned)
    from charlstm.trainers import TrainerState, make_trainer

    trainer = make_trainer(planned.network, planned.config, planned.corpus.ids)
    state = TrainerState(total_steps=warm_up + steps)
    predictions = 0
    started = 0.0
    for step in range(warm_up + steps):
        if step == warm_up:
            started, predictions = time.perf_counter(), 0
        # The step returns its loss as a number, so its work is done.
        predictions += trainer.train_step(state)[1]
        state.step += 1
        if step == 0:
            print("first step", flush=True)
    seconds = time.perf_counter() - started
    n_chars, seq_length = len(planned.corpus.ids), planned.network.seq_length
    return {
        "seconds": seconds,
        "steps": steps,
        "predictions": predictions,
        "predictions_per_epoch": n_chars if recipe == "default" else n_chars - seq_length,
        "batch_size": planned.config.batch_size,
        "dropout": planned.config.dropout,
        "threads": planned.config.threads,
        "vocabulary_size": planned.network.vocabulary_size,
        "parameters": planned.network.parameters,
    }


def main() -> None:
    """Measure and print the result as one line of JSON."""
    parser = argparse.ArgumentParser(description="charlstm's training steps under a clock.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--recipe", choices=get_args(RecipeName), default="default")
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--steps", type=int, default=63)
    parser.add_argument("--until", type=float, help="train until this loss instead")
    parser.add_argument("--every", type=int, default=5, help="steps between its evaluations")
    parser.add_argument("--minutes", type=float, default=3.0, help="its schedule is for so long")
    parser.add_argument("--started", type=float, default=time.time())
    args = parser.parse_args()
    if args.until is None:
        numbers = measure(args.text, args.recipe, warm_up=args.warm_up, steps=args.steps)
    else:
        numbers = reach(
            args.text, args.until, every=args.every, minutes=args.minutes, started=args.started
        )
    print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()
