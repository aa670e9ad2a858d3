"""Writing text: charlstm, a stateful `tf.function`, and the article's loop.

    python benchmarks/generation.py            # about 5 minutes
    python benchmarks/generation.py --quick    # a smoke run

All in one run, in turns, each as a process of its own that is watched from
outside: the first character is timed from the start of the process, the rate
from the first to the last character that comes through the pipe. The article's
code is `article_code.py` (one `predict` a character), the step `tf_step.py`.
charlstm writes with the model that ships. Then a million characters are
written while the memory is watched (Linux only).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import anonymous_mb
from training import describe_machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "generation.json"
MACBETH = HERE.parent / "corpora" / "macbeth.txt"
CHARLSTM = [sys.executable, "-m", "charlstm", "generate", "--quiet", "--no-echo"]
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def watch(command: Sequence[str], *, n_characters: int, cwd: Path) -> dict[str, float]:
    """Run a writer and take the time of its first and last character.

    Args:
        command: Prints nothing but text.
        n_characters: How many it makes.
        cwd: Where it runs.

    Returns:
        `first`: seconds to the first character; `rate`: characters a second
        after it.
    """
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # what has come is seen at once
    )
    assert child.stdout is not None
    child.stdout.read(1)
    first = last = time.perf_counter()
    while child.stdout.read(1 << 16):
        last = time.perf_counter()
    if child.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return {"first": first - started, "rate": (n_characters - 1) / (last - first)}


def memory_of_a_long_text(length: int, *, cwd: Path) -> dict[str, float]:
    """Write a long text and watch the memory.

    Args:
        length: Characters.
        cwd: Where it runs.

    Returns:
        Anonymous memory in MB after a twentieth and at the end, the peak, and
        characters a second.
    """
    started = time.perf_counter()
    child = subprocess.Popen(
        [*CHARLSTM, "--seed", "MACBETH.", "-n", str(length)], cwd=cwd, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    n_read, early, seen = 0, 0.0, [0.0]
    while data := child.stdout.read1(1 << 14):
        n_read += len(data)
        seen.append(anonymous_mb(child.pid) or seen[-1])
        if n_read >= length // 20 and not early:
            early = seen[-1]
    child.wait()
    rate = length / (time.perf_counter() - started)
    return {"early_mb": early, "late_mb": seen[-1], "peak_mb": max(seen), "rate": rate}


def main() -> None:
    """Measure in rounds, print the tables, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Writing speed beside its rivals.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    scale = 20 if args.quick else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        article = [sys.executable, str(HERE / "article_code.py")]
        subprocess.run(
            [*article, "train", str(MACBETH), "--warm-up", "1", "--batches", "1",
             "--save", "a.keras"],
            check=True, cwd=folder, env=ENVIRONMENT, capture_output=True,
        )  # fmt: skip
        step = [sys.executable, str(HERE / "tf_step.py")]
        one, many, few = 20_000 // scale, 1_000 // scale, max(4, 60 // scale)
        seeded = [*CHARLSTM, "--seed", "MACBETH."]
        plain = ["--temperature", "0.6"]
        together = ["-n", str(many), "--samples", "32", "--separator", ""]
        sides: dict[str, tuple[list[str], int]] = {
            "charlstm, one text, temperature alone": ([*seeded, *plain, "-n", str(one)], one),
            "charlstm, 32 texts, temperature alone": ([*seeded, *plain, *together], 32 * many),
            "charlstm, one text, the default (with top-p)": ([*seeded, "-n", str(one)], one),
            "charlstm, 32 texts, the default": ([*seeded, *together], 32 * many),
            "charlstm, one text, every filter": (
                [*seeded, "-n", str(one), "--top-k", "20", "--top-p", "0.95", "--min-p", "0.02",
                 "--typical-p", "0.98", "--repetition-penalty", "1.2"],
                one,
            ),
            "stateful tf.function, one text": ([*step, "--length", str(one // 5)], one // 5),
            "stateful tf.function, 32 texts": (
                [*step, "--length", str(many), "--samples", "32"],
                32 * many,
            ),
            "article: one predict a character": (
                [*article, "generate", str(MACBETH), "--model", "a.keras", "--length", str(few)],
                few,
            ),
        }  # fmt: skip
        rounds: list[dict[str, dict[str, float]]] = []
        for _ in range(1 if args.quick else args.rounds):
            rounds.append(
                {
                    side: watch(command, n_characters=n, cwd=folder)
                    for side, (command, n) in sides.items()
                }
            )
        long_text = memory_of_a_long_text(1_000_000 // (scale * scale), cwd=folder)
    print(describe_machine())
    print("\n| | characters/s | times the article | to the first character, s |")
    print("|---|---:|---:|---:|")
    for side in sides:
        rates = [r[side]["rate"] for r in rounds]
        ratios = [r[side]["rate"] / r["article: one predict a character"]["rate"] for r in rounds]
        firsts = [r[side]["first"] for r in rounds]
        print(f"| {side} | {spread(rates)} | {spread(ratios)} | {spread(firsts, digits=3)} |")
    print(
        f"\n{1_000_000 // (scale * scale):,} characters in one text: anonymous memory "
        f"{long_text['early_mb']:.1f} MB after a twentieth, {long_text['late_mb']:.1f} MB at the "
        f"end, peak {long_text['peak_mb']:.1f} MB; {long_text['rate']:,.0f} characters/s"
    )
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content: dict[str, Any] = {
            "machine": describe_machine(),
            "rounds": rounds,
            "long_text": long_text,
        }
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def spread(values: Sequence[float], *, digits: int = 0) -> str:
    """Write a median, and the smallest and largest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}-{high:,.{digits}f}]"


if __name__ == "__main__":
    main()
