"""What a network does with a text, character by character.

`explain` reads a text with a model and gathers what there is to see: how
surprising each character was, what was expected in its place, every gate and
state, the units that keep track of something, and what becomes of the writing
when a gate is held open or shut. `showing` makes it visible.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.activations import QUANTITIES, Activations, Gate, ObservedStep, observe
from charlstm.checkpoint import Checkpoint
from charlstm.engine import LSTMStep
from charlstm.errors import InputError
from charlstm.generation import Voice, write_texts
from charlstm.neurons import Tracking, find_scan_text, rank_units
from charlstm.sampling import SamplingConfig, log_softmax
from charlstm.scoring import score_ids
from charlstm.stopping import StopRules

MAX_CHARACTERS = 300
N_LIKELIEST = 5
# Units that follow nothing better than this are left out: it is 9% of the variance.
LEAST_CORRELATION = 0.3
MAX_UNITS = 8
# A second or so for the default network.
EXPLAIN_SCAN_CHARACTERS = 40_000
ABLATED_CHARACTERS, ABLATION_SCORED = 200, 5_000
HELD: tuple[tuple[str, float], ...] = (("open", 1.0), ("shut", 0.0))
# In the order of the columns of Keras's kernels.
_COLUMNS = ("input", "forget", "candidate", "output")

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateTerms:
    """What a gate's sum is made of, for one unit.

    The gate is the sigmoid (the candidate: the tanh) of below + own + bias.

    Attributes:
        below: `(time,)` float32, what comes from the layer below, or from the
            character itself: x·W.
        own: `(time,)` float32, what comes from the layer's own hidden state
            after the character before: h·U.
        bias: b.
    """

    below: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]
    bias: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TellingUnit:
    """A unit that is worth looking at.

    Attributes:
        layer: From 1.
        unit: From 0.
        tracking: What it follows, or None if it was chosen because it moves
            most in this text.
        terms: For input, forget, candidate and output.
    """

    layer: int
    unit: int
    tracking: Tracking | None
    terms: Mapping[str, GateTerms]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation:
    """What the model writes with a gate held, in all layers and all units.

    Attributes:
        gate: Which; None for the model as it is.
        held: "open" (1) or "shut" (0); None for the model as it is.
        text: What it writes on from the same beginning, with the same random
            seed.
        nats_per_char: Its loss on the end of the text that the units were
            looked for in.
        cell_size: Mean |c| over all units after the last 200 characters of
            that text.
    """

    gate: Gate | None
    held: str | None
    text: str
    nats_per_char: float
    cell_size: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """All that there is to see.

    Attributes:
        checkpoint: The model.
        text: What was read.
        n_seed: How many of its characters were given; the others the model
            wrote.
        n_left_out: Characters after it that are not shown.
        activations: What happened.
        surprise_bits: `(characters,)` float64, -log2 p of each character; NaN
            for the first, which has nothing before it.
        likeliest: For each character the five likeliest to come after it, with
            their probabilities.
        units: The units that tell most.
        scan_source: What was read to find them; None where nothing was.
        scan_characters: How much.
        ablations: The model as it is, and each gate held; empty if none was
            asked for.
    """

    checkpoint: Checkpoint
    text: str
    n_seed: int
    n_left_out: int
    activations: Activations
    surprise_bits: npt.NDArray[np.float64]
    likeliest: tuple[tuple[tuple[str, float], ...], ...]
    units: tuple[TellingUnit, ...]
    scan_source: str | None
    scan_characters: int
    ablations: tuple[Ablation, ...]

    @property
    def mean_bits(self) -> float:
        """Mean surprise of all characters but the first; NaN if there is no other."""
        bits = self.surprise_bits[1:]
        return float(bits.mean()) if len(bits) else math.nan

    def trace(self, unit: TellingUnit) -> npt.NDArray[np.float32]:
        """Return tanh(c) of a unit after each character, `(characters,)` in [-1, 1]."""
        cell: npt.NDArray[np.float32] = self.activations.cell[unit.layer - 1, :, unit.unit]
        return np.tanh(cell)


def explain(
    checkpoint: Checkpoint,
    text: str,
    *,
    n_seed: int | None = None,
    max_characters: int = MAX_CHARACTERS,
    scan: tuple[str, str] | None = None,
    ablate: Sequence[Gate] = (),
    random_seed: int = 0,
    sampling: SamplingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Read a text and gather what happens.

    Args:
        checkpoint: The model.
        text: At least 1 character, in characters that it knows.
        n_seed: How many of them were given, where the model wrote the others.
        max_characters: More of the text are not looked at.
        scan: A text to find telling units in, in the model's characters, and
            where it is from; None for its own (`neurons.find_scan_text`).
        ablate: Gates to hold open and shut.
        random_seed: For what it writes with a gate held.
        sampling: Likewise; the model's own way by default.
        progress: Called with (done, in all) while the scan's text is read.

    Returns:
        The explanation.

    Raises:
        InputError: If there is no text, or the scan's is too short.
    """
    if not text:
        raise InputError("there is no character to explain", hint="give a --seed, or a --length")
    shown = text[:max_characters]
    network, vocabulary = checkpoint.network, checkpoint.vocabulary
    step = ObservedStep(network, checkpoint.weights)
    activations = observe(step, vocabulary.encode(shown))
    log_p = log_softmax(activations.logits).astype(np.float64)
    bits = np.full(len(shown), np.nan)
    following = activations.ids[1:].astype(np.int64)
    bits[1:] = -log_p[np.arange(len(following)), following] / math.log(2)

    if scan is None:
        scan = find_scan_text(checkpoint, limit=scan_limit(checkpoint))
    scan_text, source = scan
    ids = vocabulary.encode(scan_text)
    found = rank_units(
        LSTMStep(network, checkpoint.weights), ids, scan_text, source=source, progress=progress
    )
    best = found.best(at_most=MAX_UNITS, at_least=LEAST_CORRELATION)
    chosen: list[tuple[int, int, Tracking | None]] = [(t.layer, t.unit, t) for t in best]
    chosen = chosen or [(*_liveliest(activations), None)]
    return Explanation(
        checkpoint=checkpoint,
        text=shown,
        n_seed=min(len(shown), len(text) if n_seed is None else n_seed),
        n_left_out=len(text) - len(shown),
        activations=activations,
        surprise_bits=bits,
        likeliest=tuple(_likeliest(row, vocabulary.characters) for row in log_p),
        units=tuple(
            TellingUnit(
                layer=layer,
                unit=unit,
                tracking=tracking,
                terms=gate_terms(checkpoint, activations, layer=layer, unit=unit),
            )
            for layer, unit, tracking in chosen
        ),
        scan_source=source,
        scan_characters=len(scan_text),
        ablations=_ablations(
            checkpoint,
            shown if n_seed is None else shown[:n_seed],
            ids[-ABLATION_SCORED:],
            gates=ablate,
            random_seed=random_seed,
            sampling=sampling,
        ),
    )


