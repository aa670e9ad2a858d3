"""The model that ships: whole, small, as good as it says, and never written to."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from conftest import run

from charlstm.checkpoint import Checkpoint
from charlstm.corpus import shipped_texts
from charlstm.engine import LSTMStep
from charlstm.errors import CheckpointError, InputError
from charlstm.models import list_checkpoints, open_checkpoint, shipped_models, verify_model
from charlstm.planning import TrainingRequest, plan_training
from charlstm.reading import read_text
from charlstm.scoring import score_ids

ROOT = Path(__file__).parent.parent
SEED = "Is this a dagger"


@pytest.fixture
def macbeth() -> Iterator[Path]:
    """The model's folder; nothing in it may change."""
    model = shipped_models()["macbeth"]
    before = {path: path.stat().st_mtime_ns for path in (model, *model.rglob("*"))}
    yield model
    assert {path: path.stat().st_mtime_ns for path in (model, *model.rglob("*"))} == before


@pytest.fixture
def checkpoint(macbeth: Path) -> Checkpoint:
    checkpoint, warnings = open_checkpoint(macbeth)
    assert warnings == []
    return checkpoint


# --- what it is -------------------------------------------------------------------


def test_it_is_one_whole_checkpoint_for_writing_text_only(macbeth: Path) -> None:
    assert [problems for _, problems in verify_model(macbeth)] == [[]]
    (info,) = list_checkpoints(macbeth)
    assert not info.has_state
    # No log, no lock, nothing left over from its making.
    assert [entry.name for entry in macbeth.iterdir()] == [info.path.name]
    assert {entry.name for entry in info.path.iterdir()} == {*info.files, "manifest.json"}


def test_it_is_of_the_play_and_the_network_of_the_defaults(checkpoint: Checkpoint) -> None:
    data = (ROOT / "corpora" / "macbeth.txt").read_bytes()
    assert checkpoint.config["corpus"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert checkpoint.config["recipe"] == "default"
    assert (checkpoint.network.layers, checkpoint.network.units) == (2, 300)
    assert all(character in checkpoint.vocabulary for character in SEED)


def test_its_loss_on_what_it_has_not_seen_is_the_one_it_states(checkpoint: Checkpoint) -> None:
    about = checkpoint.config["corpus"]
    text = read_text(shipped_texts()["macbeth.txt"], options=checkpoint.text_options)
    assert len(text) == about["characters"]
    tail = checkpoint.vocabulary.encode(text)[-about["val_characters"] :]
    score = score_ids(LSTMStep(checkpoint.network, checkpoint.weights), tail)
    # Halved weights cost some; another order of sums, less than 1e-4.
    assert score.nats_per_char == pytest.approx(checkpoint.info.val_loss, abs=2e-3)
    assert score.nats_per_char < 1.55


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (n_bytes,) = struct.unpack("<Q", data[:8])
    return dict(json.loads(data[8 : 8 + n_bytes]))


def test_it_is_small(macbeth: Path, checkpoint: Checkpoint) -> None:
    header = header_of(checkpoint.info.path / "weights.safetensors")
    assert {about["dtype"] for about in header.values()} == {"F16"}
    assert sum(path.stat().st_size for path in macbeth.rglob("*")) < 3_000_000
    assert all(array.dtype == np.float32 for array in checkpoint.weights.values())


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)


def test_it_says_nothing_of_the_machine_that_made_it(checkpoint: Checkpoint) -> None:
    folder = checkpoint.info.path
    said = list(strings(header_of(folder / "weights.safetensors")))
    for path in folder.glob("*.json"):
        said += strings(json.loads(path.read_text(encoding="utf-8")))
    assert len(said) > 200
    for text in said:
        assert not PurePosixPath(text).is_absolute(), text
        assert not PureWindowsPath(text).is_absolute(), text
    assert "path" not in checkpoint.config["corpus"]


# --- what can be done with it -------------------------------------------------------


def test_it_writes_in_an_empty_folder(empty_workplace: Path, macbeth: Path) -> None:
    arguments = ["generate", "--seed", SEED, "-n", "40", "--random-seed", "7"]
    for named in ([], ["--model", "macbeth"]):
        result = run(*arguments, *named)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(SEED)
        assert len(result.stdout) == len(SEED) + 40
    # Without a seed text it goes on from the play.
    assert run("generate", "-n", "3", "--no-echo", "--random-seed", "7").exit_code == 0
    assert list(empty_workplace.iterdir()) == []


