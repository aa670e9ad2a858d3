"""The command group: every error brought to one form, with its exit code, in one place."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from charlstm.errors import CharlstmError, printable

INTERRUPTED = 130


class CharlstmGroup(click.Group):
    """The command group, with every error brought to one form in one place."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and end the process with the exit code of the contract."""
        extra.pop("standalone_mode", None)
        stdout = sys.stdout
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_usage_message(error), _usage_hint(error), error.exit_code, error)
        except CharlstmError as error:
            _fail(error.message, error.hint, error.exit_code, error)
        except (KeyboardInterrupt, click.Abort) as interruption:
            notes = getattr(interruption.__cause__ or interruption, "__notes__", [])
            _fail("interrupted", next(iter(notes), None), INTERRUPTED, None)
        except SystemExit as end:
            # Click exits 1 for a closed pipe, having wrapped stdout.
            if sys.stdout is not stdout:
                sys.stdout = stdout
                _close_stdout()
                sys.exit(0)
            raise end from None
        except BrokenPipeError:
            _close_stdout()
            sys.exit(0)
        except OSError as error:
            where = printable(str(error.filename)) if error.filename else "cannot write the output"
            _fail(f"{where}: {error.strerror or error}", None, 1, error)
        except MemoryError as error:
            _fail("out of memory", "a smaller --batch-size or --units needs less", 1, error)
        except Exception as error:
            hint = "this is a fault of charlstm; CHARLSTM_DEBUG=1 shows where"
            _fail(f"{type(error).__name__}: {printable(str(error))}", hint, 1, error)


def _fail(message: str, hint: str | None, code: int, error: BaseException | None) -> NoReturn:
    """Print an error in at most two lines and end the process."""
    if error is not None and os.environ.get("CHARLSTM_DEBUG", "0") not in ("", "0"):
        raise error
    try:
        sys.stdout.flush()
    except OSError:
        _close_stdout()
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(code)


def _close_stdout() -> None:
    """Send what is left to nowhere, so that Python does not complain at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a file, as in tests
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


def _usage_message(error: click.ClickException) -> str:
    return " ".join(error.format_message().split()).rstrip(".")


def _usage_hint(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"see {context.command_path} --help" if context is not None else None
