"""Write `docs/cli.md` from the program's own help: `python docs/make_cli.py`."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from charlstm.cli import cli

TARGET = Path(__file__).parent / "cli.md"


def reference() -> str:
    """Return the reference, one section a command."""
    parts = ["# Command reference", "Made from `--help` by `python docs/make_cli.py`."]
    for name in ["", *cli.list_commands(cli.make_context("charlstm", ["info"]))]:
        arguments = [name, "--help"] if name else ["--help"]
        help_text = CliRunner().invoke(cli, arguments, prog_name="charlstm", terminal_width=80)
        parts.append(f"## charlstm {name}".rstrip())
        parts.append(f"```text\n{help_text.stdout.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
