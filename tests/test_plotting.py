"""Curves of a run: what is read, drawn and written."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from conftest import run
from helpers import save
from hypothesis import given
from hypothesis import strategies as st

from charlstm.errors import CharlstmError, InputError, OutputError
from charlstm.logs import HISTORY, SAMPLES, append_log
from charlstm.plotting import (
    Curve,
    describe_curve,
    draw_curves,
    read_curve,
    save_figure,
    sparkline,
)

# Four evaluations of one model and three of another, no two numbers alike.
TALE = [
    (10, 1_000, 30.0, 3.5, 3.25, 0.008, 500.0),
    (20, 2_000, 66.0, 2.75, 2.5, 0.006, 480.0),
    (30, 3_000, 90.0, 2.25, 2.125, 0.004, 510.0),
    (40, 4_000, 126.0, 2.0, 2.25, 0.002, 490.0),
]
VERSE = [
    (7, 700, 12.0, 3.0, None, 0.005, 300.0),
    (14, 1_400, 24.0, None, 2.875, 0.003, 310.0),
    (21, 2_100, 36.0, 1.5, 1.75, 0.001, 305.0),
]
KEYS = ("step", "characters", "seconds", "train_loss", "val_loss", "learning_rate",
        "chars_per_second")  # fmt: skip


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `tale` (the newer) and `verse`, and samples of `tale`."""
    monkeypatch.chdir(tmp_path)
    for now, (name, rows) in enumerate((("verse", VERSE), ("tale", TALE))):
        model = Path("checkpoints") / name
        save(model, rows[-1][0], now=float(now))
        for row in rows:
            append_log(model, HISTORY, dict(zip(KEYS, row, strict=True)))
    for step in (9, 24, 39):
        sample = {"step": step, "text": f"at {step} $x^2$\n天"}
        append_log(Path("checkpoints/tale"), SAMPLES, sample)
    return tmp_path


# --- text -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([3.0], "▁"),
        ([2.0, 2.0, 2.0], "▁▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([7, 0, 3.4, 3.6], "█▁▄▅"),
        ([1.0, math.nan, 8.0], "▁ █"),
        ([math.nan, math.nan], "  "),
    ],
)
def test_a_sparkline_is_as_high_as_its_values(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


@given(st.lists(st.floats(-1e9, 1e9), max_size=200), st.integers(2, 50))
def test_a_sparkline_fits_and_keeps_its_ends(values: list[float], width: int) -> None:
    line = sparkline(values, width=width)
    assert len(line) == min(len(values), width)
    if 1 < len(values) <= width and max(values) > min(values):
        for end in (0, -1):
            if values[end] == max(values):
                assert line[end] == "█"


def test_a_curve_in_words(models: Path) -> None:
    assert describe_curve(read_curve(Path("checkpoints/tale"))) == [
        "tale: 4 evaluations, 4,000 characters, 2.1 minutes",
        "  training  3.500 █▅▂▁ 2.000  (lowest 2.0000 nats/char)",
        "  held out  3.250 █▃▁▂ 2.250  (lowest 2.1250 nats/char)",
    ]


# --- reading --------------------------------------------------------------------


def test_a_curve_is_what_the_history_says(models: Path) -> None:
    curve = read_curve(Path("checkpoints/verse"))
    assert curve.name == "verse"
    assert curve.steps == (7, 14, 21)
    assert curve.characters == (700, 1_400, 2_100)
    assert curve.minutes == pytest.approx((0.2, 0.4, 0.6))
    assert curve.train_loss[0] == 3.0
    assert math.isnan(curve.train_loss[1])
    assert math.isnan(curve.val_loss[0])
    assert curve.val_loss[1:] == (2.875, 1.75)
    assert curve.learning_rate == (0.005, 0.003, 0.001)
    assert curve.chars_per_second == (300, 310, 305)


def test_a_model_without_history_is_said_so(models: Path) -> None:
    save(Path("checkpoints/bare"), 3)
    with pytest.raises(InputError, match="no history"):
        read_curve(Path("checkpoints/bare"))
    result = run("plot", "macbeth")  # ships, without one
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no history" in result.stderr


def test_a_torn_history_is_read_as_far_as_it_is_whole(models: Path) -> None:
    before = read_curve(Path("checkpoints/tale"))
    with Path("checkpoints/tale/history.jsonl").open("ab") as file:
        file.write(b'{"step": 50, "val_lo')
    assert read_curve(Path("checkpoints/tale")) == before


@pytest.mark.parametrize("odd", ["x", None, True, [1], {"a": 1}, 10**400])
def test_odd_values_are_no_numbers(models: Path, odd: object) -> None:
    append_log(Path("checkpoints/tale"), HISTORY, dict.fromkeys(KEYS, odd))
    curve = read_curve(Path("checkpoints/tale"))
    assert math.isnan(curve.val_loss[-1])
    assert describe_curve(curve)
    draw_curves([curve])


# --- pictures -------------------------------------------------------------------


def lines_of(axes: object) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()  # type: ignore[attr-defined]
    }


