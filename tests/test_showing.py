"""Explanations as lines, pages and pictures; the page also in a browser."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import json
import math
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    PLANTED_CHARACTERS,
    PLANTED_NETWORK,
    PLANTED_VOCABULARY,
    make_checkpoint,
    planted_text,
    planted_weights,
    sigmoid,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlstm.activations import ObservedStep
from charlstm.checkpoint import Checkpoint
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMStep
from charlstm.explain import Explanation, explain
from charlstm.neurons import Excerpt, Scan, find_excerpts, rank_units
from charlstm.plotting import save_figure
from charlstm.showing import (
    describe_explanation,
    describe_scan,
    draw_explanation,
    draw_scan,
    explanation_page,
    scan_page,
)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
TEXT = 'ab\né <b "c" & \x1b$d (</abA)> <!--'
SCAN = (planted_text(1_900), "a <test>")


def make(folder: Path, network: NetworkConfig = PLANTED_NETWORK) -> Checkpoint:
    weights = planted_weights(network)
    return make_checkpoint(folder, network, weights, vocabulary=PLANTED_VOCABULARY)


@pytest.fixture(scope="module")
def explanation(tmp_path_factory: pytest.TempPathFactory) -> Explanation:
    checkpoint = make(tmp_path_factory.mktemp("models") / "tale")
    return explain(checkpoint, TEXT, n_seed=10, scan=SCAN, ablate=["forget"])


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scan, tuple[Excerpt, ...]]:
    checkpoint = make(tmp_path_factory.mktemp("models") / "tale")
    ids = checkpoint.vocabulary.encode(SCAN[0])
    step = ObservedStep(checkpoint.network, checkpoint.weights)
    scan = rank_units(
        LSTMStep(checkpoint.network, checkpoint.weights), ids, SCAN[0], source=SCAN[1]
    )
    return scan, find_excerpts(step, scan, ids)


class Page(html.parser.HTMLParser):
    """A page as a strict reader takes it: every tag closed in its turn."""

    VOID = ("meta", "input", "br", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


# --- pages ----------------------------------------------------------------------


def assert_stands_alone(page: str) -> Page:
    parsed = Page(page)
    policy = [a for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy[0]["content"] or "")
    assert not [a for _, a in parsed.tags if a.keys() & {"src", "href", "srcset", "action"}]
    assert not re.search(r"https?://|url\(|@import", page)
    assert ("html", {"lang": "en"}) in parsed.tags
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(ids) == len(set(ids))
    return parsed


def test_the_page_stands_alone_and_shows_the_text(explanation: Explanation) -> None:
    parsed = assert_stands_alone(explanation_page(explanation))
    spans = [n for n, (tag, a) in enumerate(parsed.tags) if tag == "i" and a["data-t"] == "0"]
    assert len(spans) == 1 + len(explanation.units)
    shown = "".join(parsed.texts["i"])  # a line feed has its sign before it
    assert shown.startswith(TEXT.replace("\x1b", "\\x1b"))
    marked = [a for tag, a in parsed.tags if tag == "i" and "marked" in str(a.get("class"))]
    assert [int(a["data-t"] or "") for a in marked] == list(range(10, len(TEXT)))


def test_the_page_has_the_numbers_to_1e_4(explanation: Explanation) -> None:
    (data,) = Page(explanation_page(explanation)).texts["script"][:1]
    content = json.loads(data)
    assert content["characters"] == list(TEXT)
    for name, packed in content["arrays"].items():
        expected = getattr(explanation.activations, name)
        values = np.frombuffer(base64.b64decode(packed), "<f4").reshape(expected.shape)
        if name == "candidate":
            values = np.tanh(values)
        elif name != "cell":
            values = sigmoid(values)  # of gates the page has the sums
        np.testing.assert_allclose(values, expected, atol=1e-5)
    assert {"forget", "input", "candidate", "output", "cell"} == set(content["arrays"])


def test_the_table_says_it_all_without_a_script(explanation: Explanation) -> None:
    parsed = Page(explanation_page(explanation))
    cells = "|".join(text.strip() for text in parsed.texts["td"])
    for t, bits in enumerate(explanation.surprise_bits):
        if not math.isnan(bits):
            assert f"|{bits:.2f}|" in cells, t
    character, p = explanation.likeliest[3][0]
    assert f"{100 * p:.1f}%" in cells
    assert character


def test_ablations_are_shown_and_escaped(explanation: Explanation) -> None:
    page = explanation_page(explanation)
    parsed = Page(page)
    samples = ["".join(c if c.isprintable() or c == "\n" else "\\x1b" for c in a.text)
               for a in explanation.ablations]  # fmt: skip
    # What the parser gives piece by piece is one text again.
    assert "".join(samples) == "".join(parsed.texts["pre"])
    assert "Forget gate held open" in page


def test_a_page_without_ablations_says_how_to_get_them(tmp_path: Path) -> None:
    page = explanation_page(explain(make(tmp_path / "tale"), TEXT, scan=SCAN))
    assert "charlstm explain --ablate forget" in page


def test_a_page_of_recipe_article_brings_what_was_before(tmp_path: Path) -> None:
    checkpoint = make(
        tmp_path / "tale",
        dataclasses.replace(PLANTED_NETWORK, carries_state=False, seq_length=4),
    )
    explanation = explain(checkpoint, TEXT, scan=SCAN)
    (data,) = Page(explanation_page(explanation)).texts["script"][:1]
    packed = json.loads(data)["arrays"]["cell_before"]
    values = np.frombuffer(base64.b64decode(packed), "<f4")
    np.testing.assert_array_equal(values, explanation.activations.cell_before.ravel())


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(alphabet=PLANTED_CHARACTERS, min_size=1, max_size=20))
def test_no_text_breaks_a_page(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "tale"
    shutil.rmtree(folder, ignore_errors=True)
    page = explanation_page(explain(make(folder), text, scan=SCAN))
    assert json.loads(Page(page).texts["script"][0])["characters"] == list(text)


def test_the_page_of_units_stands_alone(scanned: tuple[Scan, tuple[Excerpt, ...]]) -> None:
    page = scan_page("tale <1>", *scanned)
    parsed = assert_stands_alone(page)
    assert "tale <1>" in parsed.texts["h1"][0]
    assert "a <test>" in "".join(parsed.texts["p"])
    best = [t[0] for t in scanned[0].ranking if t[0].follows]
    assert best
    assert parsed.texts["h2"] == [t.feature.name.capitalize() for t in best]


def test_text_on_any_colour_can_be_read() -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 at the strongest colour, light and dark."""
    css = (resources.files("charlstm") / "pages" / "page.css").read_text("utf-8")
    light, dark = css.split("prefers-color-scheme: dark")

    def triple(part: str, name: str) -> np.ndarray:
        return np.array(re.search(rf"--{name}: (\d+), (\d+), (\d+);", part).groups(), float)

    def luminance(rgb: np.ndarray) -> float:
        c = rgb / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for part in (light, dark):
        ink = re.search(r"--ink: #(\w\w)(\w\w)(\w\w);", part).groups()
        most = float(re.search(r"--most: ([\d.]+);", part)[1])
        for colour in ("low", "high"):
            ground = triple(part, "ground-rgb") * (1 - most) + triple(part, colour) * most
            a, b = luminance(ground), luminance(np.array([int(x, 16) for x in ink], float))
            assert (max(a, b) + 0.05) / (min(a, b) + 0.05) >= 4.5, (colour, most)


