"""The article's own code, as its reader would type it: the rival of `article.py`.

Stock Keras throughout. Text in lower case, Python lists of all windows,
`(N, 50, 1)` inputs divided by the vocabulary's size, one-hot labels,
`model.fit` with batches of 30, and one `model.predict` for each character
written. Where a choice had to be made it is the faster one, and the comment
says so: the rival is not to be slowed down.

Run by `article.py`; each command is one process:

    python benchmarks/article_code.py prepare corpora/macbeth.txt
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path

import keras
import numpy as np

SEQ_LENGTH = 50
BATCH_SIZE = 30
RANDOM_SEED = 0


def read_text(path: Path) -> tuple[str, dict[str, int], dict[int, str]]:
    """Read a text in lower case and number its characters.

    Args:
        path: A UTF-8 text.

    Returns:
        The text, `char_to_int` and `int_to_char`.
    """
    text = path.read_text(encoding="utf-8").lower()
    characters = sorted(set(text))
    char_to_int = {character: n for n, character in enumerate(characters)}
    return text, char_to_int, dict(enumerate(characters))


def prepare(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Make every window and its label.

    Args:
        path: A UTF-8 text.

    Returns:
        `(windows, 50, 1)` inputs, `(windows, vocab)` one-hot labels, and the
        vocabulary's size.
    """
    text, char_to_int, _ = read_text(path)
    data_x: list[list[int]] = []
    data_y: list[int] = []
    for start in range(len(text) - SEQ_LENGTH):
        window = text[start : start + SEQ_LENGTH]
        data_x.append([char_to_int[character] for character in window])
        data_y.append(char_to_int[text[start + SEQ_LENGTH]])
    inputs = np.reshape(data_x, (len(data_x), SEQ_LENGTH, 1)) / float(len(char_to_int))
    labels = keras.utils.to_categorical(data_y, num_classes=len(char_to_int))
    return inputs, labels, len(char_to_int)


