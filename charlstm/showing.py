"""Explanations and units for people to look at: lines, pictures, a page.

What there is to see comes from `explain` and `neurons`. A page is one HTML
file that asks no network for anything; a picture needs matplotlib, the extra
`[plot]`; lines need a terminal.
"""

from __future__ import annotations

import base64
import html
import json
import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charlstm.errors import printable
from charlstm.explain import Ablation, Explanation, TellingUnit
from charlstm.neurons import CLEARLY_MORE, LEAST, WRITTEN, Excerpt, Scan, Tracking
from charlstm.pages import fill_page, read_page_file
from charlstm.plotting import bars, check_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is as strange as this has the full colour: a guess among 256.
FULL_SURPRISE = 8.0
_SHOWN = {"\n": "↵", "\t": "⇥"}
_MAPS = (
    ("forget", "forget gate f"),
    ("input", "input gate i"),
    ("candidate", "candidate g"),
    ("output", "output gate o"),
    ("cell", "cell state, tanh(c)"),
    ("hidden", "hidden state h"),
)
_PICTURE_COLUMNS = 60
_MAP_INCHES = 5.2
_NARROWEST = 24  # columns for a text, beside the labels
# More lines than that below each line of a text, and the text is not seen any more.
_UNITS_IN_LINES = 4
# Blue and orange are told apart by nearly everybody (Okabe & Ito, 2008).
_LOW, _HIGH = "#2166AC", "#D55E00"

_SCAN_FOUND = (
    "Nobody told the network about lines, names or brackets: it was only asked for the next "
    "character. These units came to keep track of some of them all the same."
)
_SCAN_NOT_FOUND = (
    "No unit follows any of the features that were looked for clearly more than an untrained "
    "network's units do."
)

Floats = npt.NDArray[np.floating]


def _name_unit(layer: int, unit: int) -> str:
    return f"layer {layer}, unit {unit}"


def _name_tracking(tracking: Tracking) -> str:
    sign = "−" if tracking.correlation < 0 else "+"
    return f"{tracking.feature.name} ({sign}{abs(tracking.correlation):.2f})"


def _title(explanation: Explanation) -> str:
    text = printable(explanation.text.replace("\n", " ")).strip()
    text = text if len(text) <= 40 else text[:39].rstrip() + "…"
    return f"What {printable(explanation.checkpoint.model.name)} does with “{text}”"


# --- lines ----------------------------------------------------------------------


def describe_explanation(explanation: Explanation, *, width: int = 80) -> list[str]:
    """Say what happened, in lines for a terminal.

    Args:
        explanation: From `explain.explain`.
        width: Columns of the terminal.

    Returns:
        Each line of the text with bars below it: of its surprise, and of the
        units that tell most; then what was written with gates held.
    """
    checkpoint, n = explanation.checkpoint, len(explanation.text)
    mean = "" if n < 2 else f", {explanation.mean_bits:.2f} bits each on average"
    units = explanation.units[:_UNITS_IN_LINES]
    labels = ["surprise"] + [
        f"{u.layer}:{u.unit} {_name_tracking(u.tracking) if u.tracking else 'moves most'}"
        for u in units
    ]
    margin = max(len(label) for label in labels) + 2
    rows = [bars(explanation.surprise_bits.tolist(), low=0, high=FULL_SURPRISE)] + [
        bars(explanation.trace(unit).tolist(), low=-1, high=1) for unit in units
    ]
    lines = [
        f"{printable(checkpoint.model.name)}, step {checkpoint.info.step:,}: {n} characters{mean}",
        f"surprise from 0 to {FULL_SURPRISE:g} bits",
        "units as layer:unit, tanh(c) from -1 to 1, in brackets the correlation",
        f"found in {printable(explanation.scan.source)}",
    ]
    if width - margin < _NARROWEST:  # the labels then stand apart, in the order of the bars
        lines += ["", "from above:", *(f"  {label}" for label in labels)]
        margin, labels = 0, [""] * len(labels)
    for start, end in _cut(explanation.text, max(1, width - margin)):
        lines += ["", " " * margin + _one_column_each(explanation.text[start:end])]
        lines += [
            f"{label:<{margin}}{row[start:end]}" for label, row in zip(labels, rows, strict=True)
        ]
    for ablation in explanation.ablations:
        lines += ["", f"--- {_name_ablation(ablation)}", _plain_lines(ablation.text)]
    return lines


