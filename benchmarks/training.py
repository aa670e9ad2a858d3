"""Training speed beside stock Keras and PyTorch, and the share of the ceiling.

    python benchmarks/training.py            # the table in README.md
    python benchmarks/training.py --quick    # a smoke run

All sides do the same work: two LSTM layers of 300 units, a softmax, batch 32,
windows of 50, loss at every position, dropout after each layer, carried state,
clipped gradient, Adam, single precision, all cores. Each side is a process of
its own; the sides take turns, round after round, so that a slow minute of the
machine hits all of them. PyTorch is measured where it is installed
(`pip install torch`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.backend import available_cores, start_tensorflow

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "training.json"
UNITS, LAYERS, SEQ_LENGTH = 300, 2, 50
DROPOUT = 0.3
VOCABULARY_SIZE = 65
SIDES = ("charlstm", "keras", "torch")
NAMES = {"charlstm": "charlstm", "keras": "stock Keras `LSTM`", "torch": "PyTorch `nn.LSTM`"}


def random_ids() -> np.ndarray:
    """Make a text of random characters: speed does not depend on sense."""
    return np.random.default_rng(0).integers(0, VOCABULARY_SIZE, 200_000).astype(np.uint8)


def charlstm_step(batch_size: int) -> Callable[[], None]:
    """Return a function that takes one of charlstm's own steps."""
    from charlstm.config import NetworkConfig, TrainingConfig

    config = TrainingConfig(
        batch_size=batch_size, dropout=DROPOUT, threads=available_cores(), learning_rate=1e-3
    )
    start_tensorflow(threads=config.threads, random_seed=0, parts=config.n_parts)
    from charlstm.trainers import StreamTrainer, TrainerState

    network = NetworkConfig(vocabulary_size=VOCABULARY_SIZE)
    trainer = StreamTrainer(network, config, random_ids())
    state = TrainerState(total_steps=10_000)

    def step() -> None:
        trainer.train_step(state)
        state.step += 1

    return step


def keras_step(batch_size: int) -> Callable[[], None]:
    """Return a function that takes the same step with stock Keras layers."""
    start_tensorflow(threads=available_cores(), random_seed=0, parts=1)
    import keras
    import tensorflow as tf

    from charlstm.batching import Streams

    size = VOCABULARY_SIZE
    streams = Streams(random_ids(), batch_size, SEQ_LENGTH, 0)
    lstms = [
        keras.layers.LSTM(UNITS, return_sequences=True, return_state=True) for _ in range(LAYERS)
    ]
    dense = keras.layers.Dense(size)
    width = size
    for lstm in lstms:
        lstm.build((batch_size, SEQ_LENGTH, width))
        width = UNITS
    dense.build((batch_size, SEQ_LENGTH, width))
    variables = [w for layer in (*lstms, dense) for w in layer.trainable_variables]
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)

    @tf.function
    def train(inputs: Any, targets: Any, states: Any) -> Any:
        after = []
        with tf.GradientTape() as tape:
            x = tf.one_hot(inputs, size)
            for lstm, state in zip(lstms, states, strict=True):
                x, h, c = lstm(x, initial_state=state)
                x = tf.nn.dropout(x, DROPOUT)
                after.append([h, c])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, dense(x))
            loss = tf.reduce_mean(losses)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
        optimizer.apply(gradients, variables)
        return loss, after

    zeros = tf.zeros((batch_size, UNITS))
    memory: dict[str, Any] = {"step": 0, "states": [[zeros, zeros] for _ in lstms]}

    def step() -> None:
        inputs, targets, _ = streams.batch(memory["step"])
        loss, memory["states"] = train(tf.constant(inputs), tf.constant(targets), memory["states"])
        float(loss)
        memory["step"] += 1

    return step