# --- in a browser ---------------------------------------------------------------

PROBE = """
<script>
"use strict";
const seen = { errors: [], steps: [] };
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => seen.errors.push(event.violatedDirective));
addEventListener("load", () => {
  const text = document.getElementById("text");
  const key = (name) =>
    text.dispatchEvent(new KeyboardEvent("keydown", { key: name, cancelable: true }));
  const look = (what) => seen.steps.push({
    what,
    now: Number(text.getAttribute("aria-valuenow")),
    said: text.getAttribute("aria-valuetext"),
    marked: document.querySelectorAll(".now").length,
    equations: [...document.querySelectorAll("#equations tr")].map((row) => row.textContent),
    sentence: document.getElementById("sentence").textContent,
    likeliest: [...document.querySelectorAll("#likeliest .p")].map((p) => p.textContent),
    unit: [document.getElementById("layer").value, document.getElementById("number").value],
  });
  look("start");
  key("Home"); look("home");
  key("ArrowRight"); key("ArrowRight"); key("ArrowRight"); look("right");
  key("PageDown"); key("ArrowLeft"); look("page");
  key("End"); key("ArrowRight"); look("end");
  key("ArrowDown"); look("unit");
  document.getElementById("layer").value = "1";
  document.getElementById("number").value = "4";
  document.getElementById("number").dispatchEvent(new Event("change")); look("chosen");
  const over = new PointerEvent("pointerover", { bubbles: true });
  text.querySelector('i[data-t="5"]').dispatchEvent(over); look("hover");
  text.dispatchEvent(new PointerEvent("pointerleave")); look("leave");
  text.querySelector('i[data-t="2"]').click(); look("click");
  const map = document.querySelector('.map[data-layer="1"][data-quantity="forget"]');
  const box = map.querySelector("canvas").getBoundingClientRect();
  const clientX = box.left + 4.5 * box.width / COUNT;
  map.dispatchEvent(new MouseEvent("click", { clientX, clientY: box.top + 1 }));
  look("map");
  const select = document.getElementById("unit");
  select.value = ""; select.dispatchEvent(new Event("change")); look("another");
  document.getElementById("layer").value = "9";
  document.getElementById("layer").dispatchEvent(new Event("change")); look("clamped");
  document.activeElement.blur(); // what is being typed is left alone
  const rest = { clientX: box.left + 1, clientY: box.top + 1 };
  const first = document.querySelector('.map[data-layer="0"]');
  first.dispatchEvent(new PointerEvent("pointermove", rest)); look("passing");
  first.dispatchEvent(new PointerEvent("pointerleave")); look("passed");
  seen.canvases = [...document.querySelectorAll("canvas")].map((canvas) => {
    const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, new Set(d).size];
  });
  seen.requests = performance.getEntriesByType("resource").length;
  seen.wide = document.documentElement.scrollWidth > innerWidth;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
</script>
</body>"""


