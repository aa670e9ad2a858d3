"""charlstm: learn to write in the style of any text file.

From Python, `load` a model and let it write:

    from charlstm import load

    model = load("macbeth")
    print(model.generate("MACBETH.", 200))

The package has two layers. The plain layer does without TensorFlow: texts
(`reading`, `corpus`, `vocabulary`, `batching`), time (`pacing`), saved models
(`checkpoint`, `models`), writing (`writer`, `generation`, `engine`,
`sampling`), scoring. The Keras layer (`backend`, `lstm`, `model`, `trainers`,
`training`) imports TensorFlow, which takes seconds, so only the command that
trains imports it. `cli` parses options and prints; `terminal` draws progress
for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charlstm.writer import Writer as Writer
    from charlstm.writer import load as load
    from charlstm.writer import mix as mix

__version__ = "0.1.0"
__all__ = ["Writer", "__version__", "load", "mix"]


def __getattr__(name: str) -> Any:
    """Import the writer when it is first asked for: `--version` needs no NumPy."""
    if name in ("Writer", "load", "mix"):
        from charlstm import writer

        return getattr(writer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
