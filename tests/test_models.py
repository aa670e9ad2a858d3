"""Models: finding, choosing, keeping and locking checkpoints."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    VOCABULARY,
    assert_holds,
    assert_same_arrays,
    assert_work_failed,
    change_manifest,
    folders,
    make_config,
    make_network,
    make_state,
    random_weights,
    save,
    steps,
)
from hypothesis import given
from hypothesis import strategies as st

from charlstm import models
from charlstm.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    load_training_state,
    write_checkpoint,
)
from charlstm.errors import (
    CheckpointError,
    InputError,
    ModelNotFoundError,
    NewerFormatError,
    OutputError,
)
from charlstm.logs import append_log
from charlstm.models import (
    best_checkpoint,
    choose_checkpoint,
    clear_model,
    describe_model,
    drop_other_runs,
    find_model,
    holds_model,
    is_shipped,
    list_checkpoints,
    list_models,
    locate_model,
    lock_model,
    model_names,
    model_path,
    open_checkpoint,
    shipped_models,
    verify_model,
)

# --- retention, best and last -----------------------------------------------------


@pytest.mark.parametrize(
    ("val_losses", "kept", "best"),
    [
        ([2.5, 2.0, 2.2, 2.3, 2.4], [20, 40, 50], 20),
        ([2.5, 2.4, 2.3, 2.2, 2.1], [40, 50], 50),
        ([2.5, 2.1, 2.3, 2.2, 2.4], [20, 40, 50], 20),
        ([1.0, 2.0, 3.0, 4.0, 0.5], [40, 50], 50),
        # The later of equals.
        ([2.0, 2.0, 3.0, 3.0, 3.0], [20, 40, 50], 20),
        ([2.0, 2.0, 2.0, 2.0, 2.0], [40, 50], 50),
        # A checkpoint between evaluations has no loss and is not the best.
        ([2.5, None, None, None, None], [10, 40, 50], 10),
        ([None, 2.5, None, 2.6, None], [20, 40, 50], 20),
    ],
)
def test_the_best_and_the_last_two_are_kept(
    model: Path, val_losses: list[float | None], kept: list[int], best: int
) -> None:
    for n, val_loss in enumerate(val_losses, 1):
        # Training losses fall, and must not be what is compared.
        save(model, 10 * n, random_seed=n, val_loss=val_loss, train_loss=1.0 - 0.1 * n)
    assert steps(model) == kept
    assert folders(model) == [f"step-{step:08d}" for step in kept]
    assert choose_checkpoint(model, "best").step == best
    assert choose_checkpoint(model, "last").step == 50
    for info in list_checkpoints(model):
        assert_holds(info, info.step // 10)


@pytest.mark.parametrize(
    ("train_losses", "best"),
    [
        ([2.5, 2.0, 2.2, 2.3], 20),
        ([2.0, 2.5, 2.0, 2.3], 30),
        ([None, 9.0, None, None], 20),
        ([None, None, None, None], 40),
    ],
)
def test_without_validation_the_training_loss_decides(
    model: Path, train_losses: list[float | None], best: int
) -> None:
    for n, train_loss in enumerate(train_losses, 1):
        save(model, 10 * n, val_loss=None, train_loss=train_loss)
    assert choose_checkpoint(model, "best").step == best
    assert steps(model) == sorted({best, 30, 40})


losses = st.one_of(st.none(), st.integers(0, 4).map(float))


@given(st.lists(st.tuples(losses, losses), min_size=1, max_size=8))
def test_the_best_checkpoint_is_the_best_in_any_order(
    pairs: list[tuple[float | None, float | None]],
) -> None:
    infos = [
        CheckpointInfo(
            path=Path(f"step-{n:08d}"),
            step=n,
            epoch=n / 2,
            train_loss=train_loss,
            val_loss=val_loss,
            written_at=0.0,
            files={},
        )
        for n, (val_loss, train_loss) in enumerate(pairs, 1)
    ]
    evaluated = [info for info in infos if info.val_loss is not None]
    trained = [info for info in infos if info.train_loss is not None]
    if evaluated:
        lowest = min(info.val_loss for info in evaluated)
        expected = [info for info in evaluated if info.val_loss == lowest][-1]
    elif trained:
        lowest = min(info.train_loss for info in trained)
        expected = [info for info in trained if info.train_loss == lowest][-1]
    else:
        expected = infos[-1]
    for order in (infos, infos[::-1], infos[len(infos) // 2 :] + infos[: len(infos) // 2]):
        assert best_checkpoint(order) == expected


def test_checkpoints_are_listed_by_number_not_by_name(model: Path) -> None:
    # 100,000,000 has a digit more than the folders' eight, and sorts first as text.
    save(model, 100_000_000, val_loss=2.0)
    save(model, 99_999_999, val_loss=3.0)
    assert steps(model) == [99_999_999, 100_000_000]
    assert choose_checkpoint(model, "last").step == 100_000_000


def test_what_was_just_written_is_never_retired(model: Path) -> None:
    # As after --resume from an earlier checkpoint because the later ones are
    # damaged inside: their manifests can still be read, and their steps are higher.
    save(model, 10, random_seed=1, val_loss=2.0)
    for n in (2, 3):
        save(model, 10 * n, random_seed=n, val_loss=3.0)
        (model / f"step-{10 * n:08d}" / "weights.safetensors").write_bytes(b"torn")
    written = save(model, 15, random_seed=4, val_loss=2.5)
    assert 15 in steps(model)
    assert_holds(written, 4)


def test_the_same_step_is_replaced(model: Path) -> None:
    save(model, 10, random_seed=1)
    save(model, 20, random_seed=2, val_loss=None)
    info = save(model, 20, random_seed=3, val_loss=1.5)
    assert steps(model) == [10, 20]
    assert folders(model) == ["step-00000010", "step-00000020"]
    assert info.val_loss == 1.5
    assert_holds(choose_checkpoint(model, "last"), 3)
    assert_holds(choose_checkpoint(model, "10"), 1)


# --- finding ----------------------------------------------------------------------


def spoil(folder: Path, kind: str) -> None:
    """Damage a checkpoint so that its manifest cannot be read."""
    manifest = folder / "manifest.json"
    if kind == "no manifest":
        manifest.unlink()
    elif kind == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "empty manifest":
        manifest.write_bytes(b"")
    elif kind == "not JSON":
        manifest.write_bytes(manifest.read_bytes()[:-30])
    elif kind == "not an object":
        manifest.write_bytes(b"[1, 2]")
    elif kind == "nested too deeply":
        manifest.write_bytes(b"[" * 200_000)
    elif kind == "not text":
        manifest.write_bytes(b"\xff\xfe\x00\x01\x80")
    elif kind == "too large":
        manifest.write_bytes(b" " * (1 << 21) + manifest.read_bytes())
    elif kind == "a folder as manifest":
        manifest.unlink()
        manifest.mkdir()
    elif kind == "a link as manifest":
        manifest.rename(folder.parent / "elsewhere.json")
        manifest.symlink_to(folder.parent / "elsewhere.json")
    elif kind == "a pipe as manifest":
        manifest.unlink()
        os.mkfifo(manifest)
    elif kind == "a file as folder":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    else:
        raise AssertionError(kind)


SPOILED = (
    "no manifest",
    "empty folder",
    "empty manifest",
    "not JSON",
    "not an object",
    "nested too deeply",
    "not text",
    "too large",
    "a folder as manifest",
    "a link as manifest",
    "a pipe as manifest",
    "a file as folder",
)


@pytest.mark.parametrize("kind", SPOILED)
def test_damaged_folders_are_not_listed(model: Path, kind: str) -> None:
    for step, val_loss in ((10, 1.0), (20, 3.0), (30, 2.0)):
        save(model, step, val_loss=val_loss)
    spoil(model / "step-00000010", kind)
    assert steps(model) == [20, 30]
    assert choose_checkpoint(model, "best").step == 30
    with pytest.raises(InputError) as caught:
        choose_checkpoint(model, "10")
    assert caught.value.hint == "best, last or one of 20, 30"


TOO_LARGE = 10**400  # for a float


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", None),
        ("step", "x"),
        ("step", [10]),
        ("step", math.nan),
        ("step", math.inf),
        ("step", -10),
        ("step", 11),  # the folder says 10: one of the two is wrong
        ("epoch", None),
        ("epoch", "much"),
        ("epoch", TOO_LARGE),
        ("train_loss", "low"),
        ("val_loss", {}),
        ("val_loss", math.nan),
        ("written_at", None),
        ("written_at", TOO_LARGE),
        ("written_at", math.nan),
        ("files", None),
        ("files", ["config.json"]),
        ("files", {"config.json": 12}),
        ("files", {"config.json": {"n_bytes": math.inf, "sha256": ""}}),
        ("files", {"config.json": {"n_bytes": 12}}),
        ("format_version", 0),
        ("format_version", "1"),
        ("format_version", True),
        ("format_version", None),
    ],
    ids=lambda value: "too large" if value is TOO_LARGE else None,
)
def test_an_impossible_manifest_is_not_listed(model: Path, field: str, value: object) -> None:
    # One flipped byte is enough: 12345 bytes become 1e345, which is infinite.
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=2.0)
    change_manifest(model / "step-00000010", lambda manifest: manifest.update({field: value}))
    assert steps(model) == [20]
    assert choose_checkpoint(model, "best").step == 20


@pytest.mark.parametrize(
    "field", ["step", "epoch", "train_loss", "val_loss", "written_at", "files", "format_version"]
)
def test_an_incomplete_manifest_is_not_listed(model: Path, field: str) -> None:
    save(model, 10)
    save(model, 20)
    change_manifest(model / "step-00000020", lambda manifest: manifest.pop(field))
    assert steps(model) == [10]


@contextlib.contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Refuse what is in a folder, as the system refuses it to another user."""

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            if not isinstance(path, int) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (os, "stat"),
            (os, "lstat"),
            (os, "open"),
            (os, "listdir"),
            (os, "scandir"),
            (io, "open"),
            (builtins, "open"),
        ):
            patch.setattr(module, name, guarded(getattr(module, name)))
        yield


