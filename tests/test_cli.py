"""The command line: stdout, stderr and exit codes, good input and bad."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_TEXT, run

from charlstm import __version__
from charlstm.corpus import load_corpus
from charlstm.logs import read_log
from charlstm.models import list_checkpoints

# Training in this process imports TensorFlow; so does whatever needs a model.
tf = pytest.mark.tf


def expect(result, code: int, *parts: str) -> None:
    """Check that an error is one or two lines on stderr and says the parts."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("hint: ") or lines[-1].startswith("Error: "), result.stderr
    assert sum(line.startswith(("Error: ", "hint: ")) for line in lines[-2:]) in (1, 2)
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)


# --- help and version ---------------------------------------------------------


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.strip().endswith(__version__)


@pytest.mark.parametrize("command", ["prepare", "train", "generate", "evaluate", "info"])
def test_help_has_an_example_and_every_option_a_text(command):
    result = run(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"charlstm {command}" in result.stdout.split("Example")[1]
    assert "--json" in result.stdout


def test_a_mistyped_command_is_answered_with_the_nearest():
    expect(run("generat"), 2, "generat", "generate")


# --- prepare --------------------------------------------------------------------


def test_prepare_prints_counts(workplace):
    result = run("prepare", "king.txt")
    assert (result.exit_code, result.stderr) == (0, "")
    n = len(TINY_TEXT)
    assert f"{n:,} characters, {len(set(TINY_TEXT))} different, {n - 50:,} windows" in result.stdout
    assert load_corpus(workplace / "prepared" / "king").text(0, n) == TINY_TEXT


def test_prepare_json(workplace):
    result = run("prepare", "king.txt", "--json", "--seq-length", "20", "--output", "here")
    assert result.stdout.count("\n") == 1
    n = len(TINY_TEXT)
    assert json.loads(result.stdout) == {
        "path": str((workplace / "here").resolve()),
        "characters": n,
        "vocabulary_size": len(set(TINY_TEXT)),
        "windows": n - 20,
        "train_characters": n - n // 10,
        "val_characters": n // 10,
        "seq_length": 20,
        "dtype": "uint8",
        "unknown_characters": 0,
        "unknown_kinds": 0,
    }


def test_prepare_reads_stdin(workplace):
    result = run("prepare", "-", "--json", input="abcdefgh" * 20)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["characters"] == 160
    assert load_corpus(workplace / "prepared" / "stdin").text(0, 8) == "abcdefgh"


def test_the_shipped_text_works_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("macbeth.txt", "macbeth"):
        result = run("prepare", name, "--json")
        assert json.loads(result.stdout)["vocabulary_size"] == 65


def test_options_come_from_the_environment_too(workplace, monkeypatch):
    monkeypatch.setenv("CHARLSTM_PREPARE_SEQ_LENGTH", "7")
    monkeypatch.setenv("CHARLSTM_PREPARE_JSON", "1")
    result = run("prepare", "king.txt")
    assert json.loads(result.stdout)["seq_length"] == 7


def test_the_bare_command_shows_its_help():
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: charlstm")
    assert "  train " in result.stderr


# --- bad input ------------------------------------------------------------------

LATIN = "Größe und Gefühl, schön wäre es, für später müßte man üben. ".encode("latin-1") * 40


@pytest.fixture
def bad_files(workplace: Path) -> Path:
    (workplace / "empty.txt").write_bytes(b"")
    (workplace / "short.txt").write_text("A short text of 38 characters, no more", encoding="utf-8")
    (workplace / "binary.bin").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    (workplace / "latin.txt").write_bytes(LATIN)
    (workplace / "same.txt").write_text("a" * 500, encoding="utf-8")
    (workplace / "empty").mkdir()
    (workplace / "folder").mkdir()
    (workplace / "folder" / "note").write_text("not a corpus", encoding="utf-8")
    return workplace


BAD_CORPORA = [
    ("missing.txt", "there is no text missing.txt", "macbeth.txt"),
    ("folder", "folder has 12 characters", "needs at least 56"),
    ("empty", "folder without a text", "text files, folders of them"),
    ("empty.txt", "empty.txt is empty", "hint:"),
    ("short.txt", "38 characters", "needs at least 56"),
    ("binary.bin", "binary file", "PNG"),
    ("latin.txt", "bad byte 0xf6 at offset 2", "--encoding cp1252"),
    ("same.txt", "single repeated character", "'a'"),
    ("a\0b", "there is no text", "hint:"),
    ("x" * 5_000, "there is no text", "hint:"),
]


@pytest.mark.parametrize("command", ["prepare", "train"])
@pytest.mark.parametrize(("corpus", "fact", "cure"), BAD_CORPORA)
def test_bad_corpora_are_refused(bad_files, command, corpus, fact, cure):
    expect(run(command, corpus), 2, fact, cure)
    assert not list(bad_files.glob("checkpoints/*/*"))
    assert not list(bad_files.glob("prepared/*"))
    assert not list(bad_files.glob("prepared/.*"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["generate", "--temperature", "nan"], ["--temperature", "nan is not a finite number"]),
        (["generate", "--temperature", "-1"], ["--temperature", "-1"]),
        (["generate", "--temperature", "inf"], ["--temperature", "finite"]),
        (["generate", "-n", "-5"], ["--length", "-5"]),
        (["generate", "-n", "many"], ["many"]),
        (["generate", "--seed", "a", "--seed-file", "b"], ["--seed-file", "exclude"]),
        (["generate", "--colour"], ["--colour"]),
        (["train", "king.txt", "--dropout", "1.5"], ["--dropout", "1.5"]),
        (["train", "king.txt", "--dropout", "1"], ["--dropout"]),
        (["train", "king.txt", "--minutes", "0"], ["--minutes", "0"]),
        (["train", "king.txt", "--minutes", "nan"], ["--minutes", "nan"]),
        (["train", "king.txt", "--epochs", "-1"], ["--epochs", "-1"]),
        (["train", "king.txt", "--learning-rate", "inf"], ["--learning-rate", "inf"]),
        (["train", "king.txt", "--batch-size", "0"], ["--batch-size", "0"]),
        (["train", "king.txt", "--batch-size", "5000"], ["5000", "--batch-size 41 or less"]),
        (["train", "king.txt", "--val-fraction", "0.95"], ["--val-fraction", "0.95"]),
        (["train", "king.txt", "--seq-length", "3000"], ["window of 3000", "needs at least"]),
        (["train", "king.txt", "--recipe", "magic"], ["--recipe", "magic"]),
        (["train", "king.txt", "--encoding", "klingon"], ["klingon", "utf-8"]),
        (["train", "king.txt", "--encoding", "zlib"], ["zlib"]),
        (["train", "king.txt", "--model", ""], ["cannot be a model's name"]),
        (["train", "king.txt", "--model", "./king.txt"], ["is a file"]),
        (["train", "king.txt", "--resume", "--overwrite"], ["exclude"]),
        (["train"], ["no text to train on"]),
        (["train", "--resume"], ["no model to go on with"]),
        (["prepare", "king.txt", "--output", "."], ["not a prepared corpus", "--output"]),
    ],
)
def test_bad_options_are_refused(workplace, arguments, parts):
    expect(run(*arguments), 2, *parts)


