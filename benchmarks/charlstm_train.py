"""charlstm's training steps under a clock: the other side of `article_code.py train`.

Plans a run as `charlstm train` does and calls the trainer's own step, without
evaluation, samples and checkpoints. Writes `prepared/` into the working
folder. Run by `article.py`; one process:

    python benchmarks/charlstm_train.py corpora/macbeth.txt --recipe default
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import get_args

from charlstm.backend import available_cores, start_tensorflow
from charlstm.config import RecipeName
from charlstm.planning import TrainingPlan, TrainingRequest, plan_training

RANDOM_SEED = 0


def plan(text: Path, recipe: RecipeName) -> TrainingPlan:
    """Plan a run over the whole text, as the article trains on the whole text.

    Args:
        text: A UTF-8 text.
        recipe: "default" or "article".

    Returns:
        The plan, with nothing held out.
    """
    request = TrainingRequest(
        corpus=str(text),
        recipe=recipe,
        typed={"val_fraction": 0.0, "random_seed": RANDOM_SEED},
        default_threads=available_cores(),
    )
    return plan_training(request)


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
    planned = plan(text, recipe)
    start_tensorflow(
        threads=planned.config.threads, random_seed=RANDOM_SEED, parts=planned.config.n_parts
    )
    from charlstm.training import TrainerState, make_trainer

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
    """Measure one recipe and print the result as one line of JSON."""
    parser = argparse.ArgumentParser(description="charlstm's training steps under a clock.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--recipe", choices=get_args(RecipeName), default="default")
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--steps", type=int, default=63)
    args = parser.parse_args()
    numbers = measure(args.text, args.recipe, warm_up=args.warm_up, steps=args.steps)
    print(json.dumps(numbers), flush=True)


if __name__ == "__main__":
    main()
