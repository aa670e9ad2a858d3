"""Writing from Python: `load` a model, then `generate`, `stream` or `score`.

    from charlstm import load

    model = load("macbeth")
    print(model.generate("MACBETH.", 200))

TensorFlow is not imported. The command line does the same through the same
classes.
"""

from __future__ import annotations

import dataclasses
import io
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict, Unpack

from charlstm.checkpoint import Checkpoint
from charlstm.config import check_int
from charlstm.errors import ConfigError
from charlstm.generation import (
    Voice,
    fit_seed_text,
    pick_seed_window,
    write_texts,
)
from charlstm.models import find_model, open_checkpoint
from charlstm.sampling import SamplingConfig
from charlstm.scoring import Score, score_ids
from charlstm.stopping import StopRules

_N_RANDOM_SEEDS = 2**63


class SamplingOptions(TypedDict, total=False):
    """The fields of `sampling.SamplingConfig`, each as it may be given."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    mirostat: float | None
    beams: int


def load(name: str | os.PathLike[str] | None = None, *, checkpoint: str | int = "best") -> Writer:
    """Load a model.

    Args:
        name: A name in `checkpoints/`, a folder (with a path separator), or
            the name of a model that ships; None for the newest model.
        checkpoint: "best", "last" or a step number.

    Returns:
        It writes and scores texts.

    Raises:
        ModelNotFoundError: If there is no such model.
        CheckpointError: If all its checkpoints are damaged. If another than
            the one asked for is used, that is a `UserWarning`.
    """
    return Writer([(_open(None if name is None else os.fspath(name), checkpoint), 1.0)])


def mix(weights: Mapping[str, float], *, checkpoint: str = "best") -> Writer:
    """Load several models that write together.

    Args:
        weights: How much each has to say, above 0, by name.
        checkpoint: "best" or "last", of each.

    Returns:
        A writer whose log-probabilities are the models' weighted means.

    Raises:
        ConfigError: If a weight is out of range, or they have no two
            characters in common.
    """
    if not weights:
        raise ConfigError("a mix needs at least one model")
    return Writer([(_open(name, checkpoint), weight) for name, weight in weights.items()])


def _open(name: str | None, checkpoint: str | int) -> Checkpoint:
    loaded, problems = open_checkpoint(find_model(name), str(checkpoint))
    for problem in problems:
        warnings.warn(f"{problem}; using step {loaded.info.step:,} instead", stacklevel=3)
    return loaded


class Writer:
    """One model, or several at once, ready to write.

    Args:
        checkpoints: Loaded checkpoints and their weights.

    Attributes:
        checkpoints: Likewise.
        voice: What `generation.write_texts` writes with.
    """

    def __init__(self, checkpoints: Sequence[tuple[Checkpoint, float]]) -> None:
        """Make the voice."""
        self.checkpoints = tuple(checkpoints)
        self.voice = Voice.mixed(checkpoints)

    def __repr__(self) -> str:
        """Name the models and their weights."""
        parts = (f"{c.model.name} (step {c.info.step}): {w:g}" for c, w in self.checkpoints)
        return f"<Writer {', '.join(parts)}>"

    @property
    def checkpoint(self) -> Checkpoint:
        """The first model's checkpoint."""
        return self.checkpoints[0][0]

    @property
    def name(self) -> str:
        """The models' names."""
        return " + ".join(checkpoint.model.name for checkpoint, _ in self.checkpoints)

    def generate(
        self,
        seed_text: str | None = None,
        length: int | None = None,
        *,
        random_seed: int | None = None,
        unknown: str = "error",
        stop: Sequence[str] = (),
        until_sentence: bool = False,
        lines: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> str:
        """Write one text.

        Args:
            seed_text: What to go on from, of any length; None for a random
                window of the training text.
            length: Characters to write after the seed; 500 by default.
            random_seed: The same number writes the same text; None for a new
                one each time.
            unknown: "error", "skip" or "nearest", for seed characters that
                the model has never seen.
            stop: Texts that end it.
            until_sentence: Go on after `length` until a sentence ends.
            lines: Stop after this many line feeds.
            **sampling: Fields of `sampling.SamplingConfig`, such as
                `temperature` or `top_p`.

        Returns:
            The new text, without the seed.

        Raises:
            SeedTextError: If the seed has unknown characters.
            ConfigError: If a setting is out of range or there is no such one.
        """
        return "".join(
            self.stream(
                seed_text,
                length,
                random_seed=random_seed,
                unknown=unknown,
                stop=stop,
                until_sentence=until_sentence,
                lines=lines,
                **sampling,
            )
        )

    def stream(
        self,
        seed_text: str | None = None,
        length: int | None = None,
        *,
        random_seed: int | None = None,
        unknown: str = "error",
        stop: Sequence[str] = (),
        until_sentence: bool = False,
        lines: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """Write one text, piece by piece.

        Args:
            seed_text: As for `generate`, as are the others.
            length: Characters to write.
            random_seed: Fixes the text.
            unknown: What to do with unknown seed characters.
            stop: Texts that end it.
            until_sentence: Go on until a sentence ends.
            lines: Stop after so many lines.
            **sampling: Fields of `sampling.SamplingConfig`.

        Returns:
            An iterator of pieces of one or more characters. What is wrong
            with a setting is raised here, not at the first piece.

        Raises:
            SeedTextError: If the seed has unknown characters.
            ConfigError: If a setting is out of range or there is no such one.
        """
        rules = self._rules(length, stop, until_sentence, lines)
        config = self.sampling(**sampling)
        random_seeds = make_random_seeds(random_seed, n_samples=1)
        seeds = self.seeds(seed_text, random_seeds, unknown=unknown)
        pieces = write_texts(
            self.voice, seeds, random_seeds=random_seeds, sampling=config, rules=rules
        )
        return (piece.text for piece in pieces if piece.text)

    def samples(
        self,
        n_samples: int,
        seed_text: str | None = None,
        length: int | None = None,
        *,
        random_seed: int | None = None,
        unknown: str = "error",
        stop: Sequence[str] = (),
        until_sentence: bool = False,
        lines: int | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[str]:
        """Write several texts side by side, which is faster than one after the other.

        Args:
            n_samples: Texts, at least 1.
            seed_text: As for `generate`, as are the others; without one each
                text goes on from a window of its own.
            length: Characters to write.
            random_seed: The first text's; the others have the numbers after it.
            unknown: What to do with unknown seed characters.
            stop: Texts that end a text.
            until_sentence: Go on until a sentence ends.
            lines: Stop after so many lines.
            **sampling: Fields of `sampling.SamplingConfig`.

        Returns:
            The new texts, without the seeds.

        Raises:
            SeedTextError: If the seed has unknown characters.
            ConfigError: If a setting is out of range or there is no such one.
        """
        check_int("samples", n_samples, low=1, high=10**6)
        random_seeds = make_random_seeds(random_seed, n_samples=n_samples)
        texts = [io.StringIO() for _ in range(n_samples)]
        for piece in write_texts(
            self.voice,
            self.seeds(seed_text, random_seeds, unknown=unknown),
            random_seeds=random_seeds,
            sampling=self.sampling(**sampling),
            rules=self._rules(length, stop, until_sentence, lines),
        ):
            texts[piece.sample].write(piece.text)
        return [text.getvalue() for text in texts]

    def _rules(
        self, length: int | None, stop: Sequence[str], until_sentence: bool, lines: int | None
    ) -> StopRules:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        rules = StopRules(length=length, stops=stops, until_sentence=until_sentence, lines=lines)
        return self.voice.clean_stops(rules)

    def sampling(self, **given: Unpack[SamplingOptions]) -> SamplingConfig:
        """Return the model's own way to pick characters, changed.

        Args:
            **given: Fields of `sampling.SamplingConfig`.

        Returns:
            The configuration.

        Raises:
            ConfigError: If a setting is out of range or there is no such one.
        """
        known = [field.name for field in dataclasses.fields(SamplingConfig)]
        for name in given:
            if name not in known:
                raise ConfigError(f"there is no setting {name}", hint=", ".join(known))
        return self.voice.sampling(**given)

    def seeds(
        self, seed_text: str | None, random_seeds: Sequence[int], *, unknown: str = "error"
    ) -> list[str]:
        """Make the texts to begin with.

        Args:
            seed_text: What was typed; None for a window of each text's own.
            random_seeds: One a text.
            unknown: What to do with characters that the model has never seen.

        Returns:
            One a text, in characters that the model knows.

        Raises:
            SeedTextError: If there are others and `unknown` is "error".
        """
        if seed_text is None:
            return [pick_seed_window(self.voice.seed_windows, n) for n in random_seeds]
        known = fit_seed_text(self.voice.clean(seed_text), self.voice.vocabulary, unknown=unknown)
        return [known] * len(random_seeds)

    def score(self, text: str, *, unknown: str = "error") -> Score:
        """Tell how well the model predicts a text, as `charlstm evaluate` does.

        Args:
            text: At least 2 characters.
            unknown: As for `generate`.

        Returns:
            Its loss: `nats_per_char`, `bits_per_char`, `perplexity`.

        Raises:
            ConfigError: If this is a mix of several models.
            SeedTextError: If the text has unknown characters.
            InputError: If the text is too short.
        """
        if len(self.checkpoints) > 1:
            raise ConfigError("a mix writes; only one model at a time scores a text")
        ((step, vocabulary, _),) = self.voice.parts
        known = fit_seed_text(self.voice.clean(text), vocabulary, unknown=unknown, what="the text")
        return score_ids(step, vocabulary.encode(known))


def make_random_seeds(random_seed: int | None, *, n_samples: int) -> list[int]:
    """Number the random streams of several texts.

    Args:
        random_seed: The first one's, in [0, 2^63); None for a new one.
        n_samples: Texts.

    Returns:
        Consecutive numbers, so that each text can be asked for alone.

    Raises:
        ConfigError: If the number is out of range.
    """
    if random_seed is not None:
        check_int("random-seed", random_seed, low=0, high=_N_RANDOM_SEEDS - 1)
    first = secrets.randbits(32) if random_seed is None else random_seed
    return [(first + n) % _N_RANDOM_SEEDS for n in range(n_samples)]
