"""A stateful step in TensorFlow: the quicker rival of `generation.py`.

What somebody writes who knows that `predict` is slow: the default recipe's two
layers and softmax, one character at a time, the states in variables, the step
one `tf.function`, the character drawn in NumPy as charlstm does. The weights
are random: they do not change the speed.

    python benchmarks/tf_step.py --length 2000 --samples 1
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import tensorflow as tf

UNITS, VOCABULARY_SIZE = 300, 65
TEMPERATURE = 0.6


def main() -> None:
    """Write so many characters; the first of the samples is printed as it comes."""
    parser = argparse.ArgumentParser(description="Text by a stateful tf.function step.")
    parser.add_argument("--length", type=int, default=2_000)
    parser.add_argument("--samples", type=int, default=1)
    args = parser.parse_args()
    cells = [tf.keras.layers.LSTMCell(UNITS) for _ in range(2)]
    dense = tf.keras.layers.Dense(VOCABULARY_SIZE)
    state = [tf.Variable(tf.zeros((args.samples, UNITS))) for _ in range(4)]

    @tf.function
    def step(ids: tf.Tensor) -> tf.Tensor:
        x = tf.one_hot(ids, VOCABULARY_SIZE)
        for layer, cell in enumerate(cells):
            h, c = state[2 * layer], state[2 * layer + 1]
            x, (new_h, new_c) = cell(x, [h, c])
            h.assign(new_h)
            c.assign(new_c)
        return dense(x)

    rng = np.random.default_rng(0)
    ids = np.zeros(args.samples, np.int32)
    for _ in range(args.length):
        logits = step(tf.constant(ids)).numpy() / TEMPERATURE
        cumulative = np.exp(logits - logits.max(axis=-1, keepdims=True)).cumsum(axis=-1)
        points = rng.random((args.samples, 1)) * cumulative[:, -1:]
        ids = (cumulative > points).argmax(axis=-1).astype(np.int32)
        sys.stdout.write(chr(60 + int(ids[0])))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
