"""The logs: a line a record, none torn, missing or there twice."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, disk_full
from helpers import (
    folders,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm.errors import (
    OutputError,
)
from charlstm.logs import append_log, cut_logs, read_log

# --- logs -------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
records = st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4)


@given(records)
def test_a_log_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]]
) -> None:
    model = tmp_path_factory.mktemp("log")
    for record in written:
        append_log(model, "samples.jsonl", record)
    assert list(read_log(model, "samples.jsonl")) == written
    assert list(read_log(model, "history.jsonl")) == []


def test_a_log_has_one_line_a_record(model: Path) -> None:
    model.mkdir()
    # U+2028 and U+0085 end a line for some readers, though not in this format.
    texts = ["a\nb\r\nc", "é \u2028 \u0085", "😀", "\0"]
    for n, text in enumerate(texts, 1):
        append_log(model, "samples.jsonl", {"step": n, "text": text})
    lines = (model / "samples.jsonl").read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert [json.loads(line)["text"] for line in lines[:-1]] == texts


# Characters of 1, 2, 3 and 4 bytes, so that a cut can fall inside one.
TORN_TEXT = 'a é € 😀 \\ " z'


def test_a_torn_last_line_is_left_out_wherever_it_is_cut(model: Path) -> None:
    model.mkdir()
    path = model / "samples.jsonl"
    first = {"step": 10, "text": "ein Stück €"}
    last = {"step": 20, "text": TORN_TEXT}
    append_log(model, "samples.jsonl", first)
    n_first = len(path.read_bytes())
    append_log(model, "samples.jsonl", last)
    whole = path.read_bytes()
    for length in range(n_first, len(whole)):
        path.write_bytes(whole[:length])
        # Without its newline alone a line is still whole.
        expected = [first, last] if length == len(whole) - 1 else [first]
        assert list(read_log(model, "samples.jsonl")) == expected, f"cut to {length} bytes"


@pytest.mark.parametrize("garbage", [b"\n", b"{}x\n", b"[1]\n", b"7\n", b"\xff\xfe\n", b"\0\0\0\n"])
def test_lines_that_are_no_records_are_left_out(model: Path, garbage: bytes) -> None:
    model.mkdir()
    (model / "history.jsonl").write_bytes(b'{"step": 1}\n' + garbage + b'{"step": 2}\n')
    assert list(read_log(model, "history.jsonl")) == [{"step": 1}, {"step": 2}]


def test_a_record_after_a_torn_line_is_not_lost(model: Path) -> None:
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 1})
    with (model / "history.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "val_l')
    append_log(model, "history.jsonl", {"step": 3})
    assert list(read_log(model, "history.jsonl")) == [{"step": 1}, {"step": 3}]


def test_logs_are_cut_back_to_a_step(model: Path) -> None:
    model.mkdir()
    for step in (5, 10, 15, 20):
        append_log(model, "history.jsonl", {"step": step, "val_loss": 1 / step})
        append_log(model, "samples.jsonl", {"step": step, "text": TORN_TEXT})
    with (model / "history.jsonl").open("ab") as file:
        file.write('{"step": 10, "text": "é'.encode()[:-1])
    cut_logs(model, step=10)
    assert [r["step"] for r in read_log(model, "history.jsonl")] == [5, 10]
    assert list(read_log(model, "samples.jsonl")) == [
        {"step": step, "text": TORN_TEXT} for step in (5, 10)
    ]
    assert folders(model) == ["history.jsonl", "samples.jsonl"]
    # What is added now is a line of its own.
    append_log(model, "history.jsonl", {"step": 12})
    assert [r["step"] for r in read_log(model, "history.jsonl")] == [5, 10, 12]


@pytest.mark.parametrize("record", [{}, {"step": None}, {"step": "5"}, {"text": "a"}])
def test_a_record_without_a_step_does_not_outlive_a_cut(
    model: Path, record: dict[str, Any]
) -> None:
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 5})
    append_log(model, "history.jsonl", record)
    cut_logs(model, step=10)
    assert list(read_log(model, "history.jsonl")) == [{"step": 5}]


def test_cutting_back_makes_no_logs(model: Path) -> None:
    model.mkdir()
    cut_logs(model, step=10)
    assert folders(model) == []


@pytest.mark.parametrize("kind", ["write", "fsync", "rename"])
def test_a_log_survives_a_failed_cut(
    model: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model.mkdir()
    for step in (5, 10, 15):
        append_log(model, "history.jsonl", {"step": step})
    before = (model / "history.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        Faults(0, disk_full(), is_final=False, kinds=(kind,)).install(patch)
        cut_logs(model, step=10)
    assert (
        caught.value.message == f"cannot write {model / 'history.jsonl'}: No space left on device"
    )
    assert caught.value.exit_code == 1
    assert (model / "history.jsonl").read_bytes() == before


def test_a_log_that_cannot_be_read_is_not_emptied(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read as "no records", it would be rewritten with none.
    model.mkdir()
    append_log(model, "history.jsonl", {"step": 5})
    before = (model / "history.jsonl").read_bytes()
    real_open = Path.open

    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open_file(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return (fail if "r" in mode else real_open)(self, mode, *args, **options)

    with monkeypatch.context() as patch, contextlib.suppress(OutputError):
        patch.setattr(Path, "open", open_file)
        patch.setattr(Path, "read_bytes", fail)
        patch.setattr(Path, "read_text", fail)
        cut_logs(model, step=10)
    assert (model / "history.jsonl").read_bytes() == before


def test_a_log_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for model, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "missing", "No such file or directory"),
    ):
        with pytest.raises(OutputError) as caught:
            append_log(model, "history.jsonl", {"step": 1})
        assert caught.value.message == f"cannot write {model / 'history.jsonl'}: {reason}"
        assert caught.value.exit_code == 1
        assert list(read_log(model, "history.jsonl")) == []
