"""Which units of a network keep track of what.

A network that has only ever been asked for the next character learns, in some
of its units, where in a line or a word it is and whether a quotation is open.
`rank_units` finds those units by what they do while a text is read, for each
of the features of `features`.

What is compared is tanh(c), the cell state as the output gate sees it. Three
things keep the finding honest:

- The units are chosen on the first half of a text and the figure that is told
  is measured on the second, so that the best of 600 is not the luckiest of 600.
- A unit that only tells which character was read would seem to follow much that
  goes with characters. So the correlation is taken within each character: what
  is left once every character's own mean is taken away. Features that the
  character alone decides, such as being a vowel, are kept apart: they are read,
  not remembered.
- The same is measured for an untrained network of the same shape, since much of
  what a text does can be read off any network; only what is clearly more is
  called following.

References:
    Karpathy, Johnson & Fei-Fei, 2016, Visualizing and Understanding Recurrent
    Networks (section 4.1, where the units were found by eye).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from charlstm.activations import ObservedStep, observe
from charlstm.batching import WARM_UP_CHARACTERS, EvaluationRows
from charlstm.checkpoint import Checkpoint, weight_shapes
from charlstm.config import NetworkConfig
from charlstm.copying import find_corpus_ids
from charlstm.engine import Floats, Ids, LSTMState, LSTMStep, one_blas_thread
from charlstm.errors import CorpusError, InputError
from charlstm.features import FEATURES, Feature
from charlstm.generation import Voice, fit_seed_text, pick_seed_window, write_texts
from charlstm.reading import read_text
from charlstm.stopping import StopRules

WRITTEN = "a text that it wrote itself"
# As many as are read in a few seconds, by a network that reads each window anew too.
SCAN_CHARACTERS, SLIDING_SCAN_CHARACTERS = 100_000, 5_000
WRITTEN_CHARACTERS = 20_000
MIN_SCAN_CHARACTERS = 200
# What is weaker is not told: 0.3 is 9% of the variance.
LEAST, CLEARLY_MORE = 0.3, 0.1
# What a feature must have in each half of a text to be measured at all.
_MIN_OCCURRENCES = 10
_CHUNK = 64
_WINDOWS_AT_ONCE = 256

Floats64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracking:
    """How well a unit follows a feature.

    Attributes:
        feature: What it follows.
        layer: From 1.
        unit: From 0, as the rows of the weights.
        correlation: Pearson's, of tanh(c) with the feature, over the second
            half of the text; in [-1, 1], below 0 where the unit falls as the
            feature rises. Within each character, unless the feature is read.
        chosen_by: Likewise over the first half, by which it was chosen.
        untrained: How strong the best unit of an untrained network is.
        is_read: The character alone decides the feature.
    """

    feature: Feature
    layer: int
    unit: int
    correlation: float
    chosen_by: float
    untrained: float
    is_read: bool

    @property
    def strength(self) -> float:
        """The correlation's size if both halves agree in its sign, else 0."""
        return abs(self.correlation) if self.correlation * self.chosen_by > 0 else 0.0

    @property
    def follows(self) -> bool:
        """Whether the unit follows the feature, clearly more than untrained ones do."""
        return self.strength >= LEAST and self.strength >= self.untrained + CLEARLY_MORE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scan:
    """What was read to find the units, and what was found.

    Attributes:
        text: What was read.
        source: Where it is from, for instance "all of macbeth".
        ranking: For each feature that the text has, its best units, the first
            the best by the first half.
        absent: Features that the text does not have often enough.
    """

    text: str
    source: str
    ranking: tuple[tuple[Tracking, ...], ...]
    absent: tuple[Feature, ...]

    def best(self, *, at_most: int) -> list[Tracking]:
        """Return the units that tell most, each once.

        Args:
            at_most: How many.

        Returns:
            The best unit of each feature that it follows: first what is
            remembered, then what is read, the strongest first.
        """
        chosen: dict[tuple[int, int], Tracking] = {}
        firsts = [trackings[0] for trackings in self.ranking if trackings[0].follows]
        for tracking in sorted(firsts, key=lambda t: (t.is_read, -t.strength)):
            chosen.setdefault((tracking.layer, tracking.unit), tracking)
        return list(chosen.values())[:at_most]


