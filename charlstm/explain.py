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
from charlstm.neurons import Scan, Tracking, find_scan_text, rank_units
from charlstm.sampling import SamplingConfig, log_softmax
from charlstm.scoring import score_ids
from charlstm.stopping import StopRules

MAX_CHARACTERS = 300
N_LIKELIEST = 5
MAX_UNITS = 8
# Two seconds or so for the default network, and an untrained one beside it.
EXPLAIN_SCAN_CHARACTERS = 30_000
ABLATED_CHARACTERS, ABLATION_SCORED = 200, 5_000
HELD: tuple[tuple[str, float], ...] = (("open", 1.0), ("shut", 0.0))
# In the order of the columns of Keras's kernels.
_COLUMNS = ("input", "forget", "candidate", "output")

Weights = Mapping[str, npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTerms:
    """What the sums of a gate are made of, for all units of a layer.

    The gate is the sigmoid (the candidate: the tanh) of below + own + bias.

    Attributes:
        below: `(time, units)` float32, what comes from the layer below, or from
            the character itself: x·W.
        own: `(time, units)` float32, what comes from the layer's own hidden
            state after the character before: h·U.
        bias: `(units,)` float32, b.
    """

    below: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    @property
    def total(self) -> npt.NDArray[np.float32]:
        """`(time, units)` float32, what the sigmoid or tanh is taken of."""
        return self.below + self.own + self.bias


@dataclasses.dataclass(frozen=True, kw_only=True)
class TellingUnit:
    """A unit that is worth looking at.

    Attributes:
        layer: From 1.
        unit: From 0.
        tracking: What it follows, or None if it was chosen because it moves
            most in this text.
    """

    layer: int
    unit: int
    tracking: Tracking | None


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
            that text (recipe article: after its last window).
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
        terms: For each layer, what the sums of its input, forget and output
            gates and its candidate are made of.
        surprise_bits: `(characters,)` float64, -log2 p of each character; NaN
            for the first, which has nothing before it.
        likeliest: For each character the five likeliest to come after it, with
            their probabilities.
        units: The units that tell most.
        scan: What was found when the units were looked for.
        ablations: The model as it is, and each gate held; empty if none was
            asked for.
    """

    checkpoint: Checkpoint
    text: str
    n_seed: int
    n_left_out: int
    activations: Activations
    terms: tuple[Mapping[str, LayerTerms], ...]
    surprise_bits: npt.NDArray[np.float64]
    likeliest: tuple[tuple[tuple[str, float], ...], ...]
    units: tuple[TellingUnit, ...]
    scan: Scan
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

    scan_text, source = scan or find_scan_text(checkpoint, limit=scan_limit(checkpoint))
    ids = vocabulary.encode(scan_text)
    plain = LSTMStep(network, checkpoint.weights)
    found = rank_units(plain, ids, scan_text, source=source, progress=progress)
    best = found.best(at_most=MAX_UNITS)
    chosen: list[tuple[int, int, Tracking | None]] = [(t.layer, t.unit, t) for t in best]
    chosen = chosen or [(*_liveliest(activations), None)]
    return Explanation(
        checkpoint=checkpoint,
        text=shown,
        n_seed=min(len(shown), len(text) if n_seed is None else n_seed),
        n_left_out=len(text) - len(shown),
        activations=activations,
        terms=tuple(
            gate_terms(checkpoint, activations, layer=layer)
            for layer in range(1, network.layers + 1)
        ),
        surprise_bits=bits,
        likeliest=tuple(_likeliest(row, vocabulary.characters) for row in log_p),
        units=tuple(
            TellingUnit(layer=layer, unit=unit, tracking=tracking)
            for layer, unit, tracking in chosen
        ),
        scan=found,
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
    # The unknown symbol, the last id, is no character to expect.
    order = np.argsort(-log_p[: len(characters)], kind="stable")[:N_LIKELIEST]
    return tuple((characters[n], math.exp(log_p[n])) for n in order)


def _liveliest(activations: Activations) -> tuple[int, int]:
    """Return the layer and unit whose cell state moves most."""
    spread = np.tanh(activations.cell).std(axis=1)  # (layers, units)
    layer, unit = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(layer) + 1, int(unit)


def gate_terms(
    checkpoint: Checkpoint, activations: Activations, *, layer: int
) -> dict[str, LayerTerms]:
    """Take the gates of a layer apart, into what comes from where.

    Args:
        checkpoint: The model.
        activations: What happened while it read a text.
        layer: From 1.

    Returns:
        The terms of the input gate, the forget gate, the candidate and the
        output gate, of all units.
    """
    weights, network = checkpoint.weights, checkpoint.network
    kernel = weights[f"lstm_{layer}/kernel"]
    if layer > 1:
        below = activations.hidden[layer - 2] @ kernel  # (time, 4 * units)
    elif network.input == "one_hot":
        below = kernel[activations.ids]
    else:
        scaled = activations.ids.astype(np.float32)[:, None] / network.vocabulary_size
        below = scaled.astype(np.float32) @ kernel
    own = activations.hidden_before[layer - 1] @ weights[f"lstm_{layer}/recurrent_kernel"]
    bias = weights[f"lstm_{layer}/bias"]
    parts = {
        name: slice(n * network.units, (n + 1) * network.units) for n, name in enumerate(_COLUMNS)
    }
    return {
        name: LayerTerms(below=below[:, columns], own=own[:, columns], bias=bias[columns])
        for name, columns in parts.items()
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
        "scan": {
            "source": explanation.scan.source,
            "characters": len(explanation.scan.text),
        },
        "telling_units": [
            {
                "layer": unit.layer,
                "unit": unit.unit,
                "feature": unit.tracking and unit.tracking.feature.name,
                "correlation": unit.tracking and round(unit.tracking.correlation, 6),
                "untrained": unit.tracking and round(unit.tracking.untrained, 6),
                "terms": {
                    name: {
                        "below": listed(terms.below[:, unit.unit]),
                        "own": listed(terms.own[:, unit.unit]),
                        "bias": round(float(terms.bias[unit.unit]), 6),
                    }
                    for name, terms in explanation.terms[unit.layer - 1].items()
                },
            }
            for unit in explanation.units
        ],
        "ablations": [dataclasses.asdict(ablation) for ablation in explanation.ablations],
    }