def build_model(vocabulary_size: int) -> keras.Sequential:
    """Build and compile the article's network.

    Args:
        vocabulary_size: Width of the softmax.

    Returns:
        A model from `(batch, 50, 1)` to `(batch, vocab)`.
    """
    model = keras.Sequential(
        [
            keras.Input((SEQ_LENGTH, 1)),
            keras.layers.LSTM(300, return_sequences=True),
            keras.layers.Dropout(0.2),
            keras.layers.LSTM(300),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(vocabulary_size, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


class BatchTimer(keras.callbacks.Callback):
    """Times some batches in the middle of a `fit`, then ends it.

    Args:
        warm_up: Batches that are not timed; the first traces the graph.
        batches: Batches that are.
    """

    def __init__(self, *, warm_up: int, batches: int) -> None:
        """Wait for the first batch."""
        super().__init__()
        self.warm_up = warm_up
        self.batches = batches
        self.n_done = 0
        self.started = 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Read the clock; `logs` holds the loss as a number, so the batch is done."""
        self.n_done += 1
        if self.n_done == 1:
            print("first step", flush=True)
        if self.n_done == self.warm_up:
            self.started = time.perf_counter()
        if self.n_done == self.warm_up + self.batches:
            self.seconds = time.perf_counter() - self.started
            self.model.stop_training = True


def run_prepare(path: Path) -> None:
    """Prepare a text; tell what that took beyond the imports."""
    mb_at_imports = peak_mb()
    started = time.perf_counter()
    inputs, _, vocabulary_size = prepare(path)
    seconds = time.perf_counter() - started
    tell(
        seconds=seconds,
        mb_at_imports=mb_at_imports,
        windows=len(inputs),
        vocabulary_size=vocabulary_size,
    )


def run_train(path: Path, *, warm_up: int, batches: int, save: Path | None) -> None:
    """Begin the article's `fit` on the whole text and time some of its batches."""
    keras.utils.set_random_seed(RANDOM_SEED)
    inputs, labels, vocabulary_size = prepare(path)
    model = build_model(vocabulary_size)
    timer = BatchTimer(warm_up=warm_up, batches=batches)
    # Without the progress bar, which costs a little.
    model.fit(inputs, labels, batch_size=BATCH_SIZE, epochs=1, verbose=0, callbacks=[timer])
    if save is not None:
        model.save(save)
    tell(
        seconds=timer.seconds,
        steps=batches,
        predictions=batches * BATCH_SIZE,
        predictions_per_epoch=len(inputs),
        batch_size=BATCH_SIZE,
        vocabulary_size=vocabulary_size,
        parameters=model.count_params(),
    )


class StepClock(keras.callbacks.Callback):
    """Notes when the first batch ends."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Read the clock once."""
        if batch == 0:
            self.first_step = time.perf_counter()


def run_epoch(path: Path, *, val_fraction: float, epochs: float, started: float) -> None:
    """Train for an epoch on the beginning of a text and take the loss on its end.

    Args:
        path: A UTF-8 text.
        val_fraction: Share of it, the end, whose characters are predicted and
            not learned from, each from the 50 before it.
        epochs: 1, or a small part of one for a smoke run.
        started: When the process was started, by `time.time`.
    """
    keras.utils.set_random_seed(RANDOM_SEED)
    inputs, labels, vocabulary_size = prepare(path)
    n_val = int((len(inputs) + SEQ_LENGTH) * val_fraction)
    n_train = int((len(inputs) - n_val) * epochs)
    model = build_model(vocabulary_size)
    clock = StepClock()
    model.fit(
        inputs[:n_train], labels[:n_train], batch_size=BATCH_SIZE, verbose=0, callbacks=[clock]
    )
    seconds, whole = time.perf_counter() - clock.first_step, time.time() - started
    probabilities = model.predict(inputs[-n_val:], batch_size=500, verbose=0)
    of_label = (probabilities * labels[-n_val:]).sum(axis=1)
    tell(
        seconds=seconds,
        seconds_in_all=whole,
        steps=-(-n_train // BATCH_SIZE),
        characters=n_train,
        val_characters=n_val,
        loss=float(-np.log(of_label).mean()),
    )


def run_generate(path: Path, *, model_file: Path, length: int) -> None:
    """Write text from a random window, one `predict` for each character."""
    model = keras.models.load_model(model_file)
    # The article's script makes all windows again to pick one; this one does not.
    text, char_to_int, int_to_char = read_text(path)
    start = random.Random(RANDOM_SEED).randrange(len(text) - SEQ_LENGTH)
    window = [char_to_int[character] for character in text[start : start + SEQ_LENGTH]]
    for _ in range(length):
        x = np.reshape(window, (1, SEQ_LENGTH, 1)) / float(len(char_to_int))
        index = int(np.argmax(model.predict(x, verbose=0)))
        sys.stdout.write(int_to_char[index])
        sys.stdout.flush()
        window = [*window[1:], index]


def peak_mb() -> float:
    """Return the most memory that this process has held, in 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def tell(**numbers: float) -> None:
    """Print the result as one line of JSON."""
    print(json.dumps(numbers), flush=True)


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description="The article's code, in parts.")
    parser.add_argument("command", choices=["prepare", "train", "epoch", "generate"])
    parser.add_argument("text", type=Path)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--val-fraction", type=float, default=0.1)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--started", type=float, default=time.time())
    args = parser.parse_args()
    if args.command == "prepare":
        run_prepare(args.text)
    elif args.command == "train":
        run_train(args.text, warm_up=args.warm_up, batches=args.batches, save=args.save)
    elif args.command == "epoch":
        run_epoch(
            args.text,
            val_fraction=args.val_fraction,
            epochs=args.epochs,
            started=args.started,
        )
    else:
        run_generate(args.text, model_file=args.model, length=args.length)


if __name__ == "__main__":
    main()
