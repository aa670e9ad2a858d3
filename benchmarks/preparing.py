"""Speed and memory of `charlstm prepare`, by one process and by two.

    python benchmarks/preparing.py            # 1 GB: about a minute a row
    python benchmarks/preparing.py --quick    # 60 MB

Texts: Macbeth repeated; the same with accents, Greek and Cyrillic between its
lines. `charlstm prepare` runs as one would type it; each of its processes is
watched from outside. Linux only. The processor's seconds are all processes'.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training import describe_machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "preparing.json"
MACBETH = HERE.parent / "corpora" / "macbeth.txt"
FOREIGN = "Schöne Grüße aus dem Süden – müde Füße. Ελληνικά κείμενα. Привет, мир!\n"


def write_text(path: Path, block: str, megabytes: int) -> None:
    """Write a block over and over."""
    data = block.encode()
    with path.open("wb") as file:
        for _ in range(max(1, megabytes * 1_000_000 // len(data))):
            file.write(data)


def family(pid: int) -> list[int]:
    """Return a process and all that it began."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(number for child in children for number in family(int(child)))]


def watch(text: Path, *, threads: int) -> dict[str, Any]:
    """Prepare and watch.

    Returns:
        Seconds by the clock and of processor, MB of text a second of
        processor, the peak resident MB of each process, the hash of the ids,
        and the machine's load.
    """
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory(dir=text.parent) as folder:
        command = [sys.executable, "-m", "charlstm", "prepare", str(text), "--quiet"]
        command += ["--threads", str(threads), "--output", f"{folder}/out"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while child.poll() is None:
            for pid in family(child.pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                    peaks[pid] = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
                except (OSError, IndexError):
                    continue
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if child.returncode:
            raise SystemExit(f"charlstm prepare has failed: {child.returncode}")
        digest = hashlib.sha256()
        for path in sorted(Path(folder, "out").glob("ids*.bin")):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "threads": threads,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "mb_per_cpu_second": text.stat().st_size / 1e6 / cpu,
        "peak_mb": sorted(peaks.values(), reverse=True),
        "sha256": digest.hexdigest(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Speed and memory of preparing.")
    parser.add_argument("--quick", action="store_true", help="a smoke run, of 60 MB")
    parser.add_argument("--megabytes", type=int, default=1_000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    macbeth = MACBETH.read_text(encoding="utf-8")
    mixed = "".join(line + FOREIGN for line in macbeth.splitlines(keepends=True))
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, block in (("ASCII", macbeth), ("mixed", mixed)):
            text = Path(folder) / f"{name}.txt"
            write_text(text, block, 60 if args.quick else args.megabytes)
            results[name] = [watch(text, threads=threads) for threads in (1, 2)]
            text.unlink()
    print(describe_machine())
    print("\n| text | threads | s of processor | s | MB/s a core | peak MB | load |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in results.items():
        for row in rows:
            peaks = ", ".join(f"{mb:.0f}" for mb in row["peak_mb"])
            print(
                f"| {name} | {row['threads']} | {row['cpu_seconds']:.1f} | {row['seconds']:.1f} "
                f"| {row['mb_per_cpu_second']:.0f} | {peaks} | {row['load']:.1f} |"
            )
        same = len({row["sha256"] for row in rows}) == 1
        print(f"| {name} | the same ids | {'yes' if same else 'NO'} | | | | |")
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        content = {"machine": describe_machine(), "by_text": results}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
