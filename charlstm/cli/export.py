"""`charlstm export`."""

from __future__ import annotations

from pathlib import Path

import click

from charlstm.cli.options import ModelName, checkpoint_option, json_option, open_model, quiet_option
from charlstm.cli.output import note, print_json
from charlstm.errors import printable

# As `export.TARGETS`, which is not imported for --help.
TARGETS = ("keras", "saved-model", "onnx", "torch")


@click.command()
@click.argument("model", type=ModelName())
@click.option(
    "--to", "target", type=click.Choice(TARGETS), required=True, help="What will read it."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to make.",
)
@checkpoint_option
@click.option("--overwrite", is_flag=True, help="Replace the folder if an export made it.")
@quiet_option
@json_option
def export(
    model: str,
    target: str,
    output: Path,
    which: str,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a model for Keras, TensorFlow, ONNX Runtime or PyTorch.

    Makes a folder with the network, its vocabulary and a README.md with the
    lines of Python that use it; none of it needs charlstm. onnx needs an extra:
    pip install 'charlstm[export]'.

    \b
    Examples:
      charlstm export macbeth --to keras -o macbeth-keras
      charlstm export macbeth --to onnx -o macbeth-onnx
    """
    from charlstm.export import README, export_model

    checkpoint = open_model(model, which)
    result = export_model(checkpoint, target=target, output=output, overwrite=overwrite)
    n_bytes = sum(result.files.values())
    if as_json:
        print_json(
            {
                "path": str(result.path),
                "target": result.target,
                "model": str(result.model),
                "checkpoint": result.step,
                "files": sorted(result.files),
                "n_bytes": n_bytes,
            }
        )
        return
    click.echo(
        f"{printable(result.model.name)}, step {result.step:,}, for {target}: "
        f"{len(result.files)} files, {n_bytes:,} bytes\n"
        f"exported: {printable(str(output))}"
    )
    if not quiet:
        note(f"{printable(str(output / README))} has the lines that use it")