def scan_limit(checkpoint: Checkpoint) -> int | None:
    """Tell how much of a text is read to find units, so that nobody waits for it.

    Args:
        checkpoint: The model.

    Returns:
        Characters at most; None for what `neurons` reads.
    """
    return EXPLAIN_SCAN_CHARACTERS if checkpoint.network.carries_state else None


def _likeliest(
    log_p: npt.NDArray[np.float64], characters: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-log_p, kind="stable")[:N_LIKELIEST]
    return tuple((characters[n], math.exp(log_p[n])) for n in order)


def _liveliest(activations: Activations) -> tuple[int, int]:
    """Return the layer and unit whose cell state moves most."""
    spread = np.tanh(activations.cell).std(axis=1)  # (layers, units)
    layer, unit = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(layer) + 1, int(unit)


def gate_terms(
    checkpoint: Checkpoint, activations: Activations, *, layer: int, unit: int
) -> dict[str, GateTerms]:
    """Take the gates of a unit apart, into what comes from where.

    Args:
        checkpoint: The model.
        activations: What happened while it read a text.
        layer: From 1.
        unit: From 0.

    Returns:
        The terms of the input gate, the forget gate, the candidate and the
        output gate.
    """
    weights, network = checkpoint.weights, checkpoint.network
    columns = [n * network.units + unit for n in range(4)]
    kernel = weights[f"lstm_{layer}/kernel"][:, columns]
    recurrent = weights[f"lstm_{layer}/recurrent_kernel"][:, columns]
    bias = weights[f"lstm_{layer}/bias"][columns]
    if layer > 1:
        below = activations.hidden[layer - 2] @ kernel  # (time, 4)
    elif network.input == "one_hot":
        below = kernel[activations.ids]
    else:
        scaled = activations.ids.astype(np.float32)[:, None] / network.vocabulary_size
        below = scaled.astype(np.float32) @ kernel
    own = activations.hidden_before[layer - 1] @ recurrent
    return {
        name: GateTerms(below=below[:, n], own=own[:, n], bias=float(bias[n]))
        for n, name in enumerate(_COLUMNS)
    }