def test_a_forbidden_folder_does_not_hide_those_after_it(model: Path) -> None:
    # Tests often run as root, whom no mode stops: the refusal is simulated.
    for n in (1, 2, 3):
        save(model, 10 * n, random_seed=n, val_loss=n)
    with unreadable(model / "step-00000010"):
        assert steps(model) == [20, 30]


def test_a_forbidden_file_is_a_damaged_checkpoint(model: Path) -> None:
    info = save(model, 10)
    for load in (load_checkpoint, load_training_state):
        with unreadable(info.path), pytest.raises(CheckpointError) as caught:
            load(info)
        assert_work_failed(caught.value, "step-00000010")


@pytest.mark.parametrize(
    "name",
    ["step-10", "step-0000001x", "Step-00000010", "step-00000010.bak", ".step-00000010", "x"],
)
def test_folders_of_another_name_are_not_checkpoints(model: Path, name: str) -> None:
    info = save(model, 10)
    info.path.rename(model / name)
    assert list_checkpoints(model) == []


def test_there_are_no_checkpoints_where_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file", "missing/deeper", "x" * 5_000):
        assert list_checkpoints(tmp_path / name) == []
        assert list_models(tmp_path / name) == []


def test_the_newest_model_is_so_by_its_own_record(empty_workplace: Path) -> None:
    # Copying turns the files' times round; the manifests stay as they were.
    for n, (name, written_at) in enumerate({"old": 100.0, "newest": 300.0, "new": 200.0}.items()):
        save(empty_workplace / "checkpoints" / name, 10, now=written_at)
        for path in (empty_workplace / "checkpoints" / name).rglob("*"):
            os.utime(path, (1_000 * (n + 1) - written_at,) * 2)
    # A model's date is that of its latest write, not of its highest step.
    save(empty_workplace / "checkpoints" / "old", 5, now=250.0)
    (empty_workplace / "checkpoints" / "empty").mkdir()
    (empty_workplace / "checkpoints" / "notes.txt").write_text("no model")
    assert [path.name for path in list_models()] == ["newest", "old", "new"]
    assert find_model(None) == Path("checkpoints/newest")
    assert list_models(empty_workplace / "checkpoints") == [
        empty_workplace / "checkpoints" / name for name in ("newest", "old", "new")
    ]


