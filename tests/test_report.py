"""Reports: what is gathered, what the page says, and what it must never say."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import html.parser
import itertools
import json
import math
import platform
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, TINY_TEXT, run
from helpers import make_config, make_network, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.config import NetworkConfig, TrainingConfig, recipe_defaults
from charlstm.copying import find_corpus_ids
from charlstm.corpus import split_corpus
from charlstm.errors import InputError
from charlstm.logs import HISTORY, SAMPLES, append_log
from charlstm.machine import describe_machine
from charlstm.models import find_model, open_checkpoint, shipped_models
from charlstm.planning import TrainingRequest, plan_training
from charlstm.report import (
    Report,
    as_json,
    check_report_path,
    collect_report,
    report_page,
    train_command,
)
from charlstm.scoring import unigram_entropy
from charlstm.vocabulary import Vocabulary

TODAY = datetime.date(2024, 5, 6)
MARK = "charlstm report"
KEYS = ("step", "characters", "seconds", "train_loss", "val_loss", "learning_rate",
        "chars_per_second")  # fmt: skip
# No two numbers alike; the best is not the last.
ROWS = [
    (10, 1_000, 30.0, 3.5123, 3.2512, 0.00812, 511.0),
    (20, 2_000, 66.0, 2.7534, 2.5234, 0.00634, 487.0),
    (30, 3_000, 90.0, 2.2545, 2.1256, 0.00456, 523.0),
    (40, 4_000, 126.0, 2.0156, 2.2578, 0.00278, 499.0),
]
VOID = {"meta", "br", "hr", "img", "input", "link"}
# Of SVG: may close itself.
CLOSED = {"line", "circle", "polyline"}


class Page(html.parser.HTMLParser):
    """Reads a page: nesting, attributes, and the text of each element by its class or tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.samples: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "pre":
            self.samples.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "tr" in self.open and self.rows[-1]:
            self.rows[-1][-1] += data
        if "pre" in self.open:
            self.samples[-1] += data

    def values(self, label: str) -> list[list[str]]:
        return [row[1:] for row in self.rows if row[0] == label]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the model `tale`: four evaluations, seven samples."""
    monkeypatch.chdir(tmp_path)
    model = Path("checkpoints/tale")
    for step, _, _, train_loss, val_loss, *_ in ROWS:
        save(model, step, val_loss=val_loss, train_loss=train_loss)
    for row in ROWS:
        append_log(model, HISTORY, dict(zip(KEYS, row, strict=True)))
    for step in range(5, 40, 5):
        append_log(model, SAMPLES, {"step": step, "text": f"at {step} <b>&amp;\n天"})
    return tmp_path


def collect(name: str = "tale") -> Report:
    report, warnings = collect_report(find_model(name), today=TODAY)
    assert warnings == []
    return report


# --- gathering ------------------------------------------------------------------


def test_the_best_checkpoint_is_what_counts(models):
    report = collect()
    evaluation = report.evaluation
    assert (evaluation.step, evaluation.val_loss, evaluation.train_loss) == (30, 2.1256, 2.2545)
    assert evaluation.bits_per_char == pytest.approx(2.1256 / math.log(2))
    assert evaluation.perplexity == pytest.approx(math.e**2.1256)
    assert evaluation.uniform_loss == pytest.approx(math.log(7))
    assert evaluation.frequency_loss is None  # its text is not here
    assert (report.last_step, report.is_last_evaluated) == (40, True)
    assert report.curve is not None
    assert report.curve.val_loss == (3.2512, 2.5234, 2.1256, 2.2578)
    assert [step for step, _ in report.samples] == [5, 15, 20, 25, 35]  # of seven
    assert (report.created, report.trained) == ("2024-05-06", "2023-11-14")


def test_the_sample_is_the_one_that_its_command_writes(models):
    report = collect()
    (command,) = [c for what, c in report.commands if "sample" in what]
    words = shlex.split(command)
    assert words[0] == "charlstm"
    assert run(*words[1:], "--no-echo").stdout == report.sample
    assert len(report.sample) == 600
    assert run(*words[1:]).stdout == report.seed_text + report.sample


def test_guessing_by_frequency_is_measured_on_the_held_out_text(models):
    text = "ab" * 300 + "aaab" * 25  # the tail is another mixture than the text
    Path("tale.txt").write_text(text, encoding="utf-8")
    assert run("prepare", "tale.txt").exit_code == 0
    about = json.loads(Path("prepared/tale/corpus.json").read_text(encoding="utf-8"))
    corpus = {
        "name": "tale",
        "sha256": about["sha256"],
        "characters": 700,
        "train_characters": 600,
        "val_characters": 100,
        "options": about["options"],
    }
    network = make_network(vocabulary_size=2)
    for name, val_loss in (("held", 0.5), ("whole", None)):
        config = make_config(network, corpus=corpus, seed_windows=["abab"])
        save(
            Path("checkpoints") / name, 5, network=network, vocabulary=Vocabulary("ab"),
            config=config, val_loss=val_loss,
        )  # fmt: skip
    shares = np.array([0.75, 0.25])
    assert collect("held").evaluation.frequency_loss == pytest.approx(-(shares @ np.log(shares)))
    n_b = 300 + 25
    shares = np.array([700 - n_b, n_b]) / 700
    assert collect("whole").evaluation.frequency_loss == pytest.approx(-(shares @ np.log(shares)))


def test_what_it_was_trained_with_is_told_as_far_as_it_is_known(models):
    network = make_network()
    config = make_config(
        network,
        charlstm_version="0.9",
        versions={"tensorflow": "2.20.1", "numpy": "2.1", "secret": "x", "keras": None},
        machine={"python": "3.12.1", "cores": 3, "host": "y", "processor": ["z"]},
        started_from={"name": "other", "step": 77},
    )
    save(Path("checkpoints/known"), 5, config=config)
    report = collect("known")
    assert report.trained_with == {
        "charlstm": "0.9",
        "TensorFlow": "2.20.1",
        "NumPy": "2.1",
        "Python": "3.12.1",
        "processor": "unknown",
        "cores that could be used": "3",
    }
    assert report.started_from == "other, step 77"
    config = make_config(network, versions="odd", machine=7, started_from=[])
    save(Path("checkpoints/odd"), 5, config=config)
    assert collect("odd").trained_with == {"charlstm": "unknown"}


def test_the_machine_has_no_name():
    about = describe_machine()
    assert set(about) == {"python", "system", "processor", "cores"}
    assert platform.node() not in json.dumps(about).split()


# --- the command that trains again ------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--minutes", "2.5"],
        ["--epochs", "7", "--minutes", "1e-3"],
        ["--epochs", "0.25", "--recurrent-dropout", "0.45", "--learning-rate", "0.00012345"],
        ["--epochs", "40", "--dropout", "0"],
        ["--epochs", "40", "--dropout", "0", "--recurrent-dropout", "0.2"],
        ["--epochs", "2", "--dropout", "0.35", "--patience", "0", "--val-fraction", "0.25"],
        ["--units", "12", "--layers", "3", "--seq-length", "20", "--batch-size", "7"],
        ["--random-seed", "99", "--threads", "3", "--lowercase", "--normalize", "none"],
        ["--encoding", "latin-1", "--keep-boilerplate", "--model", "the king's"],
        ["--recipe", "article"],
        ["--recipe", "article", "--epochs", "3", "--dropout", "0.5", "--val-fraction", "0.2"],
    ],
    ids=" ".join,
)
def test_the_command_makes_the_same_plan(workplace, options):
    def plan(words: list[str]):
        from charlstm.cli import cli
        from charlstm.cli.train import train

        # Click remembers the names of --help, which come from the group.
        group = cli.make_context("charlstm", ["train"])
        given = train.make_context("train", list(words), parent=group).params
        names = ("corpus", "model", "recipe")
        fields = {
            field.name
            for kind in (TrainingConfig, NetworkConfig)
            for field in dataclasses.fields(kind)
        } | {"encoding", "normalize", "keep_boilerplate"}
        return plan_training(
            TrainingRequest(
                **{name: given[name] for name in names},
                typed={k: v for k, v in given.items() if k in fields and v is not None},
                default_threads=2,
            )
        )

    first = plan(["king.txt", *options])
    split = split_corpus(
        len(first.corpus.ids),
        seq_length=first.network.seq_length,
        val_fraction=first.config.val_fraction,
        name=first.corpus.name,
    )
    about = {"corpus": first.corpus.describe(split), "started_from": None}
    command = train_command(first.model.name, first.network, first.config, about)
    words = shlex.split(command)
    assert words[:3] == ["charlstm", "train", "king.txt"]
    again = plan(words[2:])
    assert (again.config, again.network) == (first.config, first.network)
    assert again.model == first.model
    assert again.corpus.options == first.corpus.options


def test_nothing_is_typed_that_is_the_default(workplace):
    network = make_network(units=300, seq_length=50)
    training = TrainingConfig(epochs=1.0, dropout=0.0)
    about = make_config(network)["corpus"] | {
        "name": "my-poems", "source_name": "my poems.md", "train_characters": 50_000,
        "options": {"encoding": "utf-8", "normalize": "NFC", "lowercase": False},
    }  # fmt: skip
    command = train_command(
        "my-poems", network, training, {"corpus": about, "started_from": {"name": "king"}}
    )
    rate = "--learning-rate 0.008"  # after --from the default is less
    assert command == (
        f"charlstm train 'my poems.md' --from king --epochs 1 --seq-length 50 {rate} --threads 1"
    )


@pytest.mark.parametrize(
    ("source_name", "words"),
    [
        ("poems", "charlstm train poems --epochs 1 --threads 1"),  # a folder
        ("-", "charlstm train - --epochs 1 --threads 1 --model poems < TEXT"),
        (None, "charlstm train prepared/poems --epochs 1 --threads 1"),  # several
    ],
)
def test_the_text_is_named_as_it_was_given(source_name, words):
    network = make_network(units=300, seq_length=50)
    config = make_config(network)
    about = config["corpus"] | {"name": "poems", "source_name": source_name}
    about["options"] = {"encoding": "utf-8", "normalize": "NFC", "lowercase": False}
    defaults = recipe_defaults("default", n_train=about["characters"], epochs=1.0)
    command = train_command("poems", network, defaults, {"corpus": about, "started_from": None})
    assert command == words


# --- the page -------------------------------------------------------------------


def page(report: Report) -> Page:
    text = report_page(report)
    read = Page(text)
    check_stands_alone(text, read)
    return read


def check_stands_alone(text: str, read: Page) -> None:
    """No network, no script, and a policy that would forbid both."""
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
    for tag, attributes in read.tags:
        assert not {"src", "href", "srcset", "action", "style"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|expression", style)
    assert "//" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    policy = [a["content"] for t, a in read.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    identifiers = [a["id"] for _, a in read.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    described = [a["aria-labelledby"].split() for t, a in read.tags if t == "svg"]
    assert all(name in identifiers for names in described for name in names)
    headings = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h\d", tag)]
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))


def test_the_numbers_are_those_of_the_history(models):
    read = page(collect())
    # In the tables of loss by characters, by time, learning rate and speed.
    for step, characters, seconds, train_loss, val_loss, rate, speed in ROWS:
        assert read.values(f"{step}") == [
            [f"{characters:,}", f"{train_loss:.4f}", f"{val_loss:.4f}"],
            [f"{seconds / 60:.2f}", f"{train_loss:.4f}", f"{val_loss:.4f}"],
            [f"{characters:,}", f"{rate:.3g}"],
            [f"{seconds / 60:.2f}", f"{speed:,.0f}"],
        ]
    assert read.values("by this model") == [["2.1256", "3.067", "8.378"]]
    assert "lowest 2.1256 at 3,000 characters trained on" in read.text
    assert "was at step 30, after 3.8 passes over the text; it was trained to step 40." in read.text
    assert "4 evaluations" in read.text.replace("Evaluations", "evaluations")
    assert [s for s in read.samples if s.startswith("at ")] == [
        f"at {step} <b>&amp;\n天" for step in (5, 15, 20, 25, 35)
    ]


def test_settings_and_network_are_told(models):
    read = page(collect())
    network = make_network()
    assert read.values("parameters") == [[f"{network.parameters:,}"]]
    assert read.values("batch size") == [["4"]]
    assert read.values("epochs (budget)") == [["2.5"]]
    assert read.values("clip norm") == [["0.25"]]
    assert read.values("text") == [["café"]]
    assert read.values("sha256 of the text") == [["5f" * 32]]
    assert read.values("read as") == [["utf-8, lower-cased, Unicode NFC"]]
    assert "charlstm generate --model tale --random-seed 0 -n 600" in read.text


def test_nothing_tells_who_and_where(models):
    config = make_config(make_network())
    config["corpus"]["path"] = str(models / "prepared" / "café")
    save(Path("checkpoints/mine"), 5, config=config)
    report = collect("mine")
    text = report_page(report) + json.dumps(as_json(report))
    assert str(models) not in text
    assert str(Path.home()) not in text
    assert f"/{getpass.getuser()}" not in text


def test_a_model_with_one_evaluation(models):
    save(Path("checkpoints/one"), 7)
    append_log(Path("checkpoints/one"), HISTORY, dict(zip(KEYS, ROWS[0], strict=True)))
    read = page(collect("one"))
    assert "One evaluation in 0.5 minutes" in read.text
    assert "None were kept." in read.text
    assert [a for t, a in read.tags if t == "polyline"] == []
    assert len([a for t, a in read.tags if t == "circle"]) == 2 + 2 + 1 + 1 + 1  # the last: marked


def test_the_model_that_ships_has_no_history(empty_workplace):
    read = page(collect("macbeth"))
    assert "This model has no history" in read.text
    # Its text ships too, so it is compared with guessing by frequency.
    checkpoint, _ = open_checkpoint(shipped_models()["macbeth"])
    about = checkpoint.config["corpus"]
    ids = find_corpus_ids(about, vocabulary=checkpoint.vocabulary)
    expected = unigram_entropy(np.asarray(ids[about["train_characters"] :]))
    ((nats, *_),) = read.values("by how frequent each is")
    assert float(nats) == pytest.approx(expected, abs=1e-4)


def test_a_model_without_held_out_text(models):
    model = Path("checkpoints/bare")
    network = make_network(input="scaled", carries_state=False)
    config = make_config(network, recipe="article", training={"recipe": "article", "epochs": 3.0})
    save(model, 9, network=network, config=config, val_loss=None, train_loss=2.25)
    for row in ROWS[:2]:
        append_log(model, HISTORY, dict(zip(KEYS, row, strict=True)) | {"val_loss": None})
    read = page(collect("bare"))
    assert "measured on the text that it was trained on" in read.text
    assert "held-out loss" not in read.text.replace("so it may lie above the held-out loss", "")
    assert read.values("10")[0] == ["1,000", "3.5123"]
    assert "the likeliest character each time" in read.text
    assert len(collect("bare").sample) == 200


def test_an_imported_model(models):
    network = make_network(input="scaled", carries_state=False)
    config = make_config(
        network, recipe="article", training={"recipe": "article"},
        imported_from={"name": "my <net>.keras", "sha256": "0" * 64},
    )  # fmt: skip
    save(Path("checkpoints/got"), 1, network=network, config=config, val_loss=None, train_loss=None)
    read = page(collect("got"))
    assert read.values("imported from") == [["my <net>.keras"]]
    assert "charlstm import 'my <net>.keras' 'café.txt' --model got" in read.text
    assert "charlstm train" not in read.text
    assert read.values("batch size") == []
    assert "It was not evaluated." in read.text


def test_an_interrupted_run(models):
    save(Path("checkpoints/tale"), 45, val_loss=None, train_loss=None)
    read = page(collect())
    assert "it was trained to step 45, which was saved without an evaluation" in read.text
    # Interrupted before there was any.
    save(Path("checkpoints/early"), 3, val_loss=None, train_loss=None)
    read = page(collect("early"))
    assert "It was not evaluated." in read.text
    assert read.values("by this model") == []


def test_a_damaged_checkpoint_is_passed_over_and_said_so(models):
    (Path("checkpoints/tale/step-00000030/weights.safetensors")).write_bytes(b"x")
    result = run("report", "tale")
    assert result.exit_code == 0
    assert "warning:" in result.stderr
    assert "using step 40 instead" in result.stderr


hostile = st.text(min_size=1, max_size=60) | st.sampled_from(
    ["</pre><script>alert(1)</script>", "$title ${style} $$", "&lt;b&gt;", '"><svg onload=x>',
     "\x00\x1b[31m\u202e\ud800\uffff", "\n\nx", "]]>", "-->", "a" * 5_000]
)  # fmt: skip


@given(name=hostile, sample=hostile, corpus=hostile, word=hostile)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_becomes_markup(base_report, name, sample, corpus, word):
    report = dataclasses.replace(
        base_report,
        name=name,
        sample=sample,
        seed_text=sample,
        samples=((3, sample),),
        corpus=dict(base_report.corpus) | {"name": corpus},
        trained_with={"charlstm": word},
        started_from=word,
        commands=(("does it", shlex.join(["charlstm", name])),),
    )
    text = report_page(report)
    read = Page(text)
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in Page(report_page(base_report)).tags]
    text.encode()  # no half of a pair
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    is_plain = sample.isprintable() and len(sample) <= 1_000 and sample
    if is_plain and not re.search("[\u061c\u200e\u200f\uffff\ufffe]", sample):
        assert sample in read.samples


@pytest.fixture(scope="module")
def base_report(tmp_path_factory) -> Report:
    model = tmp_path_factory.mktemp("work") / "tale"
    save(model, 30)
    append_log(model, HISTORY, dict(zip(KEYS, ROWS[0], strict=True)))
    report, _ = collect_report(model, today=TODAY)
    return dataclasses.replace(
        report, samples=((3, "x"),), started_from="x", trained_with={"charlstm": "x"},
        commands=(("does it", "x"),),
    )  # fmt: skip


@pytest.mark.parametrize("odd", ["x", None, True, [1], {"a": 1}, 10**400, -5, 1e299, 5e-324])
def test_odd_histories_give_a_page(models, odd):
    append_log(Path("checkpoints/tale"), HISTORY, dict.fromkeys(KEYS, odd))
    read = page(collect())
    assert "nan" not in [cell for row in read.rows for cell in row]


def test_a_long_history_is_thinned_out(models):
    model = Path("checkpoints/long")
    save(model, 2_000)
    lines = [
        json.dumps(dict(zip(KEYS, (n, n * 10, n, 3.0, 2.5 - n / 5_000, 0.1, 9.0), strict=True)))
        for n in range(1, 2_001)
    ]
    (model / HISTORY).write_text("\n".join(lines) + "\n", encoding="utf-8")
    read = page(collect("long"))
    assert "300 of 2,000 evaluations, evenly chosen." in read.text
    assert len(read.values("1")) == len(read.values("2,000")) == 4  # the first and the last


# --- the command ----------------------------------------------------------------


def test_the_newest_is_reported_beside_where_one_works(models):
    result = run("report")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "report: tale-report.html\n"
    first = Path("tale-report.html").read_text(encoding="utf-8")
    Page(first)
    assert run("report", "tale").exit_code == 0  # a report is replaced
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", "tale-report.html"]


def test_the_numbers_by_json(models):
    result = run("report", "tale", "-o", "page.html", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    about = json.loads(result.stdout)
    assert about["path"] == str((models / "page.html").resolve())
    assert about["name"] == "tale"
    assert about["evaluation"]["val_loss"] == 2.1256
    assert about["evaluation"]["perplexity"] == pytest.approx(8.378, abs=1e-3)
    assert about["curve"]["val_loss"] == [row[4] for row in ROWS]
    assert about["parameters"] == make_network().parameters
    assert len(about["samples"]) == 5
    assert Path("page.html").exists()


def test_the_page_on_stdout(models):
    result = run("report", "tale", "-o", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("<!DOCTYPE html>")
    assert run("report", "tale", "-o", "-", "--json").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nobody"], 1, "there is no model nobody"),
        (["tale", "-o", "notes.html"], 2, "notes.html exists and is no report of charlstm"),
        (["tale", "-o", "checkpoints"], 2, "checkpoints is a folder"),
        (["tale", "-o", "nowhere/page.html"], 1, "cannot write nowhere/page.html"),
    ],
)
def test_what_is_wrong_is_said(models, arguments, code, expected):
    Path("notes.html").write_text("<p>mine</p>", encoding="utf-8")
    result = run("report", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(f"Error: {expected}")
    assert len(result.stderr.splitlines()) <= 2
    assert Path("notes.html").read_text(encoding="utf-8") == "<p>mine</p>"


def test_an_empty_file_and_a_report_may_be_replaced(tmp_path):
    path = tmp_path / "page.html"
    check_report_path(path)
    path.touch()
    check_report_path(path)
    path.write_text("x" * 2_000 + MARK, encoding="utf-8")
    with pytest.raises(InputError, match="is no report"):
        check_report_path(path)


def test_a_full_disk_leaves_the_old_report(models, monkeypatch):
    assert run("report", "tale").exit_code == 0
    before = Path("tale-report.html").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlstm.storage.os.fsync", full)
    result = run("report", "tale")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert Path("tale-report.html").read_bytes() == before
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", "tale-report.html"]


# --- train --html-report ----------------------------------------------------------


@pytest.mark.tf
@pytest.mark.parametrize(
    ("options", "file"),
    [
        (["--html-report", "page.html"], "page.html"),
        (["--html-report"], "king-report.html"),
        (["--html-report", "--quiet"], "king-report.html"),
    ],
)
def test_train_writes_a_report_at_its_end(workplace, options, file):
    result = run("train", "king.txt", *TINY, "--epochs", "2", *options)
    assert result.exit_code == 0, result.output
    assert (f"report: {file}" in result.stderr) == ("--quiet" not in options)
    read = Page(Path(file).read_text(encoding="utf-8"))
    ((best, *_),) = read.values("by this model")
    assert f"validation loss: {best} nats/char" in result.stdout
    tail = TINY_TEXT[-int(len(TINY_TEXT) * 0.1) :]
    counts = np.array([tail.count(c) for c in sorted(set(tail))]) / len(tail)
    ((nats, *_),) = read.values("by how frequent each is")
    assert float(nats) == pytest.approx(-(counts @ np.log(counts)), abs=1e-3)
    assert read.values("Python") == [[describe_machine()["python"]]] * 2  # trained, and made


def test_a_report_that_could_not_be_written_is_refused_before_training(workplace, monkeypatch):
    monkeypatch.setattr("charlstm.backend.start_tensorflow", lambda **_: pytest.fail("started"))
    for file, expected in (
        ("king.txt", "king.txt exists and is no report of charlstm"),
        ("nowhere/page.html", "there is no folder nowhere for the report"),
        ("-", "--html-report needs a file, not -"),
    ):
        result = run("train", "king.txt", *TINY, "--epochs", "1", "--html-report", file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"Error: {expected}")
    # The corpus is not taken for the file.
    result = run("train", "--html-report", "king.txt")
    assert result.exit_code == 2
    assert (workplace / "king.txt").read_text(encoding="utf-8") == TINY_TEXT


def test_every_class_has_a_style(models):
    text = report_page(collect())
    style = text[text.index("<style>") : text.index("</style>")]
    classes = {c for _, a in Page(text).tags for c in a.get("class", "").split()}
    assert {"training", "held-out", "marked"} <= classes
    assert {c for c in classes if f".{c}" not in style} == set()
