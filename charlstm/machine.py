"""Which machine and programs a run has, in words that may be published.

No names of people, machines or folders: what is told here ends up in models and
reports that are given away.
"""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path
from typing import Any

from charlstm.backend import available_cores


def describe_machine() -> dict[str, Any]:
    """Tell what this process runs on.

    Returns:
        `python` (its version), `system` ("Linux x86_64"), `processor` (its
        model, where the system tells) and `cores` (that may be used).
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}".strip(),
        "processor": _processor(),
        "cores": available_cores(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return " ".join(value.split())
    return platform.processor()
