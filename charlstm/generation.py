"""Writing text: the LSTM step in NumPy, and the loop around it.

TensorFlow takes seconds to import and hundreds of microseconds to start one
step; these few matrix-vector products take neither. Two readers of characters
share one interface: `CarriedState` keeps its state for ever, `SlidingWindow`
(recipe article) reads the last window anew for each character.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from charlstm.checkpoint import Checkpoint
from charlstm.config import NetworkConfig
from charlstm.errors import SeedTextError, printable
from charlstm.sampling import Logits, sample
from charlstm.vocabulary import Vocabulary

# On Macbeth after three minutes, 0.6 wrote 87% real words and repeated itself as
# little as the held-out text (distinct word trigrams 98%); 0.8 wrote 82% real
# words, 0.4 94% with 89% distinct trigrams.
DEFAULT_TEMPERATURE = 0.6

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.integer]


class LSTMState:
    """The hidden and cell states of all layers for a batch of texts.

    Attributes:
        h: One `(batch, units)` float32 array a layer.
        c: Likewise.
    """

    def __init__(self, network: NetworkConfig, batch: int) -> None:
        """Start from zero."""
        shape = (batch, network.units)
        self.h = [np.zeros(shape, np.float32) for _ in range(network.layers)]
        self.c = [np.zeros(shape, np.float32) for _ in range(network.layers)]


class LSTMStep:
    """The network, one character at a time.

    With the gates packed i, f, g, o and σ(x) = (1 + tanh(x/2)) / 2, one tanh
    serves all four: the columns of i, f and o are halved once, here, which is
    exact in floating point. The steps are those of Hochreiter & Schmidhuber
    (1997) with the forget gate of Gers et al. (2000):

        i, f, o = σ(x·K + h·R + b),  g = tanh(x·K + h·R + b)
        c ← f·c + i·g,  h ← o·tanh(c)

    Args:
        network: The network's shape.
        weights: Float32 arrays named and shaped as in
            `checkpoint.weight_shapes`.
    """

    def __init__(self, network: NetworkConfig, weights: Mapping[str, Floats]) -> None:
        """Fold the biases in and put each layer's two kernels into one."""
        self.network = network
        units = network.units
        half = np.ones(4 * units, np.float32)
        half[: 2 * units] = 0.5
        half[3 * units :] = 0.5

        def halved(name: str) -> Floats:
            array: Floats = np.ascontiguousarray(weights[name] * half)
            return array

        # Layer 1 looks its input up: a one-hot row times the kernel is a row
        # of the kernel.
        if network.input == "one_hot":
            self._input_table = halved("lstm_1/kernel") + halved("lstm_1/bias")
        else:
            scaled = np.arange(network.vocabulary_size, dtype=np.float32)[:, None]
            scaled /= np.float32(network.vocabulary_size)
            self._input_table = scaled * halved("lstm_1/kernel") + halved("lstm_1/bias")
        self._recurrent = halved("lstm_1/recurrent_kernel")
        # The layers above take [below, own] in one product: (2·units, 4·units).
        self._stacked = [
            np.concatenate([halved(f"lstm_{n}/kernel"), halved(f"lstm_{n}/recurrent_kernel")])
            for n in range(2, network.layers + 1)
        ]
        self._biases = [halved(f"lstm_{n}/bias") for n in range(2, network.layers + 1)]
        self._dense = np.ascontiguousarray(weights["dense/kernel"])
        self._dense_bias = weights["dense/bias"]

    def advance(self, ids: Ids, state: LSTMState) -> None:
        """Read one character of each text.

        Args:
            ids: `(batch,)` integers.
            state: Changed in place.
        """
        z = self._input_table[ids]  # (batch, 4 * units)
        z += state.h[0] @ self._recurrent
        self._gate(z, 0, state)
        for layer in range(1, self.network.layers):
            both = np.concatenate((state.h[layer - 1], state.h[layer]), axis=1)
            z = both @ self._stacked[layer - 1]
            z += self._biases[layer - 1]
            self._gate(z, layer, state)

    def _gate(self, z: Floats, layer: int, state: LSTMState) -> None:
        units = self.network.units
        np.tanh(z, out=z)
        g = z[:, 2 * units : 3 * units].copy()
        z *= np.float32(0.5)
        z += np.float32(0.5)
        c, h = state.c[layer], state.h[layer]
        c *= z[:, units : 2 * units]
        g *= z[:, :units]
        c += g
        np.tanh(c, out=h)
        h *= z[:, 3 * units :]

    def logits(self, state: LSTMState) -> Logits:
        """Score what may come next.

        Args:
            state: After `advance`.

        Returns:
            `(batch, vocab)` float32.
        """
        logits: Logits = state.h[-1] @ self._dense
        logits += self._dense_bias
        return logits


class Reader(Protocol):
    """Reads characters and says what may come next."""

    def feed(self, ids: Ids) -> Logits:
        """Read one character of each text, `(batch,)`, and return `(batch, vocab)` logits."""
        ...


class CarriedState:
    """A reader whose state has no horizon.

    Args:
        step: The network.
        batch: Texts read side by side.
    """

    def __init__(self, step: LSTMStep, *, batch: int) -> None:
        """Start from a zero state."""
        self._step = step
        self._state = LSTMState(step.network, batch)

    def feed(self, ids: Ids) -> Logits:
        """Read one character of each text.

        Args:
            ids: `(batch,)` integers.

        Returns:
            `(batch, vocab)` float32 logits of the next.
        """
        self._step.advance(ids, self._state)
        return self._step.logits(self._state)


