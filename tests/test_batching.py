"""Which characters meet in a batch. Most texts here are 0, 1, 2, …: an id is its position."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm.batching import EvaluationRows, ShuffledWindows, Streams, permute
from charlstm.shards import release

PROPERTY = settings(max_examples=50, deadline=None, database=None)  # writes no files


def positions(n: int) -> npt.NDArray[np.uint32]:
    return np.arange(n, dtype="<u4")


@st.composite
def streams(draw: st.DrawFn) -> Streams:
    batch_size = draw(st.integers(1, 7))
    seq_length = draw(st.integers(1, 9))
    n = batch_size * seq_length + draw(st.integers(0, 200))
    return Streams(positions(n), batch_size, seq_length, random_seed=draw(st.integers(0, 99)))


# --- streams ------------------------------------------------------------------


def test_a_batch_of_streams_is_int32_rows_of_a_window() -> None:
    inputs, targets, _ = Streams(positions(97), 3, 5, random_seed=2).batch(4)
    assert inputs.shape == targets.shape == (3, 5)
    assert inputs.dtype == targets.dtype == np.int32


@given(data=streams(), step=st.integers(0, 500))
@PROPERTY
def test_a_row_is_a_contiguous_stretch_of_the_ring(data: Streams, step: int) -> None:
    n = len(data.ids)
    inputs, targets, _ = data.batch(step)
    assert inputs.shape == (data.batch_size, data.seq_length)
    for row, row_targets in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row == [(row[0] + t) % n for t in range(data.seq_length)]
        assert row_targets == [(row[0] + t + 1) % n for t in range(data.seq_length)]


@given(data=streams(), epoch=st.integers(0, 5))
@PROPERTY
def test_rows_go_on_from_step_to_step_within_an_epoch(data: Streams, epoch: int) -> None:
    first = epoch * data.steps_per_epoch
    for step in range(first, first + data.steps_per_epoch - 1):
        _, targets, _ = data.batch(step)
        inputs, _, begins = data.batch(step + 1)
        assert inputs[:, 0].tolist() == targets[:, -1].tolist()
        assert not begins


@given(data=streams(), step=st.integers(0, 300))
@PROPERTY
def test_the_state_starts_from_zero_exactly_where_an_epoch_begins(data: Streams, step: int) -> None:
    assert data.batch(step)[2] == (step % data.steps_per_epoch == 0)


@given(data=streams(), epoch=st.integers(0, 5))
@PROPERTY
def test_an_epoch_visits_nearly_every_character_and_none_twice(data: Streams, epoch: int) -> None:
    first = epoch * data.steps_per_epoch
    visited = [
        position
        for step in range(first, first + data.steps_per_epoch)
        for position in data.batch(step)[0].ravel().tolist()
    ]
    assert len(set(visited)) == len(visited) == data.steps_per_epoch * data.characters_per_step
    # What is left over would not have filled one more step.
    assert len(data.ids) - len(visited) < data.characters_per_step


def test_a_batch_depends_on_its_step_alone() -> None:
    data = Streams(positions(211), 4, 7, random_seed=5)
    in_order = [data.batch(step)[:2] for step in range(30)]
    for step in (29, 3, 17, 3, 0):
        again = Streams(positions(211), 4, 7, random_seed=5)  # as after --resume
        np.testing.assert_array_equal(again.batch(step)[:2], in_order[step])


def test_some_rows_of_a_batch_are_those_rows() -> None:
    streams = Streams(np.arange(200, dtype=np.uint8), batch_size=7, seq_length=9, random_seed=4)
    for step in (0, 2, streams.steps_per_epoch):
        inputs, targets, is_start = streams.batch(step)
        some = streams.batch(step, rows=slice(2, 5))
        np.testing.assert_array_equal(some[0], inputs[2:5])
        np.testing.assert_array_equal(some[1], targets[2:5])
        assert some[2] is is_start


def test_each_epoch_begins_elsewhere() -> None:
    data = Streams(positions(10_007), 4, 7, random_seed=5)
    beginnings = {int(data.batch(e * data.steps_per_epoch)[0][0, 0]) for e in range(8)}
    assert len(beginnings) == 8
    # Also modulo a window, so that windows are cut elsewhere.
    assert len({b % 7 for b in beginnings}) > 1


def test_another_random_seed_gives_another_order() -> None:
    one, two = (Streams(positions(10_007), 4, 7, random_seed=s).batch(0)[0] for s in (5, 6))
    assert one[0, 0] != two[0, 0]


def test_the_end_of_the_text_is_followed_by_its_beginning() -> None:
    data = Streams(positions(60), 3, 4, random_seed=1)
    pairs = set()
    for step in range(data.steps_per_epoch):  # 3 rows of 20: nothing is left out
        inputs, targets, _ = data.batch(step)
        pairs |= set(zip(inputs.ravel().tolist(), targets.ravel().tolist(), strict=True))
    assert pairs == {(i, (i + 1) % 60) for i in range(60)}


def test_ids_and_not_positions_are_returned() -> None:
    ids = np.array([5, 250, 17, 5, 3, 99, 0, 44, 250, 8, 61], dtype="u1")
    inputs, targets, _ = Streams(ids, 2, 5, random_seed=3).batch(0)
    text = ids.tolist() * 2
    for row, row_targets in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert any(
            text[i : i + 5] == row and text[i + 1 : i + 6] == row_targets for i in range(len(ids))
        )


@pytest.mark.parametrize(("batch_size", "seq_length"), [(3, 5), (1, 7), (7, 1), (2, 50)])
def test_a_text_must_fill_every_row_with_a_window(batch_size: int, seq_length: int) -> None:
    smallest = batch_size * seq_length
    assert Streams(positions(smallest), batch_size, seq_length, random_seed=0).steps_per_epoch == 1
    for n in (smallest - 1, 0):
        with pytest.raises(ValueError, match=f"{n} characters cannot fill {batch_size} rows"):
            Streams(positions(n), batch_size, seq_length, random_seed=0)


# --- shuffled windows ---------------------------------------------------------


def epoch_of(data: ShuffledWindows, epoch: int) -> list[tuple[Any, Any, bool]]:
    first = epoch * data.steps_per_epoch
    return [data.batch(step) for step in range(first, first + data.steps_per_epoch)]


@given(
    n_windows=st.integers(1, 150),
    batch_size=st.integers(1, 12),
    seq_length=st.integers(1, 9),
    random_seed=st.integers(0, 99),
    epoch=st.integers(0, 4),
)
@PROPERTY
def test_an_epoch_of_windows_visits_each_once_with_the_next_character(
    n_windows: int, batch_size: int, seq_length: int, random_seed: int, epoch: int
) -> None:
    data = ShuffledWindows(positions(n_windows + seq_length), batch_size, seq_length, random_seed)
    assert data.n_windows == n_windows
    starts: list[int] = []
    for inputs, targets, begins in epoch_of(data, epoch):
        assert begins  # no state is carried
        starts += inputs[:, 0].tolist()
        for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            assert [*row, target] == list(range(row[0], row[0] + seq_length + 1))
    assert sorted(starts) == list(range(n_windows))


def test_the_last_batch_of_windows_holds_the_rest() -> None:
    data = ShuffledWindows(positions(36), 5, 3, random_seed=4)  # 33 windows
    sizes = [inputs.shape for inputs, _, _ in epoch_of(data, 1)]
    assert sizes == [(5, 3)] * 6 + [(3, 3)]
    assert [targets.shape for _, targets, _ in epoch_of(data, 1)] == [(5,)] * 6 + [(3,)]
    assert data.characters_per_step == 5


def test_window_batches_are_int32_ids() -> None:
    ids = np.array([9, 200, 31, 7, 200, 12], dtype="u1")
    text = ids.tolist()
    rows = set()
    for inputs, targets, _ in epoch_of(ShuffledWindows(ids, 3, 2, random_seed=4), 0):
        assert inputs.dtype == targets.dtype == np.int32
        rows |= {(*row, t) for row, t in zip(inputs.tolist(), targets.tolist(), strict=True)}
    assert rows == {tuple(text[i : i + 3]) for i in range(4)}


def test_windows_are_shuffled_anew_by_epoch_and_by_random_seed() -> None:
    def order(random_seed: int, epoch: int) -> list[int]:
        data = ShuffledWindows(positions(500), 20, 7, random_seed)
        return [start for inputs, _, _ in epoch_of(data, epoch) for start in inputs[:, 0].tolist()]

    orders = [order(0, 0), order(0, 1), order(0, 2), order(1, 0), order(2, 0)]
    assert len({tuple(o) for o in orders}) == 5
    assert order(1, 0) == order(1, 0)
    for shuffled in orders:
        # A shuffle keeps about one position in place and one neighbour in 493.
        assert sum(i == start for i, start in enumerate(shuffled)) < 10
        assert sum(b - a == 1 for a, b in itertools.pairwise(shuffled)) < 10


def test_a_window_batch_depends_on_its_step_alone() -> None:
    data = ShuffledWindows(positions(83), 6, 5, random_seed=8)
    in_order = [data.batch(step) for step in range(40)]
    for step in (39, 13, 2, 13):
        again = ShuffledWindows(positions(83), 6, 5, random_seed=8)
        for expected, got in zip(in_order[step], again.batch(step), strict=True):
            np.testing.assert_array_equal(got, expected)


# --- the permutation ----------------------------------------------------------


@given(n=st.integers(1, 2_000), random_seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1_000))
@PROPERTY
def test_a_permutation_sends_every_position_somewhere_else(
    n: int, random_seed: int, epoch: int
) -> None:
    sent = permute(np.arange(n), n=n, key=(random_seed, epoch))
    assert sent.dtype == np.int64
    assert sorted(sent.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025])
def test_a_permutation_is_one_at_powers_of_two(n: int) -> None:
    assert sorted(permute(np.arange(n), n=n, key=(3, 4)).tolist()) == list(range(n))


@given(n=st.integers(2, 500), data=st.data())
@PROPERTY
def test_a_part_of_a_permutation_equals_that_part_of_the_whole(n: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=9)), dtype=np.int64)
    whole = permute(np.arange(n), n=n, key=(1, 2))
    assert permute(index, n=n, key=(1, 2)).tolist() == [whole[i] for i in index]


@pytest.mark.parametrize("n", [10**9 + 7, 2**40 + 1])
def test_a_permutation_of_a_huge_set_needs_no_table(n: int) -> None:
    index = np.concatenate([np.arange(1_000), np.arange(n - 1_000, n)])
    sent = permute(index, n=n, key=(7, 1))
    assert len(set(sent.tolist())) == 2_000
    assert sent.min() >= 0
    assert sent.max() < n
    # 2,000 draws from n miss the lowest or the highest tenth with chance 0.9^2000.
    assert sent.min() < n // 10
    assert sent.max() > n - n // 10


def test_a_permutation_spreads_each_position_evenly() -> None:
    # Where position 2 of 5 goes over 1,000 keys: 200 each, standard deviation 13.
    counts = [0] * 5
    for epoch in range(1_000):
        counts[int(permute(np.array([2]), n=5, key=(11, epoch))[0])] += 1
    assert all(135 < count < 265 for count in counts)  # five deviations


# --- the rows of an evaluation ------------------------------------------------
#
# The validation loss: at most 64 equal contiguous rows, fewer when they
# would be shorter than 1,000 characters; each row's state is warmed, unscored,
# on the 200 characters before it and carried along; the first character of the
# text is not scored.

LENGTHS = [2, 3, 200, 201, 999, 1_000, 1_999, 2_000, 2_001, 3_777, 63_999, 64_000, 64_063, 100_001]


def expected_rows(n: int) -> int:
    rows = 64
    while rows > 1 and n / rows < 1_000:
        rows -= 1
    return rows


def all_chunks(
    rows: EvaluationRows, length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    chunks = [
        rows.chunk(start, min(length, rows.width - start)) for start in range(0, rows.width, length)
    ]
    inputs, targets, is_scored = (
        np.concatenate(parts, axis=1) for parts in zip(*chunks, strict=True)
    )
    return inputs, targets, is_scored


@pytest.mark.parametrize("n", LENGTHS)
def test_the_number_of_rows_follows_the_definition(n: int) -> None:
    rows = EvaluationRows(positions(n))
    inputs, targets, is_scored = all_chunks(rows, 700)
    assert rows.n_rows == expected_rows(n)
    assert inputs.shape == targets.shape == is_scored.shape == (expected_rows(n), rows.width)
    assert inputs.dtype == targets.dtype == np.int32


@pytest.mark.parametrize("n", LENGTHS)
def test_every_character_but_the_first_is_scored_once(n: int) -> None:
    rows = EvaluationRows(positions(n))
    _, targets, is_scored = all_chunks(rows, 700)
    assert np.sort(targets[is_scored]).tolist() == list(range(1, n))
    assert rows.n_scored == n - 1


@pytest.mark.parametrize("n", LENGTHS)
def test_rows_are_equal_contiguous_and_warmed_on_200_characters(n: int) -> None:
    inputs, targets, is_scored = all_chunks(EvaluationRows(positions(n)), 700)
    begins = 0
    lengths = []
    for row, row_targets, scored in zip(inputs, targets, is_scored, strict=True):
        first, last = np.flatnonzero(scored)[[0, -1]]
        assert scored[first : last + 1].all()
        # The row's own first character is scored, unless it is the text's.
        assert row_targets[first] == max(begins, 1)
        # One character after the other, from 200 before the row where there are so many.
        fed = row[: last + 1].tolist()
        assert fed == list(range(max(0, begins - 200), row_targets[last]))
        assert row_targets[: last + 1].tolist() == [position + 1 for position in fed]
        lengths.append(int(row_targets[last]) + 1 - begins)
        begins = int(row_targets[last]) + 1
    assert begins == n
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("n", LENGTHS)
def test_the_width_ends_with_the_last_scored_character(n: int) -> None:
    rows = EvaluationRows(positions(n))
    _, _, beyond = rows.chunk(rows.width, 50)
    assert not beyond.any()
    assert rows.chunk(rows.width - 1, 1)[2].any()


@pytest.mark.parametrize("length", [1, 7, 100, 699, 5_000])
def test_pieces_of_an_evaluation_equal_the_whole(length: int) -> None:
    rows = EvaluationRows(positions(2_347))
    whole = rows.chunk(0, rows.width)
    assert all(rows.width % n for n in (7, 100, 699))  # the last piece is a short one
    for expected, got in zip(whole, all_chunks(rows, length), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_steps_past_a_row_are_not_scored_and_stay_inside_the_text() -> None:
    rows = EvaluationRows(np.array([3, 1, 4, 1, 5], dtype="u1"))
    inputs, targets, is_scored = rows.chunk(2, 7)
    assert inputs.shape == (1, 7)
    assert inputs[is_scored].tolist() == [4, 1]
    assert targets[is_scored].tolist() == [1, 5]
    assert set(inputs.ravel().tolist()) <= {3, 1, 4, 5}


class Memory:
    """A stand-in for a network, whose state depends on all that it was fed."""

    def __init__(self, rows: int) -> None:
        self.state = np.zeros(rows)

    def feed(self, ids: npt.NDArray[Any]) -> None:
        self.state = 0.99 * self.state + ids

    def nats(self, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        result: npt.NDArray[np.float64] = np.abs(np.sin(self.state + targets))
        return result


@pytest.mark.parametrize(
    ("n", "row_length"), [(700, 700), (4_000, 1_000), (5_005, 1_001), (66_560, 1_040)]
)
def test_a_loss_by_chunks_equals_the_definition_one_row_at_a_time(n: int, row_length: int) -> None:
    ids = np.random.default_rng(n).integers(0, 90, size=n).astype("u1")

    expected, n_scored = 0.0, 0
    for begins in range(0, n, row_length):
        memory = Memory(1)
        warm_up = max(0, begins - 200)
        for position in range(warm_up, begins + row_length):
            if position >= begins and position > 0:
                expected += float(memory.nats(ids[position : position + 1])[0])
                n_scored += 1
            memory.feed(ids[position : position + 1])

    rows = EvaluationRows(ids)
    memory = Memory(rows.n_rows)
    got = 0.0
    for start in range(0, rows.width, 130):
        inputs, targets, is_scored = rows.chunk(start, min(130, rows.width - start))
        for t in range(inputs.shape[1]):
            memory.feed(inputs[:, t])
            got += float(memory.nats(targets[:, t])[is_scored[:, t]].sum())
    assert rows.n_scored == n_scored == n - 1
    assert got == pytest.approx(expected, rel=1e-9)  # the order of summing differs


# --- pages on the disk ----------------------------------------------------------


def resident(ids: np.memmap) -> np.ndarray:
    """Tell which pages of a map are in memory, by asking the system."""
    length = -(-ids.nbytes // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * length)()
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(ids.ctypes.data)
    assert libc.mincore(address, ctypes.c_size_t(ids.nbytes), found) == 0
    return np.array(found, dtype=np.uint8) & 1


def evict(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_what_rows_will_read_is_fetched_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And of the rows of others, and of what is far away, nothing."""
    monkeypatch.setattr("charlstm.batching.READ_AHEAD", 1 << 15)
    path = tmp_path / "ids.bin"
    np.zeros(30_000_000, np.uint8).tofile(path)
    evict(path)
    whole = np.memmap(path, np.uint8, "r")
    if resident(whole).any():
        pytest.skip("pages cannot be taken out of memory here")
    streams = Streams(whole[:29_000_000], batch_size=3, seq_length=64, random_seed=5)
    row = 29_000_000 // 3
    turn = int(np.random.default_rng([5, 0]).integers(29_000_000))
    starts = [(turn + n * row) % 29_000_000 for n in range(3)]
    streams.batch(0, rows=slice(0, 2))
    deadline = time.monotonic() + 10
    pages = slice(0)
    for start in starts[:2]:
        pages = slice(start // mmap.PAGESIZE + 1, (start + (1 << 16)) // mmap.PAGESIZE - 1)
        while not resident(whole)[pages].all():
            assert time.monotonic() < deadline
    # The system may round up, by a megabyte at most.
    assert resident(whole).sum() * mmap.PAGESIZE < 4_000_000
    far = slice(starts[2] // mmap.PAGESIZE, (starts[2] + (1 << 16)) // mmap.PAGESIZE)
    assert not resident(whole)[far].any()
    # Half of it is read: the next is asked for.
    streams.batch((1 << 15) // 64, rows=slice(0, 2))
    next_pages = slice(pages.stop, pages.stop + (1 << 15) // mmap.PAGESIZE - 1)
    while not resident(whole)[next_pages].all():
        assert time.monotonic() < deadline


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.parametrize("is_slice", [False, True])
def test_a_stretch_that_is_given_back_is_no_longer_counted(tmp_path: Path, is_slice: bool):
    """Of a slice of a map, too, at the right place."""

    def mapped() -> int:
        lines = Path("/proc/self/smaps").read_text().split(str(path))[1]
        return int(lines.split("Rss:")[1].split()[0]) * 1024

    path = tmp_path / "ids.bin"
    unit = 4 << 20  # whole huge pages, which go as a whole
    np.ones(6 * unit, np.uint8).tofile(path)
    ids = np.memmap(path, np.uint8, "r")
    assert int(ids.sum()) == 6 * unit
    assert mapped() == 6 * unit
    first = unit if is_slice else 0
    release(ids[first:], start=unit, stop=3 * unit)
    assert mapped() == 4 * unit
    assert int(ids[first + unit : first + 3 * unit].sum()) == 2 * unit
    assert mapped() == 6 * unit


# --- documents ----------------------------------------------------------------


@given(data=streams(), starts=st.lists(st.integers(0, 260), max_size=9), step=st.integers(0, 300))
@PROPERTY
def test_a_document_ends_before_another_begins(data: Streams, starts: list[int], step: int) -> None:
    """Empty ones, some past the training part, and where the ring closes."""
    documents = np.array([0, *sorted(starts)], "<u8")
    apart = dataclasses.replace(data, documents=documents)
    _, targets, _ = apart.batch(step)
    assert data.ends(step) is None
    ends = apart.ends(step)
    assert ends is not None
    assert ends.tolist() == np.isin(targets, documents).tolist()


@pytest.mark.parametrize("n", LENGTHS[1:])
def test_a_document_s_first_character_is_not_scored(n: int) -> None:
    documents = np.array([0, 1, 1, n // 2, n // 2, n - 1, n, n + 7], "<u8")
    rows = EvaluationRows(positions(n), documents)
    _, targets, is_scored = all_chunks(rows, 700)
    scored = sorted(set(range(n)) - {0, 1, n // 2, n - 1})
    if not scored:  # documents of one character alone are one text
        scored = list(range(1, n))
    assert np.sort(targets[is_scored]).tolist() == scored
    assert rows.n_scored == len(scored)
    ends = rows.ends(0, rows.width)
    if len(scored) < n - 1:
        assert ends is not None
        inside = targets == rows.positions(0, rows.width)
        np.testing.assert_array_equal(ends[inside], np.isin(targets, documents)[inside])
