"""TensorFlow's start: quiet, and on the cores that this process may use.

This module itself imports nothing heavy; `start_tensorflow` does, and must be
called before `model`, `trainers` or `training` is imported.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from charlstm.errors import CharlstmError


def available_cores() -> int:
    """Count the cores that this process may use.

    Returns:
        The affinity mask's size, or less where a cgroup (a container) allows
        less; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def process_age() -> float:
    """Return how long ago this process started, in seconds; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        # Field 22, counted from after the command's name, which may hold spaces.
        started = int(Path("/proc/self/stat").read_text().rsplit(")")[-1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, uptime - started / os.sysconf("SC_CLK_TCK"))
    return 0.0


def start_tensorflow(
    *,
    threads: int,
    random_seed: int,
    parts: int,
    device: str = "auto",
    starts_runtime: bool = True,
) -> None:
    """Import TensorFlow without its start-up messages and set its threads.

    Args:
        threads: Cores to use.
        random_seed: For what Keras itself draws (dropout of recipe article).
        parts: Parts of a batch that are trained side by side, as
            `TrainingConfig.n_parts` has it. They share the threads out: two
            on one small matrix product are slower than one alone.
        device: "auto" for GPUs where there are any, "cpu" or "gpu".
        starts_runtime: False if this process joins others, which must be the
            first thing that the runtime does.

    Raises:
        CharlstmError: If a GPU is wanted and TensorFlow can use none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _quiet_stderr():
        import keras
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # already started, as in tests
            tf.config.threading.set_intra_op_parallelism_threads(max(1, threads // parts))
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel("ERROR")
        from charlstm.devices import take_device

        take_device(device)
        keras.utils.set_random_seed(random_seed % 2**32)
        if starts_runtime:
            tf.zeros(1)  # starts the runtime, which has more to say


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what C++ writes to stderr; an error shows it after all."""
    if "CHARLSTM_DEBUG" in os.environ:
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            except CharlstmError:  # says all that is to be said
                raise
            except BaseException:
                held.seek(0)
                os.write(saved, held.read())
                raise
            finally:
                os.dup2(saved, 2)
    finally:
        os.close(saved)
