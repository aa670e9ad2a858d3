"""charlstm: learn to write in the style of any text file.

The package has two layers. The plain layer needs NumPy only: texts
(`corpus`, `vocabulary`, `batching`), saved models (`checkpoint`), writing
(`sampling`, `generation`) and scoring (`scoring`). The Keras layer (`model`,
`training`) imports TensorFlow, which takes seconds, so nothing else imports it.
`cli` is the only module that parses options or prints.
"""

__version__ = "0.1.0"
