"""Ids in several files, indexed as if they were one array.

Each file is a memory map of its own, so what is read is what is asked for, and
memory grows with neither their size nor their number.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.unsignedinteger]
# A slice up to this long is an array, a longer one another `ShardedIds`.
_COPIED = 1 << 22
_STRETCHES = 100  # of a sample


class ShardedIds:
    """`(characters,)` ids over several arrays.

    Args:
        shards: `(n,)` each, at least one, of one dtype; none is empty.
    """

    ndim = 1

    def __init__(self, shards: Sequence[Array]) -> None:
        """Note where each begins."""
        self.shards = tuple(shards)
        # Indexing a map takes several times as long as indexing an array.
        self._arrays = [np.asarray(shard).view(np.ndarray) for shard in self.shards]
        lengths = [len(shard) for shard in self.shards]
        self.starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.dtype: np.dtype[Any] = self.shards[0].dtype

    def __len__(self) -> int:
        """Return the number of ids."""
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int]:
        """As an array's."""
        return (len(self),)

    @property
    def size(self) -> int:
        """As an array's."""
        return len(self)

    @property
    def itemsize(self) -> int:
        """Bytes of an id."""
        return self.dtype.itemsize

    @overload
    def __getitem__(self, index: int | np.integer) -> np.unsignedinteger: ...

    @overload
    def __getitem__(self, index: slice) -> Ids: ...

    @overload
    def __getitem__(self, index: npt.NDArray[np.integer] | Sequence[int]) -> Array: ...

    def __getitem__(self, index: Any) -> Any:
        """Index as an array is, by a number, a slice, or an array of numbers of any shape."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return (
                self._slice(start, max(start, stop))
                if step == 1
                else self._take(np.arange(start, stop, step))
            )
        index = np.asarray(index)
        if index.dtype.kind not in "iu" and index.size:
            raise IndexError(f"ids are indexed by integers, not {index.dtype}")
        return self._take(index.astype(np.int64, copy=False))[()]

    def _slice(self, start: int, stop: int) -> Ids:
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        first = min(first, len(self.shards) - 1)
        parts: list[Array] = []
        for shard, offset in zip(self.shards[first:], self.starts[first:-1].tolist(), strict=True):
            if offset >= stop and parts:
                break
            parts.append(shard[max(0, start - offset) : max(0, stop - offset)])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if stop - start <= _COPIED else ShardedIds(parts)

    def _take(self, index: npt.NDArray[np.int64]) -> Array:
        n = len(self)
        result = np.empty(index.shape, dtype=self.dtype)
        if not index.size:
            return result
        low, high = int(index.min()), int(index.max())
        if low < -n or high >= n:
            wrong = low if low < -n else high
            raise IndexError(f"index {wrong} is out of bounds for {n} ids")
        if low < 0:
            index = np.where(index < 0, index + n, index)
            low, high = int(index.min()), int(index.max())
        first, last = np.searchsorted(self.starts, [low, high], side="right") - 1
        if first == last:
            result[...] = self._arrays[first][index - self.starts[first]]
            return result
        # In order, the ids of a file are one stretch of those wanted.
        flat, out = index.ravel(), result.reshape(-1)
        order = np.argsort(flat, kind="stable")
        ordered = flat[order]
        bounds = np.searchsorted(ordered, self.starts)
        for number in np.flatnonzero(np.diff(bounds)):
            here = slice(bounds[number], bounds[number + 1])
            out[order[here]] = self._arrays[number][ordered[here] - self.starts[number]]
        return result

    def __iter__(self) -> Iterator[np.unsignedinteger]:
        """Yield one id after the other."""
        for shard in self.shards:
            yield from shard

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Copy all ids into memory, for what needs an array."""
        if copy is False:
            raise ValueError("ids of several files are an array only as a copy")
        return np.concatenate(self.shards).astype(dtype or self.dtype, copy=False)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Copy all ids into memory, as another type."""
        return np.concatenate(self.shards).astype(dtype)


Ids = Array | ShardedIds


class Windows:
    """All windows of ids in several files, each made when it is asked for.

    Args:
        ids: `(characters,)` ids.
        seq_length: Characters in a window.
    """

    def __init__(self, ids: ShardedIds, seq_length: int) -> None:
        """Copy nothing."""
        self.ids = ids
        self.shape = (max(0, len(ids) - seq_length), seq_length)

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.shape[0]

    def __getitem__(self, index: int | slice | npt.NDArray[np.integer]) -> Array:
        """Return one window, or several, `(..., seq_length)`."""
        starts = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        if starts.size and not -len(self) <= starts.min() <= starts.max() < len(self):
            raise IndexError(f"there are {len(self):,} windows")
        starts = np.where(starts < 0, starts + len(self), starts)
        return self.ids[starts[..., None] + np.arange(self.shape[1])]


def sample_ids(ids: Ids, n: int) -> Array:
    """Take a sample that is spread over a text, whose parts may differ.

    Args:
        ids: `(characters,)` ids.
        n: At most so many characters, 1 or more.

    Returns:
        All of a text that is not longer than `n`; else stretches of equal
        length at equal distances, the first at the beginning and the last at
        the end.
    """
    if len(ids) <= n:
        return np.asarray(ids[:])
    length = -(-n // _STRETCHES)
    starts = np.linspace(0, len(ids) - length, n // length).astype(np.int64)
    return np.concatenate([np.asarray(ids[a : a + length]) for a in starts.tolist()])


def expect(ids: Any, *, start: int, stop: int) -> None:
    """Let the system begin to read a stretch of a map that will be needed soon.

    Args:
        ids: Ids; what is no map is left alone.
        start: The first id.
        stop: One past the last.
    """
    _advise(ids, "MADV_WILLNEED", start=start, stop=stop)


def release(ids: Any, *, start: int, stop: int) -> None:
    """Give back the memory of a stretch of a map, which counts as this process's.

    The system would take it when it needs some; until then a corpus of 1 GB
    looks like 1 GB in use, or is, where a process has a limit.

    Args:
        ids: Ids; what is no map is left alone.
        start: The first id that is no longer needed.
        stop: One past the last.
    """
    _advise(ids, "MADV_DONTNEED", start=start, stop=stop)


def _advise(ids: Any, advice: str, *, start: int, stop: int) -> None:
    if isinstance(ids, ShardedIds):
        for shard, offset in zip(ids.shards, ids.starts[:-1].tolist(), strict=True):
            if start < offset + len(shard) and stop > offset:
                first, last = max(0, start - offset), min(stop - offset, len(shard))
                _advise(shard, advice, start=first, stop=last)
        return
    if not isinstance(ids, np.memmap) or ids.mode != "r" or not ids.flags.c_contiguous:
        return
    whole = ids
    while isinstance(whole.base, np.memmap):  # a slice of it
        whole = whole.base
    pages: object = whole.base
    if isinstance(pages, mmap.mmap) and whole.offset == 0 and hasattr(mmap, advice):
        shift = ids.ctypes.data - whole.ctypes.data
        # No more than that stretch: the system looks at every page it is told.
        first = (shift + start * ids.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
        length = shift + stop * ids.itemsize - first
        if length > 0:
            pages.madvise(getattr(mmap, advice), first, length)
