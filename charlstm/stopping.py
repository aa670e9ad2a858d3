"""When a text ends: its length, stop texts, sentences, lines.

Characters go in one at a time and come out as soon as it is certain that they
belong to the text; what may be the beginning of a stop text is held back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from charlstm.config import check_int
from charlstm.errors import ConfigError, printable

Stopped = Literal["length", "stop", "sentence", "lines"]

DEFAULT_LENGTH = 500
MAX_LENGTH = 10**12
# Without a length, a line or the end of a sentence is waited for so long.
CHARACTERS_PER_LINE = 1_000
PATIENCE_FOR_A_SENTENCE = 2_000
_LONGEST_SENTENCE = 1_000

# Where these are used no white space follows.
_WIDE_ENDS = frozenset("。！？")
_SENTENCE_ENDS = frozenset(".!?…؟۔।") | _WIDE_ENDS
_CLOSERS = frozenset("\"')]}”’»›」』）】")
# Some languages close with what others open with: „so.“, »so.« A space after
# it tells them apart, which wide marks do without.
_CLOSERS_BEFORE_SPACE = _CLOSERS | frozenset("“‘«‹")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StopRules:
    """When to stop writing. What comes first ends the text.

    Attributes:
        length: Characters to write; None for 500, or with `lines` as many as
            those take.
        stops: Texts that end it when they are written; not part of it.
        until_sentence: Go on after `length` until a sentence ends.
        lines: Stop after this many line feeds, as `head -n` does; None for no
            such end.
    """

    length: int | None = None
    stops: Sequence[str] = ()
    until_sentence: bool = False
    lines: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a stop text is empty or a number out of range.
        """
        if self.length is not None:
            check_int("length", self.length, low=0, high=MAX_LENGTH)
        if self.lines is not None:
            check_int("lines", self.lines, low=1, high=MAX_LENGTH // CHARACTERS_PER_LINE)
        if isinstance(self.stops, str):
            raise ConfigError("stops are several texts, not one")
        if any(not stop for stop in self.stops):
            raise ConfigError("a stop text needs at least one character")
        if self.until_sentence and self.lines is not None:
            raise ConfigError("until-sentence and lines exclude each other")

    @property
    def wanted_length(self) -> int:
        """Characters after which the length alone ends the text, or may."""
        if self.length is not None:
            return self.length
        if self.lines is not None:
            return max(DEFAULT_LENGTH, CHARACTERS_PER_LINE * self.lines)
        return DEFAULT_LENGTH

    @property
    def max_length(self) -> int:
        """Characters that no text exceeds."""
        patience = PATIENCE_FOR_A_SENTENCE if self.until_sentence else 0
        return self.wanted_length + patience

    def warnings(self, known: set[str]) -> list[str]:
        """Say which ends can never come.

        Args:
            known: The characters that can be written.

        Returns:
            A line for each, safe to print.
        """
        warnings = [
            f"warning: the model can never write the stop text '{printable(stop)}'"
            for stop in self.stops
            if not set(stop) <= known
        ]
        if self.lines is not None and "\n" not in known:
            warnings.append("warning: the model knows no line feed, so that no line ends the text")
        if self.until_sentence and not known & _SENTENCE_ENDS:
            warnings.append(
                "warning: the model knows no mark that ends a sentence, so that the text is "
                f"{PATIENCE_FOR_A_SENTENCE:,} characters longer"
            )
        return warnings


class Ending:
    """Follows one text to its end.

    Args:
        rules: When it ends.

    Attributes:
        stopped: Why it has ended, or None.
        max_length: Characters that it will not exceed.
    """

    def __init__(self, rules: StopRules) -> None:
        """Start with an empty text."""
        self._rules = rules
        # Most texts have a length only, and a character each 50 microseconds.
        self._is_plain = not rules.stops and not rules.until_sentence and rules.lines is None
        self._longest_stop = max((len(stop) for stop in rules.stops), default=0)
        self._held = ""
        self._n_written = 0
        self._lines_left = math.inf if rules.lines is None else rules.lines
        self._has_lower = False
        # The end mark that only closing ones have followed.
        self._mark = ""
        self.stopped: Stopped | None = "length" if rules.max_length == 0 else None
        self.max_length = rules.max_length

    def follow(self, seed_text: str) -> None:
        """Go on from a seed, whose sentence the text may end.

        Args:
            seed_text: What is before the text; only its end matters.
        """
        if self._rules.until_sentence:
            for character in seed_text[-_LONGEST_SENTENCE:]:
                self._ends_sentence(character)

    def push(self, character: str) -> str:
        """Take the next character.

        Args:
            character: One character, while `stopped` is None.

        Returns:
            What now surely belongs to the text; may be empty.
        """
        rules = self._rules
        if self._is_plain:
            self._n_written += 1
            if self._n_written >= self.max_length:
                self.stopped = "length"
            return character
        if rules.until_sentence and self._ends_sentence(character):
            return self._end("sentence")
        self._n_written += 1
        self._held += character
        if rules.stops:
            found = [stop for stop in rules.stops if self._held.endswith(stop)]
            if found:
                self._held = self._held[: -max(map(len, found))]
                return self._end("stop")
        if character == "\n":
            self._lines_left -= 1
            if self._lines_left == 0:
                return self._end("lines")
        if self._n_written >= self.max_length:
            return self._end("length")
        return self._release()

    def _end(self, why: Stopped) -> str:
        self.stopped = why
        text, self._held = self._held, ""
        return text

    def _release(self) -> str:
        """Let go of what cannot be part of a stop text any more."""
        kept = min(len(self._held), max(0, self._longest_stop - 1))
        while kept and not any(
            stop.startswith(self._held[len(self._held) - kept :]) for stop in self._rules.stops
        ):
            kept -= 1
        n_free = len(self._held) - kept
        text, self._held = self._held[:n_free], self._held[n_free:]
        return text

    def _ends_sentence(self, character: str) -> bool:
        """Tell whether a sentence has ended before this character.

        It ends with . ! ? or …, after which quotes and brackets may close, and
        white space; or with 。！？ and no white space. A line in capitals, like
        a speaker's name, is none.
        """
        if character in _SENTENCE_ENDS:
            self._mark = character
            return False
        if character in (_CLOSERS if self._mark in _WIDE_ENDS else _CLOSERS_BEFORE_SPACE):
            return False
        mark, self._mark = self._mark, ""
        is_after_end = mark != "" and (character.isspace() or mark in _WIDE_ENDS)
        ends = is_after_end and self._has_lower and self._n_written >= self._rules.wanted_length
        if is_after_end or character == "\n":
            self._has_lower = False
        # Scripts without capitals have no lower case either.
        if character.isalpha() and not character.isupper():
            self._has_lower = True
        return ends
