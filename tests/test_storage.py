"""Files that survive, files from strangers, names that work everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlstm.errors import CheckpointError
from charlstm.storage import (
    hold_folder,
    is_portable_name,
    make_folder,
    portable_name,
    put_in_place,
    read_plain,
    read_verified,
    remove,
)

needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")


def test_a_plain_file_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"seven b")
    assert read_plain(path, limit=7) == b"seven b"
    with pytest.raises(CheckpointError, match="has 7 bytes; at most 6 are read"):
        read_plain(path, limit=6)


@needs_links
@pytest.mark.parametrize("kind", ["nothing", "folder", "link", "pipe", "device"])
def test_only_plain_files_are_read(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer would be waited for without end."""
    path, target = tmp_path / "file", tmp_path / "target"
    target.write_bytes(b"x")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    with pytest.raises(CheckpointError, match="is missing or not a plain file"):
        read_plain(path, limit=100)


@pytest.mark.parametrize("n_bytes", [3, 1_500_000])
def test_what_is_read_is_what_was_said(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * (n_bytes // 256) + b"end"
    path.write_bytes(data)
    said = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert read_verified(path, **said, limit=len(data)) == data
    with pytest.raises(CheckpointError, match="at most"):
        read_verified(path, **said, limit=len(data) - 1)
    for wrong in (data[:-1], data + b"x", data[:-1] + b"D"):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError):
            read_verified(path, **said, limit=2 * len(data))


@needs_links
def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    make_folder(folder / "deep" / "deeper")
    link.symlink_to(folder)
    remove(link)
    assert (folder / "deep" / "deeper").is_dir()
    remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_put_in_place_replaces_a_file(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"new")
    old.write_bytes(b"old")
    put_in_place(new, old)
    assert old.read_bytes() == b"new"
    assert not new.exists()


@pytest.mark.parametrize(
    ("given_name", "made"),
    [
        ("macbeth", "macbeth"),
        ("Faust I (1808)", "Faust-I-1808"),
        ("cafe\u0301", "café"),
        ("aux", "text-aux"),
        ("Con.v2", "text-Con.v2"),
        ("com7", "text-com7"),
        ("com", "com"),
        ("a:b?c", "a-b-c"),
        ("ends. ", "ends"),
        ("...", "text"),
        ("\x1b[31m", "31m"),
    ],
)
def test_names_are_made_safe(given_name: str, made: str) -> None:
    assert portable_name(given_name) == made
    assert is_portable_name(made)


@pytest.mark.parametrize(
    "name", ["", "nul", "LPT1.txt", "a<b", "a|b", "dot.", "space ", "tab\t", "a" * 256, "é" * 128]
)
def test_names_that_some_system_refuses(name: str) -> None:
    assert not is_portable_name(name)


@given(st.text(max_size=60))
def test_a_name_made_safe_is_safe_and_stays(name: str) -> None:
    made = portable_name(name)
    assert is_portable_name(made)
    assert portable_name(made) == made


@needs_links
def test_a_held_folder_keeps_out_others_that_hold_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, charlstm.storage as s\n"
        "print('ready', flush=True)\n"
        "with s.hold_folder(pathlib.Path(sys.argv[1])): print(len(list(pathlib.Path('"
        f"{tmp_path}').iterdir())), flush=True)"
    )
    with hold_folder(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.5)
        (tmp_path / "in time").touch()
    assert other.communicate(timeout=60)[0] == "1\n"
    with hold_folder(tmp_path / "not there"):
        pass
