"""Steps on several devices of one process, beside the same steps on one.

    python replicas.py N_REPLICAS BATCH_SIZE THREADS N_DOCUMENTS

The devices are pieces of the CPU, so it needs a process of its own: they must
be there before TensorFlow's runtime starts. Prints one JSON object: losses,
the largest difference between the weights and carried states of both sides,
and the losses of a third side that goes on from the second one's third step.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from charlstm.backend import start_tensorflow
from charlstm.config import NetworkConfig, TrainingConfig


def main() -> None:
    n_replicas, batch_size, threads, n_documents = map(int, sys.argv[1:])
    start_tensorflow(threads=1, random_seed=0, parts=1, starts_runtime=False)
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    pieces = [tf.config.LogicalDeviceConfiguration() for _ in range(n_replicas)]
    tf.config.set_logical_device_configuration(cpu, pieces)
    from charlstm.distribution import Group
    from charlstm.model import get_weights
    from charlstm.trainers import StreamTrainer, TrainerState

    network = NetworkConfig(vocabulary_size=7, units=6, seq_length=9)
    config = TrainingConfig(
        batch_size=batch_size, dropout=0.3, recurrent_dropout=0.2, threads=threads
    )
    ids = np.random.default_rng(3).integers(0, 7, 90 * batch_size).astype(np.uint8)
    starts = np.sort(np.random.default_rng(4).integers(0, len(ids), n_documents))
    documents = None if n_documents == 1 else np.concatenate([[0], starts]).astype("<u8")
    alone = StreamTrainer(network, config, ids, documents)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(n_replicas)])
    together = Group(strategy).make_trainer(network, config, ids, documents)

    def steps(trainer: StreamTrainer, first: int, last: int) -> list[float]:
        return [trainer.train_step(TrainerState(step=n))[0] for n in range(first, last)]

    losses = {"alone": steps(alone, 0, 6), "together": steps(together, 0, 3)}
    weights, arrays = get_weights(together.model), together.arrays()
    losses["together"] += steps(together, 3, 6)
    mine = get_weights(alone.model) | alone.arrays()
    others = get_weights(together.model) | together.arrays()
    evaluated = [trainer.evaluate(ids[:500], documents=documents) for trainer in (alone, together)]
    off = {name: float(np.abs(mine[name] - others[name]).max()) for name in mine}
    together.restore(weights, arrays)
    losses["again"] = losses["together"][:3] + steps(together, 3, 6)
    print(json.dumps({"losses": losses, "off": off, "evaluated": evaluated}))  # noqa: T201


if __name__ == "__main__":
    main()
