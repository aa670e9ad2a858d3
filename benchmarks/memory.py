"""Memory and time of a step while training on texts of very different sizes.

    python benchmarks/memory.py            # 1 MB, 100 MB, 10 GB: about 8 minutes, 20 GB of disk
    python benchmarks/memory.py --quick    # 1 MB and 10 MB

Each text is Macbeth repeated, so the loss says nothing. Before each run the
pages of its ids are taken out of the page cache, so that they are read from the
disk. `charlstm train` runs as one would type it and
is watched from outside: anonymous resident memory, since the pages of the
prepared text are the page cache's and can be taken back at any time. Linux
only.
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
from pathlib import Path
from typing import Any

from training import describe_machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "memory.json"
MACBETH = HERE.parent / "corpora" / "macbeth.txt"
SIZES_MB = (1, 100, 10_000)
QUICK_MB = (1, 10)


def write_text(path: Path, megabytes: int) -> None:
    """Write Macbeth over and over."""
    macbeth = MACBETH.read_bytes()
    with path.open("wb") as file:
        for _ in range(max(1, megabytes * 1_000_000 // len(macbeth))):
            file.write(macbeth)


def anonymous_mb(pid: int) -> float | None:
    """Return a process's anonymous resident memory, in 10^6 bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 / 1e6 if lines else None


def watch_training(text: Path, *, minutes: float) -> dict[str, Any]:
    """Train and watch.

    Returns:
        `mb`: median over the second half of the run, evaluations and saving
        included; `peak_mb`: the most seen; `step_ms`: of a training step.
    """
    command = [sys.executable, "-m", "charlstm", "train", str(text), "--json", "--quiet"]
    command += ["--minutes", str(minutes)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "charlstm", "prepare", str(text), "--quiet"],
            check=True, cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for ids in Path(folder).glob("prepared/*/ids*.bin"):
            with ids.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        seen: list[float] = []
        while child.poll() is None:
            if (mb := anonymous_mb(child.pid)) is not None:
                seen.append(mb)
            time.sleep(0.1)
        assert child.stdout is not None
        result = json.loads(child.stdout.read())
    return {
        "mb": statistics.median(seen[len(seen) // 2 :]),
        "peak_mb": max(seen),
        "step_ms": 1e3 * result["characters"] / result["steps"] / result["chars_per_second"],
        "epochs": result["epochs"],
    }


def main() -> None:
    """Measure, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Memory while training.")
    parser.add_argument("--quick", action="store_true", help="a smoke run, up to 10 MB")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    sizes = QUICK_MB if args.quick else SIZES_MB
    minutes = 0.2 if args.quick else 1.0
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            text = Path(folder) / f"macbeth-{size}.txt"
            write_text(text, size)
            results[size] = watch_training(text, minutes=minutes)
            text.unlink()
    print(describe_machine())
    print("\n| text | anonymous memory, MB | its peak, MB | a step, ms | by the first |")
    print("|---|---|---|---|---|")
    first = results[sizes[0]]
    for size, row in results.items():
        ratios = ", ".join(f"{row[k] / first[k]:.2f}" for k in ("mb", "peak_mb", "step_ms"))
        print(
            f"| {size:,} MB | {row['mb']:.0f} | {row['peak_mb']:.0f} | {row['step_ms']:.1f} "
            f"| {ratios} |"
        )
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "by_megabytes": results}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
