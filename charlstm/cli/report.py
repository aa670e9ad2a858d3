"""`charlstm report`, and the page that `train --html-report` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from charlstm.cli.options import ModelName, json_option
from charlstm.cli.output import note, open_output, print_json
from charlstm.errors import InputError, printable

if TYPE_CHECKING:
    from charlstm.report import Report

# Of a time budget: collecting and writing took 0.4 on two cores, mostly the sample.
REPORT_SECONDS = 1.0


@click.command()
@click.argument("model", type=ModelName(), required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write; - for stdout.  [default: <model's name>-report.html]",
)
@json_option
def report(model: str | None, output: Path | None, as_json: bool) -> None:
    """Write a page about a model, by default the newest, to give away.

    One HTML file: the curves, samples over time, evaluation, settings,
    environment, and the commands that do it again. It needs no network, and
    names no folder and no person. A report that is there is replaced, another
    file never.

    \b
    Examples:
      charlstm report macbeth
      charlstm report -o homework.html
    """
    from charlstm.models import find_model
    from charlstm.report import as_json as report_as_json
    from charlstm.report import check_report_path, report_path

    folder = find_model(model)
    path = report_path(folder) if output is None else output
    is_stdout = str(path) == "-"
    if is_stdout and as_json:
        raise click.UsageError("--json and -o - exclude each other")
    if not is_stdout:
        check_report_path(path)
    made = write_report(folder, path, quiet=as_json or is_stdout)
    if as_json:
        print_json({"path": str(path.resolve())} | report_as_json(made))


def choose_report_path(given: str, model: Path) -> Path:
    """Check where a model's report will go, before minutes are spent on the model.

    Args:
        given: What was typed; empty for the default.
        model: The model's folder.

    Returns:
        The file.

    Raises:
        InputError: If something else is there, or the folder is missing.
    """
    from charlstm.report import check_report_path, report_path

    path = Path(given) if given else report_path(model)
    if str(path) == "-":
        raise InputError("--html-report needs a file, not -", hint="charlstm report -o - prints it")
    check_report_path(path)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {printable(str(path.parent))} for the report")
    return path


def write_report(model: Path, path: Path, *, quiet: bool) -> Report:
    """Write a model's report.

    Args:
        model: The model's folder.
        path: The file; `-` for stdout.
        quiet: Do not say where it is.

    Returns:
        What is in it.
    """
    from charlstm.report import collect_report, report_page

    made, warnings = collect_report(model)
    for warning in warnings:
        note(f"warning: {warning}; using step {made.evaluation.step:,} instead")
    with open_output(path, quiet=True) as write:
        write(report_page(made))
    if not quiet:
        note(f"report: {printable(str(path))}")
    return made