def test_before_anything_was_trained_the_shipped_model_answers(workplace):
    for command in (["generate", "-n", "3", "--json"], ["evaluate", "king.txt", "--json"]):
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert Path(json.loads(result.stdout)["model"]).name == "macbeth"


def test_info_without_a_model_says_to_train_one(workplace):
    result = run("info")
    assert result.exit_code == 0
    assert re.fullmatch(r"macbeth .* \(ships with charlstm\)\n", result.stdout)
    assert "charlstm train" in result.stderr
    listed = json.loads(run("info", "--json").stdout)
    assert listed["models"] == []
    assert [(m["name"], m["shipped"]) for m in listed["shipped"]] == [("macbeth", True)]


def test_info_tells_which_model_ships(workplace):
    assert "ships with charlstm" in run("info", "macbeth").stdout
    assert run("info", "macbeth", "--verify").stdout.endswith(": whole\n")


def test_a_folder_that_cannot_be_written_is_said_so(workplace):
    (workplace / "prepared").write_text("a file is in the way", encoding="utf-8")
    expect(run("prepare", "king.txt"), 1, "cannot write prepared")


@tf
def test_a_model_folder_that_cannot_be_written_is_said_so(workplace):
    (workplace / "checkpoints").write_text("a file is in the way", encoding="utf-8")
    expect(run("train", "king.txt", *TINY), 1, "cannot write checkpoints/king", "--model")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_so(workplace):
    workplace.chmod(0o555)
    expect(run("prepare", "king.txt"), 1, "cannot write")
    workplace.chmod(0o755)


