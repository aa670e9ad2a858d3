"""How well a model predicts a text: nats a character, by the NumPy step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from charlstm.batching import EvaluationRows
from charlstm.errors import InputError
from charlstm.generation import Floats, Ids, LSTMState, LSTMStep, one_blas_thread

_CHUNK = 100
_WINDOWS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Score:
    """A text's loss under a model, kept as a sum and divided once.

    Attributes:
        nats: Sum of -ln p over the scored characters.
        n_scored: Characters scored.
    """

    nats: float
    n_scored: int

    @property
    def nats_per_char(self) -> float:
        """Mean -ln p."""
        return self.nats / self.n_scored

    @property
    def bits_per_char(self) -> float:
        """Mean -log2 p."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """Equally likely characters that would be as hard to guess."""
        return math.exp(min(self.nats_per_char, 700.0))


def unigram_entropy(ids: npt.NDArray[np.integer]) -> float:
    """Return the loss of guessing by how frequent each character is.

    Args:
        ids: `(characters,)`, at least 1.

    Returns:
        Nats/char.

    References:
        Shannon, 1951, Prediction and entropy of printed English (F1).
    """
    counts = np.bincount(ids)
    shares = counts[counts > 0] / len(ids)
    return float(-(shares * np.log(shares)).sum())


def log_softmax_at(logits: Floats, ids: Ids) -> npt.NDArray[np.float64]:
    """Return the log-probability of given characters.

    Args:
        logits: `(batch, vocab)` float32.
        ids: `(batch,)` integers.

    Returns:
        `(batch,)` float64, at most 0.
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    log_total = np.log(np.exp(wide).sum(axis=-1))
    picked: npt.NDArray[np.float64] = wide[np.arange(len(ids)), ids] - log_total
    return picked


def score_ids(
    step: LSTMStep,
    ids: npt.NDArray[np.integer],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a text by the definition in `batching.EvaluationRows`.

    A network without carried state (recipe article) is scored by sliding its
    window: each character from the 50 before it, the first ones from fewer.

    Args:
        step: The network.
        ids: `(characters,)`, at least 2.
        progress: Called with (done, in all).

    Returns:
        The summed loss over all characters but the first.

    Raises:
        InputError: If there are fewer than 2 characters.
    """
    if len(ids) < 2:
        raise InputError(
            "a text needs at least 2 characters to be scored: the first has no context"
        )
    report = progress or (lambda done, total: None)
    with one_blas_thread():
        if step.network.carries_state:
            return _score_rows(step, ids, report)
        return _score_windows(step, ids, report)


def _score_rows(
    step: LSTMStep, ids: npt.NDArray[np.integer], report: Callable[[int, int], None]
) -> Score:
    rows = EvaluationRows(ids)
    state = LSTMState(step.network, rows.n_rows)
    nats = 0.0
    for start in range(0, rows.width, _CHUNK):
        inputs, targets, is_scored = rows.chunk(start, min(_CHUNK, rows.width - start))
        for t in range(inputs.shape[1]):
            step.advance(inputs[:, t], state)
            if is_scored[:, t].any():
                log_p = log_softmax_at(step.logits(state), targets[:, t])
                nats -= float(log_p[is_scored[:, t]].sum())
        report(min(start + _CHUNK, rows.width), rows.width)
    return Score(nats=nats, n_scored=rows.n_scored)


def _score_windows(
    step: LSTMStep, ids: npt.NDArray[np.integer], report: Callable[[int, int], None]
) -> Score:
    seq_length = step.network.seq_length
    nats = 0.0
    # The first targets have a shorter window before them: one pass from zero.
    state = LSTMState(step.network, 1)
    for t in range(min(seq_length, len(ids) - 1)):
        step.advance(ids[t : t + 1], state)
        nats -= float(log_softmax_at(step.logits(state), ids[t + 1 : t + 2]).sum())
    for first in range(seq_length + 1, len(ids), _WINDOWS_AT_ONCE):
        positions = np.arange(first, min(first + _WINDOWS_AT_ONCE, len(ids)))
        state = LSTMState(step.network, len(positions))
        for t in range(seq_length):
            step.advance(ids[positions - seq_length + t], state)
        nats -= float(log_softmax_at(step.logits(state), ids[positions]).sum())
        report(int(positions[-1]) + 1, len(ids))
    return Score(nats=nats, n_scored=len(ids) - 1)
