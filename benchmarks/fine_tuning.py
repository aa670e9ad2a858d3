"""Going on from another model (`--from`) beside beginning from nothing.

    python benchmarks/fine_tuning.py            # about 5 minutes
    python benchmarks/fine_tuning.py --quick    # a smoke run

A model learns the first four acts of Macbeth for two minutes. The small text
is the fifth act, its last quarter held out. It is learned once from nothing
and once with `--from`, with the defaults but for the random seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training import describe_machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "fine_tuning.json"
MACBETH = HERE.parent / "corpora" / "macbeth.txt"


def train(*arguments: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run `charlstm train`; return its JSON and its evaluations."""
    command = [sys.executable, "-m", "charlstm", "train", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    result: dict[str, Any] = json.loads(done.stdout)
    history = (Path(result["model"]) / "history.jsonl").read_text().splitlines()
    return result, [json.loads(line) for line in history]


def first_as_good(history: list[dict[str, Any]], loss: float) -> dict[str, Any] | None:
    """Return the first evaluation that is no worse than a loss."""
    return next((record for record in history if record["val_loss"] <= loss), None)


def main() -> None:
    """Measure, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Fine-tuning beside training from nothing.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--random-seeds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    text = MACBETH.read_text(encoding="utf-8")
    fifth_act = text.index("ACT V")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "acts.txt").write_text(text[:fifth_act], encoding="utf-8")
        (folder / "fifth.txt").write_text(text[fifth_act:], encoding="utf-8")
        minutes = "0.1" if args.quick else "2"
        train("acts.txt", "--minutes", minutes, "--model", "acts", folder=folder)
        budget = ["--epochs", "2"] if args.quick else []
        for random_seed in range(1 if args.quick else args.random_seeds):
            common = ["fifth.txt", "--val-fraction", "0.25", "--overwrite", *budget]
            common += ["--random-seed", str(random_seed)]
            scratch, way = train(*common, "--model", "scratch", folder=folder)
            tuned, tuned_way = train(*common, "--model", "tuned", "--from", "acts", folder=folder)
            rows.append(
                {
                    "scratch": scratch["best_val_loss"],
                    "tuned": tuned["best_val_loss"],
                    "scratch_at": first_as_good(way, scratch["best_val_loss"]),
                    "tuned_as_good_at": first_as_good(tuned_way, scratch["best_val_loss"]),
                    "tuned_at": first_as_good(tuned_way, tuned["best_val_loss"]),
                }
            )
    print(f"{describe_machine()}\nfifth act of Macbeth, {len(text) - fifth_act:,} characters\n")
    print("| random seed | from nothing: best loss | after steps | with --from: as good after | "
          "best loss | after steps |\n|---|---|---|---|---|---|")  # fmt: skip
    for n, row in enumerate(rows):
        at, good, best = (
            "-" if row[key] is None else f"{row[key]['step']:,}"
            for key in ("scratch_at", "tuned_as_good_at", "tuned_at")
        )
        print(f"| {n} | {row['scratch']:.3f} | {at} | {good} | {row['tuned']:.3f} | {best} |")
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "runs": rows}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