def in_browser(page: str, folder: Path, *, width: int, count: int) -> dict[str, Any]:
    path = folder / "page.html"
    path.write_text(page.replace("</body>", PROBE.replace("COUNT", str(count))), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},900",
            "--virtual-time-budget=5000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    match = re.search(r'<pre id="result">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    assert match, done.stderr.decode()[-2000:]
    return json.loads(html.unescape(match[1]))


def number(value: float, digits: int = 4) -> str:
    is_zero = abs(value) < 0.5 * 10**-digits
    return f"{0.0 if is_zero else value:.{digits}f}".replace("-", "−")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(explanation: Explanation, tmp_path: Path, width: int) -> None:
    n, a = len(TEXT), explanation.activations
    seen = in_browser(explanation_page(explanation), tmp_path, width=width, count=n)
    assert seen["errors"] == []
    assert seen["requests"] == 0
    assert not seen["wide"]  # nothing to scroll sideways, on a phone either
    steps = {step["what"]: step for step in seen["steps"]}
    where = {what: step["now"] - 1 for what, step in steps.items()}
    assert where == {
        "start": 9,
        "home": 0,
        "right": 3,
        "page": 12,
        "end": n - 1,
        "unit": n - 1,
        "chosen": n - 1,
        "hover": 5,
        "leave": n - 1,
        "click": 2,
        "map": 4,
        "another": 4,
        "clamped": 4,
        "passing": 0,
        "passed": 4,
    }
    first, second = explanation.units[:2]
    assert steps["end"]["unit"] == [str(first.layer), str(first.unit)]
    assert steps["unit"]["unit"] == [str(second.layer), str(second.unit)]
    assert steps["chosen"]["unit"] == ["1", "4"]
    # Hovering changes nothing for good, nor does asking for "another" unit before naming it.
    assert steps["another"]["unit"] == steps["map"]["unit"]
    assert steps["clamped"]["unit"] == ["2", steps["map"]["unit"][1]]
    assert steps["passing"]["unit"][0] == "1"
    assert steps["passed"]["unit"] == steps["clamped"]["unit"]
    # The row at the top of a heat map is the unit that forgets least.
    assert steps["map"]["unit"] == ["2", str(a.forget[1].mean(axis=0).argmax())]
    for what, step in steps.items():
        t, layer, unit = where[what], int(step["unit"][0]) - 1, int(step["unit"][1])
        names = ("forget", "input", "candidate", "output", "cell", "hidden")
        v = {name: float(getattr(a, name)[layer, t, unit]) for name in names}
        for row, name in zip(step["equations"], names, strict=True):
            shown = float(row.rpartition("= ")[2].replace("−", "-"))
            assert shown == pytest.approx(v[name], abs=1e-4), (what, name)
        # What a reader adds up is what stands there.
        left, plus, right = (
            float(x.strip("()").replace("−", "-"))
            for x in re.fullmatch(r".*= ([^·]+)·([^ ]+) \+ ([^·]+)·.*", step["equations"][4]).group(
                1, 2, 3
            )
        )
        assert left == pytest.approx(v["forget"], abs=1e-4)
        assert plus == pytest.approx(float(a.cell_before[layer, t, unit]), abs=1e-4)
        assert right == pytest.approx(v["input"], abs=1e-4)
        assert step["likeliest"] == [
            f"{0.0 if p < 0.0005 else 100 * p:.1f}%" for _, p in explanation.likeliest[t]
        ]
        bits = explanation.surprise_bits[t]
        assert ("surprise" in step["said"]) == (not math.isnan(bits))
        if not math.isnan(bits):
            assert f"surprise {number(bits, 2)} bits" in step["said"]
        assert f"unit {unit} of layer {layer + 1}" in step["sentence"]
        assert step["marked"] == 1 + len(explanation.units)
    terms = explanation.terms[first.layer - 1]["forget"]
    parts = [x[..., first.unit] for x in (terms.below[n - 1], terms.own[n - 1], terms.bias)]
    shown = number(parts[0]) + "".join(
        f" − {number(-x)}" if number(x).startswith("−") else f" + {number(x)}" for x in parts[1:]
    )
    assert f"σ({shown})" in steps["end"]["equations"][0]
    assert [canvas[:2] for canvas in seen["canvases"]] == [[n, 5]] * 12
    assert all(canvas[2] > 5 for canvas in seen["canvases"])


