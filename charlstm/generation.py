"""Writing text: seeds, the loop that writes, beam search.

A `Voice` is what writes: one model, or several at once. `write_texts` writes
with it, several texts side by side as one batch; each has its own random
stream and ends by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.checkpoint import Checkpoint
from charlstm.config import NetworkConfig, check_float
from charlstm.engine import (
    Ids,
    LSTMStep,
    Mixture,
    Reader,
    Writable,
    make_reader,
    one_blas_thread,
)
from charlstm.errors import ConfigError, SeedTextError, printable
from charlstm.reading import CorpusOptions
from charlstm.sampling import (
    REPETITION_WINDOW,
    Logits,
    Sampler,
    SamplingConfig,
    log_softmax,
    softmax,
)
from charlstm.stopping import Ending, Stopped, StopRules
from charlstm.vocabulary import Vocabulary

# Measured (docs/generation.md): as many real words as a temperature of 0.5 gives,
# as little repetition as 0.6 alone, which is that of the held-out text.
DEFAULT_TEMPERATURE, DEFAULT_TOP_P = 0.6, 0.9

UNKNOWN_CHOICES = ("error", "skip", "nearest")
# More texts at once are hardly faster each, and the first would come later.
TEXTS_AT_ONCE = 64
# Beams that have not come to agree by then follow the best.
_LONGEST_DISAGREEMENT = 1_000


# --- who writes -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Voice:
    """What writes: networks, and the characters that all of them know.

    Attributes:
        parts: Each network with its own vocabulary and its weight; the
            weights add up to 1.
        vocabulary: The characters that are written.
        options: How each network's corpus was read.
        seed_windows: Texts to begin with where no seed is given.
    """

    parts: tuple[tuple[LSTMStep, Vocabulary, float], ...]
    vocabulary: Vocabulary
    options: tuple[CorpusOptions, ...] = ()
    seed_windows: tuple[str, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Voice:
        """Let one model speak.

        Args:
            checkpoint: A loaded checkpoint.

        Returns:
            The voice.
        """
        return cls.mixed([(checkpoint, 1.0)])

    @classmethod
    def mixed(cls, checkpoints: Sequence[tuple[Checkpoint, float]]) -> Voice:
        """Let several models speak at once.

        Args:
            checkpoints: Each with its weight, above 0 and finite.

        Returns:
            The voice, with the weights scaled to add up to 1.

        Raises:
            ConfigError: If a weight is out of range, or no two characters
                are known to all.
        """
        for _, weight in checkpoints:
            check_float("a model's weight", weight, low=0, low_open=True, high=1e9)
        total = sum(weight for _, weight in checkpoints)
        shared = set.intersection(*(set(c.vocabulary.characters) for c, _ in checkpoints))
        if len(shared) < 2:
            raise ConfigError(
                f"{' and '.join(printable(c.model.name) for c, _ in checkpoints)} "
                f"have {len(shared)} characters in common; writing needs two"
            )
        windows = [w for c, _ in checkpoints for w in c.seed_windows if set(w) <= shared]
        return cls(
            parts=tuple(
                (LSTMStep(c.network, c.weights), c.vocabulary, weight / total)
                for c, weight in checkpoints
            ),
            vocabulary=Vocabulary(
                shared, has_unknown=all(c.vocabulary.has_unknown for c, _ in checkpoints)
            ),
            options=tuple(c.text_options for c, _ in checkpoints),
            seed_windows=tuple(windows),
        )

    def reader(self, *, batch: int) -> Reader:
        """Return a reader that has read nothing.

        Args:
            batch: Texts read side by side.

        Returns:
            It reads ids of `vocabulary` and scores those of its characters.
        """
        vocabulary = self.vocabulary
        readers = [make_reader(step, batch=batch) for step, _, _ in self.parts]
        reader = readers[0]
        if len(readers) > 1:
            # Of a character that only some know, each reads its unknown symbol.
            every_id = "".join(vocabulary.characters)
            own_ids = [own.encode(every_id) for _, own, _ in self.parts]
            if vocabulary.has_unknown:
                own_ids = [
                    np.append(ids, len(own)).astype(ids.dtype)
                    for ids, (_, own, _) in zip(own_ids, self.parts, strict=True)
                ]
            reader = Mixture(
                readers, own_ids=own_ids, weights=[weight for _, _, weight in self.parts]
            )
        if vocabulary.has_unknown:
            return Writable(reader, n_written=len(vocabulary))
        return reader

    @property
    def beginning(self) -> str:
        """What is read where nothing is before a text: a newline, or the first character."""
        return "\n" if "\n" in self.vocabulary else self.vocabulary.characters[0]

    def clean(self, text: str) -> str:
        """Treat a seed text as the corpora were treated.

        Args:
            text: As it was typed.

        Returns:
            Lower-cased and normalised if they were.
        """
        for options in self.options:
            text = options.clean(text)
        return text

    def clean_stops(self, rules: StopRules) -> StopRules:
        """Treat stop texts as the corpora were treated, or they would never be met.

        Args:
            rules: As they were typed.

        Returns:
            The same rules, with stop texts as its text has them.
        """
        return dataclasses.replace(rules, stops=tuple(self.clean(stop) for stop in rules.stops))

    def sampling(self, **given: Any) -> SamplingConfig:
        """Return how it writes unless told otherwise, changed by what was told.

        The default top-p goes with the default way only: with a temperature or
        another filter that was typed it is off.

        Args:
            **given: Fields of `SamplingConfig` that somebody typed.

        Returns:
            The configuration.

        Raises:
            ConfigError: If it does not hold together.
        """
        config = default_sampling(self.parts[0][0].network)
        neutral = SamplingConfig()
        typed = {name for name, value in given.items() if value != getattr(neutral, name)}
        if "temperature" in given or {"top_k", "min_p", "typical_p"} & typed:
            config = dataclasses.replace(config, top_p=1.0)
        return config.adjusted(**given)


def default_sampling(network: NetworkConfig) -> SamplingConfig:
    """Return how to pick characters: the article's network takes the likeliest.

    Args:
        network: The network's shape.

    Returns:
        Argmax for recipe article; else what was measured to be best
        (docs/generation.md).
    """
    if network.carries_state:
        return SamplingConfig(temperature=DEFAULT_TEMPERATURE, top_p=DEFAULT_TOP_P)
    return SamplingConfig(temperature=0.0)


# --- seeds ----------------------------------------------------------------------


def fit_seed_text(
    text: str,
    vocabulary: Vocabulary,
    *,
    unknown: str = "error",
    what: str = "the seed text",
) -> str:
    """Make sure that a model can read a text.

    Args:
        text: A seed or a text to score, cleaned as the corpus was.
        vocabulary: The model's characters.
        unknown: "error" stops at characters that the model has never seen;
            "skip" leaves them out; "nearest" writes them with those that it
            knows (`Vocabulary.nearest`), and leaves out what has no likeness.
            A model with the unknown symbol has none to stop at, and reads what
            has no likeness as that.
        what: What the text is called in the message.

    Returns:
        The text, which the vocabulary encodes; the very same where it has no
        other characters, or where they are read as the unknown symbol.

    Raises:
        SeedTextError: If there are unknown characters, no unknown symbol, and
            `unknown` is "error"; names each and where it stands.
        ConfigError: If there is no such way to treat them.
    """
    # A list of characters takes eight times the text, which may be a large one.
    if unknown in UNKNOWN_CHOICES and _stays(text, vocabulary, unknown=unknown):
        return text
    return "".join(spell(text, vocabulary, unknown=unknown, what=what))


def _stays(text: str, vocabulary: Vocabulary, *, unknown: str) -> bool:
    """Tell whether a text is read as it is: all is known, or what is not is the symbol."""
    return (unknown == "error" and vocabulary.has_unknown) or not vocabulary.unknown(text)


def spell(
    text: str,
    vocabulary: Vocabulary,
    *,
    unknown: str = "error",
    what: str = "the seed text",
) -> list[str]:
    """Write each character of a text in those that a model knows, as `fit_seed_text` does.

    Args:
        text: A seed or a text to score.
        vocabulary: The model's characters.
        unknown: As for `fit_seed_text`.
        what: Likewise.

    Returns:
        For each character what stands for it: mostly itself; "" for nothing.

    Raises:
        SeedTextError: As `fit_seed_text`.
        ConfigError: Likewise.
    """
    if unknown not in UNKNOWN_CHOICES:
        raise ConfigError(f"unknown is one of {', '.join(UNKNOWN_CHOICES)}, not {unknown!r}")
    if _stays(text, vocabulary, unknown=unknown):
        return list(text)
    if unknown == "skip":
        return [c if c in vocabulary else "" for c in text]
    if unknown == "nearest":
        likeness = {c: vocabulary.nearest(c) for c in set(text)}
        if vocabulary.has_unknown:
            likeness |= {c: c for c, likely in likeness.items() if likely is None}
        return [likeness[c] or "" for c in text]
    first_positions: dict[str, int] = {}
    for position, character in vocabulary.unknown(text):
        first_positions.setdefault(character, position)
    shown = [
        f"'{printable(c)}' (U+{ord(c):04X}, position {p + 1})" for c, p in first_positions.items()
    ]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    raise SeedTextError(
        f"the model has never seen {', '.join(shown[:8])}{more} of {what}",
        hint="--unknown nearest writes them as it can, --unknown skip leaves them out",
    )


def pick_seed_window(windows: Sequence[str], random_seed: int) -> str:
    """Pick one of the windows of the training text that a model carries.

    Args:
        windows: Its windows.
        random_seed: Decides which.

    Returns:
        The window's text; empty if there are none.
    """
    rng = np.random.default_rng(random_seed)
    return windows[int(rng.integers(len(windows)))] if windows else ""


# --- the loop -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CharacterProbability:
    """How likely a written character was to the model itself.

    Attributes:
        character: What was written.
        probability: By the model: at temperature 1, before any filter.
        alternatives: The likeliest characters and their probabilities.
    """

    character: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of one of the texts.

    Attributes:
        sample: Which text, counted from 0.
        text: What surely belongs to it, in order; may be empty.
        stopped: Why this is its last piece, or None.
        probabilities: Of the piece's characters, where they were asked for.
    """

    sample: int
    text: str
    stopped: Stopped | None = None
    probabilities: tuple[CharacterProbability, ...] = ()