def _ablations(
    checkpoint: Checkpoint,
    seed_text: str,
    scored_ids: npt.NDArray[np.integer],
    *,
    gates: Sequence[Gate],
    random_seed: int,
    sampling: SamplingConfig | None,
) -> tuple[Ablation, ...]:
    if not gates:
        return ()
    voice = Voice.of(checkpoint)
    ways: list[tuple[Gate | None, str | None, dict[Gate, float]]] = [(None, None, {})]
    ways += [(gate, name, {gate: value}) for gate in dict.fromkeys(gates) for name, value in HELD]
    results = []
    for gate, name, held in ways:
        step = ObservedStep(checkpoint.network, checkpoint.weights, held=held)
        pieces = write_texts(
            dataclasses.replace(voice, parts=((step, checkpoint.vocabulary, 1.0),)),
            [seed_text],
            random_seeds=[random_seed],
            sampling=sampling,
            rules=StopRules(length=ABLATED_CHARACTERS),
        )
        results.append(
            Ablation(
                gate=gate,
                held=name,
                text="".join(piece.text for piece in pieces),
                nats_per_char=score_ids(step, scored_ids).nats_per_char,
                cell_size=float(
                    np.abs(observe(step, scored_ids[-ABLATED_CHARACTERS:]).cell[:, -1]).mean()
                ),
            )
        )
    return tuple(results)


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Put the numbers into what JSON can hold.

    Args:
        explanation: From `explain`.

    Returns:
        All of them; arrays as lists by layer, character and unit, with six
        decimal places, which is more than the arithmetic has.
    """

    def listed(array: npt.NDArray[np.floating]) -> Any:
        return np.round(array.astype(np.float64), 6).tolist()

    return {
        "model": str(explanation.checkpoint.model),
        "checkpoint": explanation.checkpoint.info.step,
        "text": explanation.text,
        "seed_characters": explanation.n_seed,
        "surprise_bits": [None if math.isnan(b) else b for b in listed(explanation.surprise_bits)],
        "likeliest": [
            [{"character": c, "probability": round(p, 8)} for c, p in likeliest]
            for likeliest in explanation.likeliest
        ],
        "layers": explanation.checkpoint.network.layers,
        "units": explanation.checkpoint.network.units,
        **{name: listed(getattr(explanation.activations, name)) for name in QUANTITIES},
        "scan": {"source": explanation.scan_source, "characters": explanation.scan_characters},
        "telling_units": [
            {
                "layer": unit.layer,
                "unit": unit.unit,
                "feature": unit.tracking and unit.tracking.feature.name,
                "correlation": unit.tracking and round(unit.tracking.correlation, 6),
                "terms": {
                    name: {
                        "below": listed(terms.below),
                        "own": listed(terms.own),
                        "bias": round(terms.bias, 6),
                    }
                    for name, terms in unit.terms.items()
                },
            }
            for unit in explanation.units
        ],
        "ablations": [dataclasses.asdict(ablation) for ablation in explanation.ablations],
    }
