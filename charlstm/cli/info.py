"""`charlstm info`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from charlstm.cli.options import ModelName, json_option
from charlstm.cli.output import finite, model_argument, note, print_json
from charlstm.errors import CharlstmError, printable

_SHIPPED = "ships with charlstm"


@click.command()
@click.argument("model", type=ModelName(), required=False)
@click.option("--verify", is_flag=True, help="Check every byte and say what is damaged.")
@click.option(
    "--follow",
    is_flag=True,
    help="Watch the run that trains the model, from another terminal, until it ends.",
)
@json_option
def info(model: str | None, verify: bool, follow: bool, as_json: bool) -> int:
    """Tell what a model is; without MODEL, list the models.

    With --verify every checkpoint is read and checked as if it were used, and
    the exit code is 1 if one is damaged. With --follow it is 1 if the run was
    killed or failed; Ctrl-C ends the watching and not the run.

    \b
    Examples:
      charlstm info macbeth
      charlstm info macbeth --verify
      charlstm info macbeth --follow
    """
    from charlstm.models import describe_model, find_model, list_models, unshadowed_models

    if follow and verify:
        raise click.UsageError("--follow and --verify exclude each other")
    if follow:
        if model is None:
            raise click.UsageError("--follow needs a MODEL")
        return _follow(model, as_json=as_json)
    if verify:
        if model is None:
            raise click.UsageError("--verify needs a MODEL")
        return _verify(model, as_json=as_json)

    if model is None:
        models = []
        for path in [*list_models(), *unshadowed_models().values()]:
            try:
                models.append(describe_model(path))
            except CharlstmError as error:
                note(f"warning: {error.message}")
        if as_json:
            own = [about for about in models if not about["shipped"]]
            print_json({"models": own, "shipped": [m for m in models if m["shipped"]]})
            return 0
        for about in models:
            click.echo(_model_line(about))
        if all(about["shipped"] for about in models):
            note("no models of your own yet; train one: charlstm train yours.txt")
        return 0
    about = describe_model(find_model(model))
    if as_json:
        print_json(about)
        return 0
    corpus = about["corpus"]
    click.echo(
        f"{printable(about['name'])}: {printable(about['path'])}\n"
        f"recipe {about['recipe']}: {about['layers']} x {about['units']} units, windows of "
        f"{about['seq_length']}, {about['parameters']:,} parameters\n"
        f"corpus {printable(corpus['name'])}: {corpus['characters']:,} characters, "
        f"{_different(about['vocabulary_size'], corpus)}, sha256 {corpus['sha256'][:16]}…"
        + (f"\n{_SHIPPED}; it writes, and --from begins with it" if about["shipped"] else "")
    )
    for entry in about["checkpoints"]:
        marks = [mark for mark in ("best", "last") if entry[mark]]
        click.echo(
            f"  step {entry['step']:>8,}  epoch {entry['epoch']:>7.2f}  "
            f"{_loss_text(entry)}  {' '.join(marks)}".rstrip()
        )
    return 0


def _different(n_ids: int, corpus: dict[str, Any]) -> str:
    n = corpus.get("unknown_characters")
    if not isinstance(n, int) or not n:
        return f"{n_ids:,} different"
    return f"{n_ids - 1:,} different and the unknown symbol (for {n:,} characters)"


def _follow(name: str, *, as_json: bool) -> int:
    from charlstm.models import model_path
    from charlstm.progress import Reporter
    from charlstm.status import Status, follow
    from charlstm.terminal import make_reporter

    def tell(status: Status) -> None:
        if as_json:
            print_json(
                {
                    "model": str(model.resolve()),
                    "updated": status.updated,
                    "stopped": status.stopped,
                    "progress": finite(status.progress and dataclasses.asdict(status.progress)),
                }
            )

    model = model_path(name)
    reporter = Reporter() if as_json else make_reporter(quiet=False)
    try:
        status = follow(model, reporter, told=tell)
    finally:
        reporter.close()
    at = "" if status.progress is None else f" at step {status.progress.step:,}"
    if status.is_gone:
        note(
            f"the run is gone{at}: killed, or its machine went down; "
            f"charlstm train --resume{model_argument(model)} goes on"
        )
    elif not as_json:
        click.echo(f"ended{at}: {printable(str(status.stopped))}")
    return 1 if status.is_gone or status.stopped == "failed" else 0


def _verify(name: str, *, as_json: bool) -> int:
    from charlstm.models import locate_model, verify_model

    model = locate_model(name)
    results = verify_model(model)
    n_damaged = sum(bool(problems) for _, problems in results)
    if as_json:
        checkpoints = [{"path": str(p.resolve()), "problems": why} for p, why in results]
        print_json({"path": str(model.resolve()), "checkpoints": checkpoints})
    else:
        for path, problems in results:
            click.echo(f"{path.name}: {'; '.join(problems) or 'whole'}")
    if n_damaged and not as_json:
        note(f"{n_damaged} of {len(results)} checkpoints of {printable(str(model))} are damaged")
    return 1 if n_damaged else 0


def _model_line(about: dict[str, Any]) -> str:
    best = next(entry for entry in about["checkpoints"] if entry["best"])
    return (
        f"{printable(about['name']):<20} {about['recipe']:<8} {about['layers']} x "
        f"{about['units']:<5} step {best['step']:>8,}  {_loss_text(best)}"
        + (f"  ({_SHIPPED})" if about["shipped"] else "")
    )


def _loss_text(entry: dict[str, Any]) -> str:
    if entry["val_loss"] is not None:
        return f"val {entry['val_loss']:.4f}"
    if entry["train_loss"] is not None:
        return f"train {entry['train_loss']:.4f}"
    return "not evaluated"
