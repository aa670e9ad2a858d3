"""`charlstm generate --interactive`: a person and a model write in turns."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import click

from charlstm.cli.options import tell_unknown
from charlstm.cli.output import bundled, note, write_stdout
from charlstm.errors import InputError

if TYPE_CHECKING:
    from charlstm.generation import Voice
    from charlstm.sampling import SamplingConfig
    from charlstm.stopping import StopRules

PROMPT = "> "


def converse(
    voice: Voice,
    *,
    sampling: SamplingConfig,
    rules: StopRules,
    random_seed: int,
    unknown: str,
    seed_text: str | None,
    quiet: bool = False,
) -> None:
    """Read a line, let the model go on from it, until there are no more lines.

    Args:
        voice: The model.
        sampling: How characters are picked.
        rules: When a turn ends.
        random_seed: Fixes what is drawn.
        unknown: What to do with characters that the model has never seen.
        seed_text: What was said before the first line, or None.
        quiet: Do not greet.
    """
    from charlstm.conversation import Conversation

    conversation = Conversation(
        voice, sampling=sampling, rules=rules, random_seed=random_seed, unknown=unknown
    )
    if hasattr(sys.stdin, "reconfigure"):
        # Text is UTF-8 whatever the locale says.
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        # Else it would be a Ctrl-C, which at the prompt only begins the line anew.
        signal.signal(signal.SIGTERM, _terminate)
        with contextlib.suppress(ImportError):  # not on Windows
            import readline  # noqa: F401 (history and editing, for `input`)
        if not quiet:
            note("type a line and the model goes on from it; /help, Ctrl-D ends")
    if seed_text is not None:
        said = conversation.say(seed_text)
        if not quiet:
            tell_unknown(len(voice.vocabulary.unknown(said)), what="the seed text")
    while (line := _read_line(is_terminal=is_terminal)) is not None:
        try:
            if line.startswith("/"):
                answer = conversation.command(line)
                if answer is None:
                    return
                note(answer)
                continue
            said = conversation.say(line)
        except InputError as error:
            note(f"Error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
            continue
        if not quiet:
            tell_unknown(len(voice.vocabulary.unknown(said)), what="this line")
        _write_turn(conversation.go_on())


def _read_line(*, is_terminal: bool) -> str | None:
    """Read a line without its line feed; None at the end. Ctrl-C begins it anew."""
    while True:
        try:
            if is_terminal:
                return input(PROMPT)
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        except EOFError:
            write_stdout("\n")
            return None
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            write_stdout("\n")
        except UnicodeDecodeError as error:
            raise InputError("the standard input is not UTF-8") from error


def _terminate(number: int, frame: FrameType | None) -> None:
    raise click.Abort


def _write_turn(pieces: Iterator[str]) -> None:
    """Write what the model says; Ctrl-C ends the turn, at a whole character."""
    is_stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        for chunk in bundled(pieces):
            write_stdout(chunk)
            if is_stopped:
                break
        write_stdout("\n")
    finally:
        signal.signal(signal.SIGINT, before)