# --- train ----------------------------------------------------------------------


@tf
def test_train_says_where_the_model_is_and_what_to_type_next(workplace):
    result = run("train", "king.txt", *TINY, "--epochs", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("done: ")
    assert lines[1].startswith("model: checkpoints/king (best checkpoint: step ")
    loss = float(lines[2].split()[2])
    bits = float(lines[2].split()[4])
    assert bits == pytest.approx(loss / math.log(2), abs=2e-4)
    assert lines[3].startswith("next: charlstm generate")
    again = run(*lines[3].removeprefix("next: charlstm ").split())
    assert again.exit_code == 0, again.output
    assert len(again.stdout) >= 500


@tf
def test_train_json(workplace):
    result = run("train", "king.txt", *TINY, "--epochs", "1.5", "--json", "--quiet")
    assert result.stderr == ""
    about = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert about["model"] == str((workplace / "checkpoints" / "king").resolve())
    assert (about["recipe"], about["stopped"]) == ("default", "epochs")
    assert about["epochs"] == pytest.approx(1.5, abs=0.02)
    assert about["characters"] == about["steps"] * 4 * 9
    assert about["val_characters"] == len(TINY_TEXT) // 10
    assert set(about) >= {
        "seconds",
        "chars_per_second",
        "train_loss",
        "val_loss",
        "best_val_loss",
        "best_step",
    }


@tf
def test_an_existing_model_is_not_touched(trained):
    before = [info.files for info in list_checkpoints(trained / "checkpoints" / "king")]
    result = run("train", "king.txt", *TINY, "--epochs", "1")
    expect(result, 2, "checkpoints/king exists", "--resume", "--overwrite")
    assert [i.files for i in list_checkpoints(trained / "checkpoints" / "king")] == before


@tf
def test_overwrite_replaces_the_model_and_nothing_else(trained):
    model = trained / "checkpoints" / "king"
    (model / "my-notes.md").write_text("mine", encoding="utf-8")
    result = run("train", "king.txt", *TINY, "--epochs", "1", "--overwrite", "--quiet", "--json")
    about = json.loads(result.stdout)
    assert {info.step for info in list_checkpoints(model)} <= set(range(about["steps"] + 1))
    assert list(read_log(model, "history.jsonl"))[-1]["step"] == about["steps"]
    assert (model / "my-notes.md").read_text(encoding="utf-8") == "mine"


@tf
def test_a_finished_run_resumed_says_so(trained):
    result = run("train", "king.txt", "--resume", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["stopped"] == "epochs"
    assert "already done" in result.stderr


@tf
def test_resume_goes_on_with_more_epochs_and_without_the_text(trained):
    steps = list_checkpoints(trained / "checkpoints" / "king")[-1].step
    (trained / "king.txt").unlink()
    result = run("train", "king.txt", "--resume", "--epochs", "5", "--json")
    assert result.exit_code == 0, result.output
    assert "using the stored ids" in result.stderr
    assert json.loads(result.stdout)["steps"] == steps * 5 // 4
    result = run("train", "--resume", "--epochs", "6", "--json", "--quiet")
    assert json.loads(result.stdout)["steps"] == steps * 6 // 4


@tf
def test_resume_refuses_another_text_and_other_options(trained):
    expect(
        run("train", "king.txt", "--resume", "--units", "7"),
        2,
        "--units 7 differs from the model's 6",
        "--epochs",
    )
    expect(run("train", "king.txt", "--resume", "--recipe", "article"), 2, "recipe")
    (trained / "king.txt").write_text(TINY_TEXT + "A new line.\n", encoding="utf-8")
    expect(run("train", "king.txt", "--resume"), 2, "not the one", "sha256")


@tf
def test_resume_refuses_the_same_text_read_in_another_way(workplace):
    """It has the same bytes and characters, and other ones are held out."""
    head = TINY_TEXT[:300]
    marked = f"{head}*** START OF THE PROJECT GUTENBERG EBOOK X ***\n{TINY_TEXT}"
    characters = "".join(sorted(set(marked)))
    (workplace / "g.txt").write_text(
        f"{marked}{characters}\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n", encoding="utf-8"
    )
    result = run("train", "g.txt", *TINY, "--epochs", "0.5", "--model", "m", "-q")
    assert result.exit_code == 0, result.output
    run("prepare", "g.txt", "--keep-boilerplate", "-q")
    refused = run("train", "--resume", "--model", "m", "--epochs", "1", "-q")
    expect(refused, 2, "prepared with --keep-boilerplate, not without", "give the text itself")
    result = run("train", "g.txt", "--resume", "--model", "m", "--epochs", "1", "-q")
    assert result.exit_code == 0, result.output


@tf
@pytest.mark.parametrize("option", [None, "--resume", "--overwrite"])
def test_what_a_run_leaves_that_died_before_its_first_checkpoint_is_no_hindrance(workplace, option):
    folder = workplace / "checkpoints" / "king"
    folder.mkdir(parents=True)
    for name in (".lock", "status.json", "save-now"):
        (folder / name).write_text("{}")
    options = [] if option is None else [option]
    result = run("train", "king.txt", *TINY, "--epochs", "0.5", "-q", *options)
    assert result.exit_code == 0, result.output
    (workplace / "checkpoints" / "other").mkdir()
    (workplace / "checkpoints" / "other" / "notes.txt").write_text("mine")
    expect(run("train", "king.txt", "--model", "other", *options), 2, "holds other files")


@tf
def test_resume_without_a_checkpoint_starts_and_says_so(workplace):
    result = run("train", "king.txt", *TINY, "--epochs", "0.5", "--resume")
    assert result.exit_code == 0, result.output
    assert "no checkpoint yet" in result.stderr


@tf
def test_train_takes_stdin_and_goes_on_from_the_stored_ids(workplace):
    first = run("train", "-", *TINY, "--epochs", "1", "--json", "-q", input=TINY_TEXT)
    assert first.exit_code == 0, first.output
    more = run("train", "-", "--resume", "--epochs", "2", "--json", "-q")
    assert more.exit_code == 0, more.output
    assert json.loads(more.stdout)["steps"] == 2 * json.loads(first.stdout)["steps"]


@tf
def test_train_takes_a_prepared_folder(workplace):
    run("prepare", "king.txt", "--output", "mine")
    result = run("train", "./mine", *TINY, "--epochs", "0.5", "--json", "-q")
    assert Path(json.loads(result.stdout)["model"]).name == "king"
    result = run("train", "./mine", "--model", "a", "--recipe", "article")
    expect(result, 2, "prepared without --lowercase, not with --lowercase")


@tf
def test_train_from_another_model(trained):
    """What both texts know keeps its weights; the new text's loss starts far lower."""
    new_text = TINY_TEXT[: len(TINY_TEXT) // 2].replace("K", "Q").replace("T", "☃")
    (trained / "queen.txt").write_text(new_text, encoding="utf-8")
    budget = ["--epochs", "1", "--batch-size", "4", "--sample-every", "0", "--json"]
    fresh = run("train", "queen.txt", *TINY, "--epochs", "1", "--json", "--model", "fresh")
    tuned = run("train", "queen.txt", *budget, "--from", "king", "--model", "tuned")
    assert tuned.exit_code == 0, tuned.output
    assert "beginning with king" in tuned.stderr
    assert "18 of 19 characters are known" in tuned.stderr
    losses = [json.loads(r.stdout)["best_val_loss"] for r in (tuned, fresh)]
    assert losses[0] < losses[1] - 0.05
    config = json.loads(
        (list_checkpoints(trained / "checkpoints" / "tuned")[-1].path / "config.json").read_text(
            encoding="utf-8"
        )
    )
    assert config["started_from"]["name"] == "king"
    assert config["network"]["units"] == 6
    resumed = run("train", "queen.txt", "--resume", "--model", "tuned", "--epochs", "2", "-q")
    assert resumed.exit_code == 0, resumed.output
    expect(run("train", "queen.txt", "--from", "queen", "--model", "x"), 1, "no model queen")
    expect(
        run("train", "queen.txt", "--from", "king", "--model", "x", "--units", "7"), 2, "units 6"
    )
    expect(run("train", "queen.txt", "--from", "king", "--resume"), 2, "exclude")


@tf
def test_overwrite_keeps_the_old_model_until_the_new_one_is_saved(trained, monkeypatch):
    """An interruption or a failure before the first save must not cost the old model."""
    from charlstm.errors import OutputError

    model = trained / "checkpoints" / "king"
    before = [info.files for info in list_checkpoints(model)]
    history = (model / "history.jsonl").read_bytes()

    def full(*args, **options):
        raise OutputError("cannot save: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("charlstm.training.save_checkpoint", full)
        result = run("train", "king.txt", *TINY, "--epochs", "1", "--overwrite", "-q")
    assert result.exit_code == 1
    assert [info.files for info in list_checkpoints(model)] == before
    assert (model / "history.jsonl").read_bytes() == history


@tf
def test_a_model_made_meanwhile_is_not_replaced(workplace, monkeypatch):
    """Two runs planned at once: the second to take the lock finds the first one's model."""
    import charlstm.models as checkpoints

    real = checkpoints.lock_model

    def late(model):
        if not list_checkpoints(model):
            (model / "step-00000007").mkdir(parents=True)
        return real(model)

    monkeypatch.setattr(checkpoints, "lock_model", late)
    expect(run("train", "king.txt", *TINY, "--epochs", "1", "-q"), 2, "exists", "--overwrite")


@tf
def test_damaged_manifests_do_not_make_a_model_disappear(trained):
    model = trained / "checkpoints" / "king"
    for manifest in model.glob("step-*/manifest.json"):
        manifest.write_bytes(manifest.read_bytes()[:-9])
    expect(run("train", "king.txt", *TINY), 2, "exists", "--overwrite")
    expect(run("generate", "--model", "king"), 1, "damaged")
    expect(run("train", "king.txt", "--resume"), 1, "no checkpoint", "--overwrite begins anew")


@tf
def test_one_damaged_model_does_not_hide_the_others(trained):
    shutil.copytree(trained / "checkpoints" / "king", trained / "checkpoints" / "broken")
    for config in (trained / "checkpoints" / "broken").glob("*/config.json"):
        config.write_text("{}", encoding="utf-8")
    result = run("info")
    assert result.exit_code == 0
    assert result.stdout.startswith("king")
    assert "warning: " in result.stderr
    assert "broken" in result.stderr


@tf
def test_texts_of_one_name_do_not_take_each_others_ids(workplace):
    """Two texts from stdin, two models: each can go on from its own stored ids."""
    for name, text in (("a", TINY_TEXT), ("b", TINY_TEXT.upper())):
        made = run("train", "-", *TINY, "--epochs", "1", "--model", name, "-q", input=text)
        assert made.exit_code == 0, made.output
    for name in ("a", "b"):
        more = run("train", "-", "--resume", "--epochs", "2", "--model", name, "-q", input="")
        assert more.exit_code == 0, more.output
    shutil.rmtree(workplace / "prepared")
    again = run("train", "-", "--resume", "--epochs", "3", "--model", "a", "-q", input=TINY_TEXT)
    assert again.exit_code == 0, again.output
    other = run("train", "-", "--resume", "--epochs", "4", "--model", "b", "-q", input=TINY_TEXT)
    expect(other, 2, "not the one")


@tf
def test_two_runs_cannot_write_one_model(workplace):
    from charlstm.models import lock_model

    with lock_model(workplace / "checkpoints" / "king"):
        expect(run("train", "king.txt", *TINY), 1, "another run is writing", "--model")


# --- generate -------------------------------------------------------------------


@tf
def test_generate_prints_the_seed_and_then_so_many_characters(trained):
    result = run("generate", "--seed", "The king", "-n", "37", "--random-seed", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("The king")
    assert len(result.stdout) == len("The king") + 37
    only = run("generate", "--seed", "The king", "-n", "37", "--random-seed", "3", "--no-echo")
    assert only.stdout == result.stdout.removeprefix("The king")
    again = run("generate", "--seed", "The king", "-n", "37", "--random-seed", "3")
    assert again.stdout == result.stdout


@tf
def test_generate_json(trained):
    result = run("generate", "--seed", "The king", "-n", "12", "--random-seed", "3", "--json")
    about = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert about["model"] == str((trained / "checkpoints" / "king").resolve())
    assert (about["seed"], about["length"], about["random_seed"]) == ("The king", 12, 3)
    assert len(about["text"]) == 12
    assert about["stopped"] == "length"
    text = run("generate", "--seed", "The king", "-n", "12", "--random-seed", "3", "--no-echo")
    assert text.stdout == about["text"]


@tf
def test_generate_starts_from_a_window_of_the_text(trained):
    seeds = {json.loads(run("generate", "-n", "1", "--json").stdout)["seed"] for _ in range(5)}
    assert all(len(seed) == 9 and seed in TINY_TEXT for seed in seeds)
    assert len(seeds) > 1
    repeated = {
        run("generate", "-n", "20", "--random-seed", "5", "--json").stdout for _ in range(2)
    }
    assert len(repeated) == 1


@tf
def test_temperature_0_is_argmax(trained):
    texts = {
        run("generate", "--seed", "The", "--temperature", "0", "--random-seed", str(n)).stdout
        for n in range(3)
    }
    assert len(texts) == 1


@tf
def test_unknown_seed_characters_are_named_with_their_place(trained):
    expect(
        run("generate", "--seed", "The €ing ☃€"),
        2,
        "'€' (U+20AC, position 5)",
        "'☃' (U+2603, position 10)",
        "--unknown skip",
    )
    result = run("generate", "--seed", "The €ing", "--unknown", "skip", "-n", "3")
    assert result.exit_code == 0
    assert result.stdout.startswith("The ing")
    assert "left out 1 unknown character of the seed text" in result.stderr


@tf
def test_seed_file_is_read_as_it_is(trained):
    (trained / "seed.txt").write_bytes(b"The king\n")
    result = run("generate", "--seed-file", "seed.txt", "-n", "4")
    assert result.stdout.startswith("The king\n")
    assert len(result.stdout) == 9 + 4
    result = run("generate", "--seed-file", "-", "-n", "4", input="Long live")
    assert result.stdout.startswith("Long live")
    expect(run("generate", "--seed-file", "nowhere.txt"), 2, "nowhere.txt")


@tf
def test_an_empty_seed_and_no_length_are_fine(trained):
    assert run("generate", "--seed", "", "-n", "5").exit_code == 0
    assert run("generate", "--seed", "king", "-n", "0").stdout == "king"


@tf
def test_checkpoints_can_be_chosen(trained):
    infos = list_checkpoints(trained / "checkpoints" / "king")
    for which in ("last", str(infos[-1].step)):
        about = json.loads(run("generate", "--checkpoint", which, "-n", "1", "--json").stdout)
        assert about["checkpoint"] == infos[-1].step
    expect(run("generate", "--checkpoint", "12345"), 2, "no checkpoint 12345", "best, last")


@tf
def test_an_unknown_model_lists_those_there_are(trained):
    expect(run("generate", "--model", "queen"), 1, "no model queen", "models here: king")


@tf
def test_a_model_works_elsewhere_without_its_corpus(trained, tmp_path, monkeypatch):
    elsewhere = tmp_path / "else where" / "Modèle"
    shutil.copytree(trained / "checkpoints" / "king", elsewhere)
    shutil.rmtree(trained)
    monkeypatch.chdir(tmp_path)
    result = run("generate", "--model", str(elsewhere), "-n", "9")
    assert result.exit_code == 0, result.output


@tf
def test_a_damaged_best_checkpoint_is_passed_over_loudly(trained):
    model = trained / "checkpoints" / "king"
    info = run("info", "king", "--json")
    best = next(c for c in json.loads(info.stdout)["checkpoints"] if c["best"])
    weights = model / f"step-{best['step']:08d}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    result = run("generate", "-n", "3")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "damaged" in result.stderr


@tf
def test_article_recipe_from_end_to_end(article):
    about = json.loads(run("info", "king", "--json").stdout)
    assert about["recipe"] == "article"
    assert about["corpus"]["options"]["lowercase"] is True
    assert about["training"]["batch_size"] == 4  # typed
    assert [c["val_loss"] for c in about["checkpoints"]] == [None]
    # Upper case is folded for a lower-case model, and argmax is the default.
    first = run("generate", "--seed", "THE KING", "-n", "5")
    assert first.stdout.startswith("the king")
    assert run("generate", "--seed", "THE KING", "-n", "5").stdout == first.stdout
    assert run("evaluate", "king.txt").exit_code == 0


# --- evaluate and info ------------------------------------------------------------


@tf
def test_evaluate_equals_what_train_printed(workplace):
    result = run("train", "king.txt", *TINY, "--epochs", "2", "--json", "-q")
    about = json.loads(result.stdout)
    tail = TINY_TEXT[len(TINY_TEXT) - about["val_characters"] :]
    (workplace / "tail.txt").write_text(tail, encoding="utf-8", newline="")
    score = json.loads(run("evaluate", "tail.txt", "--json").stdout)
    assert score["loss"] == pytest.approx(about["best_val_loss"], abs=1e-4)
    assert score["characters"] == about["val_characters"]
    assert score["bits_per_char"] == pytest.approx(score["loss"] / math.log(2))
    assert score["perplexity"] == pytest.approx(np.exp(score["loss"]))
    text = run("evaluate", "tail.txt").stdout
    assert text.startswith(f"{score['loss']:.4f} nats/char, ")
    assert run("evaluate", "-", input=tail).stdout == text


@tf
def test_evaluate_names_what_it_cannot_read(trained):
    (trained / "odd.txt").write_text("The king ☃ lives", encoding="utf-8")
    expect(run("evaluate", "odd.txt"), 2, "'☃' (U+2603, position 10)", "the text", "--unknown skip")
    result = run("evaluate", "odd.txt", "--unknown", "skip", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["left_out_characters"] == 1
    assert "left out 1 character that" in result.stderr
    (trained / "one.txt").write_text("T", encoding="utf-8")
    expect(run("evaluate", "one.txt"), 2, "at least 2 characters")
    expect(run("evaluate", "prepared"), 2, "folder")


@tf
def test_info(trained):
    about = json.loads(run("info", "king", "--json").stdout)
    # 4 * 6 * (V + 6 + 1) + 4 * 6 * (6 + 6 + 1) + 7 * V
    size = len(set(TINY_TEXT))
    assert about["parameters"] == 24 * (size + 7) + 24 * 13 + 7 * size
    assert (about["layers"], about["units"], about["seq_length"]) == (2, 6, 9)
    assert about["vocabulary_size"] == size
    assert len(about["corpus"]["sha256"]) == 64
    assert sum(c["best"] for c in about["checkpoints"]) == 1
    assert sum(c["last"] for c in about["checkpoints"]) == 1
    text = run("info", "king").stdout
    assert "recipe default: 2 x 6 units" in text
    listed = run("info").stdout
    assert listed.startswith("king")
    assert [m["name"] for m in json.loads(run("info", "--json").stdout)["models"]] == ["king"]
    expect(run("info", "queen"), 1, "no model queen")


def test_info_verify_checks_every_byte(trained):
    expect_json = run("info", "king", "--verify", "--json")
    assert expect_json.exit_code == 0
    assert all(c["problems"] == [] for c in json.loads(expect_json.stdout)["checkpoints"])
    folder = sorted((trained / "checkpoints" / "king").glob("step-*"))[-1]
    path = folder / "state.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    result = run("info", "king", "--verify")
    assert result.exit_code == 1
    assert f"{folder.name}: " in result.stdout
    assert "state.safetensors is damaged" in result.stdout
    assert "1 of" in result.stderr
    expect(run("info", "--verify"), 2, "--verify needs a MODEL")
    expect(run("info", "nobody", "--verify"), 1, "there is no model nobody", "king")


@pytest.mark.parametrize("name", ["nul", "what?", "dot."])
def test_a_model_gets_no_name_that_some_systems_refuse(workplace, name):
    result = run("train", "king.txt", "--model", name)
    expect(result, 2, "no name for a folder on every system", "hint: --model ")


def test_a_model_gets_no_name_that_differs_in_capitals_only(trained):
    expect(run("train", "king.txt", "--model", "King"), 2, "there is a model king", "capitals")


@pytest.fixture(params=["format-1"])
def released(request, workplace):
    """A model as a released format version wrote it; there is one for each, and none ever goes."""
    shutil.copytree(Path(__file__).parent / "data" / request.param, workplace / "checkpoints")
    return workplace


def test_models_of_every_format_version_still_speak(released):
    result = run("evaluate", "king.txt", "--json", "-q")
    assert result.exit_code == 0, result.output
    # What it was when it was saved.
    assert json.loads(result.stdout)["loss"] == pytest.approx(2.2089, abs=1e-4)
    assert run("info", "king", "--verify").exit_code == 0
    assert json.loads(run("info", "king", "--json").stdout)["evaluations"] == 21


@tf
def test_models_of_every_format_version_can_be_trained_on(released):
    result = run("train", "king.txt", "--resume", "--epochs", "6", "--json", "-q")
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about["steps"] == 342
    assert about["best_val_loss"] < 2.2159


def test_a_model_may_lie_in_a_folder_of_any_name(trained):
    """Moved, renamed, with spaces and letters of other scripts; it is read, not written."""
    folder = trained / "späte Lieder – 歌"
    folder.mkdir()
    (trained / "checkpoints" / "king").rename(folder / "kö nig")
    for path in (folder / "kö nig").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    name = str(folder / "kö nig")
    result = run("generate", "--model", name, "--json", "-n", "5", "--random-seed", "3")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == name
    assert run("info", name, "--verify").exit_code == 0
