"""What the commands print: JSON lines, notes, text as it is written."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from charlstm.errors import InputError, OutputError, printable

# What steers a terminal and JSON leaves as it is: C1 controls, directions of writing.
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# A model can have learned them from its text; a pipe gets them as they are.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_json_line(content: dict[str, Any]) -> str:
    """Write an object on one line that cannot steer a terminal."""
    line = json.dumps(content, ensure_ascii=False)
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", line) + "\n"


def print_json(content: dict[str, Any]) -> None:
    """Print one object on one line."""
    click.echo(as_json_line(content), nl=False)


def finite(value: Any) -> Any:
    """Write what was not measured, which JSON has no number for, as null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(message: str) -> None:
    """Print a line to stderr."""
    click.echo(message, err=True)


def write_stdout(text: str) -> None:
    """Print text at once; on a terminal, so that it cannot steer it."""
    if sys.stdout.isatty():
        text = _CONTROLS.sub(lambda match: printable(match[0]), text)
    sys.stdout.write(text)
    sys.stdout.flush()


def bundled(pieces: Iterable[str]) -> Iterator[str]:
    """Give the seed and the first piece at once, then whatever came in each 40 ms.

    Writing costs more than making a character.

    Args:
        pieces: Text as it comes.

    Yields:
        The same text in fewer pieces.
    """
    held: list[str] = []
    next_flush = 0.0
    for n, piece in enumerate(pieces):
        held.append(piece)
        if n < 2 or time.monotonic() >= next_flush:
            yield "".join(held)
            held.clear()
            next_flush = time.monotonic() + 0.04
    yield "".join(held)


@contextlib.contextmanager
def open_output(path: Path | None, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Open where text goes: stdout, or a file that appears whole.

    What is not whole replaces nothing: an interrupted text is kept beside the
    file, and when the disk is full what was there before stays.

    Args:
        path: The file; None or `-` for stdout.
        quiet: Do not show how much was written.

    Yields:
        A function that writes text.

    Raises:
        OutputError: If the file cannot be written.
    """
    if path is None or str(path) == "-":
        yield write_stdout
        return
    # Not imported for text to stdout, which would wait for it.
    from charlstm.storage import PARTIAL, atomic_text
    from charlstm.terminal import show_progress

    name = printable(str(path))
    n_written = 0
    try:
        if path.exists() and not path.is_file():
            if path.is_dir():
                raise InputError(f"{name} is a folder, not a file to write to")
            with path.open("w", encoding="utf-8", newline="") as device:

                def write_through(text: str) -> None:
                    device.write(text)
                    device.flush()

                yield write_through
            return
        with (
            atomic_text(path) as file,
            show_progress("writing", quiet=quiet, unit=" characters") as progress,
        ):

            def write(text: str) -> None:
                nonlocal n_written
                file.write(text)
                n_written += len(text)
                progress(n_written, None)

            yield write
    except KeyboardInterrupt:
        if n_written:
            note(f"{name} is as it was; what was written is in {name}{PARTIAL}")
        raise
    except BrokenPipeError:  # /dev/stdout into a pipe: not ours to tell
        raise
    except OSError as error:
        cure = "make room or choose" if error.errno == errno.ENOSPC else "choose"
        raise OutputError(
            f"cannot write {name}: {error.strerror or error}",
            hint=f"{cure} another file; what was there is untouched",
        ) from error


def model_argument(model: Path) -> str:
    """Return the option that names a model, ready to paste."""
    return f" --model {shlex.quote(model_name(model))}"


def model_name(model: Path) -> str:
    """Return what `--model` is given to name a model."""
    from charlstm.models import CHECKPOINTS_FOLDER

    return model.name if model.parent == Path(CHECKPOINTS_FOLDER) else str(model)
