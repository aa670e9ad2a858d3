"""Ways to pick the next character from its logits.

Each is one small function over `(batch, vocab)`; `sample` composes them. None
of them calls the network: the writing loop is in `generation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from charlstm.config import check_float

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def argmax(logits: Logits) -> Ids:
    """Pick the likeliest character of each row; the lowest id wins a tie.

    Args:
        logits: `(batch, vocab)` float32.

    Returns:
        `(batch,)` int64 ids.
    """
    ids: Ids = logits.argmax(axis=-1)
    return ids


def softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Turn logits into probabilities without overflow.

    Args:
        logits: `(…, vocab)`; `-inf` for what cannot happen.

    Returns:
        `(…, vocab)` probabilities of the same dtype, each row summing to 1.
    """
    with np.errstate(over="ignore"):  # -inf is the right answer
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.floating] = exponentials / exponentials.sum(
        axis=-1, keepdims=True
    )
    return probabilities


def apply_temperature(logits: Logits, *, temperature: float) -> Logits:
    """Flatten (above 1) or sharpen (below 1) the distribution.

    Args:
        logits: `(batch, vocab)` float32.
        temperature: Above 0, finite; 1 changes nothing.

    Returns:
        `(batch, vocab)` float32.

    Raises:
        ConfigError: If the temperature is not a finite number above 0.

    References:
        Ackley, Hinton & Sejnowski, 1985, A Learning Algorithm for Boltzmann
        Machines.
    """
    check_float("temperature", temperature, low=0, low_open=True)
    # The maximum goes first, so that a tiny temperature cannot overflow.
    with np.errstate(over="ignore"):
        centred = logits - logits.max(axis=-1, keepdims=True)
        scaled: Logits = centred / np.float32(min(max(temperature, 1e-30), 1e38))
    return scaled


def draw(logits: Logits, *, rngs: Sequence[np.random.Generator]) -> Ids:
    """Draw each row's character from its distribution.

    Args:
        logits: `(batch, vocab)` float32.
        rngs: One generator a row, so that a row does not depend on its
            neighbours; each gives one number.

    Returns:
        `(batch,)` int64 ids, never one whose probability is 0.
    """
    cumulative = softmax(logits).cumsum(axis=-1, dtype=np.float64)
    points = np.array([rng.random() for rng in rngs]) * cumulative[:, -1]
    ids: Ids = (cumulative > points[:, None]).argmax(axis=-1)
    return ids


def sample(logits: Logits, *, temperature: float, rngs: Sequence[np.random.Generator]) -> Ids:
    """Pick each row's next character: argmax at temperature 0, else a draw.

    Args:
        logits: `(batch, vocab)` float32.
        temperature: At least 0, finite.
        rngs: One generator a row.

    Returns:
        `(batch,)` int64 ids.

    Raises:
        ConfigError: If the temperature is negative or not finite.
    """
    check_float("temperature", temperature, low=0)
    if temperature == 0:
        return argmax(logits)
    return draw(apply_temperature(logits, temperature=temperature), rngs=rngs)