def describe_scan(scan: Scan, excerpts: Sequence[Excerpt], *, width: int = 80) -> list[str]:
    """Say which units follow what, in lines for a terminal.

    Args:
        scan: From `neurons.rank_units`.
        excerpts: From `neurons.find_excerpts`.
        width: Columns of the terminal.

    Returns:
        For each feature its best units, and a line of text with the bars of
        the best below it.
    """
    lines: list[str] = []
    weak: list[str] = []
    headings = {False: "What they keep track of", True: "What they read from the character itself"}
    for trackings, excerpt in zip(scan.ranking, excerpts, strict=True):
        best = trackings[0]
        if not best.follows:
            weak.append(
                f"{best.feature.name} ({best.correlation:+.2f}, untrained {best.untrained:.2f})"
            )
            continue
        if best.is_read in headings:
            lines += [headings.pop(best.is_read), ""]
        others = ", ".join(f"{t.layer}:{t.unit} {t.correlation:+.2f}" for t in trackings[1:])
        lines += [
            f"{best.feature.name}: {_name_unit(best.layer, best.unit)}, {best.correlation:+.2f}",
            f"  untrained {best.untrained:.2f}" + (f"; then {others}" if others else ""),
        ]
        for start, end in _telling_lines(excerpt, max(20, width - 2)):
            lines += [
                "  " + _one_column_each(excerpt.text[start:end]),
                "  " + bars(excerpt.values[start:end].tolist(), low=-1, high=1),
            ]
        lines.append("")
    if weak:
        lines.append(f"no unit follows clearly: {', '.join(weak)}")
    if scan.absent:
        lines.append(f"not in this text: {', '.join(feature.name for feature in scan.absent)}")
    return lines


def _telling_lines(excerpt: Excerpt, width: int) -> list[tuple[int, int]]:
    """Return the two lines in a row along which the feature changes most, as `_cut` does."""
    pieces = _cut(excerpt.text, width)
    pairs = [pieces[n : n + 2] for n in range(max(1, len(pieces) - 1))]

    def interest(pair: list[tuple[int, int]]) -> float:
        within = excerpt.feature[pair[0][0] : pair[-1][1]]
        return float(within.std()) * math.sqrt(len(within))  # two short lines show little

    return max(pairs, key=interest)


def _cut(text: str, width: int) -> list[tuple[int, int]]:
    """Cut a text into its lines, and long lines into pieces that fit, as (start, end)."""
    pieces, start = [], 0
    for line in text.split("\n"):
        stop = min(start + len(line) + 1, len(text))  # the line feed belongs to its line
        pieces += [(first, min(first + width, stop)) for first in range(start, stop, width)]
        start = stop
    return pieces


def _visible(character: str) -> str:
    return _SHOWN.get(character) or printable(character)


def _one_column_each(text: str) -> str:
    return "".join(map(_one_column, text))


def _one_column(character: str) -> str:
    """Return what stands for a character where each has one column."""
    shown = _visible(character)
    is_wide = unicodedata.east_asian_width(character) in "WF" or unicodedata.combining(character)
    return "�" if len(shown) != 1 or is_wide else shown


def _plain_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _name_ablation(ablation: Ablation) -> str:
    loss = (
        f"{ablation.nats_per_char / math.log(2):.2f} bits/char, "
        f"mean size of c {ablation.cell_size:.2g}"
    )
    if ablation.gate is None:
        return f"as it is: {loss}"
    return f"{ablation.gate} gate held {ablation.held}: {loss}"


# --- pages ----------------------------------------------------------------------


