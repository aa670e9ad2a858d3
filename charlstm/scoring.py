"""How well a model predicts a text: nats a character, by the NumPy step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from charlstm.batching import Documents, EvaluationRows
from charlstm.engine import Floats, Ids, LSTMState, LSTMStep, one_blas_thread
from charlstm.errors import InputError
from charlstm.sampling import log_softmax

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
    picked: npt.NDArray[np.float64] = log_softmax(logits)[np.arange(len(ids)), ids]
    return picked


def score_ids(
    step: LSTMStep,
    ids: npt.NDArray[np.integer],
    *,
    documents: Documents | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a text by the definition in `batching.EvaluationRows`.

    A network without carried state (recipe article) is scored by sliding its
    window: each character from the 50 before it, the first ones from fewer.

    Args:
        step: The network.
        ids: `(characters,)`, at least 2.
        documents: Where documents begin, or None; a network without carried
            state reads across.
        progress: Called with (done, in all).

    Returns:
        The summed loss over all characters but the first.

    Raises:
        InputError: If there are fewer than 2 characters.
    """
    nats, n_scored = 0.0, 0
    for _, surprise in surprises(step, ids, documents=documents, progress=progress):
        nats += float(surprise.sum())
        n_scored += surprise.size
    return Score(nats=nats, n_scored=n_scored)


def score_characters(
    step: LSTMStep,
    ids: npt.NDArray[np.integer],
    *,
    documents: Documents | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Score each character of a text, by the same definition as `score_ids`.

    Args:
        step: The network.
        ids: `(characters,)`, at least 2.
        documents: Where documents begin, or None; a network without carried
            state reads across.
        progress: Called with (done, in all).

    Returns:
        `(characters,)` float64 nats; NaN for the first, which has no context.
        The mean of the others is the text's loss.

    Raises:
        InputError: If there are fewer than 2 characters.
    """
    nats = np.full(len(ids), np.nan)
    for positions, surprise in surprises(step, ids, documents=documents, progress=progress):
        nats[positions] = surprise
    return nats


def surprises(
    step: LSTMStep,
    ids: npt.NDArray[np.integer],
    *,
    documents: Documents | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Go through a text and tell how surprising its characters are.

    Args:
        step: The network.
        ids: `(characters,)`, at least 2.
        documents: Where documents begin, or None; a network without carried
            state reads across.
        progress: Called with (done, in all).

    Yields:
        `(n,)` positions and `(n,)` nats, each position but the first once, in
        an order that is the quickest.

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
            yield from _row_surprises(step, EvaluationRows(ids, documents), report)
        else:
            yield from _window_surprises(step, ids, report)


def _row_surprises(
    step: LSTMStep, rows: EvaluationRows, report: Callable[[int, int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    state = LSTMState(step.network, rows.n_rows)
    for start in range(0, rows.width, _CHUNK):
        n = min(_CHUNK, rows.width - start)
        inputs, targets, is_scored = rows.chunk(start, n)
        positions = rows.positions(start, n)
        ends = rows.ends(start, n)
        for t in range(n):
            step.advance(inputs[:, t], state)
            scored = is_scored[:, t]
            if scored.any():
                log_p = log_softmax_at(step.logits(state), targets[:, t])
                yield positions[scored, t], -log_p[scored]
            if ends is not None:
                for array in (*state.h, *state.c):
                    array[ends[:, t]] = 0.0
        report(min(start + _CHUNK, rows.width), rows.width)


def _window_surprises(
    step: LSTMStep, ids: npt.NDArray[np.integer], report: Callable[[int, int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    seq_length = step.network.seq_length
    # The first targets have a shorter window before them: one pass from zero.
    state = LSTMState(step.network, 1)
    for t in range(min(seq_length, len(ids) - 1)):
        step.advance(ids[t : t + 1], state)
        yield np.array([t + 1]), -log_softmax_at(step.logits(state), ids[t + 1 : t + 2])
    for first in range(seq_length + 1, len(ids), _WINDOWS_AT_ONCE):
        positions = np.arange(first, min(first + _WINDOWS_AT_ONCE, len(ids)))
        state = LSTMState(step.network, len(positions))
        for t in range(seq_length):
            step.advance(ids[positions - seq_length + t], state)
        yield positions, -log_softmax_at(step.logits(state), ids[positions])
        report(int(positions[-1]) + 1, len(ids))
