"""What charlstm learns in the time that nanoGPT's CPU recipe takes.

    python benchmarks/nanogpt.py tinyshakespeare.txt    # about 5 minutes
    python benchmarks/nanogpt.py corpora/macbeth.txt --quick

First the small transformer of `nanogpt_code.py` is trained on the first nine
tenths of the text, and its wall time taken, imports and its own evaluations
included. Then `charlstm train` gets that time as `--minutes`, on the same
nine tenths, once for each random seed. Both losses are nats/char on the last
tenth. Needs PyTorch (`pip install torch`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training import describe_machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "nanogpt.json"
PUBLISHED_LOSS = 1.88


def train_transformer(text: Path, *, steps: int) -> dict[str, Any]:
    """Train the transformer in a process of its own.

    Returns:
        What it printed; its `seconds` are those from starting the process to
        the end of training, without the closing pass over the whole held-out
        part, which the recipe lacks.
    """
    command = [sys.executable, str(HERE / "nanogpt_code.py"), str(text), "--steps", str(steps)]
    command += ["--started", repr(time.time())]
    numbers: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    return numbers


def train_charlstm(text: Path, *, minutes: float, random_seed: int) -> dict[str, Any]:
    """Run `charlstm train` as one would type it, in an empty folder."""
    command = [sys.executable, "-m", "charlstm", "train", str(text.resolve()), "--json", "--quiet"]
    command += ["--minutes", f"{minutes:.4f}", "--random-seed", str(random_seed)]
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return {**json.loads(done.stdout), "wall": time.time() - started}


def main() -> None:
    """Measure, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="charlstm in the time of nanoGPT's CPU recipe.")
    parser.add_argument("text", type=Path)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--random-seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rival = train_transformer(args.text, steps=10 if args.quick else 2_000)
    minutes = max(0.1, rival["seconds"] / 60)
    n_seeds = 1 if args.quick else args.random_seeds
    ours = [train_charlstm(args.text, minutes=minutes, random_seed=n) for n in range(n_seeds)]
    losses = [run["best_val_loss"] for run in ours]
    walls = [run["wall"] for run in ours]
    epochs = statistics.median(run["epochs"] for run in ours)
    print(f"{describe_machine()}\n{args.text.name}, last tenth held out\n")
    print("| side | wall time, s | parameters | held-out loss, nats/char |\n|---|---|---|---|")
    print(
        f"| transformer, nanoGPT's CPU recipe | {rival['seconds']:.1f} | "
        f"{rival['parameters']:,} | {rival['loss']:.3f} over the whole part, "
        f"{rival['estimated_loss']:.3f} by its own estimate (published: {PUBLISHED_LOSS}) |"
    )
    print(
        f"| charlstm --minutes {minutes:.2f}, {n_seeds} random seeds | "
        f"{statistics.median(walls):.1f} | 2 x 300 units | {statistics.median(losses):.3f} "
        f"[{min(losses):.3f}-{max(losses):.3f}] after {epochs:.2f} epochs |"
    )
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "text": args.text.name}
        content |= {"transformer": rival, "charlstm": [_without_paths(run) for run in ours]}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _without_paths(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "model"}


if __name__ == "__main__":
    main()