def explanation_page(explanation: Explanation) -> str:
    """Make a page of an explanation.

    Args:
        explanation: From `explain.explain`.

    Returns:
        HTML that stands alone.
    """
    checkpoint, network = explanation.checkpoint, explanation.checkpoint.network
    n = len(explanation.text)
    mean = "" if n < 2 else f", {explanation.mean_bits:.2f} bits of surprise each on average"
    model = html.escape(printable(checkpoint.model.name))
    introduction = (
        f"The model {model} (step {checkpoint.info.step:,}, {_count(network.layers, 'layer')} of "
        f"{_count(network.units, 'unit')}) read {_count(n, 'character')}{mean}. After each one it "
        "said how likely every character is to come next. Below is what its gates did meanwhile."
    )
    written = (
        "What is underlined with dots the model wrote itself." if explanation.n_seed < n else ""
    )
    left_out = (
        f" {explanation.n_left_out:,} more characters are not shown."
        if explanation.n_left_out
        else ""
    )
    window_note = (
        ""
        if network.carries_state
        else f"This model (recipe article) reads its last {network.seq_length} characters anew for "
        "each one, so c<sub>t&minus;1</sub> is from within that window."
    )
    return fill_page(
        "explain.html",
        title=html.escape(_title(explanation)),
        introduction=introduction,
        style=read_page_file("page.css") + read_page_file("explain.css"),
        n_characters=n,
        written_note=written + left_out,
        text=_coloured(
            explanation.text,
            explanation.surprise_bits / FULL_SURPRISE,
            is_marked=[t >= explanation.n_seed for t in range(n)],
        ),
        unit_options=_unit_options(explanation.units),
        n_layers=network.layers,
        last_unit=network.units - 1,
        n_units=network.units,
        sum_note=window_note,
        units_note=_units_note(explanation),
        traces="\n".join(_trace(explanation, n, unit) for n, unit in enumerate(explanation.units)),
        maps=_maps(network.layers),
        ablations=_ablations(explanation.ablations, explanation.scan),
        table=_table(explanation),
        footer="Made by <code>charlstm explain</code>; <code>--json</code> gives all numbers.",
        data=_script_json(_page_data(explanation)),
        script=read_page_file("explain.js"),
    )


def scan_page(name: str, scan: Scan, excerpts: Sequence[Excerpt]) -> str:
    """Make a page of the units that follow something.

    Args:
        name: The model's name and step.
        scan: From `neurons.rank_units`.
        excerpts: From `neurons.find_excerpts`.

    Returns:
        HTML that stands alone.
    """
    parts = []
    for trackings, excerpt in zip(scan.ranking, excerpts, strict=True):
        best = trackings[0]
        if not best.follows:
            continue
        rows = "".join(
            f'<tr><td>{t.layer}</td><td class="number">{t.unit}</td>'
            f'<td class="number">{_signed(t.correlation)}</td>'
            f'<td class="number">{_signed(t.chosen_by)}</td></tr>'
            for t in trackings
        )
        label = f"The text coloured by {_name_unit(best.layer, best.unit)}"
        marked = None if best.feature.is_count else (excerpt.feature > 0).tolist()
        parts.append(
            f"<h2>{best.feature.name.capitalize()}</h2>\n"
            f'<p class="small faint">The feature is {best.feature.meaning}'
            f"{', which the character itself decides' if best.is_read else ''}"
            f"{'' if marked is None else '; underlined where it is 1'}.</p>\n"
            f'<div class="text" role="img" aria-label="{label}">'
            f"{_coloured(excerpt.text, excerpt.values, is_marked=marked)}</div>\n"
            "<table><thead><tr><th>layer</th><th class='number'>unit</th>"
            "<th class='number'>correlation</th><th class='number'>by which it was chosen</th>"
            f"</tr></thead><tbody>{rows}</tbody></table>\n"
            f'<p class="small faint">Untrained, the best unit has {best.untrained:.2f}.</p>'
        )
    rest = []
    weak = [t[0].feature.name for t in scan.ranking if not t[0].follows]
    if weak:
        rest.append(f"No unit clearly follows: {', '.join(weak)}.")
    if scan.absent:
        rest.append(f"Not in this text: {', '.join(feature.name for feature in scan.absent)}.")
    return fill_page(
        "neurons.html",
        title=f"What the units of {html.escape(printable(name))} follow",
        style=read_page_file("page.css") + read_page_file("explain.css"),
        source=html.escape(printable(scan.source)),
        introduction=_SCAN_FOUND if parts else _SCAN_NOT_FOUND,
        parts="\n".join(parts),
        rest=f"<p>{' '.join(rest)}</p>" if rest else "",
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.2f}"


def _escaped(character: str) -> str:
    if character == "\n":
        return '<span class="end">↵</span>\n'
    if character == "\t":
        return "\t"
    return html.escape(printable(character))