class SlidingWindow:
    """A reader that starts from zero and reads the last window for each character.

    Args:
        step: The network.
        batch: Texts read side by side.
    """

    def __init__(self, step: LSTMStep, *, batch: int) -> None:
        """Start with an empty window."""
        self._step = step
        self._batch = batch
        self._window: collections.deque[Ids] = collections.deque(maxlen=step.network.seq_length)

    @property
    def horizon(self) -> int:
        """Characters that it looks back."""
        return self._step.network.seq_length

    def remember(self, ids: Ids) -> None:
        """Put `(batch,)` ids into the window without asking what comes next."""
        self._window.append(ids)

    def feed(self, ids: Ids) -> Logits:
        """Read one character of each text.

        Args:
            ids: `(batch,)` integers.

        Returns:
            `(batch, vocab)` float32 logits of the next.
        """
        self.remember(ids)
        state = LSTMState(self._step.network, self._batch)
        for column in self._window:
            self._step.advance(column, state)
        return self._step.logits(state)


def make_reader(step: LSTMStep, *, batch: int) -> Reader:
    """Choose the reader that fits how the network was trained.

    Args:
        step: The network.
        batch: Texts read side by side.

    Returns:
        A reader that has read nothing.
    """
    if step.network.carries_state:
        return CarriedState(step, batch=batch)
    return SlidingWindow(step, batch=batch)


def default_temperature(network: NetworkConfig) -> float:
    """Return the temperature to write with: the article's network takes the likeliest.

    Args:
        network: The network's shape.

    Returns:
        0 for recipe article, else `DEFAULT_TEMPERATURE`.
    """
    return DEFAULT_TEMPERATURE if network.carries_state else 0.0


def one_blas_thread() -> Any:
    """Keep BLAS to one thread while text is written.

    These products are far too small to share: with two threads the loop ran
    15 times slower on two cores.

    Returns:
        A context manager.
    """
    import threadpoolctl

    return threadpoolctl.threadpool_limits(1, user_api="blas")


def check_seed_text(
    text: str,
    vocabulary: Vocabulary,
    *,
    skip_unknown: bool = False,
    what: str = "the seed text",
) -> str:
    """Make sure that a model can read a text.

    Args:
        text: A seed or a text to score, cleaned as the corpus was.
        vocabulary: The model's characters.
        skip_unknown: Leave unknown characters out instead of stopping.
        what: What the text is called in the message.

    Returns:
        The text, without unknown characters if they are to be skipped.

    Raises:
        SeedTextError: If there are unknown characters; names each and where
            it stands.
    """
    unknown = vocabulary.unknown(text)
    if not unknown:
        return text
    if skip_unknown:
        return "".join(c for c in text if c in vocabulary)
    first_positions: dict[str, int] = {}
    for position, character in unknown:
        first_positions.setdefault(character, position)
    shown = [
        f"'{printable(c)}' (U+{ord(c):04X}, position {p + 1})" for c, p in first_positions.items()
    ]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    raise SeedTextError(
        f"the model has never seen {', '.join(shown[:8])}{more} of {what}",
        hint="--unknown skip leaves them out",
    )


def pick_seed_window(checkpoint: Checkpoint, rng: np.random.Generator) -> str:
    """Pick one of the windows of the training text that the model carries.

    Args:
        checkpoint: A loaded checkpoint.
        rng: Where the choice comes from.

    Returns:
        The window's text; empty if the model carries none.
    """
    windows = checkpoint.seed_windows
    return windows[int(rng.integers(len(windows)))] if windows else ""


def write_ids(
    reader: Reader,
    seed_ids: Ids,
    *,
    length: int,
    temperature: float,
    rng: np.random.Generator,
) -> Iterator[int]:
    """Read a seed, then write one character after the other.

    Args:
        reader: A reader of batch 1 that has read nothing.
        seed_ids: `(time,)` ids, at least one.
        length: Characters to write.
        temperature: 0 for argmax.
        rng: Where the draws come from.

    Yields:
        The id of each character, as soon as it is known.
    """
    if length < 1:
        return
    logits = _read_seed(reader, seed_ids)
    for n in range(length):
        (next_id,) = sample(logits, temperature=temperature, rngs=[rng])
        yield int(next_id)
        if n + 1 < length:
            logits = reader.feed(np.array([next_id]))


def _read_seed(reader: Reader, seed_ids: Ids) -> Logits:
    # A sliding window forgets what is before it: reading that would be wasted.
    if isinstance(reader, SlidingWindow):
        seed_ids = seed_ids[-reader.horizon :]
        for seed_id in seed_ids[:-1]:
            reader.remember(np.array([seed_id]))
        return reader.feed(np.array(seed_ids[-1:]))
    logits = None
    for seed_id in seed_ids:
        logits = reader.feed(np.array([seed_id]))
    if logits is None:
        raise ValueError("a seed needs at least one character")
    return logits


def generate(
    checkpoint: Checkpoint,
    seed_text: str,
    *,
    length: int,
    temperature: float,
    random_seed: int,
) -> Iterator[str]:
    """Write in the style of a model.

    Args:
        checkpoint: A loaded checkpoint.
        seed_text: What to go on from; only characters that the model knows.
            Empty starts from a newline, or from the first known character.
        length: Characters to write.
        temperature: 0 picks the likeliest, 1 follows the model's
            probabilities; below 1 is safer, above is wilder.
        random_seed: The same number gives the same text on one machine.

    Yields:
        One character after the other.
    """
    vocabulary = checkpoint.vocabulary
    seed_text = seed_text or ("\n" if "\n" in vocabulary else vocabulary.characters[0])
    with one_blas_thread():
        reader = make_reader(LSTMStep(checkpoint.network, checkpoint.weights), batch=1)
        for next_id in write_ids(
            reader,
            vocabulary.encode(seed_text),
            length=length,
            temperature=temperature,
            rng=np.random.default_rng(random_seed),
        ):
            yield vocabulary.characters[next_id]