def write_texts(
    voice: Voice,
    seed_texts: Sequence[str],
    *,
    random_seeds: Sequence[int],
    sampling: SamplingConfig | None = None,
    rules: StopRules | None = None,
    n_alternatives: int = 0,
) -> Iterator[Piece]:
    """Read seeds and write on from them, all as one batch.

    Args:
        voice: What writes.
        seed_texts: One a text, which the voice's vocabulary encodes. An
            empty one starts from a newline, or from the first character.
        random_seeds: One a text; alone with its number a text is the same,
            but for ties in the last bit of a matrix product.
        sampling: How characters are picked; the voice's own way by default.
        rules: When a text ends; after 500 characters by default.
        n_alternatives: How many likely characters are told of with each one
            written; 0 tells nothing.

    Yields:
        Pieces as soon as they are known, the last of each text with `stopped`.
    """
    sampling = sampling or voice.sampling()
    rules = rules or StopRules()
    if rules.max_length == 0:
        yield from (Piece(n, "", "length") for n in range(len(seed_texts)))
        return
    # Many texts may share a long seed.
    encoded = {
        text: voice.vocabulary.encode(text or voice.beginning) for text in dict.fromkeys(seed_texts)
    }
    seeds = [encoded[text] for text in seed_texts]
    with one_blas_thread():
        for group in _groups(seeds, 1 if sampling.beams > 1 else TEXTS_AT_ONCE):
            texts = [
                _Text(n, rules, voice.vocabulary, n_alternatives, seed_text=seed_texts[n])
                for n in group
            ]
            rows = np.stack([seeds[n] for n in group])
            if sampling.beams > 1:
                yield from _write_by_beams(voice, rows, texts[0], sampling.beams)
            else:
                sampler = Sampler(sampling, random_seeds=[random_seeds[n] for n in group])
                yield from _write_batch(voice, rows, texts, sampler)


