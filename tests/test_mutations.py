"""Thousands of damaged models, each given to the real command.

A model of three checkpoints is damaged in one way after the other. What
`generate` then writes must be, to the character, the text of one of the whole
checkpoints, with a warning that names the damaged file wherever that one is
not the best; or an error, and nothing written. `sweep` counts what came of
each and lists what broke that promise. That it would notice is shown too: with
a protection taken out of the program, it finds something.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import itertools
import json
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import run
from helpers import (
    CHARACTERS,
    FILES,
    LOADED_FOR_WRITING_TEXT,
    change_manifest,
    make_config,
    make_network,
    make_state,
    random_weights,
    save,
)

from charlstm import checkpoint, models, storage
from charlstm.checkpoint import TrainingState
from charlstm.vocabulary import Vocabulary

WRITING = LOADED_FOR_WRITING_TEXT
TRAINING_ONLY, MANIFEST = FILES[3:5], FILES[5]
BEST, MIDDLE, LAST = STEPS = (10, 20, 30)
STAND_IN = {"best": LAST, "last": MIDDLE}
GENERATE = ["generate", "--json", "--random-seed", "7", "-n", "20", "--model", "king"]
Tree = dict[Path, bytes | str]


def make_king(model: Path) -> None:
    """Save three checkpoints no two files of which are alike.

    Even the vocabularies differ, by a character: a file of another checkpoint
    would be noticed in the text.
    """
    network = make_network()
    for step, val_loss, accented in ((BEST, 1.0, "é"), (MIDDLE, 3.0, "è"), (LAST, 2.0, "ü")):
        characters = CHARACTERS.replace("é", accented)
        state = make_state(network)
        save(
            model,
            step,
            val_loss=val_loss,
            weights=random_weights(network, step),
            vocabulary=Vocabulary(characters),
            config=make_config(
                network, seed_windows=[f"abcd {accented}bc", f"{accented * 3}\ndab"]
            ),
            state=TrainingState(
                trainer=state.trainer | {"step": step},
                arrays={name: array * 0 + step for name, array in state.arrays.items()},
            ),
        )


@pytest.fixture(scope="module")
def king_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("mutations") / "king"
    make_king(model)
    return model


@pytest.fixture
def king(king_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model `king` in a working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(king_once, "checkpoints/king")
    return Path("checkpoints/king")


def folder_of(model: Path, step: int) -> Path:
    return model / f"step-{step:08d}"


# --- the harness ------------------------------------------------------------------


def snapshot(folder: Path) -> Tree:
    """All that is in a folder: bytes of files, kinds of the rest."""
    tree: Tree = {}
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_symlink():
            tree[path] = f"link to {path.readlink()}"
        elif entry.is_dir():
            tree[path] = "folder"
            tree |= snapshot(path)
        else:
            tree[path] = path.read_bytes()
    return tree


def restore(now: Tree, whole: Tree) -> None:
    """Undo what was done to a folder, and touch nothing else in it."""
    for path in sorted(now, reverse=True):  # what is in a folder comes before it
        if whole.get(path) != now[path]:
            path.rmdir() if now[path] == "folder" else path.unlink()
    for path in sorted(whole):
        if whole[path] != now.get(path):
            content = whole[path]
            path.write_bytes(content) if isinstance(content, bytes) else path.mkdir()


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One way to damage a model.

    Attributes:
        kind: Counted under this name.
        what: What is done, for messages.
        apply: Does it.
        damaged: Files that are no longer what was saved.
        must_refuse: Whether nothing is left to write from.
    """

    kind: str
    what: str
    apply: Callable[[], object]
    damaged: tuple[Path, ...]
    must_refuse: bool = False

    @property
    def group(self) -> str:
        """The file that is damaged, or the kind where there are several."""
        return self.damaged[0].name if len(self.damaged) == 1 else self.kind


