"""charlstm: learn to write in the style of any text file.

The package has two layers. The plain layer does without TensorFlow: texts
(`reading`, `corpus`, `vocabulary`, `batching`), time (`pacing`), saved models
(`checkpoint`), writing (`sampling`, `generation`), scoring. The Keras layer
(`backend`, `lstm`, `model`, `trainers`, `training`) imports TensorFlow, which
takes seconds, so only the command that trains imports it. `cli` parses options
and prints; `terminal` draws progress for it.
"""

__version__ = "0.1.0"