def in_order(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Put the pieces of texts that were written side by side one text after the other.

    Args:
        pieces: From `write_texts`.

    Yields:
        All pieces of the first text as they come, then those of the second …
    """
    current = 0
    waiting: dict[int, _Waiting] = collections.defaultdict(_Waiting)
    for piece in pieces:
        if piece.sample != current:
            waiting[piece.sample].add(piece)
            continue
        ready = piece
        yield ready
        while ready.stopped is not None:
            current += 1
            if current not in waiting:
                break
            ready = waiting.pop(current).joined()
            yield ready


class _Waiting:
    """The pieces of a text whose turn has not come, in little more memory than their text."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._told: list[CharacterProbability] = []

    def add(self, piece: Piece) -> None:
        """Keep a piece."""
        self._text.write(piece.text)
        self._told += piece.probabilities
        self._last = piece

    def joined(self) -> Piece:
        """Return all of them as one piece."""
        return dataclasses.replace(
            self._last, text=self._text.getvalue(), probabilities=tuple(self._told)
        )


def _groups(seeds: Sequence[Ids], at_once: int) -> Iterator[range]:
    """Cut texts into batches; those of a batch have seeds of one length."""
    start = 0
    for n in range(1, len(seeds) + 1):
        is_full = n - start == at_once
        if n == len(seeds) or is_full or len(seeds[n]) != len(seeds[start]):
            yield range(start, n)
            start = n


class _Text:
    """One of the texts: where it ends, and what is told of its characters."""

    def __init__(
        self,
        sample: int,
        rules: StopRules,
        vocabulary: Vocabulary,
        n_alternatives: int,
        *,
        seed_text: str,
    ) -> None:
        self._sample = sample
        self._ending = Ending(rules)
        self._ending.follow(seed_text)
        self._characters = vocabulary.characters
        self._n_alternatives = n_alternatives
        self._told: collections.deque[CharacterProbability] = collections.deque()

    @property
    def max_length(self) -> int:
        return self._ending.max_length

    @property
    def needs_logits(self) -> bool:
        return self._n_alternatives > 0

    @property
    def is_over(self) -> bool:
        return self._ending.stopped is not None

    def push(self, next_id: int, logits: Logits) -> Piece | None:
        """Take the next character and the `(vocab,)` logits that it was picked by."""
        text = self._ending.push(self._characters[next_id])
        told: tuple[CharacterProbability, ...] = ()
        if self._n_alternatives:
            self._told.append(self._tell(next_id, logits))
            told = tuple(self._told.popleft() for _ in text)
        if not text and not self.is_over:
            return None
        return Piece(self._sample, text, self._ending.stopped, told)

    def _tell(self, next_id: int, logits: Logits) -> CharacterProbability:
        probabilities = softmax(logits.astype(np.float64))
        likeliest = np.argsort(-probabilities, kind="stable")[: self._n_alternatives]
        return CharacterProbability(
            self._characters[next_id],
            float(probabilities[next_id]),
            tuple((self._characters[n], float(probabilities[n])) for n in likeliest),
        )


def _write_batch(voice: Voice, seeds: Ids, texts: list[_Text], sampler: Sampler) -> Iterator[Piece]:
    """Write texts from `(batch, time)` seeds until each is over."""
    reader = _read_seeds(voice, seeds)
    for column in seeds.T[-REPETITION_WINDOW:]:
        sampler.read(column)
    while True:
        logits = reader.logits()
        ids = sampler.pick(logits)
        for text, next_id, row in zip(texts, ids.tolist(), logits, strict=True):
            piece = text.push(next_id, row)
            if piece is not None:
                yield piece
        if any(text.is_over for text in texts):
            going_on = np.array([n for n, text in enumerate(texts) if not text.is_over], int)
            if not len(going_on):
                return
            texts = [texts[n] for n in going_on]
            reader.select(going_on)
            sampler.select(going_on)
            ids = ids[going_on]
        reader.read(ids)


def _read_seeds(voice: Voice, seeds: Ids) -> Reader:
    """Read `(batch, time)` seeds; one that all share is read once."""
    is_shared = len(seeds) == 1 or bool((seeds == seeds[0]).all())
    reader = voice.reader(batch=1 if is_shared else len(seeds))
    for column in seeds.T:
        reader.read(column[:1] if is_shared else column)
    if len(seeds) > 1 and is_shared:
        reader.select(np.zeros(len(seeds), int))
    return reader


def _write_by_beams(voice: Voice, seeds: Ids, text: _Text, beams: int) -> Iterator[Piece]:
    reader = _read_seeds(voice, seeds)
    for next_id, logits in search_beams(
        reader, beams=beams, length=text.max_length, keeps_logits=text.needs_logits
    ):
        piece = text.push(next_id, logits)
        if piece is not None:
            yield piece
        if text.is_over:
            return


def search_beams(
    reader: Reader, *, beams: int, length: int, keeps_logits: bool = True
) -> Iterator[tuple[int, Logits]]:
    """Look for a likely text by following several at once.

    At each step every text is continued by every character, and the likeliest
    are followed. A character is given as soon as all of them agree on it.

    Args:
        reader: It has read one text.
        beams: Texts that are followed, at least 1; with 1 it is argmax.
        length: Characters in all.
        keeps_logits: Whether they are asked for: paths that disagree for long
            keep many of them.

    Yields:
        The id of each character, and the `(vocab,)` logits it was scored by;
        `(0,)` where they are not kept.

    References:
        Lowerre, 1976, The HARPY Speech Recognition System; Graves, 2012,
        Sequence Transduction with Recurrent Neural Networks (Algorithm 1).
    """
    logits = reader.logits()
    scores = np.zeros(1)
    paths: list[list[tuple[int, Logits]]] = [[]]
    n_kept = logits.shape[-1] if keeps_logits else 0
    for n in range(length):
        totals = (scores[:, None] + log_softmax(logits)).ravel()
        best = _largest(totals, beams)
        parents, ids = np.divmod(best, logits.shape[-1])
        # Only differences count, and sums over a long text would lose them.
        scores = totals[best] - totals[best[0]]
        # A copy: a view would keep the rows of all paths.
        kept = {parent: logits[parent, :n_kept].copy() for parent in set(parents.tolist())}
        paths = [
            [*paths[parent], (next_id, kept[parent])]
            for parent, next_id in zip(parents.tolist(), ids.tolist(), strict=True)
        ]
        if n + 1 == length:
            break
        reader.select(parents)
        reader.read(ids)
        if len(paths[0]) > _LONGEST_DISAGREEMENT:
            agreeing = np.array([n for n, p in enumerate(paths) if p[0][0] == paths[0][0][0]])
            paths, scores = [paths[n] for n in agreeing], scores[agreeing]
            reader.select(agreeing)
        while paths[0] and all(path[0][0] == paths[0][0][0] for path in paths):
            yield paths[0][0]
            for path in paths:
                del path[0]
        logits = reader.logits()
    yield from paths[0]


def _largest(values: npt.NDArray[np.float64], n: int) -> Ids:
    """Return the indices of the n largest, the largest first, the first of equals first."""
    n = min(n, int(np.isfinite(values).sum()))
    # Ties at the border are many only where values were made by hand.
    candidates = np.flatnonzero(values >= np.partition(values, -n)[-n])
    largest: Ids = candidates[np.argsort(-values[candidates], kind="stable")][:n]
    return largest