def _coloured(text: str, values: Floats, *, is_marked: Sequence[bool] | None = None) -> str:
    """Colour characters by values from -1 to 1 and underline those that are marked.

    NaN leaves a character without a colour.
    """
    pieces = []
    for t, (character, value) in enumerate(zip(text, values.tolist(), strict=True)):
        classes, style = [], ""
        if not math.isnan(value):
            classes.append("up" if value >= 0 else "down")
            style = f' style="--a:{min(1.0, abs(value)):.2f}"'
        if is_marked is not None and is_marked[t]:
            classes.append("marked")
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        pieces.append(f'<i data-t="{t}"{attribute}{style}>{_escaped(character)}</i>')
    return "".join(pieces)


def _unit_options(units: Sequence[TellingUnit]) -> str:
    options = [
        f'<option value="{n}">{_name_unit(u.layer, u.unit)}'
        f"{': ' + u.tracking.feature.name if u.tracking else ''}</option>"
        for n, u in enumerate(units)
    ]
    return "".join([*options, '<option value="">another</option>'])


def _units_note(explanation: Explanation) -> str:
    source = html.escape(printable(explanation.scan.source))
    if explanation.units[0].tracking is None:
        return (
            "No unit clearly follows any of the features, such as the place in a line, that were "
            f"looked for in {source}; this one moves most in the text above."
        )
    return (
        f"Found in {source}: for each of a dozen features, such as the place in a line or being "
        "inside brackets, the unit whose tanh(c) goes with it most closely. The unit is chosen on "
        "the first half of that text; the correlation that is shown is measured on the second, "
        "within each character, so that what the character alone tells does not count. "
        f"Left out is what is below {LEAST:g}, or not by {CLEARLY_MORE:g} more than an untrained "
        "network of the same shape has (the second figure)."
    )


def _trace(explanation: Explanation, n: int, unit: TellingUnit) -> str:
    name = _name_unit(unit.layer, unit.unit)
    what = ""
    if unit.tracking is not None:
        t = unit.tracking
        what = (
            f": <b>{t.feature.name}</b>, correlation {_signed(t.correlation)} "
            f"(untrained {t.untrained:.2f})"
            + (", read from the character itself" if t.is_read else "")
        )
    return (
        f"<figure><figcaption>{name.capitalize()}{what}</figcaption>\n"
        f'<div class="text" data-unit="{n}" role="img" aria-label="The text coloured by {name}">'
        f"{_coloured(explanation.text, explanation.trace(unit))}</div></figure>"
    )


def _maps(n_layers: int) -> str:
    parts = []
    for layer in range(n_layers):
        figures = "".join(
            f"<figure><figcaption>{label}</figcaption>"
            f'<div class="map" data-layer="{layer}" data-quantity="{quantity}">'
            f'<canvas role="img" aria-label="Heat map of the {label} of layer {layer + 1}: '
            'units by characters"></canvas></div></figure>'
            for quantity, label in _MAPS
        )
        parts.append(f'<h3>Layer {layer + 1}</h3>\n<div class="maps">{figures}</div>')
    return "\n".join(parts)


def _ablations(ablations: Sequence[Ablation], scan: Scan) -> str:
    source = html.escape(printable(scan.source))
    flattered = (
        " A model predicts what it wrote itself better than other texts, which flatters them."
        if scan.source.startswith(WRITTEN)
        else ""
    )
    if not ablations:
        return (
            "<h2>Without a gate</h2>\n<p><code>charlstm explain --ablate forget</code> shows what "
            "the model writes when that gate is held open or shut; <code>input</code> and "
            "<code>output</code> likewise.</p>"
        )
    samples = "".join(
        f"<div><h3>{_name_ablation(a).capitalize()}</h3>"
        f'<pre class="sample">{html.escape(_plain_lines(a.text))}</pre></div>'
        for a in ablations
    )
    notes = {
        "forget": "A forget gate held open (1) never lets go: what is added to a cell state stays "
        "in it for ever. Held shut (0) it keeps nothing: a cell state is then its last update and "
        "no more, and from one character to the next only the hidden state remembers.",
        "input": "An input gate held open (1) writes every candidate into memory, wanted or not; "
        "held shut (0) nothing is ever written, and what remains is the bias of the last layer, "
        "which is the same whatever was read.",
        "output": "An output gate held open (1) shows all of the memory all of the time; held "
        "shut (0) nothing of it reaches the next layer, the next step or the last layer.",
    }
    gates = dict.fromkeys(a.gate for a in ablations if a.gate is not None)
    said = " ".join(notes[gate] for gate in gates)
    return (
        "<h2>Without a gate</h2>\n<p>The same beginning and the same random seed, with a gate held "
        f"at one value in all units of all layers. {said} The figures are the loss on the end of "
        f"{source}, and the mean size (without its sign) of the cell states after reading it."
        f"{flattered} The network was not trained this way, so they say what it leans on, not what "
        f'a network without that gate could learn.</p>\n<div class="samples">{samples}</div>'
    )