@dataclasses.dataclass
class Sweep:
    """What came of the mutations.

    Attributes:
        outcomes: How many of each group ended how: "as before", "warned" (as
            before, with a warning), "stood in" or "refused".
        kinds: How many there were of each kind.
        violations: What must not be, a line each.
    """

    outcomes: collections.Counter[tuple[str, str]] = dataclasses.field(
        default_factory=collections.Counter
    )
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    violations: list[str] = dataclasses.field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.outcomes.total()

    def count(self, outcome: str | None, groups: Iterable[str] | None = None) -> int:
        """Count what ended so, or any way for None, in these groups or in all."""
        return sum(
            n
            for (group, ended), n in self.outcomes.items()
            if outcome in (None, ended) and (groups is None or group in groups)
        )


def text_of(stdout: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(stdout)
    return {key: content[key] for key in ("checkpoint", "seed", "text", "length")}


def sweep(model: Path, mutations: Iterable[Mutation], which: str = "best") -> Sweep:
    """Run the command on each mutation of a model and judge what it does.

    Args:
        model: A whole model of three checkpoints; it is whole again after it.
        mutations: Applied one at a time.
        which: As given to `--checkpoint`.

    Returns:
        The counts, and every violation.
    """
    whole = snapshot(model)
    texts = {}
    for step in STEPS:
        result = run(*GENERATE, "--checkpoint", str(step))
        assert result.exit_code == 0, result.stderr
        texts[step] = text_of(result.stdout)
    chosen = text_of(run(*GENERATE, "--checkpoint", which).stdout)["checkpoint"]
    assert len({str(text | {"checkpoint": 0}) for text in texts.values()}) == 3
    found = Sweep()
    for mutation in mutations:
        mutation.apply()
        damaged = snapshot(model)
        result = run(*GENERATE, "--checkpoint", which)
        outcome, problems = judge(result, mutation, texts=texts, chosen=chosen)
        after = snapshot(model)
        if after != damaged:
            problems.append("the model was changed")
        restore(after, whole)
        found.outcomes[mutation.group, outcome] += 1
        found.kinds[mutation.kind] += 1
        found.violations += [f"{mutation.what}: {problem}" for problem in problems]
    assert snapshot(model) == whole
    return found


def judge(
    result: Any, mutation: Mutation, *, texts: dict[int, dict[str, Any]], chosen: int
) -> tuple[str, list[str]]:
    """Name an outcome, and list what is wrong with it."""
    stdout, stderr = result.stdout, result.stderr
    problems = []
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        problems.append(f"ended in {result.exception!r}")
    if "Traceback" in stderr or "fault of charlstm" in stderr:
        problems.append(f"an unforeseen error: {stderr}")
    is_named = any(str(path) in stderr for path in mutation.damaged)
    if stderr and not is_named:
        problems.append(f"does not name the damaged file: {stderr}")
    if result.exit_code != 0:
        if result.exit_code != 1 or not stderr.startswith("Error: ") or stdout:
            problems.append(f"exit {result.exit_code}, {stdout!r}, {stderr!r}")
        return "refused", problems
    if mutation.must_refuse:
        problems.append(f"not refused: {stdout}")
    try:
        written = text_of(stdout)
    except ValueError:
        return "other", [*problems, f"printed {stdout!r}"]
    if written not in texts.values():
        problems.append(f"wrote other text: {written}")
    if written == texts[chosen]:
        return "warned" if stderr else "as before", problems
    if not is_named or "warning: " not in stderr:
        problems.append(f"step {written['checkpoint']} stood in without a word: {stderr!r}")
    return "stood in", problems


# --- the mutations ----------------------------------------------------------------


def spots_in(n_bytes: int, n: int) -> list[int]:
    """Places spread over a file, its first and last bytes among them."""
    return sorted({*np.linspace(0, n_bytes - 1, n).astype(int).tolist(), *range(9)} - {n_bytes})


def flipped(data: bytes, start: int, length: int, by: int) -> bytes:
    part = bytes(byte ^ by for byte in data[start : start + length])
    return data[:start] + part + data[start + length :]


def changed_bytes(data: bytes, *, spots: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (kind, what was done, the damaged content)."""
    n_bytes = len(data)
    for length in sorted({*spots_in(n_bytes, spots), n_bytes - 1}):
        yield "cut", f"cut to {length} bytes", data[:length]
    places = spots_in(n_bytes, spots)
    for n, start in enumerate(places):
        by = (0x01, 0x04, 0x10, 0x80)[n % 4]
        yield "flip", f"byte {start} flipped by {by:#04x}", flipped(data, start, 1, by)
    for start, length in itertools.product(places[::4], (4, 64, 512)):
        by = 0xFF if start % 2 else 0x02
        where = f"bytes {start} to {start + length}"
        yield "region flip", f"{where} flipped by {by:#04x}", flipped(data, start, length, by)
        zeros = data[:start] + bytes(min(length, n_bytes - start)) + data[start + length :]
        yield "region zero", f"{where} zeroed", zeros
        yield "region drop", f"{where} dropped", data[:start] + data[start + length :]
    for extra in (b"\0", b"x", b"{}", data[:100], data, bytes(5_000)):
        yield "append", f"{len(extra)} bytes appended", data + extra
        yield "prepend", f"{len(extra)} bytes put before it", extra + data
    yield "zeros", "all zeros", bytes(n_bytes)
    yield "reverse", "backwards", data[::-1]


def file_mutations(path: Path, *, spots: int) -> Iterator[Mutation]:
    """Damage the content of one file."""
    whole = path.read_bytes()
    for kind, what, data in changed_bytes(whole, spots=spots):
        # The seal is of what the manifest says: space around it says nothing.
        if data != whole and (path.name != MANIFEST or data.strip() != whole.strip()):
            yield Mutation(kind, f"{path}: {what}", lambda d=data: path.write_bytes(d), (path,))


def place_mutations(path: Path) -> Iterator[Mutation]:
    """Put something else in a file's place."""
    aside = Path("aside")

    def replace_by(make: Callable[[], object]) -> Callable[[], None]:
        def apply() -> None:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()
            path.rename(aside)
            make()

        return apply

    makers: dict[str, Callable[[], object]] = {
        "removed": lambda: None,
        "a folder": path.mkdir,
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to nothing": lambda: path.symlink_to("nowhere"),
        "a link to what it was": lambda: path.symlink_to(aside.resolve()),
    }
    for what, make in makers.items():
        yield Mutation(what, f"{path}: {what}", replace_by(make), (path,))


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def swap_mutations(model: Path) -> Iterator[Mutation]:
    """Exchange files and folders, and copy one over another."""
    for first, second in itertools.permutations(STEPS, 2):
        one, other = folder_of(model, first), folder_of(model, second)
        for names in [*itertools.combinations(FILES, 1), *itertools.combinations(FILES, 2)]:

            def copy(one: Path = one, other: Path = other, names: Any = names) -> None:
                for name in names:
                    shutil.copyfile(one / name, other / name)

            if first < second:

                def exchange(one: Path = one, other: Path = other, names: Any = names) -> None:
                    for name in names:
                        swap(one / name, other / name)

                damaged = (*(one / n for n in names), *(other / n for n in names))
                # The manifest vouches for the other files: it is what does not fit.
                damaged = (*damaged, one / MANIFEST, other / MANIFEST)
                yield Mutation("swap", f"{names} of {first} and {second}", exchange, damaged)
            damaged = (*(other / name for name in names), other / MANIFEST)
            yield Mutation("copy", f"{names} of {first} to {second}", copy, damaged)

        def copy_folder(one: Path = one, other: Path = other) -> None:
            shutil.rmtree(other)
            shutil.copytree(one, other)

        yield Mutation("copy folder", f"{one} to {other}", copy_folder, (other / MANIFEST,))
        if first < second:
            damaged = (one / MANIFEST, other / MANIFEST)
            yield Mutation(
                "swap folders", f"{one}, {other}", lambda a=one, b=other: swap(a, b), damaged
            )
    for name, other_name in itertools.combinations(FILES, 2):
        folder = folder_of(model, BEST)
        damaged = (folder / name, folder / other_name)
        yield Mutation(
            "swap within", f"{name} and {other_name}", lambda d=damaged: swap(*d), damaged
        )


def folder_mutations(model: Path) -> Iterator[Mutation]:
    """Lose, empty and move whole checkpoints; damage several at once."""
    for step in STEPS:
        folder = folder_of(model, step)

        def empty(folder: Path = folder) -> None:
            for entry in folder.iterdir():
                entry.unlink()

        def replace_by_file(folder: Path = folder) -> None:
            shutil.rmtree(folder)
            folder.write_bytes(b"x")

        yield Mutation("empty folder", f"{folder} emptied", empty, (folder / MANIFEST,))
        yield Mutation("no folder", f"{folder} a file", replace_by_file, (folder / MANIFEST,))
        renamed = folder_of(model, step + 5)
        yield Mutation(
            "renamed",
            f"{folder} renamed",
            lambda a=folder, b=renamed: a.rename(b),
            (renamed / MANIFEST,),
        )
    for names in itertools.product(FILES, FILES):
        paths = tuple(
            folder_of(model, step) / name for step, name in zip((BEST, LAST), names, strict=True)
        )
        yield several("two checkpoints", paths)
    for name in (*WRITING, MANIFEST):
        paths = tuple(folder_of(model, step) / name for step in STEPS)
        folders = () if name != MANIFEST else (model,)  # then the model is what is named
        yield several("all checkpoints", (*paths, *folders), must_refuse=True)


def several(kind: str, paths: tuple[Path, ...], *, must_refuse: bool = False) -> Mutation:
    def apply() -> None:
        for path in paths:
            if path.is_file():
                path.write_bytes(path.read_bytes()[:-3])

    what = ", ".join(map(str, paths))
    return Mutation(kind, f"{what} cut", apply, paths, must_refuse=must_refuse)


def all_mutations(model: Path, *, spots: int = 22) -> Iterator[Mutation]:
    for step, name in itertools.product(STEPS, FILES):
        path = folder_of(model, step) / name
        yield from file_mutations(path, spots=spots if step == BEST else spots // 2)
        yield from place_mutations(path)
    yield from swap_mutations(model)
    yield from folder_mutations(model)


# --- the promise ------------------------------------------------------------------


def assert_sound(found: Sweep) -> None:
    first = "\n".join(found.violations[:5])
    assert not found.violations, f"{len(found.violations)} of {found.tried}:\n{first}"


@pytest.mark.slow
def test_a_damaged_model_writes_a_whole_checkpoints_text_or_nothing(king: Path) -> None:
    found = sweep(king, all_mutations(king))
    assert_sound(found)
    assert found.tried > 2_000
    assert min(found.kinds.values()) >= 3, found.kinds
    for name in FILES:
        assert found.count(None, [name]) > 200, name
    # What the writing of text does not read cannot disturb it.
    assert found.count("as before", TRAINING_ONLY) == found.count(None, TRAINING_ONLY)
    # Of the others, a third at least is damage to the best checkpoint.
    assert found.count("stood in", WRITING) > found.count(None, WRITING) / 3
    assert found.count("as before", WRITING) + found.count("stood in", WRITING) > 600
    # A manifest that cannot be read might be that of the best checkpoint.
    assert found.count("as before", [MANIFEST]) == 0
    assert found.count("warned", [MANIFEST]) > 100
    assert found.count("stood in", [MANIFEST]) > 60
    # A byte of a format version can be flipped into a newer one.
    assert len(WRITING) <= found.count("refused") < 30


@pytest.mark.slow
@pytest.mark.parametrize("which", ["last", str(MIDDLE)])
def test_another_checkpoint_is_as_safe_as_the_best(king: Path, which: str) -> None:
    step = {"last": LAST, str(MIDDLE): MIDDLE}[which]
    folder = folder_of(king, step)
    mutations = [
        *itertools.chain.from_iterable(file_mutations(folder / n, spots=6) for n in FILES),
        *itertools.chain.from_iterable(place_mutations(folder / n) for n in FILES),
    ]
    if which != "last":
        # A step that cannot be read is not there; what is asked for is wrong.
        mutations = [m for m in mutations if m.damaged[0].name != MANIFEST]
        mutations = [
            dataclasses.replace(m, must_refuse=m.damaged[0].name in WRITING) for m in mutations
        ]
    found = sweep(king, mutations, which)
    assert_sound(found)
    assert found.tried > 150
    assert found.count("stood in", WRITING) > 80 or which != "last"
    assert found.count("refused", WRITING) > 80 or which == "last"


def test_a_step_without_a_manifest_is_not_replaced_by_another(king: Path) -> None:
    for mutation in place_mutations(folder_of(king, MIDDLE) / MANIFEST):
        whole = snapshot(king)
        mutation.apply()
        result = run(*GENERATE, "--checkpoint", str(MIDDLE))
        restore(snapshot(king), whole)
        assert result.exit_code == 2, mutation.what
        assert result.stdout == ""
        assert f"has no checkpoint {MIDDLE}" in result.stderr


@pytest.mark.slow
def test_every_byte_of_the_best_checkpoint(king: Path) -> None:
    def every_flip() -> Iterator[Mutation]:
        for name in (*WRITING, MANIFEST):
            path = folder_of(king, BEST) / name
            data = path.read_bytes()
            for start in range(len(data)):
                spoiled = flipped(data, start, 1, 1 << start % 8)
                yield Mutation(
                    "flip",
                    f"{path}: byte {start} flipped",
                    lambda p=path, d=spoiled: p.write_bytes(d),
                    (path,),
                )

    found = sweep(king, every_flip())
    assert_sound(found)
    assert found.count("stood in") > 4_000
    assert found.count("as before") == 0


def verify_violations(model: Path, mutations: Iterable[Mutation]) -> tuple[int, list[str]]:
    """List what `info --verify` does not report, of damage that it must."""
    whole = snapshot(model)
    tried, violations = 0, []
    for mutation in mutations:
        mutation.apply()
        damaged = snapshot(model)
        result = run("info", "king", "--verify")
        tried += 1
        said = result.stdout + result.stderr
        # A checkpoint is named by its folder, its file by the whole path.
        is_named = any(str(path) in said for path in mutation.damaged)
        if result.exit_code != 1 or not is_named or "fault of charlstm" in said:
            violations.append(f"{mutation.what}: exit {result.exit_code}, {said}")
        after = snapshot(model)
        if after != damaged:
            violations.append(f"{mutation.what}: the model was changed")
        restore(after, whole)
    return tried, violations


def verify_mutations(model: Path) -> Iterator[Mutation]:
    for step, name in itertools.product(STEPS, FILES):
        path = folder_of(model, step) / name
        yield from itertools.islice(file_mutations(path, spots=2), 0, None, 3)
        yield from place_mutations(path)
    yield from (m for m in swap_mutations(model) if len(m.damaged) < 4)


def test_verifying_reports_every_damaged_file(king: Path) -> None:
    assert run("info", "king", "--verify").exit_code == 0
    tried, violations = verify_violations(king, verify_mutations(king))
    assert not violations, f"{len(violations)} of {tried}: {violations[:3]}"
    assert tried > 400
    assert run("info", "king", "--verify").exit_code == 0


# --- that a missing protection would be noticed --------------------------------------


def take_out(
    patch: pytest.MonkeyPatch, module: ModuleType, name: str, *protections: tuple[str, str]
) -> None:
    """Replace a function by one without a protection, wherever it is in use.

    Args:
        patch: Undoes it.
        module: Where the function is defined.
        name: The function.
        *protections: Pieces of its source and what stands in their place;
            each must be there once, so that this fails when it no longer fits.
    """
    original = getattr(module, name)
    source = textwrap.dedent(inspect.getsource(original))
    for there, instead in protections:
        assert source.count(there) == 1, f"{name} has no {there!r}"
        source = source.replace(there, instead)
    made: dict[str, Any] = {}
    # Its own file's names, and another body.
    exec(compile(source, inspect.getsourcefile(original) or name, "exec"), module.__dict__, made)
    for user in (checkpoint, models, storage):
        if getattr(user, name, None) is original:
            patch.setattr(user, name, made[name])


SEAL = 'if content.pop("seal", None) != _seal(content):'
HASH = "if len(data) != n_bytes or hashlib.sha256(data).hexdigest() != sha256:"


def some_mutations(model: Path) -> Iterator[Mutation]:
    """As `all_mutations`, of the best checkpoint and far fewer."""
    for name in FILES:
        path = folder_of(model, BEST) / name
        yield from file_mutations(path, spots=3)
        yield from place_mutations(path)
    yield from (m for m in swap_mutations(model) if m.kind == "copy folder")
    for name in WRITING:
        one, other = (folder_of(model, step) / name for step in (LAST, BEST))
        yield Mutation(
            "copy", f"{one} to {other}", lambda a=one, b=other: shutil.copyfile(a, b), (other,)
        )


@pytest.mark.slow
def test_the_sums_are_needed(king: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_sound(sweep(king, some_mutations(king)))
    take_out(monkeypatch, storage, "read_verified", (HASH, "if False:"))
    violations = sweep(king, some_mutations(king)).violations
    assert any("wrote other text" in violation for violation in violations)
    assert any("weights.safetensors" in violation for violation in violations)
    _, unreported = verify_violations(king, some_mutations(king))
    assert any("state.safetensors" in violation for violation in unreported)


def test_the_seal_is_needed(king: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out(monkeypatch, checkpoint, "read_manifest", (SEAL, "if False:"))
    path = folder_of(king, BEST) / MANIFEST
    data = path.read_bytes()
    spoiled = data.replace(b'"val_loss": 1.0', b'"val_loss": 9.0')
    assert spoiled != data
    worse = Mutation("flip", "a worse loss", lambda: path.write_bytes(spoiled), (path,))
    (violation,) = sweep(king, [worse]).violations
    assert f"step {LAST} stood in without a word" in violation


def test_the_refusal_of_links_is_needed(king: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out(monkeypatch, storage, "is_plain", ("path.lstat()", "path.stat()"))
    monkeypatch.setattr(os, "O_NOFOLLOW", 0)
    links = [
        dataclasses.replace(mutation, must_refuse=True)
        for name in WRITING
        for mutation in place_mutations(folder_of(king, BEST) / name)
        if mutation.kind == "a link to what it was"
    ]
    violations = sweep(king, links).violations
    assert len(violations) == len(WRITING)
    assert all("not refused" in violation for violation in violations)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protection", "instead"),
    [
        ("warnings.append(error.message)", "pass"),
        ("[*unlisted, *warnings]", "warnings"),
    ],
)
def test_the_warnings_are_needed(
    king: Path, monkeypatch: pytest.MonkeyPatch, protection: str, instead: str
) -> None:
    take_out(monkeypatch, models, "open_checkpoint", (protection, instead))
    violations = sweep(king, some_mutations(king)).violations
    assert any("without a word" in violation for violation in violations)


def test_taking_out_what_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="read_verified has no 'no such line'"):
        take_out(monkeypatch, storage, "read_verified", ("no such line", ""))


def test_a_harmless_change_is_no_violation(king: Path) -> None:
    # The same manifest, written otherwise: nothing is damaged.
    path = folder_of(king, BEST) / MANIFEST
    whole = path.read_bytes()
    change_manifest(path.parent, lambda content: None)
    rewritten = path.read_bytes()
    path.write_bytes(whole)
    assert rewritten != whole
    rewriting = Mutation("rewrite", "rewritten", lambda: path.write_bytes(rewritten), (path,))
    found = sweep(king, [rewriting])
    assert_sound(found)
    assert found.outcomes == {(MANIFEST, "as before"): 1}
