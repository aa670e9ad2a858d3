"""Train in processes that are killed at random moments, in a process of its own.

    python killing.py FOLDER N_KILLS RANDOM_SEED TRAIN_ARGUMENT...

TensorFlow is imported once, before its runtime has any thread, and each
session is a fork, so that a kill costs a second and not five. Prints one JSON
object: how many sessions were killed, and how the last one ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

# So many checkpoints a session writes at most, that a fast machine does not come
# to the end before it was killed so often.
STEPS = 12


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(entry.name[5:]) for entry in folder.glob("step-*")), default=0)


def session(arguments: list[str], *, checkpoint_seconds: float) -> None:
    """Run the command in this process."""
    import charlstm.training
    from charlstm.cli import cli

    charlstm.training.CHECKPOINT_SECONDS = checkpoint_seconds
    cli.main(arguments, "charlstm")


def main() -> None:
    folder, n_kills, random_seed, *arguments = sys.argv[1:]
    os.chdir(folder)
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    model = Path("checkpoints", arguments[arguments.index("--model") + 1])
    rng = random.Random(int(random_seed))
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            # One a step, so that most kills come while a checkpoint is written.
            session(arguments, checkpoint_seconds=0 if int(n_kills) else 45)
            os._exit(99)  # not reached: the command ends the process
        ended = None
        if killed < int(n_kills):
            deadline = time.monotonic() + rng.uniform(0.2, 2.5)
            last = newest(model) + rng.randint(1, STEPS)
            while ended is None and time.monotonic() < deadline and newest(model) < last:
                pid, status = os.waitpid(child, os.WNOHANG)
                ended = status if pid else None
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.01))
            if ended is None:
                os.kill(child, signal.SIGKILL)
                killed += 1
        if ended is None:
            _, ended = os.waitpid(child, 0)
        if not os.WIFSIGNALED(ended):
            code = os.waitstatus_to_exitcode(ended)
            sys.stdout.write(json.dumps({"killed": killed, "exit": code}) + "\n")
            return


if __name__ == "__main__":
    main()