def torch_step(batch_size: int) -> Callable[[], None]:
    """Return a function that takes the same step with PyTorch."""
    import torch

    from charlstm.batching import Streams

    torch.set_num_threads(available_cores())
    torch.manual_seed(0)
    size = VOCABULARY_SIZE
    streams = Streams(random_ids(), batch_size, SEQ_LENGTH, 0)
    lstm = torch.nn.LSTM(size, UNITS, LAYERS, dropout=DROPOUT, batch_first=True)
    drop = torch.nn.Dropout(DROPOUT)
    dense = torch.nn.Linear(UNITS, size)
    parameters = [*lstm.parameters(), *dense.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    zeros = torch.zeros(LAYERS, batch_size, UNITS)
    memory: dict[str, Any] = {"step": 0, "state": (zeros, zeros)}

    def step() -> None:
        inputs, targets, _ = streams.batch(memory["step"])
        x = torch.nn.functional.one_hot(torch.from_numpy(inputs).long(), size).float()
        outputs, (h, c) = lstm(x, memory["state"])
        logits = dense(drop(outputs))
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, size), torch.from_numpy(targets).long().reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        memory["state"] = (h.detach(), c.detach())
        loss.item()
        memory["step"] += 1

    return step


def measure(side: str, *, batch_size: int, steps: int, started: float) -> dict[str, float]:
    """Time one side's steps in this process.

    Args:
        side: One of `SIDES`.
        batch_size: Rows.
        steps: Steps to time; a quarter as many warm up.
        started: When the process was started, by `time.time`.

    Returns:
        `first_step`: seconds from the start to the end of the first step;
        `chars_per_second`: of the median step.
    """
    makers = {"charlstm": charlstm_step, "keras": keras_step, "torch": torch_step}
    step = makers[side](batch_size)
    step()
    first_step = time.time() - started
    for _ in range(steps // 4):
        step()
    times = []
    for _ in range(steps):
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return {
        "first_step": first_step,
        "chars_per_second": batch_size * SEQ_LENGTH / statistics.median(times),
    }


def fit_first_step(batch_size: int, *, started: float) -> dict[str, float]:
    """Time the start of the same network in stock Keras with `fit`.

    Args:
        batch_size: Rows.
        started: When the process was started, by `time.time`.

    Returns:
        `first_step`: seconds from the start to the end of the first step.
    """
    import keras

    from charlstm.batching import Streams

    inputs, targets, _ = Streams(random_ids(), batch_size, SEQ_LENGTH, 0).batch(0)
    layers: list[Any] = [keras.Input((SEQ_LENGTH, VOCABULARY_SIZE))]
    for _ in range(LAYERS):
        layers += [keras.layers.LSTM(UNITS, return_sequences=True), keras.layers.Dropout(DROPOUT)]
    model = keras.Sequential([*layers, keras.layers.Dense(VOCABULARY_SIZE)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3, clipnorm=1.0), loss=loss)
    rows = keras.utils.to_categorical(inputs, VOCABULARY_SIZE)
    model.fit(rows, targets, batch_size=batch_size, verbose=0)
    return {"first_step": time.time() - started}


def command_first_step() -> float:
    """Start `charlstm train` in an empty folder and wait until it tells of its first step."""
    command = [sys.executable, "-m", "charlstm", "train", "macbeth.txt", "--epochs", "1"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stderr is not None
            for line in child.stderr:
                if re.search(r"\bstep 1\b", line):
                    break
            seconds = time.time() - started
            child.terminate()
            child.stderr.read()
    return seconds


def measure_ceiling(batch_size: int) -> dict[str, float]:
    """Time TensorFlow's own product at the shape of the recurrence, on one thread.

    The ceiling is what the training products would reach if all of them ran at
    that speed on every core: 3 · 2 multiply-adds for each weight and character.
    """
    start_tensorflow(threads=1, random_seed=0, parts=1)
    import tensorflow as tf

    rows = max(1, batch_size // available_cores())
    n_products = 200

    @tf.function
    def products(h: Any, kernel: Any) -> Any:
        for _ in range(n_products):
            h = tf.matmul(h, kernel)[:, :UNITS]
        return h

    h, kernel = tf.random.normal((rows, UNITS)), tf.random.normal((UNITS, 4 * UNITS)) * 0.05
    products(h, kernel)
    times = []
    for _ in range(60):
        before = time.perf_counter()
        products(h, kernel).numpy()
        times.append(time.perf_counter() - before)
    flops = 2 * rows * UNITS * 4 * UNITS * n_products / statistics.median(times)
    weights = 3 * UNITS * 4 * UNITS + UNITS * VOCABULARY_SIZE  # layer 1 looks its input up
    return {"gflops": flops / 1e9, "chars_per_second": flops / (6 * weights)}


def in_process(*arguments: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    return in_processes(1, *arguments)[0]


def in_processes(n: int, *arguments: str) -> list[dict[str, float]]:
    """Run a measurement in several processes at once.

    Cores that share their arithmetic units, as hyper-threads do, are then
    slower than one of them alone.
    """
    command = [sys.executable, __file__, *arguments, "--started", repr(time.time())]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"failed: {' '.join(command)}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def spread(values: list[float], form: str = "{:,.0f}") -> str:
    """Write median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{form} [{form}-{form}]".format(middle, low, high)


def describe_machine() -> str:
    """Name the processor, its vector instructions and the versions."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    cpu, flags = platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        cpu = next(line.split(":")[1].strip() for line in text.splitlines() if "model name" in line)
        flags = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else "no AVX2"
    versions = []
    for package in ("charlstm", "tensorflow", "tensorflow-cpu", "keras", "numpy", "torch"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{cpu}, {available_cores()} cores, {flags}; Python {platform.python_version()}, " + (
        ", ".join(versions)
    )


def main() -> None:
    """Measure in rounds, print the table, write the raw numbers."""
    parser = argparse.ArgumentParser(description="Training speed beside its rivals.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean little")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--side", choices=[*SIDES, "fit", "ceiling"], help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = 4 if args.quick else 30
    if args.side == "ceiling":
        print(json.dumps(measure_ceiling(args.batch_size)))
        return
    if args.side == "fit":
        print(json.dumps(fit_first_step(args.batch_size, started=args.started)))
        return
    if args.side:
        print(
            json.dumps(
                measure(args.side, batch_size=args.batch_size, steps=steps, started=args.started)
            )
        )
        return
    sides = [s for s in SIDES if s != "torch" or importlib.util.find_spec("torch")]
    quick = ["--quick"] if args.quick else []
    batch = ["--batch-size", str(args.batch_size)]
    results: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    alone, together, fits, commands = [], [], [], []
    for _ in range(1 if args.quick else args.rounds):
        for side in sides:
            results[side].append(in_process("--side", side, *batch, *quick))
        fits.append(in_process("--side", "fit", *batch)["first_step"])
        commands.append(command_first_step())
        ceiling = ("--side", "ceiling", *batch)
        alone.append(in_process(*ceiling)["chars_per_second"] * available_cores())
        at_once = in_processes(available_cores(), *ceiling)
        together.append(sum(r["chars_per_second"] for r in at_once))
    speeds = {side: [r["chars_per_second"] for r in rounds] for side, rounds in results.items()}
    ours = statistics.median(speeds["charlstm"])
    print(
        f"{describe_machine()}\nbatch {args.batch_size}, window {SEQ_LENGTH}, {args.rounds} rounds"
    )
    print("\n| side | characters/s | charlstm is | start to first step, s |\n|---|---|---|---|")
    for side in sides:
        ratio = ours / statistics.median(speeds[side])
        first = spread([r["first_step"] for r in results[side]], "{:.1f}")
        print(f"| {NAMES[side]} | {spread(speeds[side])} | {ratio:.2f} times | {first} |")
    for name, ceilings in (
        ("ceiling: one core alone, times the cores", alone),
        ("ceiling: all cores at once", together),
    ):
        share = ours / statistics.median(ceilings)
        print(f"| {name} | {spread(ceilings)} | {share:.0%} of it | |")
    print("\n| from starting the process to the end of the first step | seconds |\n|---|---|")
    print(f"| `charlstm train macbeth.txt`, the whole command | {spread(commands, '{:.1f}')} |")
    print(f"| the same network in stock Keras with `fit` | {spread(fits, '{:.1f}')} |")
    output = args.output or (None if args.quick else RESULTS)
    if output is not None:
        ceilings = {"ceiling_alone": alone, "ceiling_at_once": together}
        ceilings |= {"first_step_of_command": commands, "first_step_of_fit": fits}
        content = {"machine": describe_machine(), "batch_size": args.batch_size}
        content |= {**results, **ceilings}
        output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main()
