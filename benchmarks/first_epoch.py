"""How soon charlstm has the loss that the article's code has after an epoch.

    python benchmarks/first_epoch.py            # about 5 minutes
    python benchmarks/first_epoch.py --quick    # a smoke run

The article's code (`article_code.py epoch`) trains one epoch on the first nine
tenths of the text, in lower case. Its loss on the last tenth, each character
predicted from the 50 before it, is the aim. charlstm (`charlstm_train.py
--until`) then trains on the same nine tenths until its held-out loss, by the
definition of `charlstm evaluate`, is as low. Either clock leaves out taking
the loss.
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

from training import describe_machine, spread

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "first_epoch.json"
MACBETH = HERE.parent / "corpora" / "macbeth.txt"


def in_process(script: str, *arguments: str) -> dict[str, Any]:
    """Run one side in an empty folder and return the JSON that it prints last."""
    command = [sys.executable, str(HERE / script), *arguments, "--started", repr(time.time())]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> None:
    """Measure, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Time to the loss of the article's first epoch.")
    parser.add_argument("text", type=Path, nargs="?", default=MACBETH)
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--rounds", type=int, default=3, help="of charlstm")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    text = str(args.text.resolve())
    epochs = "0.01" if args.quick else "1"
    article = in_process("article_code.py", "epoch", text, "--epochs", epochs)
    rounds = 1 if args.quick else args.rounds
    until = ("--until", repr(article["loss"]))
    ours = [in_process("charlstm_train.py", text, *until) for _ in range(rounds)]
    print(f"{describe_machine()}\n{args.text.name}, last tenth held out\n")
    print("| | charlstm | article | ratio |\n|---|---:|---:|---:|")
    for title, field in (
        ("seconds from the first optimizer step", "seconds"),
        ("seconds from the start of the process", "seconds_in_all"),
        ("optimizer steps", "steps"),
        ("characters learned from", "characters"),
    ):
        values = [numbers[field] for numbers in ours]
        ratio = article[field] / statistics.median(values)
        form = "{:,.1f}" if "seconds" in field else "{:,.0f}"
        print(f"| {title} | {spread(values, form)} | {form.format(article[field])} | {ratio:.1f} |")
    losses = spread([numbers["loss"] for numbers in ours], "{:.3f}")
    print(f"| held-out loss, nats/char | {losses} | {article['loss']:.3f} | |")
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "article": article, "charlstm": ours}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
