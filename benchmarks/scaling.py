"""Several workers on this machine, one core each, beside one; and what a formula makes of it.

    python benchmarks/scaling.py            # 1, 2 and 4 workers, three rounds: about 8 minutes
    python benchmarks/scaling.py --quick    # a smoke run
    python benchmarks/scaling.py --predict  # no measuring: the formula on stated networks

The network of the default recipe (2 x 300 units, vocabulary 65, windows of 50)
on random characters. Each worker is a process pinned to one core, core k modulo
the cores there are, so that four workers on two cores take turns. Steps are
timed one by one and their median is taken.

What the formula takes from a measurement: the computation of so many processes
side by side that have nothing to do with each other, since cores of one machine
share more than workers on many would; and the sums of two workers. What it is
checked on: the steps of two and four workers, and the sums of four.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlstm.backend import available_cores, start_tensorflow
from charlstm.cluster import Cluster, choose_cluster
from charlstm.config import NetworkConfig, TrainingConfig

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scaling.json"
NETWORK = NetworkConfig(vocabulary_size=65)
ROWS = 32  # of the default batch
WORKERS = (1, 2, 4)
CHAIN = 8  # sums in one graph, one after the other
# Between two hosts, one way, and what a link carries; the software's own share is measured.
NETWORKS = {
    "1 Gbit/s, 100 µs": (1e9 / 8, 100e-6),
    "10 Gbit/s, 30 µs": (10e9 / 8, 30e-6),
    "100 Gbit/s, 5 µs": (100e9 / 8, 5e-6),
}
MANY = (8, 16, 32, 64, 128, 256, 512, 1024)


# --- the formula --------------------------------------------------------------


class Constants(NamedTuple):
    """What a step costs.

    Attributes:
        fixed: Seconds of computation that every worker spends, whatever its rows.
        row: Seconds of computation for a row of the batch.
        hop: Seconds from one worker to the next that do not depend on the size.
        bandwidth: Bytes a second from one worker to the next.
    """

    fixed: float
    row: float
    hop: float
    bandwidth: float


def communication(c: Constants, workers: int) -> float:
    """Return the seconds of a ring all-reduce of the gradients.

    Each worker sends 2·(W-1) times a W-th of them to the next one.
    """
    n_bytes = 4 * NETWORK.parameters
    return 2 * (workers - 1) * (c.hop + n_bytes / workers / c.bandwidth)


def step_seconds(c: Constants, *, rows: int, workers: int) -> float:
    """Return the seconds of a step.

    Args:
        c: The constants.
        rows: Of the whole batch; the worker with most of them decides.
        workers: How many there are.

    Returns:
        Computation, then communication: they do not overlap.
    """
    return c.fixed + c.row * -(-rows // workers) + communication(c, workers)


def over(network: str, c: Constants) -> Constants:
    """Put a network between the workers, to what the software itself takes."""
    bandwidth, latency = NETWORKS[network]
    return c._replace(hop=c.hop + latency, bandwidth=1 / (1 / c.bandwidth + 1 / bandwidth))


# --- one worker ---------------------------------------------------------------


def timed(kinds: dict[str, Callable[[], Any]], *, n: int) -> dict[str, float]:
    """Return the median seconds of each kind of step.

    They take turns, so that whatever else the machine does meets all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(n + 4):
        for name, step in kinds.items():
            before = time.perf_counter()
            step()
            if turn >= 4:  # the first ones trace and warm up
                seconds[name].append(time.perf_counter() - before)
    return {name: statistics.median(found) for name, found in seconds.items()}