def test_an_unknown_model_lists_the_known(empty_workplace: Path, shipped: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("tale")
    assert caught.value.message == "there is no model tale (checkpoints/tale)"
    assert caught.value.hint == "shipped with charlstm: macbeth, sonnets"
    save(empty_workplace / "checkpoints" / "hamlet", 10, now=100)
    save(empty_workplace / "checkpoints" / "lear\x1b[2J", 10, now=200)
    save(empty_workplace / "checkpoints" / "sonnets", 10, now=150)
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("macbeth\n")
    assert caught.value.exit_code == 1
    assert caught.value.message == r"there is no model macbeth\n (checkpoints/macbeth\n)"
    assert caught.value.hint == (
        r"models here: lear\x1b[2J, sonnets, hamlet; shipped with charlstm: macbeth"
    )
    assert find_model("hamlet") == Path("checkpoints/hamlet")
    with pytest.raises(ModelNotFoundError) as caught:
        find_model("./hamlet")
    assert caught.value.message == "there is no model ./hamlet (hamlet)"


def test_a_model_may_be_anywhere(empty_workplace: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "mine", 10)
    save(empty_workplace / "mine", 10)
    assert find_model(str(tmp_path / "elsewhere" / "mine")) == tmp_path / "elsewhere" / "mine"
    assert find_model("./mine") == Path("mine")
    with pytest.raises(ModelNotFoundError):
        find_model("mine")


@given(
    st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(
        lambda word: word not in (".", "..")
    )
)
def test_a_bare_word_is_a_model_in_checkpoints(word: str) -> None:
    assert model_path(word) == Path("checkpoints") / word


@given(
    st.text(st.characters(exclude_characters="\0")), st.text(st.characters(exclude_characters="\0"))
)
def test_what_has_a_separator_is_a_folder(before: str, after: str) -> None:
    name = f"{before}{os.sep}{after}"
    assert model_path(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", "''"), (".", "'.'"), ("..", "'..'"), ("a\0b", r"'a\x00b'"), ("./\0", r"'./\x00'")],
)
def test_what_cannot_be_a_name_is_refused(name: str, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        model_path(name)
    assert caught.value.message == f"{shown} cannot be a model's name"
    assert caught.value.hint == "give a word, or a path with a separator such as ./mine"
    assert caught.value.exit_code == 2


# --- models that ship ---------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's folder with two models, and with what is none."""
    folder = tmp_path / "package" / "shipped"
    for n, name in enumerate(("sonnets", "macbeth")):
        # The newest of all: what ships must not win by its date.
        save(folder / name, 60 + n, random_seed=n, state=None, now=9e9)
    (folder / "README.md").write_text("no model")
    (folder / "__pycache__").mkdir()
    monkeypatch.setattr(models, "shipped_folder", lambda: folder)
    return folder


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_only_models_count_as_shipped(shipped: Path) -> None:
    assert shipped_models() == {"macbeth": shipped / "macbeth", "sonnets": shipped / "sonnets"}
    assert list(shipped_models()) == ["macbeth", "sonnets"]


def test_what_ships_is_found_where_there_is_nothing_else(
    empty_workplace: Path, shipped: Path
) -> None:
    assert find_model(None) == shipped / "macbeth"
    assert find_model("macbeth") == shipped / "macbeth"
    assert find_model("sonnets") == shipped / "sonnets"
    assert list_models() == []
    assert model_names() == ["macbeth", "sonnets"]


def test_an_own_model_comes_first_by_date_and_by_name(empty_workplace: Path, shipped: Path) -> None:
    checkpoints = empty_workplace / "checkpoints"
    save(checkpoints / "hamlet", 10, now=100.0)
    assert find_model(None) == Path("checkpoints/hamlet")
    assert find_model("macbeth") == shipped / "macbeth"
    assert model_names() == ["hamlet", "macbeth", "sonnets"]
    save(checkpoints / "macbeth", 10, now=50.0)
    assert find_model("macbeth") == Path("checkpoints/macbeth")
    assert find_model(None) == Path("checkpoints/hamlet")
    assert model_names() == ["hamlet", "macbeth", "sonnets"]
    # An empty folder, as a run that failed leaves it, is no model.
    (checkpoints / "sonnets").mkdir()
    assert find_model("sonnets") == shipped / "sonnets"


def test_a_damaged_own_model_is_not_passed_over_for_one_that_ships(
    empty_workplace: Path, shipped: Path
) -> None:
    # Its text would be taken for that of the own model.
    info = save(empty_workplace / "checkpoints" / "macbeth", 10)
    (info.path / "manifest.json").write_bytes(b"torn")
    for name in ("macbeth", None):
        with pytest.raises(CheckpointError) as caught:
            find_model(name)
        assert caught.value.message == (
            "the checkpoints of checkpoints/macbeth are damaged: none has a good manifest"
        )
        assert locate_model(name) == Path("checkpoints/macbeth")
    assert model_names() == ["sonnets"]
    save(empty_workplace / "checkpoints" / "hamlet", 10)
    assert find_model(None) == Path("checkpoints/hamlet")


def test_an_own_model_of_a_newer_program_is_not_passed_over(
    empty_workplace: Path, shipped: Path
) -> None:
    info = save(empty_workplace / "checkpoints" / "tale", 10)
    change_manifest(info.path, lambda manifest: manifest.update(format_version=2))
    for name in ("tale", None):
        with pytest.raises(NewerFormatError):
            find_model(name)


@pytest.mark.parametrize("name", ["./macbeth", "macbeth/", "checkpoints/macbeth", "../macbeth"])
def test_a_path_is_only_ever_that_folder(empty_workplace: Path, shipped: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        find_model(name)
    save(Path(name), 10)
    assert find_model(name) == Path(name)


def test_where_nothing_ships_the_cure_is_named(
    empty_workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "shipped_folder", lambda: tmp_path / "missing")
    expected = {
        None: "there is no model in checkpoints/, and none ships with this charlstm",
        "macbeth": "there is no model macbeth (checkpoints/macbeth)",
    }
    for name, message in expected.items():
        with pytest.raises(ModelNotFoundError) as caught:
            find_model(name)
        assert caught.value.exit_code == 1
        assert caught.value.message == message
        assert caught.value.hint == "train one first: charlstm train macbeth.txt"
    assert shipped_models() == {}
    assert not is_shipped(tmp_path / "missing" / "macbeth")


def test_a_model_that_ships_is_known_however_it_is_written(
    empty_workplace: Path, shipped: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(shipped / "macbeth")
    for there in (
        shipped / "macbeth",
        shipped / "macbeth" / "step-00000061",
        shipped / "missing",
        shipped / "missing" / ".." / "macbeth",
        shipped,
        linked,
        Path("../package/shipped/macbeth"),
    ):
        assert is_shipped(there), there
    save(empty_workplace / "checkpoints" / "macbeth", 10)
    for elsewhere in (
        Path("checkpoints/macbeth"),
        Path("missing"),
        shipped.parent,
        shipped.with_name("shipped-too") / "macbeth",
        shipped / "macbeth" / ".." / ".." / "mine",
        Path("x" * 5_000),
    ):
        assert not is_shipped(elsewhere), elsewhere


def test_no_run_locks_a_model_that_ships(shipped: Path) -> None:
    before = contents(shipped)
    for model in (shipped / "macbeth", shipped / "mine"):
        with pytest.raises(InputError) as caught, lock_model(model):
            pytest.fail("a model that ships was locked")
        assert caught.value.message == f"{model} ships with charlstm and is never written to"
        assert (
            caught.value.hint == "give --model another name; --from MODEL begins with its weights"
        )
    assert contents(shipped) == before


def test_a_model_that_ships_is_read_as_any_other(empty_workplace: Path, shipped: Path) -> None:
    before = contents(shipped)
    model = find_model("macbeth")
    described = describe_model(model)
    assert (described["name"], described["shipped"]) == ("macbeth", True)
    assert [entry["step"] for entry in described["checkpoints"]] == [61]
    checkpoint, warnings = open_checkpoint(model)
    assert_same_arrays(checkpoint.weights, random_weights(make_network(), 1))
    assert warnings == []
    assert [problems for _, problems in verify_model(model)] == [[]]
    assert contents(shipped) == before


# --- choosing ---------------------------------------------------------------------


def test_choosing_a_checkpoint(model: Path) -> None:
    for step, val_loss in ((10, 1.0), (20, 3.0), (30, 2.0)):
        save(model, step, val_loss=val_loss)
    chosen = {which: choose_checkpoint(model, which).step for which in ("best", "last", "20")}
    assert chosen == {"best": 10, "last": 30, "20": 20}


@pytest.mark.parametrize("which", ["25", "", "BEST", "010", "1_0", "-10", "10 ", "1\x1b0"])
def test_an_unknown_checkpoint_lists_the_known(model: Path, which: str) -> None:
    save(model, 10)
    save(model, 20)
    with pytest.raises(InputError) as caught:
        choose_checkpoint(model, which)
    shown = which.replace("\x1b", r"\x1b")
    assert caught.value.message == f"{model} has no checkpoint {shown}"
    assert caught.value.hint == "best, last or one of 10, 20"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("which", ["best", "last", "10"])
def test_a_model_without_checkpoints_has_none_to_choose(model: Path, which: str) -> None:
    for choose in (choose_checkpoint, open_checkpoint):
        with pytest.raises(ModelNotFoundError) as caught:
            choose(model, which)
        assert caught.value.message == f"{model} has no checkpoint"
        assert caught.value.exit_code == 1


# --- the lock ---------------------------------------------------------------------


def test_a_model_has_one_writer_at_a_time(model: Path) -> None:
    with lock_model(model):
        with pytest.raises(OutputError) as caught, lock_model(model):
            pytest.fail("two runs hold one model")
        assert caught.value.message == f"another run is writing {model}"
        assert caught.value.hint == "wait for it, or give another --model"
        assert caught.value.exit_code == 1
        # Refusing the second does not free the first.
        with pytest.raises(OutputError), lock_model(model):
            pytest.fail("two runs hold one model")
        with lock_model(model.parent / "other"):
            pass
    with lock_model(model):
        pass


def test_a_lock_is_free_after_an_error(model: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_model(model):
        raise ZeroDivisionError
    # An error of the work is not mistaken for one of the lock.
    with pytest.raises(FileNotFoundError), lock_model(model):
        raise FileNotFoundError
    with lock_model(model):
        save(model, 10)
    assert steps(model) == [10]


HOLDER = """
import sys
from pathlib import Path
from charlstm.models import lock_model
with lock_model(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_crashed_holders_lock_is_free_again(model: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(OutputError) as caught, lock_model(model):
                pytest.fail("two processes hold one model")
            assert caught.value.message == f"another run is writing {model}"
        finally:
            holder.kill()
    with lock_model(model):
        pass


def test_locking_makes_the_folder_and_nothing_that_counts(tmp_path: Path) -> None:
    model = tmp_path / "deep" / "er" / "tale"
    with lock_model(model):
        assert model.is_dir()
    assert list_checkpoints(model) == []


@pytest.mark.parametrize(("below", "reason"), [("", "File exists"), ("tale", "Not a directory")])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, below: str, reason: str
) -> None:
    # A file in the folder's place stops root too.
    (tmp_path / "file").write_bytes(b"kept")
    model = tmp_path / "file" / below if below else tmp_path / "file"
    with pytest.raises(OutputError) as caught, lock_model(model):
        pytest.fail("a file was locked as a folder")
    assert caught.value.message == f"cannot write {model}: {reason}"
    assert caught.value.hint == "choose a folder that can be written with --model"
    assert caught.value.exit_code == 1
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no mode stops root from writing"
)
def test_a_read_only_folder_is_refused(model: Path) -> None:
    model.mkdir()
    model.chmod(0o555)
    try:
        with pytest.raises(OutputError) as caught, lock_model(model):
            pytest.fail("a read-only folder was locked")
    finally:
        model.chmod(0o755)
    assert caught.value.message == f"cannot write {model}: Permission denied"


# --- clearing ---------------------------------------------------------------------


def test_clearing_removes_only_what_is_ours(model: Path) -> None:
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=2.0)
    (model / "step-00000030").mkdir()  # damaged, and still ours
    (model / ".step-x1y2").mkdir()
    (model / ".step-x1y2" / "weights.safetensors").write_bytes(b"torn")
    append_log(model, "history.jsonl", {"step": 10})
    append_log(model, "samples.jsonl", {"step": 10, "text": "a"})
    theirs = ["notes.txt", "step-12.txt", "history.jsonl.bak", ".steps", "weights.safetensors"]
    for name in theirs:
        (model / name).write_text(name)
    for name in ("step-10", "backup", "step-00000010 copy"):
        (model / name).mkdir()
        (model / name / "manifest.json").write_text(name)
    clear_model(model)
    assert folders(model) == sorted([*theirs, "step-10", "backup", "step-00000010 copy"])
    assert all((model / name).read_text() == name for name in theirs)
    assert (model / "backup" / "manifest.json").read_text() == "backup"
    clear_model(model)


def test_clearing_follows_no_link_and_stumbles_over_no_file(model: Path, tmp_path: Path) -> None:
    # Neither a link nor a file can be removed as a folder is.
    save(model, 10)
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere, 20)
    (model / "step-00000020").symlink_to(elsewhere / "step-00000020")
    (model / "step-00000030").write_text("a file")
    clear_model(model)
    assert list_checkpoints(model) == []
    assert_holds(choose_checkpoint(elsewhere, "20"), 0)


# --- what a model is --------------------------------------------------------------


def test_a_model_is_described(empty_workplace: Path) -> None:
    model = Path("checkpoints/tale")
    save(model, 10, val_loss=1.0, train_loss=1.25, epoch=1.5)
    save(model, 20, val_loss=2.0, train_loss=None, epoch=2.5)
    save(model, 30, val_loss=None, train_loss=0.75, epoch=3.5)
    for step in (10, 20):
        append_log(model, "history.jsonl", {"step": step})
    config = make_config(make_network())
    described = describe_model(model)
    assert described == {
        "name": "tale",
        "path": str(empty_workplace / "checkpoints" / "tale"),
        "shipped": False,
        "recipe": "default",
        # By hand: 4·5·(7+5+1) + 4·5·(5+5+1) + (5+1)·7
        "parameters": 260 + 220 + 42,
        "layers": 2,
        "units": 5,
        "seq_length": 8,
        "vocabulary_size": 7,
        "corpus": config["corpus"],
        "training": config["training"],
        "versions": config["versions"],
        "evaluations": 2,
        "checkpoints": [
            {
                "step": step,
                "epoch": epoch,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "best": step == 10,
                "last": step == 30,
            }
            for step, epoch, train_loss, val_loss in (
                (10, 1.5, 1.25, 1.0),
                (20, 2.5, None, 2.0),
                (30, 3.5, 0.75, None),
            )
        ],
    }
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_a_model_whose_last_checkpoint_is_damaged_is_still_described(model: Path) -> None:
    save(model, 10)
    save(model, 20)
    (model / "step-00000020" / "config.json").unlink()
    assert describe_model(model)["units"] == 5
    (model / "step-00000010" / "config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        describe_model(model)
    assert_work_failed(caught.value, "step-00000020")


# --- what is kept, when something is damaged or not evaluated ---------------------


def spoil_weights(folder: Path) -> bytes:
    """Flip a bit of the weights: the manifest still looks good."""
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return bytes(data)


def test_what_is_damaged_is_left_alone_and_crowds_out_nothing(model: Path) -> None:
    # As it was, two damaged ones passed for "the last two", and the good ones went.
    for n in (1, 2, 3):
        save(model, 10 * n, random_seed=n, val_loss=float(n))
    damaged = {name: spoil_weights(model / name) for name in ("step-00000020", "step-00000030")}
    for n in (12, 14, 16):
        save(model, n, random_seed=n, val_loss=5.0)
    assert steps(model) == [10, 14, 16, 20, 30]
    for name, data in damaged.items():
        assert (model / name / "weights.safetensors").read_bytes() == data


def test_the_point_of_return_is_kept(model: Path) -> None:
    """Between two evaluations a checkpoint has no loss; the last one with a loss stays."""
    save(model, 10, val_loss=1.0)
    save(model, 20, val_loss=2.0)
    for step in (21, 22, 23):
        save(model, step, val_loss=None, train_loss=None)
    assert steps(model) == [10, 20, 22, 23]
    save(model, 30, val_loss=3.0)
    save(model, 31, val_loss=None, train_loss=None)
    assert steps(model) == [10, 30, 31]


def test_two_runs_in_one_folder_are_not_mixed(model: Path) -> None:
    """A run that replaced another was killed before it had removed the old checkpoints."""
    save(model, 50, val_loss=0.5, run="old", now=1_000.0)
    write_checkpoint(
        model,
        step=7,
        epoch=1.0,
        train_loss=None,
        val_loss=3.0,
        config=make_config(make_network()),
        vocabulary=VOCABULARY,
        weights=random_weights(make_network()),
        state=make_state(),
        run="new",
        now=2_000.0,
    )
    assert steps(model) == [7]
    assert choose_checkpoint(model, "best").step == 7
    drop_other_runs(model, run="new")
    assert folders(model) == ["step-00000007"]


def test_a_checkpoint_retired_while_it_is_read_is_looked_for_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(model, 10, val_loss=3.0)
    save(model, 20, val_loss=2.0, random_seed=2)
    real = models.load_checkpoint

    def load(info: CheckpointInfo) -> Any:
        if info.step == 20:  # a training run is just faster
            save(model, 30, val_loss=1.5, random_seed=3)
            save(model, 40, val_loss=1.0, random_seed=4)
            monkeypatch.setattr(models, "load_checkpoint", real)
        return real(info)

    monkeypatch.setattr(models, "load_checkpoint", load)
    checkpoint, warnings = open_checkpoint(model)
    assert checkpoint.info.step == 40
    assert warnings == []


def test_a_link_is_no_checkpoint_and_no_lock(model: Path, tmp_path: Path) -> None:
    save(model, 10)
    elsewhere = tmp_path / "elsewhere"
    (model / "step-00000010").rename(elsewhere)
    (model / "step-00000010").symlink_to(elsewhere)
    assert list_checkpoints(model) == []
    assert holds_model(model)
    treasure = tmp_path / "treasure"
    treasure.write_text("keep me")
    (model / ".lock").symlink_to(treasure)
    with pytest.raises(OutputError, match="is a link"), lock_model(model):
        pass
    assert treasure.read_text() == "keep me"


def test_verifying_names_each_damaged_checkpoint(model: Path) -> None:
    for n in (1, 2, 3):
        save(model, 10 * n, val_loss=float(n))
    save(model, 40, val_loss=9.0)
    assert [problems for _, problems in verify_model(model)] == [[], [], []]
    spoil_weights(model / "step-00000030")
    (model / "step-00000040" / "manifest.json").write_text("{}")
    (whole, none), (weights, one), (manifest, other) = verify_model(model)
    assert (whole.name, none) == ("step-00000010", []), whole.name
    assert one == [f"{weights / 'weights.safetensors'} is damaged: it is not what was saved"]
    assert other == [f"{manifest / 'manifest.json'} has no usable format_version"]
