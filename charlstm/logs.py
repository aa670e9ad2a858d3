"""`history.jsonl` and `samples.jsonl`: a line a record, in the model's folder.

A line is on the disk before the checkpoint that counts on it. A kill may leave
a torn last line, or lines of steps after the last checkpoint; `cut_logs` takes
both away before training goes on, so that no line is missing, torn or there
twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from charlstm.errors import CheckpointError, OutputError
from charlstm.storage import open_plain, put_in_place, shown, sync_folder

HISTORY, SAMPLES = "history.jsonl", "samples.jsonl"
LOGS = (HISTORY, SAMPLES)
# More is no line of ours, and would only cost memory.
_MAX_LINE_BYTES = 1 << 20
# A million samples. What has only zeros costs its sender nothing, and us the reading.
_MAX_LOG_BYTES = 1 << 30

Record = dict[str, Any]


def append_log(model: Path, name: str, record: Mapping[str, Any]) -> None:
    """Add a line, and wait until it is on the disk.

    Args:
        model: The model's folder.
        name: `HISTORY` or `SAMPLES`.
        record: One JSON object.

    Raises:
        OutputError: If it cannot be written.
    """
    path = model / name
    try:
        is_new = not path.exists()
        line = _line(record)
        with open(path, "ab+", opener=_open_no_link) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # torn by a full disk
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(model)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _open_no_link(path: str, flags: int) -> int:
    """Open for writing, but never by way of a link to another place."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {shown(path)}: {error.strerror or error}",
        hint="make room or choose another folder; the checkpoints are untouched",
    )


def read_log(model: Path, name: str) -> Iterator[Record]:
    """Read the records in order, one at a time.

    Args:
        model: The model's folder.
        name: `HISTORY` or `SAMPLES`.

    Yields:
        Each whole record; torn lines are left out, and there is none where
        there is no log that can be read.
    """
    with contextlib.suppress(CheckpointError):
        yield from _records(model / name)


def _records(path: Path) -> Iterator[Record]:
    with open_plain(path, limit=_MAX_LOG_BYTES) as file:
        is_line_start = True
        while line := file.readline(_MAX_LINE_BYTES):
            is_whole = is_line_start and len(line) < _MAX_LINE_BYTES
            is_line_start = line.endswith(b"\n")
            if not is_whole:
                continue
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record


def cut_logs(model: Path, *, step: int) -> None:
    """Forget what was logged after a step, before training goes on from it.

    Args:
        model: The model's folder, whose lock the caller holds.
        step: The checkpoint's step; its own lines stay.

    Raises:
        OutputError: If a log cannot be read or written.
    """
    for name in LOGS:
        path = model / name
        if os.path.lexists(path):  # a link to nothing too: it could not be written later
            _replace(path, (r for r in _records(path) if _is_by(r, step)))


def replace_logs(model: Path, records: Mapping[str, Iterable[Record]]) -> None:
    """Put other records in the place of both logs.

    Args:
        model: The model's folder, whose lock the caller holds.
        records: By the log's name; one that is left out becomes empty.

    Raises:
        OutputError: If a log cannot be written.
    """
    for name in LOGS:
        _replace(model / name, records.get(name, ()))


def _replace(path: Path, records: Iterable[Record]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # left over, or a link to another place
        with temporary.open("xb") as file:
            for record in records:
                file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        put_in_place(temporary, path)
    except CheckpointError as error:
        raise OutputError(error.message, hint="move it away to go on without it") from error
    except OSError as error:
        raise _cannot_write(path, error) from error


def _is_by(record: Record, step: int) -> bool:
    at = record.get("step")
    return isinstance(at, int) and at <= step