def _table(explanation: Explanation) -> str:
    rows = []
    for t, character in enumerate(explanation.text):
        bits = explanation.surprise_bits[t]
        shown = html.escape("space" if character == " " else _visible(character))
        next_ones = ", ".join(
            f"{html.escape('space' if c == ' ' else _visible(c))} {100 * p:.1f}%"
            for c, p in explanation.likeliest[t]
        )
        rows.append(
            f"<tr><td>{t + 1}</td><td>{shown}</td>"
            f'<td class="number">{"" if math.isnan(bits) else f"{bits:.2f}"}</td>'
            f"<td>{next_ones}</td></tr>"
        )
    return "\n".join(rows)


def _page_data(explanation: Explanation) -> dict[str, Any]:
    activations = explanation.activations
    # The page works the gates out from these sums, and h from c.
    arrays = {
        gate: _packed(np.stack([terms[gate].total for terms in explanation.terms]))
        for gate in explanation.terms[0]
    }
    arrays["cell"] = _packed(activations.cell)
    if not explanation.checkpoint.network.carries_state:
        arrays["cell_before"] = _packed(activations.cell_before)
    likely = {character for row in explanation.likeliest for character, _ in row}
    strange = [c for c in sorted({*explanation.text, *likely}) if not c.isprintable()]
    return {
        "characters": list(explanation.text),
        "shown": {c: printable(c) for c in strange if c not in "\n\t"},
        "bits": [
            None if math.isnan(bits) else round(bits, 4)
            for bits in explanation.surprise_bits.tolist()
        ],
        "likeliest": [
            [[character, round(p, 5)] for character, p in row] for row in explanation.likeliest
        ],
        "layers": explanation.checkpoint.network.layers,
        "units": explanation.checkpoint.network.units,
        "start": min(explanation.n_seed, len(explanation.text)) - 1,
        "telling": [
            {
                "layer": unit.layer,
                "unit": unit.unit,
                "name": unit.tracking and _name_tracking(unit.tracking),
                "terms": {
                    name: {
                        "below": [round(x, 6) for x in terms.below[:, unit.unit].tolist()],
                        "own": [round(x, 6) for x in terms.own[:, unit.unit].tolist()],
                        "bias": round(float(terms.bias[unit.unit]), 6),
                    }
                    for name, terms in explanation.terms[unit.layer - 1].items()
                },
            }
            for unit in explanation.units
        ],
        "arrays": arrays,
    }


