"""Writing in turns: a person types a line, the model goes on from there.

The state is kept from turn to turn, so that what was said before still counts.
Nothing here reads or prints; `cli.interactive` does.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from charlstm.engine import one_blas_thread
from charlstm.errors import ConfigError, InputError, printable
from charlstm.generation import Voice, fit_seed_text
from charlstm.sampling import Sampler, SamplingConfig
from charlstm.stopping import Ending, StopRules

# What Mirostat does without, and gives back.
_BY_MIROSTAT = ("top_k", "top_p", "min_p", "typical_p", "temperature")
_RULES = ("length", "lines", "until_sentence")
_NUMBERS = {field.name for field in dataclasses.fields(SamplingConfig)}
_WHOLE = {"top_k", "beams", "length", "lines"}
_NO_BEAMS = "beam search looks ahead, which a conversation cannot"
HELP = """\
Type a line and the model goes on from it; an empty line lets it go on alone.
Ctrl-C stops what it writes, Ctrl-D ends.
/temperature 0.5   set how characters are picked; so /top-k, /top-p, /min-p,
                   /typical-p, /repetition-penalty, /mirostat 1.5 (or off)
/length 300        characters to write in a turn; /lines 4, /until-sentence on
/settings          show all of them
/reset             forget what was said
/help, /quit"""


class Conversation:
    """A text that a person and a model write in turns.

    Args:
        voice: The model.
        sampling: How characters are picked.
        rules: When a turn ends.
        random_seed: Fixes what is drawn.
        unknown: What to do with characters that the model has never seen.
    """

    def __init__(
        self,
        voice: Voice,
        *,
        sampling: SamplingConfig,
        rules: StopRules,
        random_seed: int,
        unknown: str = "error",
    ) -> None:
        """Start with an empty text."""
        self._voice = voice
        self._random_seed = random_seed
        self._unknown = unknown
        self.sampling = sampling
        self._before_mirostat = {name: getattr(sampling, name) for name in _BY_MIROSTAT}
        self.rules = rules
        if sampling.beams > 1:
            raise ConfigError(_NO_BEAMS)
        self.reset()

    def reset(self) -> None:
        """Forget what was said, and draw from the beginning."""
        self._reader = self._voice.reader(batch=1)
        self._sampler = Sampler(self.sampling, random_seeds=[self._random_seed])
        self._last = ""
        self._unsaid: npt.NDArray[np.integer] | None = None

    def say(self, text: str) -> str:
        """Add what a person wrote.

        Args:
            text: Any text; a line does not end in a line feed.

        Returns:
            What was read of it.

        Raises:
            SeedTextError: If it has unknown characters; nothing was read then.
        """
        known = fit_seed_text(
            self._voice.clean(text),
            self._voice.vocabulary,
            unknown=self._unknown,
            what="this line",
        )
        if known:
            self._unsaid = None
        if known and self._last not in ("", "\n") and "\n" in self._voice.vocabulary:
            self._read("\n")
        self._read(known)
        return known

    def go_on(self) -> Iterator[str]:
        """Let the model write until the turn ends; it may be left at any time.

        Yields:
            Pieces of text. What was yielded has been read.
        """
        characters = self._voice.vocabulary.characters
        if not self._last:
            self._read(self._voice.beginning)
        ending = Ending(self.rules)
        with one_blas_thread():
            stopped = ending.stopped
            while stopped is None:
                ids = self._unsaid
                if ids is None:
                    ids = self._sampler.pick(self._reader.logits())
                character = characters[int(ids[0])]
                piece = ending.push(character)
                stopped = ending.stopped
                if stopped == "sentence":
                    # It only told that the sentence is over: the next turn begins with it.
                    self._unsaid = ids
                else:
                    self._reader.read(ids)
                    self._last, self._unsaid = character, None
                if piece:
                    yield piece

    def _read(self, text: str) -> None:
        with one_blas_thread():
            for next_id in self._voice.vocabulary.encode(text):
                self._reader.read(np.array([next_id]))
                self._sampler.read(np.array([next_id]))
        self._last = text[-1:] or self._last

    def command(self, line: str) -> str | None:
        """Do what a line that begins with a slash asks for.

        Args:
            line: Such as "/temperature 0.5".

        Returns:
            What to tell the person; None to end the conversation.

        Raises:
            InputError: If there is no such command, or its value is wrong;
                nothing has changed then.
        """
        word, _, value = line.removeprefix("/").strip().partition(" ")
        name, value = word.lower().replace("-", "_"), value.strip()
        if name in ("quit", "exit", "q"):
            return None
        if name in ("help", "h", "?", ""):
            return HELP
        if name == "settings":
            return self.describe()
        if name == "reset":
            self.reset()
            return "forgotten"
        if name not in _NUMBERS and name not in _RULES:
            known = [*sorted(_NUMBERS), *_RULES, "settings", "reset", "help", "quit"]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean /{close[0].replace('_', '-')}?" if close else "see /help"
            raise InputError(f"there is no command /{printable(word)}", hint=hint)
        if value:
            self._set(name, _parse(name, value))
        answer = [f"{name.replace('_', '-')} {_show(self._settings()[name])}"]
        if value and name in _RULES:
            answer += self.rules.warnings(set(self._voice.vocabulary.characters))
        return "\n".join(answer)

    def _set(self, name: str, value: Any) -> None:
        if name in _RULES:
            self.rules = dataclasses.replace(self.rules, **{name: value})
            return
        if name == "beams" and value != 1:
            raise InputError(_NO_BEAMS)
        sampling = self.sampling.adjusted(**{name: value})
        if name == "mirostat":
            if value is None and self.sampling.mirostat is not None:
                before = dict(self._before_mirostat)
                if self.sampling.temperature != 1:  # typed since
                    del before["temperature"]
                sampling = dataclasses.replace(sampling, **before)
            elif self.sampling.mirostat is None:
                self._before_mirostat = {n: getattr(self.sampling, n) for n in _BY_MIROSTAT}
        self.sampling = sampling
        self._sampler.change(sampling)

    def describe(self) -> str:
        """Say how it writes.

        Returns:
            A line for each setting, as the command that sets it.
        """
        return "\n".join(
            f"/{name.replace('_', '-')} {_show(value)}"
            for name, value in self._settings().items()
            if name != "beams"
        )

    def _settings(self) -> dict[str, Any]:
        settings = dataclasses.asdict(self.sampling)
        settings |= {name: getattr(self.rules, name) for name in _RULES}
        settings["length"] = self.rules.wanted_length
        return settings


def _parse(name: str, value: str) -> Any:
    shown = name.replace("_", "-")
    if name in ("mirostat", "lines", "length") and value.lower() in ("off", "none"):
        return None
    if name == "until_sentence":
        if value.lower() not in ("on", "off"):
            raise InputError(f"{shown} is on or off, not {printable(value)}")
        return value.lower() == "on"
    try:
        return int(value) if name in _WHOLE else float(value)
    except ValueError as error:
        kind = "whole number" if name in _WHOLE else "number"
        raise InputError(f"{shown} is a {kind}, not {printable(value)}") from error


def _show(value: Any) -> str:
    if value is None or value is False:
        return "off"
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
