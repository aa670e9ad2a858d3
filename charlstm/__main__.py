"""The `charlstm` command and `python -m charlstm`.

What must be right before anything else is imported: the three standard
streams exist, and an early Ctrl-C or SIGTERM ends without a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        _open_closed_streams()
        signal.signal(signal.SIGTERM, _interrupt)
        hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
        if hang_up is not None and signal.getsignal(hang_up) == signal.SIG_DFL:  # no nohup
            signal.signal(hang_up, _interrupt)
        from charlstm.backend import process_age
        from charlstm.cli import cli

        cli(prog_name="charlstm", obj=time.monotonic() - process_age())
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:
        if "tensorflow" in sys.modules:
            # Its threads take a second to end; all that matters is on disk.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _open_closed_streams() -> None:
    """Put /dev/null where a stream was closed: else the next file takes its place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    main()
