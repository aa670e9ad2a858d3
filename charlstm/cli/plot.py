"""`charlstm plot`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from charlstm.cli.options import ModelName, json_option
from charlstm.cli.output import finite, note, print_json
from charlstm.errors import CharlstmError, printable


@click.command()
@click.argument("models", type=ModelName(), nargs=-1, metavar="[MODEL]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Picture to write: .png, .svg or .pdf.  [default: lines of text on stdout]",
)
@click.option(
    "--sample-at",
    "sample_steps",
    type=click.IntRange(0),
    multiple=True,
    metavar="STEP",
    help="Show the sample nearest to this step below the curves; may be repeated.",
)
@json_option
def plot(
    models: tuple[str, ...], output: Path | None, sample_steps: tuple[int, ...], as_json: bool
) -> None:
    """Show how models learned: loss, learning rate, speed; by default the newest.

    Without --output each loss is a line of bars. A picture needs an extra:
    pip install 'charlstm[plot]'.

    \b
    Examples:
      charlstm plot
      charlstm plot macbeth poems -o loss.png
      charlstm plot macbeth -o loss.svg --sample-at 100 --sample-at 2000
    """
    from charlstm.models import locate_model
    from charlstm.plotting import describe_curve, draw_curves, read_curve, save_figure

    curves = [read_curve(locate_model(name)) for name in models or (None,)]
    if as_json:
        print_json({"models": [finite(dataclasses.asdict(curve)) for curve in curves]})
    elif output is None:
        for curve in curves:
            click.echo("\n".join(describe_curve(curve)))
    if output is None:
        return
    try:
        figure = draw_curves(curves, sample_steps=sample_steps)
    except CharlstmError:
        # Better than nothing, and the error says what is missing.
        for curve in [] if as_json else curves:
            click.echo("\n".join(describe_curve(curve)))
        raise
    save_figure(figure, output)
    note(f"plotted: {printable(str(output))}")
