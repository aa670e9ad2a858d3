"""Make the model that ships: `python docs/make_model.py`, six minutes of one core's time.

It trains on the shipped text by the real command, in a folder that goes away,
and keeps the best checkpoint for writing text only: float16 weights, no
training state, no path of this machine. What else is typed goes to `charlstm
train`, where it takes the place of the options below.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from charlstm.checkpoint import Arrays, Checkpoint, CheckpointInfo, write_checkpoint
from charlstm.corpus import load_corpus
from charlstm.engine import LSTMStep
from charlstm.models import clear_model, open_checkpoint, verify_model
from charlstm.scoring import score_ids

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "corpora" / "macbeth.txt"
TARGET = ROOT / "charlstm" / "shipped" / "macbeth"
# One thread: how many there are decides in which order sums are taken.
OPTIONS = ["--epochs", "40", "--random-seed", "0", "--threads", "1", "--sample-every", "0"]
TOLERANCE = 1e-3  # nats/char that float16 may cost


def main() -> None:
    """Train, compare, and only then replace the model that is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="the model's folder")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = train(Path(folder), options)
        tail = held_out(checkpoint)
    halved = {name: array.astype(np.float16) for name, array in checkpoint.weights.items()}
    widened = {name: array.astype(np.float32) for name, array in halved.items()}
    before, after = (
        score_ids(LSTMStep(checkpoint.network, weights), tail).nats_per_char
        for weights in (checkpoint.weights, widened)
    )
    print(
        f"{before:.4f} nats/char in float32, {after:.4f} in float16, "
        f"over the {len(tail):,} characters held out"
    )
    if not abs(after - before) < TOLERANCE:
        raise SystemExit(f"float16 costs more than {TOLERANCE} nats/char: nothing was written")
    info = write(checkpoint, halved, arguments.output)
    n_bytes = sum(path.stat().st_size for path in info.path.iterdir())
    print(f"{info.path}: {n_bytes:,} bytes")


def train(folder: Path, options: list[str]) -> Checkpoint:
    """Run `charlstm train` in a folder, and return the best checkpoint."""
    model = folder / "checkpoints" / "macbeth"
    command = [sys.executable, "-m", "charlstm", "train", str(CORPUS), *OPTIONS, *options]
    plain = {n: value for n, value in os.environ.items() if not n.startswith("CHARLSTM")}
    subprocess.run([*command, "--model", str(model)], cwd=folder, env=plain, check=True)
    checkpoint, warnings = open_checkpoint(model)
    if warnings:
        raise SystemExit("; ".join(warnings))
    return checkpoint


def held_out(checkpoint: Checkpoint) -> NDArray[np.unsignedinteger]:
    """Return the ids that were not trained on, out of the folder that goes away."""
    about = checkpoint.config["corpus"]
    return np.array(load_corpus(Path(about["path"])).ids[-about["val_characters"] :])


def write(checkpoint: Checkpoint, weights: Arrays, model: Path) -> CheckpointInfo:
    """Write a checkpoint as the only one of a model, less what writing text has no use for."""
    about = {n: value for n, value in checkpoint.config["corpus"].items() if n != "path"}
    model.mkdir(parents=True, exist_ok=True)
    info = write_checkpoint(
        model,
        step=checkpoint.info.step,
        epoch=checkpoint.info.epoch,
        train_loss=checkpoint.info.train_loss,
        val_loss=checkpoint.info.val_loss,
        config=checkpoint.config | {"corpus": about},
        vocabulary=checkpoint.vocabulary,
        weights=weights,
        state=None,
        run=checkpoint.info.run,
        now=checkpoint.info.written_at,
    )
    clear_model(model, keep=info.path)
    for path, problems in verify_model(model):
        if problems:
            raise SystemExit(f"{path}: {'; '.join(problems)}")
    return info


if __name__ == "__main__":
    main()
