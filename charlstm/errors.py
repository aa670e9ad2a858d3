"""Every error a person can meet, each class with its exit code.

The library raises these; `cli` prints them in one place, as one `Error:` line
and, where there is a cure, one `hint:` line.
"""

from __future__ import annotations


class CharlstmError(Exception):
    """The work failed; base of all errors of this package.

    Args:
        message: What was given and what is wrong with it, one line.
        hint: What to do next, one line, or None.

    Attributes:
        exit_code: What the process returns; 1 here, 2 for `InputError`.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message and the hint apart, so that each is printed on its line."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(CharlstmError):
    """The request, an option or an input text is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is outside its range."""


class CorpusError(InputError):
    """A text or a prepared folder cannot be used."""


class NotTextError(CorpusError):
    """A file is binary."""


class SeedTextError(InputError):
    """The seed text holds characters that the model has never seen."""


class ModelExistsError(InputError):
    """A model of that name exists and may not be overwritten."""


class ModelNotFoundError(CharlstmError):
    """There is no such model, or no model at all."""


class CheckpointError(CharlstmError):
    """A checkpoint is damaged, or of a format this version does not know."""


class NewerFormatError(CheckpointError):
    """A newer program wrote it: not damaged, but not to be read by this one."""


class OutputError(CharlstmError):
    """A result cannot be written: read-only folder, full disk, locked model."""


class TrainingError(CharlstmError):
    """Training cannot go on, for instance because its loss is not finite."""


def printable(text: str) -> str:
    """Show characters so that a terminal cannot be steered by them.

    Args:
        text: Any text, for instance a file name or one character.

    Returns:
        The text with every unprintable character as its Python escape.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
