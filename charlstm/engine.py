"""The network in NumPy, one character at a time, and what reads texts with it.

TensorFlow takes seconds to import and hundreds of microseconds to start one
step; these few products take neither. Two readers of characters share one
interface: `CarriedState` keeps its state for ever, `SlidingWindow` (recipe
article) reads the last window anew for each character. `Mixture` reads with
several networks at once.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from charlstm.config import NetworkConfig
from charlstm.sampling import Logits, log_softmax

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.integer]

_HALF = np.float32(0.5)
# The process has one BLAS: who writes text is counted for all of it.
_blas_lock = threading.RLock()
_n_writing = 0
_blas_limits: Any = None


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
        # Scratch of a step, so that none of them allocates.
        self._gates = np.empty((batch, 4 * network.units), np.float32)
        self._candidate = np.empty(shape, np.float32)
        self._below_and_own = np.empty((batch, 2 * network.units), np.float32)

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts, in the order given; one may come twice.

        Args:
            rows: `(new_batch,)` their indices.
        """
        self.h = [h[rows] for h in self.h]
        self.c = [c[rows] for c in self.c]
        if len(rows) != len(self._gates):
            self._gates, self._candidate, self._below_and_own = (
                np.empty((len(rows), scratch.shape[1]), np.float32)
                for scratch in (self._gates, self._candidate, self._below_and_own)
            )


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
        gates, both = state._gates, state._below_and_own
        np.matmul(state.h[0], self._recurrent, out=gates)  # (batch, 4 * units)
        gates += self._input_table[ids]
        self._gate(state, 0)
        for layer in range(1, self.network.layers):
            np.concatenate((state.h[layer - 1], state.h[layer]), axis=1, out=both)
            np.matmul(both, self._stacked[layer - 1], out=gates)
            gates += self._biases[layer - 1]
            self._gate(state, layer)

    def _gate(self, state: LSTMState, layer: int) -> None:
        units = self.network.units
        z, g = state._gates, state._candidate
        self._activate(state, layer)
        c, h = state.c[layer], state.h[layer]
        c *= z[:, units : 2 * units]
        g *= z[:, :units]
        c += g
        np.tanh(c, out=h)
        h *= z[:, 3 * units :]

    def _activate(self, state: LSTMState, layer: int) -> None:
        """Turn the sums of a layer into i, f and o in their columns, and g apart."""
        units = self.network.units
        z = state._gates
        np.tanh(z, out=z)
        state._candidate[:] = z[:, 2 * units : 3 * units]
        z *= _HALF
        z += _HALF

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
    """Reads texts side by side and says what may come next."""

    def read(self, ids: Ids) -> None:
        """Read one character of each text, `(batch,)`."""
        ...

    def logits(self) -> Logits:
        """Return `(batch, vocab)` float32 logits of what comes next."""
        ...

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts, in the order given; one may come twice."""
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

    def read(self, ids: Ids) -> None:
        """Read one character of each text.

        Args:
            ids: `(batch,)` integers.
        """
        self._step.advance(ids, self._state)

    def logits(self) -> Logits:
        """Say what may come next.

        Returns:
            `(batch, vocab)` float32.
        """
        return self._step.logits(self._state)

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts.

        Args:
            rows: `(new_batch,)` their indices.
        """
        self._state.select(rows)


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

    def read(self, ids: Ids) -> None:
        """Put a character of each text into the window.

        Args:
            ids: `(batch,)` integers.
        """
        self._window.append(ids)

    def logits(self) -> Logits:
        """Read the window and say what may come next.

        Returns:
            `(batch, vocab)` float32.
        """
        state = LSTMState(self._step.network, self._batch)
        for column in self._window:
            self._step.advance(column, state)
        return self._step.logits(state)

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts.

        Args:
            rows: `(new_batch,)` their indices.
        """
        self._batch = len(rows)
        self._window = collections.deque(
            (ids[rows] for ids in self._window), maxlen=self._window.maxlen
        )


class Mixture:
    """A reader that asks several, and averages what they say.

    The log-probabilities are averaged by weight, over the characters that all
    of them know: a geometric mean of the distributions, in which each network
    can rule a character out. Each keeps its own state.

    Args:
        readers: One for each network, of one batch.
        own_ids: For each, `(shared,)` its ids of the shared characters.
        weights: For each, above 0; together 1.

    References:
        Hinton, 2002, Training Products of Experts by Minimizing Contrastive
        Divergence (Eq. 1, here with weights).
    """

    def __init__(
        self, readers: Sequence[Reader], *, own_ids: Sequence[Ids], weights: Sequence[float]
    ) -> None:
        """Start with readers that have read nothing."""
        self._readers = readers
        self._own_ids = own_ids
        self._weights = weights

    def read(self, ids: Ids) -> None:
        """Let each read one character of each text.

        Args:
            ids: `(batch,)` integers, ids of the shared characters.
        """
        for reader, own_ids in zip(self._readers, self._own_ids, strict=True):
            reader.read(own_ids[ids])

    def logits(self) -> Logits:
        """Say what may come next.

        Returns:
            `(batch, shared)` float32: weighted means of log-probabilities.
        """
        parts = zip(self._readers, self._own_ids, self._weights, strict=True)
        mean = sum(
            weight * log_softmax(reader.logits())[:, own_ids] for reader, own_ids, weight in parts
        )
        return np.asarray(mean, np.float32)

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts.

        Args:
            rows: `(new_batch,)` their indices.
        """
        for reader in self._readers:
            reader.select(rows)


class Writable:
    """A reader that reads every id and proposes only those that can be written.

    The unknown symbol has the last id. Without its column whatever picks the
    next character sees characters only, so nothing can pick it: no filter,
    argmax or beam needs to know of it, and probabilities are of characters.

    Args:
        reader: Reads, and scores more ids than are wanted.
        n_written: How many, the first.
    """

    def __init__(self, reader: Reader, *, n_written: int) -> None:
        """Go on with what the reader has read."""
        self._reader = reader
        self._n_written = n_written

    def read(self, ids: Ids) -> None:
        """Read one character of each text.

        Args:
            ids: `(batch,)` integers.
        """
        self._reader.read(ids)

    def logits(self) -> Logits:
        """Say what may come next.

        Returns:
            `(batch, n_written)` float32.
        """
        return self._reader.logits()[:, : self._n_written]

    def select(self, rows: Ids) -> None:
        """Go on with some of the texts.

        Args:
            rows: `(new_batch,)` their indices.
        """
        self._reader.select(rows)


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


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread while text is written.

    These products are far too small to share: with two threads the loop ran
    15 times slower on two cores. Two texts may be written in turns, so that
    the first to begin is not the last to end: the one thread stays until all
    have ended.

    Yields:
        Nothing.
    """
    import threadpoolctl

    global _n_writing, _blas_limits
    with _blas_lock:
        if _n_writing == 0:
            _blas_limits = threadpoolctl.threadpool_limits(1, user_api="blas")
        _n_writing += 1
    try:
        yield
    finally:
        with _blas_lock:
            _n_writing -= 1
            if _n_writing == 0:
                _blas_limits.restore_original_limits()