def test_it_scores_and_is_described(empty_workplace: Path, macbeth: Path) -> None:
    Path("line.txt").write_text("Out, damned spot! out, I say!", encoding="utf-8")
    scored = json.loads(run("evaluate", "line.txt", "--model", "macbeth", "--json").stdout)
    assert scored["characters"] == 29
    about = json.loads(run("info", "macbeth", "--json").stdout)
    assert (about["name"], about["shipped"]) == ("macbeth", True)
    assert about["path"] == str(macbeth.resolve())


def request(**fields: Any) -> TrainingRequest:
    return TrainingRequest(**({"corpus": "king.txt"} | fields))


def test_it_can_be_begun_with(workplace: Path, checkpoint: Checkpoint) -> None:
    plan = plan_training(request(start_from="macbeth"))
    assert plan.start_from is not None
    assert plan.start_from.info == checkpoint.info
    assert plan.network.units == 300
    assert plan.model == Path("checkpoints/king")
    # Even under its own name, which is then that of an own model.
    assert plan_training(request(start_from="macbeth", model="macbeth")).model == Path(
        "checkpoints/macbeth"
    )


@pytest.mark.parametrize("corpus", ["king.txt", None])
def test_it_is_not_resumed_as_the_newest(
    workplace: Path, macbeth: Path, corpus: str | None
) -> None:
    if corpus is None:
        with pytest.raises(InputError, match="there is no model to go on with"):
            plan_training(request(corpus=corpus, resume=True))
    else:
        plan = plan_training(request(corpus=corpus, resume=True))
        assert plan.model == Path("checkpoints/king")
        assert plan.resume_from is None


def test_it_is_not_resumed_by_its_name(workplace: Path, macbeth: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan_training(request(corpus=None, resume=True, model="macbeth"))
    assert caught.value.message == (
        "macbeth ships with charlstm without its training state: it can write, not be resumed"
    )
    assert caught.value.hint == "charlstm train TEXT --from macbeth begins with its weights"
    # With a text, it is the name of an own model that is to be.
    plan = plan_training(request(resume=True, model="macbeth"))
    assert (plan.model, plan.resume_from) == (Path("checkpoints/macbeth"), None)


def test_it_is_not_resumed_by_its_path(workplace: Path, macbeth: Path) -> None:
    (info,) = list_checkpoints(macbeth)
    for corpus in (None, "macbeth.txt"):
        with pytest.raises(CheckpointError) as caught:
            plan_training(request(corpus=corpus, resume=True, model=str(macbeth)))
        assert caught.value.message == (
            f"{info.path} holds no training state: it can write, not be resumed"
        )
        assert caught.value.hint is not None
        assert "--from MODEL" in caught.value.hint


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("below", ["", "..", "../mine"])
def test_it_is_not_trained_over(
    workplace: Path, macbeth: Path, overwrite: bool, below: str
) -> None:
    model = str(macbeth / below)
    with pytest.raises(InputError) as caught:
        plan_training(request(model=model, overwrite=overwrite))
    assert caught.value.message == f"{Path(model)} ships with charlstm and is never written to"
    assert not Path("prepared").exists()


@pytest.mark.tf
def test_what_it_has_learned_is_of_use_to_another_text(workplace: Path, macbeth: Path) -> None:
    losses = []
    for options in (["--from", "macbeth"], []):
        budget = ["--epochs", "0.2", "--batch-size", "4", "--sample-every", "0", "--overwrite"]
        result = run("train", "king.txt", *budget, *options, "--json")
        assert result.exit_code == 0, result.output
        losses.append(json.loads(result.stdout)["best_val_loss"])
    assert losses[0] < losses[1] - 0.2


# --- how it is made -----------------------------------------------------------------


@pytest.mark.tf
@pytest.mark.slow
def test_one_command_makes_it_anew(tmp_path: Path) -> None:
    model = tmp_path / "made"
    (model / "step-00000001").mkdir(parents=True)  # what was there goes
    script = [sys.executable, str(ROOT / "docs" / "make_model.py"), "--output", str(model)]
    tiny = ["--epochs", "0.3", "--units", "6", "--batch-size", "8", "--val-fraction", "0.05"]
    done = subprocess.run([*script, *tiny], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nats/char in float32" in done.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    assert [problems for _, problems in verify_model(model)] == [[]]
    made, _ = open_checkpoint(model)
    assert made.info.path.name in done.stdout
    assert made.network.units == 6
    assert made.config["training"]["random_seed"] == 0
    assert made.config["training"]["threads"] == 1
    assert "path" not in made.config["corpus"]
    assert not made.info.has_state
    header = header_of(made.info.path / "weights.safetensors")
    assert {about["dtype"] for about in header.values()} == {"F16"}
    data = b"".join(path.read_bytes() for path in made.info.path.iterdir())
    assert str(tmp_path).encode() not in data