def work(cluster: Cluster | None, *, n: int) -> dict[str, float]:
    """Measure as one worker; all of them do the same at the same time."""
    index = 0 if cluster is None else cluster.index
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    start_tensorflow(threads=1, random_seed=0, parts=1, starts_runtime=cluster is None)
    import tensorflow as tf

    from charlstm.distribution import join
    from charlstm.trainers import StreamTrainer, TrainerState

    ids = np.random.default_rng(0).integers(0, 65, 400_000).astype(np.uint8)

    def step_of(rows: int, make: Callable[..., StreamTrainer]) -> Callable[[], None]:
        config = TrainingConfig(batch_size=rows, dropout=0.3, threads=1)
        trainer = make(NETWORK, config, ids)
        state = TrainerState(total_steps=1_000_000)

        def step() -> None:
            trainer.train_step(state)
            state.step += 1

        return step

    if cluster is None:
        return timed({f"rows_{rows}": step_of(rows, StreamTrainer) for rows in (ROWS, 16, 8)}, n=n)
    group = join(cluster, threads=1, should_stop=lambda: False, note=print)
    workers = cluster.n_workers

    def sums_of(size: int) -> Callable[[], Any]:
        def of_replica() -> tf.Tensor:
            vector = tf.zeros(size)
            for _ in range(CHAIN):
                replica = tf.distribute.get_replica_context()
                vector = replica.all_reduce(tf.distribute.ReduceOp.SUM, vector)
            return vector[0]

        sums = tf.function(lambda: group.strategy.run(of_replica), autograph=False)
        return lambda: float(sums())

    found = timed(
        {
            "sum_small": sums_of(4),
            "sum_large": sums_of(NETWORK.parameters),
            # The same computation beside the others', and no sums.
            "alone_batch": step_of(-(-ROWS // workers), StreamTrainer),
            "same_batch": step_of(ROWS, group.make_trainer),
            "alone_share": step_of(ROWS, StreamTrainer),
            "same_share": step_of(ROWS * workers, group.make_trainer),
        },
        n=n,
    )
    group.gather(None)
    time.sleep(1)  # the others may still fetch it from here
    return found | {name: found[name] / CHAIN for name in ("sum_small", "sum_large")}


def measure(workers: int, *, n: int) -> dict[str, float]:
    """Start so many workers and return what the first one measured."""
    command = [sys.executable, __file__, "--steps", str(n), "--worker"]
    if workers == 1:
        told = subprocess.run([*command, "{}"], check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(told.stdout)
    cluster = choose_cluster(workers=None, worker_index=None, local_workers=workers, environment={})
    assert cluster is not None
    children = [
        subprocess.Popen(
            [*command, cluster.as_tf_config(index)],
            stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
            text=True,
        )
        for index in range(workers)
    ]
    told = children[0].communicate()[0]
    if any(child.wait() for child in children):
        raise SystemExit(f"a worker of {workers} failed")
    return json.loads(told)


# --- the tables ---------------------------------------------------------------


def constants_of(measured: dict[str, dict[str, float]]) -> Constants:
    """Fit the formula to one worker's steps and the sums of two."""
    alone, two = measured["1"], measured["2"]
    row = (alone[f"rows_{ROWS}"] - alone["rows_8"]) / (ROWS - 8)
    n_bytes = 4 * NETWORK.parameters
    return Constants(
        fixed=max(0.0, alone["rows_8"] - 8 * row),
        row=row,
        hop=two["sum_small"] / 2,
        bandwidth=n_bytes / (two["sum_large"] - two["sum_small"]),
    )


def check_table(measured: dict[str, dict[str, float]], c: Constants) -> str:
    """Lay the formula beside the measurements."""
    cores = available_cores()
    lines = [
        "| workers | batch | computation, side by side | sums, by the formula | step, by the "
        "formula | step, measured | measured / formula | chars/s | times one worker |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    alone = measured["1"][f"rows_{ROWS}"]
    lines.append(
        f"| 1 | {ROWS} | {alone * 1e3:.1f} ms | | | {alone * 1e3:.1f} ms | | "
        f"{ROWS * NETWORK.seq_length / alone:,.0f} | 1.00 |"
    )
    for workers in map(int, measured):
        found = measured[str(workers)]
        for kind, rows in (("batch", ROWS), ("share", ROWS * workers)):
            if workers == 1:
                continue
            computation, took = found[f"alone_{kind}"], found[f"same_{kind}"]
            # Between processes of one machine a sum is work of its cores, too.
            sums = communication(c, workers) * max(1.0, workers / cores)
            guess = computation + sums
            lines.append(
                f"| {workers} | {rows} | {computation * 1e3:.1f} ms | {sums * 1e3:.1f} ms | "
                f"{guess * 1e3:.1f} ms | {took * 1e3:.1f} ms | {took / guess:.2f} | "
                f"{rows * NETWORK.seq_length / took:,.0f} | {rows / took / (ROWS / alone):.2f} |"
            )
    return "\n".join(lines)


def sums_table(measured: dict[str, dict[str, float]], c: Constants) -> str:
    """Lay the communication's part of the formula beside the sums."""
    lines = ["| workers | sum of the gradients, measured | by the formula |", "|---:|---:|---:|"]
    for workers in map(int, measured):
        if workers > 1:
            took = measured[str(workers)]["sum_large"]
            guess = communication(c, workers) * max(1.0, workers / available_cores())
            lines.append(f"| {workers} | {took * 1e3:.1f} ms | {guess * 1e3:.1f} ms |")
    return "\n".join(lines)


def prediction_table(c: Constants) -> str:
    """Say what many workers would give, each with as many rows as one alone."""
    alone = step_seconds(c, rows=ROWS, workers=1)
    lines = [
        "| workers | rows in the batch | " + " | ".join(NETWORKS) + " |",
        "|---:|---:|" + "---:|" * len(NETWORKS),
    ]
    for workers in MANY:
        cells = []
        for network in NETWORKS:
            took = step_seconds(over(network, c), rows=ROWS * workers, workers=workers)
            gain = workers * alone / took
            cells.append(f"{took * 1e3:.0f} ms, {gain:,.0f} times, {gain / workers:.0%}")
        lines.append(f"| {workers:,} | {ROWS * workers:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(content: dict[str, Any]) -> str:
    """Write all tables."""
    measured = content["measured"]
    c = Constants(**content["constants"])
    return "\n\n".join(
        [
            f"{content['machine']}; {content['date']}; medians of {content['rounds']} rounds of "
            f"{content['steps']} steps; other programs took "
            f"{content['others']:.0%} of all cores meanwhile",
            f"computation {c.fixed * 1e3:.2f} ms + {c.row * 1e3:.3f} ms a row; "
            f"hop {c.hop * 1e3:.2f} ms; {c.bandwidth / 1e6:,.0f} MB/s between processes; "
            f"gradients {4 * NETWORK.parameters / 1e6:.2f} MB",
            check_table(measured, c),
            sums_table(measured, c),
            prediction_table(c),
        ]
    )


def main() -> None:
    """Measure in turns, write the raw numbers and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        environment = {"TF_CONFIG": arguments.worker}
        cluster = choose_cluster(
            workers=None, worker_index=None, local_workers=None, environment=environment
        )
        found = work(cluster, n=arguments.steps)
        sys.stdout.write(json.dumps(found))
        sys.stdout.flush()
        os._exit(0)
    if arguments.predict:
        print(report(json.loads(RESULTS.read_text())))
        return
    from article import cpu_times, share_of_others
    from training import describe_machine

    if arguments.quick:
        arguments.rounds, arguments.steps = 1, 5
    rounds: list[dict[str, dict[str, float]]] = []
    others = []
    for _ in range(arguments.rounds):
        before = cpu_times()
        rounds.append({str(w): measure(w, n=arguments.steps) for w in WORKERS})
        others.append(share_of_others(before, cpu_times()) or 0.0)
    measured = {
        workers: {key: statistics.median(r[workers][key] for r in rounds) for key in found}
        for workers, found in rounds[0].items()
    }
    content = {
        "machine": describe_machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "others": statistics.mean(others),
        "constants": constants_of(measured)._asdict(),
        "measured": measured,
        "raw": rounds,
    }
    if not arguments.quick:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    print(report(content))


if __name__ == "__main__":
    main()