def find_scan_text(
    checkpoint: Checkpoint, *, limit: int | None = None, random_seed: int = 0
) -> tuple[str, str]:
    """Find a text to look for units in: the model's own, or what it writes.

    Args:
        checkpoint: A loaded checkpoint.
        limit: Characters at most; None for what takes a few seconds.
        random_seed: For a text that it writes.

    Returns:
        The end of the text that it was trained on, in which the held-out part
        is, where that is at hand, else a text that it writes; and in words
        which of them.
    """
    limit = _limit(checkpoint, limit)
    about = checkpoint.config["corpus"]
    try:
        ids = find_corpus_ids(about, vocabulary=checkpoint.vocabulary)
    except CorpusError:
        ids = np.empty(0, np.int32)
    if len(ids) < MIN_SCAN_CHARACTERS:
        n = min(limit, WRITTEN_CHARACTERS)
        voice = Voice.of(checkpoint)
        pieces = write_texts(
            voice,
            [pick_seed_window(checkpoint.seed_windows, random_seed)],
            random_seeds=[random_seed],
            # What loops would show the loop, so argmax will not do.
            sampling=voice.sampling(temperature=1.0),
            rules=StopRules(length=n),
        )
        why = "is too short" if len(ids) else "was not found"
        return "".join(piece.text for piece in pieces), f"{WRITTEN}, since its own {why}"
    # One more than is wanted tells that it is not all.
    vocabulary = checkpoint.vocabulary
    last = np.asarray(ids[-limit - 1 :], np.int64)
    text = vocabulary.decode(last, unknown=vocabulary.stand_in)
    return _last_part(text, limit, str(about["name"]))


def read_scan_text(
    checkpoint: Checkpoint, path: Path | None, *, limit: int | None = None
) -> tuple[str, str]:
    """Read a text to look for units in.

    Args:
        checkpoint: A loaded checkpoint; what it has never seen is left out, or
            read as its unknown symbol.
        path: The text; None for stdin.
        limit: Characters at most, its last; None for what takes a few seconds.

    Returns:
        The text and where it is from.

    Raises:
        InputError: If it cannot be read.
    """
    whole = read_text(path, options=checkpoint.text_options)
    is_all_known = checkpoint.vocabulary.has_unknown
    known = whole if is_all_known else fit_seed_text(whole, checkpoint.vocabulary, unknown="skip")
    name = "stdin" if path is None else path.name
    text, source = _last_part(known, _limit(checkpoint, limit), name)
    if n_left_out := len(whole) - len(known):
        source += f", without {n_left_out:,} characters that the model has never seen"
    return text, source


def _limit(checkpoint: Checkpoint, limit: int | None) -> int:
    if limit is not None:
        return limit
    return SCAN_CHARACTERS if checkpoint.network.carries_state else SLIDING_SCAN_CHARACTERS


def _last_part(text: str, limit: int, name: str) -> tuple[str, str]:
    part = "all" if len(text) <= limit else f"the last {limit:,} characters"
    return text[-limit:], f"{part} of {name}"