def test_what_is_drawn_is_what_was_read(models: Path) -> None:
    curves = [read_curve(Path("checkpoints") / name) for name in ("tale", "verse")]
    losses, by_time, rates, speeds = draw_curves(curves).axes
    drawn = lines_of(losses)
    assert list(drawn) == ["tale, training", "tale, held out", "verse, training", "verse, held out"]
    assert drawn["tale, held out"] == ([0.001, 0.002, 0.003, 0.004], [3.25, 2.5, 2.125, 2.25])
    assert drawn["tale, training"][1] == [3.5, 2.75, 2.25, 2.0]
    assert lines_of(by_time)["verse, held out"][0] == pytest.approx([0.2, 0.4, 0.6])
    assert [list(line.get_ydata()) for line in rates.get_lines()] == [
        [0.008, 0.006, 0.004, 0.002],
        [0.005, 0.003, 0.001],
    ]
    assert list(speeds.get_lines()[1].get_ydata()) == pytest.approx([0.3, 0.31, 0.305])
    # The best is named, not the last.
    assert [text.get_text() for text in losses.texts] == ["2.125", "1.750"]
    colours = [line.get_color() for line in losses.get_lines()]
    assert colours[0] == colours[1] != colours[2]


def test_the_nearest_samples_are_shown_once(models: Path) -> None:
    curve = read_curve(Path("checkpoints/tale"))
    figure = draw_curves([curve], sample_steps=[1, 8, 23, 1_000])
    panels = figure.axes[4:]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "tale at step 9",
        "tale at step 24",
        "tale at step 39",
    ]
    assert panels[0].texts[0].get_text() == "at 9 $x^2$\n天"


@pytest.mark.parametrize(
    ("ending", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")],
)
def test_a_picture_is_written_whole(models: Path, ending: str, start: bytes) -> None:
    curve = read_curve(Path("checkpoints/tale"))
    path = Path(f"loss{ending}")
    path.write_text("old", encoding="utf-8")
    save_figure(draw_curves([curve], sample_steps=[9]), path)
    assert path.read_bytes().startswith(start)
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", path.name]


def test_what_cannot_be_written_leaves_nothing(models: Path, monkeypatch) -> None:
    figure = draw_curves([read_curve(Path("checkpoints/tale"))])
    with pytest.raises(InputError, match=r"loss\.gif.*\.png"):
        save_figure(figure, Path("loss.gif"))
    with pytest.raises(OutputError, match="nowhere"):
        save_figure(figure, Path("nowhere/loss.png"))
    Path("loss.png").write_text("old", encoding="utf-8")
    monkeypatch.setattr(type(figure), "savefig", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        save_figure(figure, Path("loss.png"))
    assert Path("loss.png").read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in models.iterdir()) == ["checkpoints", "loss.png"]


def full_disk(*args: object, **extra: object) -> None:
    raise OSError(28, "No space left on device")


def test_one_evaluation_can_be_seen() -> None:
    one = Curve(
        name="a $5 poem", characters=(9.0,), minutes=(1.0,), train_loss=(2.0,), val_loss=(3.0,),
        learning_rate=(0.1,), chars_per_second=(5.0,), steps=(1,),
    )  # fmt: skip
    losses = draw_curves([one]).axes[0]
    assert all(line.get_marker() == "o" for line in losses.get_lines())
    assert losses.get_lines()[0].get_label() == r"a \$5 poem, training"


# --- the command ----------------------------------------------------------------


def test_the_newest_is_shown_as_text(models: Path) -> None:
    result = run("plot")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("tale: 4 evaluations")
    both = run("plot", "verse", "tale").stdout
    assert both.index("verse:") < both.index("tale:")


def test_a_picture_by_the_command(models: Path) -> None:
    result = run("plot", "tale", "verse", "-o", "loss.svg", "--sample-at", "20")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "loss.svg" in result.stderr
    assert "<svg" in Path("loss.svg").read_text(encoding="utf-8")


def test_the_numbers(models: Path) -> None:
    (verse,) = json.loads(run("plot", "verse", "--json").stdout)["models"]
    assert verse["name"] == "verse"
    assert verse["val_loss"] == [None, 2.875, 1.75]
    assert verse["steps"] == [7, 14, 21]


def test_without_matplotlib_there_is_text_and_the_way_to_get_it(models: Path, monkeypatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CharlstmError, match="matplotlib"):
        draw_curves([read_curve(Path("checkpoints/tale"))])
    result = run("plot", "-o", "loss.png")
    assert result.exit_code == 1
    assert "█" in result.stdout
    assert "pip install 'charlstm[plot]'" in result.stderr
    assert not Path("loss.png").exists()


def test_what_is_wrong_is_said(models: Path) -> None:
    assert run("plot", "nobody").exit_code == 1
    result = run("plot", "-o", "loss.gif")
    assert result.exit_code == 2
    assert ".png" in result.stderr