# --- lines ----------------------------------------------------------------------


def test_lines_stand_below_the_text(explanation: Explanation) -> None:
    lines = describe_explanation(explanation, width=70)
    texts = [n for n, line in enumerate(lines) if line.startswith("    ")]
    # The escape character, which could steer a terminal, takes one column too.
    assert "".join(lines[n].strip(" ") for n in texts).replace("↵", "\n").replace(
        "�", "\x1b"
    ).replace(" ", "") == TEXT.replace(" ", "")
    margin = len(lines[texts[0]]) - len(lines[texts[0]].lstrip())
    surprise = "".join(lines[n + 1][margin:] for n in texts)
    assert len(surprise) == len(TEXT)
    loudest = int(np.nanargmax(explanation.surprise_bits))
    assert surprise[loudest] == max(surprise)
    assert any("forget gate held open" in line for line in lines)
    assert "\x1b" not in "".join(lines)


def test_lines_of_units(scanned: tuple[Scan, tuple[Excerpt, ...]]) -> None:
    lines = describe_scan(*scanned, width=70)
    best = [t[0] for t in scanned[0].ranking if t[0].follows]
    for tracking in best:
        start = f"{tracking.feature.name}: layer {tracking.layer}, unit {tracking.unit}, "
        assert any(line.startswith(start) for line in lines)
    bars = [line for line in lines if set(line.strip()) <= set("▁▂▃▄▅▆▇█") and line.strip()]
    assert len(bars) >= len(best)
    assert any(line.startswith("not in this text: ") and "digit" in line for line in lines)


# --- pictures -------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures(
    explanation: Explanation,
    scanned: tuple[Scan, tuple[Excerpt, ...]],
    tmp_path: Path,
    ending: str,
) -> None:
    for name, figure in (
        ("explanation", draw_explanation(explanation)),
        ("units", draw_scan("tale", *scanned)),
    ):
        path = tmp_path / f"{name}.{ending}"
        save_figure(figure, path)
        assert path.stat().st_size > 10_000


def test_the_picture_has_the_heat_maps_of_every_layer(explanation: Explanation) -> None:
    figure = draw_explanation(explanation)
    maps = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for layer in (1, 2):
        order = np.argsort(-explanation.activations.forget[layer - 1].mean(axis=0))
        image = maps[f"layer {layer}: cell state, tanh(c)"].images[0].get_array()
        expected = np.tanh(explanation.activations.cell[layer - 1][:, order].T)
        np.testing.assert_allclose(np.asarray(image), expected, atol=1e-6)