def _packed(array: Floats) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _script_json(data: dict[str, Any]) -> str:
    """Write JSON that no text in it can end early."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- pictures -------------------------------------------------------------------


def draw_explanation(explanation: Explanation) -> Figure:
    """Draw an explanation: the text, the units that tell most, all units.

    Args:
        explanation: From `explain.explain`.

    Returns:
        A figure that no screen is needed for.

    Raises:
        CharlstmError: If matplotlib is not installed; says how to.
    """
    surprise = explanation.surprise_bits / FULL_SURPRISE
    label = "surprise of each character, 0 (white) to 8 bits and more"
    texts = [_Drawn(label, explanation.text, surprise)]
    texts += [
        _Drawn(
            f"tanh(c) of {_name_unit(unit.layer, unit.unit)}"
            + (f": {_name_tracking(unit.tracking)}" if unit.tracking else ""),
            explanation.text,
            explanation.trace(unit),
        )
        for unit in explanation.units
    ]
    return _draw(_title(explanation), texts, explanation)


def draw_scan(name: str, scan: Scan, excerpts: Sequence[Excerpt]) -> Figure:
    """Draw the units that follow something, each along a piece of the text.

    Args:
        name: The model's name and step.
        scan: From `neurons.rank_units`.
        excerpts: From `neurons.find_excerpts`.

    Returns:
        A figure that no screen is needed for.

    Raises:
        CharlstmError: If matplotlib is not installed; says how to.
    """
    texts = [
        _Drawn(
            f"{_name_tracking(e.tracking)}: tanh(c) of "
            f"{_name_unit(e.tracking.layer, e.tracking.unit)}",
            e.text,
            e.values,
            None if e.tracking.feature.is_count else e.feature > 0,
        )
        for e in excerpts
        if e.tracking.follows
    ]
    title = f"What the units of {printable(name)} follow, in {printable(scan.source)}"
    return _draw(title, texts, None)


class _Drawn(NamedTuple):
    """A text to draw, coloured by values, with a line below what is marked."""

    label: str
    text: str
    values: Floats
    is_marked: npt.NDArray[np.bool_] | None = None


def _draw(title: str, texts: Sequence[_Drawn], explanation: Explanation | None) -> Figure:
    check_matplotlib()
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colours = LinearSegmentedColormap.from_list("charlstm", [_LOW, "white", _HIGH])
    in_rows = [texts[n : n + 2] for n in range(0, len(texts), 2)]
    heights = [
        0.22 * max(len(_cut(drawn.text, _PICTURE_COLUMNS)) for drawn in row) + 0.42
        for row in in_rows
    ] or [0.5]
    n_layers = 0 if explanation is None else explanation.checkpoint.network.layers
    height = sum(heights) + _MAP_INCHES * n_layers + 0.7
    figure = Figure(figsize=(13, height), layout="constrained")
    legend = "orange: +1, white: 0, blue: −1" + (
        "; a line below: where the feature is so" if explanation is None else ""
    )
    figure.suptitle(f"{_safe(title)}\n{legend}", x=0.01, ha="left", fontsize="medium")
    grid = figure.add_gridspec(
        len(heights) + n_layers, 1, height_ratios=[*heights, *[_MAP_INCHES] * n_layers]
    )
    for row, together in enumerate(in_rows):
        within = grid[row].subgridspec(1, 2)
        for column, drawn in enumerate(together):
            axes = figure.add_subplot(within[0, column])
            axes.set_title(_safe(drawn.label), loc="left", fontsize="small")
            _draw_text(axes, drawn, colours)
    for layer in range(n_layers):
        assert explanation is not None
        within = grid[len(heights) + layer].subgridspec(2, 3)
        order = np.argsort(-explanation.activations.forget[layer].mean(axis=0), kind="stable")
        for n, (name, label) in enumerate(_MAPS):
            axes = figure.add_subplot(within[n // 3, n % 3])
            values = getattr(explanation.activations, name)[layer][:, order].T
            values = np.tanh(values) if name == "cell" else values
            image = axes.imshow(values, cmap=colours, vmin=-1, vmax=1, aspect="auto",
                                interpolation="nearest")  # fmt: skip
            axes.set_title(f"layer {layer + 1}: {label}", loc="left", fontsize="small")
            axes.set_xlabel("character", fontsize="x-small")
            axes.set_ylabel("unit, by mean forget gate", fontsize="x-small")
            axes.tick_params(labelsize="x-small")
            axes.set_yticks([])
        figure.colorbar(image, ax=figure.axes[-len(_MAPS) :], fraction=0.02, pad=0.01)
    return figure


def _safe(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as the beginning of a formula."""
    return text.replace("$", r"\$")


def _draw_text(axes: Axes, drawn: _Drawn, colours: Any) -> None:
    pieces = _cut(drawn.text, _PICTURE_COLUMNS)
    cells = np.full((len(pieces), _PICTURE_COLUMNS), np.nan)
    for row, (start, end) in enumerate(pieces):
        cells[row, : end - start] = drawn.values[start:end]
        for column, character in enumerate(drawn.text[start:end]):
            if not character.isspace() or character == "\n":
                faint = "0.6" if character == "\n" else "black"
                axes.text(
                    column,
                    row,
                    _one_column(character),
                    ha="center",
                    va="center",
                    color=faint,
                    fontsize=8,
                    family="monospace",
                    parse_math=False,
                )
            if drawn.is_marked is not None and drawn.is_marked[start + column]:
                sides = [column - 0.5, column + 0.5]
                axes.plot(sides, [row + 0.42] * 2, color="black", linewidth=0.8)
    axes.imshow(cells, cmap=colours, vmin=-1, vmax=1, aspect="auto", alpha=0.85)
    axes.set_axis_off()
