"""The `charlstm` command: parse, call, print.

A module for each command; `main` holds the group and turns every error into an
exit code, `options` what several commands take, `output` what they print. Data
goes to stdout, everything else to stderr. TensorFlow is imported by `train` and
some exports only, and only after everything about the request has been checked.
"""

from __future__ import annotations

import sys

import click

from charlstm import __version__
from charlstm.cli.evaluate import evaluate
from charlstm.cli.explain import explain, neurons
from charlstm.cli.export import export
from charlstm.cli.generate import generate
from charlstm.cli.import_ import import_
from charlstm.cli.info import info
from charlstm.cli.main import CharlstmGroup
from charlstm.cli.plot import plot
from charlstm.cli.prepare import prepare
from charlstm.cli.report import report
from charlstm.cli.train import train


@click.group(
    cls=CharlstmGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="charlstm")
def cli() -> None:
    """Learn to write in the style of any text file.

    \b
    charlstm train macbeth.txt --minutes 3
    charlstm generate --seed "MACBETH."

    Every option has an environment variable, CHARLSTM_<COMMAND>_<OPTION>, such as
    CHARLSTM_GENERATE_MODEL; what is typed wins. Exit codes: 0 done, 1 the work
    failed, 2 the command line or a text is wrong, 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Text is UTF-8 whatever the locale says.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


for _command in (
    prepare, train, generate, evaluate, explain, neurons, info, plot, report, export, import_
):  # fmt: skip
    cli.add_command(_command)


def _name_environment_variables() -> None:
    """Let each option be given as CHARLSTM_<COMMAND>_<OPTION>, by its long name."""
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                long_name = max(option.opts, key=len).lstrip("-")
                option.envvar = f"CHARLSTM_{name}_{long_name}".upper().replace("-", "_")


_name_environment_variables()
