"""What happens inside the network while it reads: gates, candidates, states.

`observe` reads a text and keeps everything; `ObservedStep` is the step that it
reads with, which can also hold a gate at a value. What the numbers mean is for
`neurons` and `explain` to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from charlstm.config import NetworkConfig
from charlstm.engine import Floats, Ids, LSTMState, LSTMStep, one_blas_thread

Gate = Literal["input", "forget", "output"]
GATES: tuple[Gate, ...] = ("input", "forget", "output")
# In the order of their use: c = forget * cell_before + input * candidate.
QUANTITIES = (
    "input",
    "forget",
    "candidate",
    "output",
    "cell_before",
    "cell",
    "hidden_before",
    "hidden",
)
_WINDOWS_AT_ONCE = 256


class ObservedStep(LSTMStep):
    """The network, one character at a time, with what happened in the last step.

    Args:
        network: The network's shape.
        weights: As for `LSTMStep`.
        held: Gates that are not computed but held at a value, in all layers: 1
            lets everything through, 0 nothing.

    Attributes:
        last: For each layer, `(batch, units)` float32 arrays by the names in
            `QUANTITIES`, of the last character read.
    """

    def __init__(
        self,
        network: NetworkConfig,
        weights: Mapping[str, Floats],
        *,
        held: Mapping[Gate, float] | None = None,
    ) -> None:
        """Start with nothing seen."""
        super().__init__(network, weights)
        units = network.units
        self._columns: dict[Gate, slice] = {
            "input": slice(0, units),
            "forget": slice(units, 2 * units),
            "output": slice(3 * units, 4 * units),
        }
        self._held = dict(held or {})
        self.last: list[dict[str, Floats]] = [{} for _ in range(network.layers)]

    def _gate(self, state: LSTMState, layer: int) -> None:
        seen = self.last[layer]
        seen["cell_before"] = state.c[layer].copy()
        seen["hidden_before"] = state.h[layer].copy()
        super()._gate(state, layer)
        seen["cell"] = state.c[layer].copy()
        seen["hidden"] = state.h[layer].copy()

    def _activate(self, state: LSTMState, layer: int) -> None:
        super()._activate(state, layer)
        for gate, value in self._held.items():
            state._gates[:, self._columns[gate]] = value
        seen = self.last[layer]
        for name, columns in self._columns.items():
            seen[name] = state._gates[:, columns].copy()
        seen["candidate"] = state._candidate.copy()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Everything that a network did while it read a text.

    The arrays of gates and states are `(layers, time, units)` float32. Where
    the state is carried, what stands before a character is what stood after
    the one before it; recipe article reads a window anew for each character,
    so that there it is what stood within that window.

    Attributes:
        ids: `(time,)` what was read.
        input: Input gate i, in [0, 1].
        forget: Forget gate f, in [0, 1].
        candidate: Candidate g, in [-1, 1].
        output: Output gate o, in [0, 1].
        cell_before: Cell state before the character.
        cell: Cell state after it: f·c + i·g.
        hidden_before: Hidden state before the character.
        hidden: Hidden state after it: o·tanh(c).
        logits: `(time, vocab)` float32, what may come after each character.
    """

    ids: Ids
    input: Floats
    forget: Floats
    candidate: Floats
    output: Floats
    cell_before: Floats
    cell: Floats
    hidden_before: Floats
    hidden: Floats
    logits: npt.NDArray[np.float32]


def observe(step: ObservedStep, ids: Ids) -> Activations:
    """Read a text as it is read for writing, and keep what happens.

    Memory: 32 bytes for each unit of each layer and character, so a text of
    300 characters and two layers of 300 units takes 6 MB.

    Args:
        step: The network.
        ids: `(time,)`, at least 1.

    Returns:
        The activations after each character.
    """
    network, n = step.network, len(ids)
    shape = (network.layers, n, network.units)
    seen: dict[str, Floats] = {name: np.empty(shape, np.float32) for name in QUANTITIES}
    logits = np.empty((n, network.vocabulary_size), np.float32)

    def keep(rows: slice, state: LSTMState) -> None:
        for layer, last in enumerate(step.last):
            for name in QUANTITIES:
                seen[name][layer, rows] = last[name]
        logits[rows] = step.logits(state)

    with one_blas_thread():
        n_from_start = n if network.carries_state else min(n, network.seq_length)
        state = LSTMState(network, 1)
        for t in range(n_from_start):
            step.advance(ids[t : t + 1], state)
            keep(slice(t, t + 1), state)
        for first in range(n_from_start, n, _WINDOWS_AT_ONCE):
            ends = np.arange(first, min(first + _WINDOWS_AT_ONCE, n))
            state = LSTMState(network, len(ends))
            for t in range(1 - network.seq_length, 1):
                step.advance(ids[ends + t], state)
            keep(slice(int(ends[0]), int(ends[-1]) + 1), state)
    return Activations(ids=ids, logits=logits, **seen)
