"""Which characters are trained together, and in which order.

Two orders, each a pure function of (random seed, epoch), so that a resumed run
goes on with the very batches that it would have seen.

*Streams* (recipe default). The text is a ring, cut into `batch_size` equal
rows; a step takes the next `seq_length` characters of every row, so row b of
step s+1 goes on where row b of step s ended and the state can be carried:

    row 0   | step 0 | step 1 | step 2 | …
    row 1   | step 0 | step 1 | step 2 | …

Each epoch turns the ring by a random number of characters, so rows begin at
other places and windows are cut elsewhere. Where the text is of several
documents, `ends` tells at which characters one ends: the state is zero after
them, and what is guessed there is not scored.

*Windows* (recipe article). All windows with stride 1, one label each, in a
shuffled order that is computed and never stored.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from charlstm.shards import Ids as CorpusIds
from charlstm.shards import ShardedIds, expect

Ids = npt.NDArray[np.int32]
Documents = npt.NDArray[np.uint64]

# Characters of each row; 32 rows ask for 8 million, which a disk reads in a second.
READ_AHEAD = 1 << 18


@dataclasses.dataclass(frozen=True)
class Streams:
    """Contiguous rows over a ring of characters.

    Attributes:
        ids: `(characters,)` unsigned ids of the training part.
        batch_size: Rows.
        seq_length: Characters of a row in one step.
        random_seed: Fixes where each epoch begins.
        documents: Where each of several documents begins, in order; those past
            the end do not count. None for one document, whose end goes on with
            its beginning.
    """

    ids: CorpusIds
    batch_size: int
    seq_length: int
    random_seed: int
    documents: Documents | None = None

    def __post_init__(self) -> None:
        """Check that every row holds at least one window."""
        if self.steps_per_epoch < 1:
            raise ValueError(
                f"{len(self.ids)} characters cannot fill {self.batch_size} rows "
                f"of {self.seq_length}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass; a remainder shorter than a window waits for another turn."""
        return len(self.ids) // self.batch_size // self.seq_length

    @property
    def characters_per_step(self) -> int:
        """Characters that a step learns from."""
        return self.batch_size * self.seq_length

    def batch(self, step: int, *, rows: slice | None = None) -> tuple[Ids, Ids, bool]:
        """Return the batch of a step.

        Args:
            step: Counted from 0 over all epochs.
            rows: Which of its rows; nothing of the others is read. None for all.

        Returns:
            Inputs and targets, `(batch, seq_length)` int32, the targets one
            character later; and whether an epoch begins, so that the state
            must start from zero.
        """
        starts = self._starts(step)[rows or slice(None)]
        index = (starts[:, None] + np.arange(self.seq_length + 1)) % len(self.ids)
        position = step % self.steps_per_epoch
        self._read_ahead(starts, position)
        read = self.ids[index].astype(np.int32)  # (batch, seq_length + 1)
        return read[:, :-1], read[:, 1:], position == 0

    def ends(self, step: int) -> npt.NDArray[np.bool_] | None:
        """Tell where documents end in the batch of a step; no ids are read.

        The end of the text ends one too, as the ring goes on with its beginning.

        Args:
            step: Counted from 0 over all epochs.

        Returns:
            `(batch, seq_length)` bool, True where the input is the last
            character of a document and the target the first of another; None
            for one document.
        """
        if self.documents is None:
            return None
        n_chars = len(self.ids)
        after = (self._starts(step)[:, None] + np.arange(self.seq_length)) % n_chars + 1
        ends: npt.NDArray[np.bool_] = (after == n_chars) | _is_in(self.documents, after)
        return ends

    def _starts(self, step: int) -> npt.NDArray[np.int64]:
        """Say where the rows of a step begin, some of them past the ring's end."""
        epoch, position = divmod(step, self.steps_per_epoch)
        n_chars = len(self.ids)
        turn = int(_rng(self.random_seed, epoch).integers(n_chars))
        row_length = n_chars // self.batch_size
        starts: npt.NDArray[np.int64] = (
            turn + np.arange(self.batch_size) * row_length + position * self.seq_length
        )
        return starts

    def _read_ahead(self, starts: npt.NDArray[np.int64], position: int) -> None:
        """Let the system fetch what rows will read next, some thousand steps before."""
        every = max(1, READ_AHEAD // self.seq_length)
        if position % every:
            return
        # The first time all of it, from then on what comes after that.
        skip = READ_AHEAD if position else 0
        for start in ((starts + skip) % len(self.ids)).tolist():
            stop = min(len(self.ids), start + 2 * READ_AHEAD - skip)
            expect(self.ids, start=start, stop=stop)


def _is_in(documents: Documents, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which positions are those of a document's first character."""
    # As unsigned: of mixed kinds NumPy would make floats, a copy of all documents.
    wanted = positions.astype(np.uint64)
    at = np.searchsorted(documents, wanted)
    found: npt.NDArray[np.bool_] = documents[np.minimum(at, len(documents) - 1)] == wanted
    return found


def documents_within(documents: Documents, start: int, stop: int) -> Documents:
    """Tell where documents begin in a stretch of a text.

    Args:
        documents: `(documents,)` first characters of all, in order.
        start: First character of the stretch.
        stop: One past the last.

    Returns:
        Those inside, counted from `start`; a stretch begins within a document
        as a rule, so 0 may be missing.
    """
    first, last = np.searchsorted(documents, np.array([start, stop], np.uint64))
    return np.asarray(documents[first:last]) - np.uint64(start)


@dataclasses.dataclass(frozen=True)
class ShuffledWindows:
    """Every window with stride 1 and the character after it, shuffled each epoch.

    Attributes:
        ids: `(characters,)` unsigned ids.
        batch_size: Windows trained together; the last batch may be smaller.
        seq_length: Characters of a window.
        random_seed: Fixes the shuffle.
    """

    ids: CorpusIds
    batch_size: int
    seq_length: int
    random_seed: int

    @property
    def n_windows(self) -> int:
        """Windows in one pass: characters - seq_length."""
        return len(self.ids) - self.seq_length

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass, the smaller last one included."""
        return -(-self.n_windows // self.batch_size)

    @property
    def characters_per_step(self) -> int:
        """Characters that a full step learns to predict: one a window."""
        return self.batch_size

    def batch(self, step: int) -> tuple[Ids, Ids, bool]:
        """Return the batch of a step.

        Args:
            step: Counted from 0 over all epochs.

        Returns:
            Inputs `(batch, seq_length)` int32, targets `(batch,)` int32, and
            True, because no state is carried.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.batch_size
        index = np.arange(first, min(first + self.batch_size, self.n_windows))
        starts = permute(index, n=self.n_windows, key=(self.random_seed, epoch))
        inputs = self.ids[starts[:, None] + np.arange(self.seq_length)].astype(np.int32)
        targets = self.ids[starts + self.seq_length].astype(np.int32)
        return inputs, targets, True


def _rng(random_seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([random_seed, epoch])


def permute(
    index: npt.NDArray[np.integer], *, n: int, key: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """Apply a pseudo-random permutation of 0 … n-1 in constant memory.

    A balanced Feistel network of six rounds over the next even power of two;
    results outside the range are sent through again (cycle walking), which
    keeps it a bijection.

    Args:
        index: Positions in [0, n).
        n: Size of the set.
        key: Fixes the permutation, here (random seed, epoch).

    Returns:
        Where each position is sent, int64 of the same shape.

    References:
        Black & Rogaway, 2002, Ciphers with Arbitrary Finite Domains.
    """
    half_bits = max(1, -(-(n - 1).bit_length() // 2))
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    round_keys = np.random.default_rng(key).integers(0, 2**64, size=6, dtype=np.uint64)
    values = np.asarray(index, dtype=np.uint64).copy()
    pending = np.ones(values.shape, dtype=bool)
    while pending.any():
        left, right = values[pending] >> shift, values[pending] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[pending] = (left << shift) | right
        pending = values >= n
    return values.astype(np.int64)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64-bit words (the finaliser of SplitMix64, Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# --- the rows of an evaluation ----------------------------------------------

MAX_EVALUATION_ROWS = 64
MIN_EVALUATION_ROW = 1_000
WARM_UP_CHARACTERS = 200


@dataclasses.dataclass(frozen=True)
class EvaluationRows:
    """The one way a text is cut for its loss, for Keras and NumPy alike.

    The text becomes at most 64 equal contiguous rows (fewer when they would be
    shorter than 1,000 characters). Each row's state is warmed, unscored, on
    the 200 characters before the row and carried along it. The text's first
    character has nothing before it and is not scored.

    In a text of several documents the state is zero before each of them,
    also while it is warmed, and a document's first character is not scored
    either. Documents of one character alone leave nothing to score, and are
    taken as one text.

    Attributes:
        ids: `(characters,)` unsigned ids, at least 2.
        documents: Where documents begin, in order, all of them or but the first
            one; None for one.
    """

    ids: npt.NDArray[np.integer] | ShardedIds
    documents: Documents | None = None

    @functools.cached_property
    def boundaries(self) -> Documents:
        """Where documents begin after the first, each once."""
        if self.documents is None:
            return np.zeros(0, np.uint64)
        within = np.unique(documents_within(self.documents, 1, len(self.ids))) + np.uint64(1)
        return within if len(within) < len(self.ids) - 1 else within[:0]

    @property
    def n_rows(self) -> int:
        """Rows that run side by side."""
        return max(1, min(MAX_EVALUATION_ROWS, len(self.ids) // MIN_EVALUATION_ROW))

    @property
    def n_scored(self) -> int:
        """Characters that count: all but the first of each document."""
        return len(self.ids) - 1 - len(self.boundaries)

    @property
    def _bounds(self) -> npt.NDArray[np.int64]:
        return np.arange(self.n_rows + 1, dtype=np.int64) * len(self.ids) // self.n_rows

    @property
    def width(self) -> int:
        """Steps that the longest row takes, warming included."""
        bounds = self._bounds
        return int((bounds[1:] - 1 - self._feed_starts).max())

    @property
    def _feed_starts(self) -> npt.NDArray[np.int64]:
        return np.maximum(0, self._bounds[:-1] - WARM_UP_CHARACTERS)

    def chunk(self, start: int, length: int) -> tuple[Ids, Ids, npt.NDArray[np.bool_]]:
        """Return some consecutive steps of all rows.

        Args:
            start: First step, in [0, width).
            length: Number of steps; those past a row's end are not scored.

        Returns:
            Inputs and targets, `(rows, length)` int32, and `(rows, length)`
            bool, True where the target is scored.
        """
        bounds = self._bounds
        target_index = self.positions(start, length)
        index = target_index - 1
        is_scored = (target_index >= bounds[:-1, None]) & (target_index < bounds[1:, None])
        if len(self.boundaries):
            is_scored &= ~_is_in(self.boundaries, target_index)
        last = len(self.ids) - 1
        inputs = self.ids[np.minimum(index, last)].astype(np.int32)
        targets = self.ids[np.minimum(target_index, last)].astype(np.int32)
        return inputs, targets, is_scored

    def ends(self, start: int, length: int) -> npt.NDArray[np.bool_] | None:
        """Tell where documents end in some consecutive steps of all rows.

        Args:
            start: First step, in [0, width).
            length: Number of steps.

        Returns:
            `(rows, length)` bool, True where the state is zero after the input;
            None if no document ends in the text.
        """
        if not len(self.boundaries):
            return None
        return _is_in(self.boundaries, self.positions(start, length))

    def positions(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """Tell where in the text the targets of some steps are.

        Args:
            start: First step, in [0, width).
            length: Number of steps.

        Returns:
            `(rows, length)` int64; may be past the end where nothing is scored.
        """
        # Rows are aligned at the left: the first has no warm-up and ends sooner.
        positions: npt.NDArray[np.int64] = (
            self._feed_starts[:, None] + 1 + np.arange(start, start + length)
        )
        return positions
