"""Line charts: axes, and what is drawn where."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlstm.charts import Line, line_chart, tick_labels, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected", "labels"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (1.56, 3.33, [1.5, 2, 2.5, 3, 3.5], ["1.5", "2.0", "2.5", "3.0", "3.5"]),
        (0, 851_200, [0, 2e5, 4e5, 6e5, 8e5, 1e6], ["0", "0.2M", "0.4M", "0.6M", "0.8M", "1.0M"]),
        (0, 22_000, [0, 5e3, 1e4, 15e3, 2e4, 25e3], ["0", "5k", "10k", "15k", "20k", "25k"]),
        (0, 0.008, [0, 0.002, 0.004, 0.006, 0.008], ["0", "0.002", "0.004", "0.006", "0.008"]),
        (2.0, 2.0, [2, 2.5, 3, 3.5, 4], ["2.0", "2.5", "3.0", "3.5", "4.0"]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected, labels):
    assert ticks(low, high) == pytest.approx(expected)
    assert tick_labels(ticks(low, high)) == labels


@given(st.floats(-1e300, 1e300), st.floats(0, 1e300))
def test_ticks_span_whatever_there_is(low, extent):
    high = low + extent
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    assert all(math.isfinite(value) for value in values)
    assert all(a < b for a, b in itertools.pairwise(values))
    slack = 1e-6 * (values[1] - values[0])
    assert values[0] <= low + slack
    assert values[-1] >= high - slack
    assert len(tick_labels(values)) == len(values)


def draw(*lines: Line, **changes: object) -> ET.Element:
    options = {
        "name": "loss", "title": "Loss", "description": "It falls.", "x_label": "characters",
        "y_label": "nats <per> character",
    }  # fmt: skip
    return ET.fromstring(line_chart(list(lines), **(options | changes)))  # type: ignore[arg-type]


def places(svg: ET.Element, kind: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in svg.iter("polyline")
        if line.attrib["class"] == f"line {kind}"
    ]


def test_points_are_where_the_axes_say():
    svg = draw(Line(label="a", kind="training", x=(0, 50, 100), y=(3.0, 2.0, 1.0)))
    grid = {
        (text.attrib["text-anchor"], text.text): float(text.attrib[at])
        for text in svg.iter("text")
        for at in ("x", "y")
        if (at == "x") == (text.attrib["text-anchor"] == "middle")
    }
    ((first, middle, last),) = places(svg, "training")
    assert first[1] == pytest.approx(grid["end", "3.0"] - 4, abs=0.2)
    assert last[1] == pytest.approx(grid["end", "1.0"] - 4, abs=0.2)
    assert last[0] == pytest.approx(grid["middle", "100"], abs=0.2)
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.2)
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2, abs=0.2)


def test_gaps_stay_gaps_and_points_alone_are_seen():
    nan = math.nan
    svg = draw(
        Line(label="a", kind="held-out", x=tuple(range(100)), y=(1, nan, 2, 3, nan, *[4] * 95))
    )
    assert [len(points) for points in places(svg, "held-out")] == [2, 95]
    assert len(list(svg.iter("circle"))) == 1  # more than 60 points: only the one alone
    one = draw(Line(label="a", kind="held-out", x=(5,), y=(2.0,)), marked=(5, 2.0))
    assert [c.attrib["class"] for c in one.iter("circle")] == ["dot held-out", "marked"]
    assert "2.000" in [text.text for text in one.iter("text")]


def test_nothing_to_draw_is_drawn():
    svg = draw(Line(label="a", kind="training", x=(1, 2), y=(math.nan, math.nan)))
    assert places(svg, "training") == []


def test_many_points_are_thinned_out():
    n = 50_000
    svg = draw(Line(label="a", kind="training", x=tuple(range(n)), y=tuple(range(n))))
    ((*points,),) = places(svg, "training")
    assert len(points) == 1_000


def test_it_can_be_read_aloud():
    svg = draw(Line(label="a", kind="training", x=(0, 1), y=(0, 1)))
    assert svg.attrib["role"] == "img"
    title, text = (svg.find(tag) for tag in ("title", "desc"))
    assert title is not None
    assert text is not None
    assert svg.attrib["aria-labelledby"] == f"{title.attrib['id']} {text.attrib['id']}"
    assert (title.text, text.text) == ("Loss, nats <per> character", "It falls.")


@given(
    st.lists(
        st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300) | st.just(math.nan)),
        min_size=1,
        max_size=80,
    ),
    st.booleans(),
)
def test_any_numbers_give_a_chart(points, from_zero):
    xs, ys = zip(*points, strict=True)
    svg = draw(Line(label="a", kind="training", x=xs, y=ys), from_zero=from_zero)
    text = ET.tostring(svg, encoding="unicode")
    assert not re.search(r"\b(nan|inf)\b", text)