def rank_units(
    step: LSTMStep,
    ids: Ids,
    text: str,
    *,
    source: str,
    n_best: int = 3,
    features: Sequence[Feature] = FEATURES,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Find the units that follow each feature best.

    Memory does not grow with the text but for the features, 4 bytes each a
    character.

    Args:
        step: The network.
        ids: `(characters,)` the text's ids.
        text: The same text.
        source: Where it is from.
        n_best: Units to tell of for each feature.
        features: What to look for.
        progress: Called with (done, in all).

    Returns:
        The units.

    Raises:
        InputError: If the text has fewer than 200 characters.
    """
    if len(ids) < MIN_SCAN_CHARACTERS:
        raise InputError(
            f"{len(ids)} characters are too few to find units in; "
            f"at least {MIN_SCAN_CHARACTERS} are needed"
        )
    network, half = step.network, len(ids) // 2
    values = np.stack([feature.values(text) for feature in features], axis=1)
    report = progress or (lambda done, total: None)
    untrained = LSTMStep(network, untrained_weights(network, random_seed=0))
    trained_halves = _measure(step, ids, values, lambda done, total: report(done, 2 * total))
    untrained_halves = _measure(
        untrained, ids, values, lambda done, total: report(total + done, 2 * total)
    )
    ranking, absent = [], []
    for n, feature in enumerate(features):
        if not all(_is_often_enough(part) for part in (values[:half, n], values[half:, n])):
            absent.append(feature)
            continue
        is_read = trained_halves[0].is_decided[n] and trained_halves[1].is_decided[n]
        first, second = (part.correlations(n, within=not is_read) for part in trained_halves)
        choice, told = (part.correlations(n, within=not is_read) for part in untrained_halves)
        luckiest = int(np.argmax(np.abs(choice)))
        baseline = abs(told[luckiest]) if told[luckiest] * choice[luckiest] > 0 else 0.0
        ranking.append(
            tuple(
                Tracking(
                    feature=feature,
                    layer=int(unit) // network.units + 1,
                    unit=int(unit) % network.units,
                    correlation=float(second[unit]),
                    chosen_by=float(first[unit]),
                    untrained=float(baseline),
                    is_read=bool(is_read),
                )
                for unit in np.argsort(-np.abs(first), kind="stable")[:n_best]
            )
        )
    return Scan(
        text=text,
        source=source,
        ranking=tuple(sorted(ranking, key=lambda t: (t[0].is_read, -t[0].strength))),
        absent=tuple(absent),
    )


def untrained_weights(network: NetworkConfig, *, random_seed: int) -> dict[str, Floats]:
    """Make the weights that a network begins training with.

    Args:
        network: The network's shape.
        random_seed: Fixes them.

    Returns:
        Float32 arrays by name, as in `checkpoint.weight_shapes`: uniform
        kernels (Glorot & Bengio, 2010), orthogonal recurrent kernels (Saxe et
        al., 2014), biases 0 but 1 for the forget gates (Jozefowicz et al., 2015).
    """
    rng = np.random.default_rng(random_seed)
    units = network.units
    weights: dict[str, Floats] = {}
    for name, shape in weight_shapes(network).items():
        if name.endswith("recurrent_kernel"):
            # Rows that are orthogonal to each other, of length 1.
            with one_blas_thread():  # beside another busy program two took five seconds
                square = np.linalg.qr(rng.normal(size=(shape[1], shape[0])))[0]
            weights[name] = square.T.astype(np.float32)
        elif name.endswith("kernel"):
            limit = np.sqrt(6 / sum(shape))
            weights[name] = rng.uniform(-limit, limit, size=shape).astype(np.float32)
        else:
            weights[name] = np.zeros(shape, np.float32)
            if name.startswith("lstm"):
                weights[name][units : 2 * units] = 1
    return weights


def _measure(
    step: LSTMStep,
    ids: Ids,
    values: npt.NDArray[np.float32],
    report: Callable[[int, int], None],
) -> list[_Sums]:
    """Read a text and add up what each half's correlations need."""
    network, half = step.network, len(ids) // 2
    n_units = network.layers * network.units
    halves = [_Sums(n_units, values.shape[1], network.vocabulary_size) for _ in range(2)]
    with one_blas_thread():
        for positions, activations in _read(step, ids, report):
            is_second = positions >= half
            for sums, rows in zip(halves, (~is_second, is_second), strict=True):
                if rows.any():
                    where = positions[rows]
                    sums.add(ids[where], activations[rows], values[where])
    return halves


def _is_often_enough(values: npt.NDArray[np.float32]) -> bool:
    """Tell whether a feature is there often enough, and not always."""
    _, counts = np.unique(values, return_counts=True)
    return len(values) - int(counts.max()) >= _MIN_OCCURRENCES


class _Sums:
    """What the correlations of units with features need, in float64."""

    def __init__(self, n_units: int, n_features: int, n_characters: int) -> None:
        self._xx, self._yy = np.zeros(n_units), np.zeros(n_features)
        self._xy = np.zeros((n_units, n_features))
        # For each character apart.
        self._n = np.zeros(n_characters)
        self._x = np.zeros((n_characters, n_units))
        self._y = np.zeros((n_characters, n_features))

    def add(
        self, ids: Ids, units: npt.NDArray[np.float32], features: npt.NDArray[np.float32]
    ) -> None:
        """Count `(n,)` characters with `(n, units)` activations and `(n, features)` values."""
        order = np.argsort(ids, kind="stable")
        x, y = units[order].astype(np.float64), features[order].astype(np.float64)
        present, starts, counts = np.unique(ids[order], return_index=True, return_counts=True)
        self._n[present] += counts
        self._x[present] += np.add.reduceat(x, starts)
        self._y[present] += np.add.reduceat(y, starts)
        self._xx += (x * x).sum(axis=0)
        self._yy += (y * y).sum(axis=0)
        self._xy += x.T @ y

    @property
    def is_decided(self) -> npt.NDArray[np.bool_]:
        """Whether each feature, `(features,)`, is the same wherever a character is."""
        within = self._yy - self._between(self._y, self._y)
        return within <= 1e-6 * np.maximum(1.0, self._yy)

    def _between(self, x: Floats64, y: Floats64) -> Floats64:
        """Sum over characters of the products of their sums, divided by how often they are."""
        total: Floats64 = np.einsum("cu,cu->u", x, y / np.maximum(1, self._n)[:, None])
        return total

    def correlations(self, feature: int, *, within: bool) -> Floats64:
        """Return `(units,)` for a feature; 0 where one of the two never changes.

        Args:
            feature: Which.
            within: Take the mean of each character away first.
        """
        x, y = self._x, self._y[:, [feature]]
        if within:
            xx = self._xx - self._between(x, x)
            yy = self._yy[feature] - float(self._between(y, y)[0])
            xy = self._xy[:, feature] - self._between(x, np.broadcast_to(y, x.shape))
        else:
            n, sum_x, sum_y = max(1.0, self._n.sum()), x.sum(axis=0), float(y.sum())
            xx = self._xx - sum_x**2 / n
            yy = self._yy[feature] - sum_y**2 / n
            xy = self._xy[:, feature] - sum_x * sum_y / n
        scale = np.sqrt(np.maximum(0, xx) * max(0.0, yy))
        # Below this a unit stands still and what is left is rounding.
        is_moving = scale > 1e-9 * max(1.0, self._n.sum())
        result: Floats64 = np.where(is_moving, xy / np.where(is_moving, scale, 1.0), 0.0)
        return np.clip(result, -1.0, 1.0)


def _read(
    step: LSTMStep, ids: Ids, report: Callable[[int, int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yield positions `(n,)` and `(n, layers * units)` tanh(c) after reading them."""
    if step.network.carries_state:
        yield from _read_rows(step, ids, report)
    else:
        yield from _read_windows(step, ids, report)


def _read_rows(
    step: LSTMStep, ids: Ids, report: Callable[[int, int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    rows = EvaluationRows(ids)
    state = LSTMState(step.network, rows.n_rows)
    for start in range(0, rows.width, _CHUNK):
        n = min(_CHUNK, rows.width - start)
        inputs, _, is_scored = rows.chunk(start, n)
        positions = rows.positions(start, n) - 1  # of what is read, not of what comes next
        for t in range(n):
            step.advance(inputs[:, t], state)
            counts = is_scored[:, t]
            if counts.any():
                yield positions[counts, t], np.tanh(np.concatenate(state.c, axis=1)[counts])
        report(min(start + _CHUNK, rows.width), rows.width)


def _read_windows(
    step: LSTMStep, ids: Ids, report: Callable[[int, int], None]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    seq_length = step.network.seq_length
    for first in range(seq_length - 1, len(ids), _WINDOWS_AT_ONCE):
        positions = np.arange(first, min(first + _WINDOWS_AT_ONCE, len(ids)))
        state = LSTMState(step.network, len(positions))
        for t in range(1 - seq_length, 1):
            step.advance(ids[positions + t], state)
        yield positions, np.tanh(np.concatenate(state.c, axis=1))
        report(int(positions[-1]) + 1, len(ids))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Excerpt:
    """What the best unit of a feature does along a piece of the text.

    Attributes:
        tracking: The unit.
        text: The piece.
        values: `(characters,)` float32, its tanh(c) after each character.
        feature: `(characters,)` float32, the feature that it follows.
    """

    tracking: Tracking
    text: str
    values: npt.NDArray[np.float32]
    feature: npt.NDArray[np.float32]


def find_excerpts(
    step: ObservedStep, scan: Scan, ids: Ids, *, length: int = 240
) -> tuple[Excerpt, ...]:
    """Show the best unit of each feature at work, where the feature changes most.

    Args:
        step: The network.
        scan: What was found.
        ids: `(characters,)` of the scan's text.
        length: Characters of a piece.

    Returns:
        A piece of the text's second half for each feature of the ranking.
    """
    excerpts = []
    for trackings in scan.ranking:
        best = trackings[0]
        feature = best.feature.values(scan.text)
        start = _where_it_changes(scan.text, feature, length)
        first = max(0, start - WARM_UP_CHARACTERS)
        activations = observe(step, ids[first : start + length])
        cell = activations.cell[best.layer - 1, start - first :, best.unit]
        excerpts.append(
            Excerpt(
                tracking=best,
                text=scan.text[start : start + length],
                values=np.tanh(cell),
                feature=feature[start : start + length],
            )
        )
    return tuple(excerpts)


def _where_it_changes(text: str, values: npt.NDArray[np.float32], length: int) -> int:
    """Return the start of the piece in which a feature varies most, at a line's beginning."""
    half, n = len(text) // 2, len(text)
    length = min(length, n - half)
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    squares = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) ** 2)])
    starts = np.arange(half, n - length + 1)
    mean = (sums[starts + length] - sums[starts]) / length
    variance = (squares[starts + length] - squares[starts]) / length - mean**2
    start = int(starts[int(np.argmax(np.round(variance, 9)))])
    line = text.rfind("\n", max(half, start - length // 3), start) + 1
    return line if line else start
