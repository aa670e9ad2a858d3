"""Every choice that shapes a run, as frozen dataclasses with checked ranges.

`NetworkConfig` is what the weights depend on, `TrainingConfig` how they are
trained; `recipe_defaults` gives both for a named recipe and a corpus size.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import sys
from typing import Any, Literal, get_args

from charlstm.errors import ConfigError

RecipeName = Literal["default", "article"]
Precision = Literal["float32", "mixed"]
InputKind = Literal["one_hot", "scaled"]

MAX_VOCAB = 0x110000  # there are no more code points
SEQ_LENGTH = 50
VAL_FRACTION = 0.1
# The article's choices, where the default recipe does otherwise.
ARTICLE_BATCH_SIZE = 30
ARTICLE_EPOCHS = 100
ARTICLE_LEARNING_RATE = 1e-3
ARTICLE_DROPOUT = 0.2
MIN_PART_ROWS = 8
# What two cores of a laptop train in a second, about.
_NOMINAL_CHARS_PER_SECOND = 30_000
# Dropout grows from the first to the second.
_FEW_EPOCHS, _MANY_EPOCHS = 2.5, 40.0
# Reading even the shortest text as often as this is of use.
_USEFUL_EPOCHS = 100.0
# Below the second a text gets more of it, and from the first down no more still.
_TINY_TEXT, _SMALL_TEXT = 4_500, 90_000
# From how many characters on a model learns another text as fast as from nothing.
_LARGE_TEXT = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shape of the network, fixed for the life of a model.

    Attributes:
        vocabulary_size: Number of ids, at least 2: the characters, and the
            unknown symbol where there is one.
        units: Hidden units of each LSTM layer.
        layers: LSTM layers, one above the other.
        seq_length: Characters in a training window; for a model without
            carried state also all that it ever looks back.
        input: "one_hot" characters, or "scaled": one number, id / size.
        carries_state: Whether the state goes on from window to window.
    """

    vocabulary_size: int
    units: int = 300
    layers: int = 2
    seq_length: int = SEQ_LENGTH
    input: InputKind = "one_hot"
    carries_state: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_int("the vocabulary size", self.vocabulary_size, low=2, high=MAX_VOCAB)
        check_int("units", self.units, low=1, high=16_384)
        check_int("layers", self.layers, low=1, high=64)
        check_int("seq-length", self.seq_length, low=1, high=100_000)
        if self.input not in get_args(InputKind):
            raise ConfigError(f"input must be one of {get_args(InputKind)}, not {self.input!r}")

    @property
    def input_size(self) -> int:
        """Width of one input step: the vocabulary, or 1 for scaled ids."""
        return self.vocabulary_size if self.input == "one_hot" else 1

    @property
    def parameters(self) -> int:
        """Trainable numbers: 4·(inputs + units + 1)·units a layer, and the softmax."""
        inputs = [self.input_size] + [self.units] * (self.layers - 1)
        lstm = sum(4 * self.units * (n + self.units + 1) for n in inputs)
        return lstm + (self.units + 1) * self.vocabulary_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained. Budgets are totals, also after `--resume`.

    Attributes:
        recipe: Which set of defaults this began as.
        epochs: Passes over the training characters, may be fractional; None
            when `minutes` or the corpus size decides.
        minutes: Wall time of the whole command, start-up included; None for
            no limit.
        batch_size: Rows trained together. More rows are faster for each
            character and learn less from it.
        dropout: Share of each layer's outputs dropped while training
            (Zaremba et al., 2014). More for small texts.
        recurrent_dropout: Share of the recurrent weights dropped in each step
            (Merity et al., 2018); the weights stay those of a plain LSTM.
        learning_rate: Adam's step size at its peak.
        clip_norm: Largest norm of the whole gradient (Pascanu et al., 2013);
            None leaves it alone.
        val_fraction: Share of the text, its end, kept from training; 0 for none.
        patience: Evaluations without a better loss before an early stop; 0
            for no early stop.
        lowercase: Whether the text is lower-cased first.
        join_documents: Whether several documents are learned as one running
            text; else each begins with a zero state. Recipe article always
            does the first.
        random_seed: Fixes initial weights, dropout and order.
        threads: CPU cores to use.
        precision: What training steps multiply in: "float32", or "mixed" for
            half precision with single-precision weights, on GPUs.
    """

    recipe: RecipeName = "default"
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 32
    dropout: float = 0.3
    recurrent_dropout: float = 0.0
    learning_rate: float = 8e-3
    clip_norm: float | None = 0.25
    val_fraction: float = VAL_FRACTION
    patience: int = 10
    lowercase: bool = False
    join_documents: bool = False
    random_seed: int = 0
    threads: int = 1
    precision: Precision = "float32"

    @property
    def n_parts(self) -> int:
        """Parts that a batch is cut into: one a thread, none of fewer than 8 rows.

        It decides in which order sums are made, so it belongs to the result.
        """
        if self.recipe == "article":
            return 1
        return max(1, min(self.threads, self.batch_size // MIN_PART_ROWS))

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.recipe not in get_args(RecipeName):
            raise ConfigError(f"recipe must be one of {get_args(RecipeName)}, not {self.recipe!r}")
        if self.epochs is not None:
            check_float("epochs", self.epochs, low=0, low_open=True)
        if self.minutes is not None:
            check_float("minutes", self.minutes, low=0, low_open=True)
        check_int("batch-size", self.batch_size, low=1, high=1_000_000)
        check_float("dropout", self.dropout, low=0, high=1, high_open=True)
        check_float("recurrent-dropout", self.recurrent_dropout, low=0, high=1, high_open=True)
        check_float("learning-rate", self.learning_rate, low=0, low_open=True, high=10)
        if self.clip_norm is not None:
            check_float("clip-norm", self.clip_norm, low=0, low_open=True)
        check_float("val-fraction", self.val_fraction, low=0, high=0.9)
        check_int("patience", self.patience, low=0, high=1_000_000)
        check_int("random-seed", self.random_seed, low=0, high=2**63 - 1)
        check_int("threads", self.threads, low=1, high=4_096)
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision must be one of {get_args(Precision)}, not {self.precision!r}"
            )


def check_int(name: str, value: Any, *, low: int, high: int) -> None:
    """Check that a setting is a whole number in a closed range.

    Args:
        name: What a person calls the setting.
        value: What was given.
        low: Smallest allowed value.
        high: Largest allowed value.

    Raises:
        ConfigError: If it is not.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {value!r}")


def check_float(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Check that a setting is a finite number in a range.

    Args:
        name: What a person calls the setting.
        value: What was given.
        low: Lower end of the range.
        high: Upper end; infinity for none.
        low_open: Whether `low` itself is refused.
        high_open: Whether `high` itself is refused.

    Raises:
        ConfigError: If it is not a finite number in the range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (
        not is_number
        or not -sys.float_info.max <= value <= sys.float_info.max
        or value < low
        or value > high
        or (low_open and value == low)
        or (high_open and value == high)
    ):
        lower = f"above {low:g}" if low_open else f"at least {low:g}"
        upper = "" if math.isinf(high) else f" and {'below' if high_open else 'at most'} {high:g}"
        raise ConfigError(f"{name} must be a finite number {lower}{upper}, not {value!r}")


def default_training_characters(n_train: int) -> int:
    """Decide how much to train when no budget is given.

    Small texts are read many times, large ones once or less: the number of
    characters trained on grows as the square root of the text, up to 40
    million (half an hour or so on two cores).

    Args:
        n_train: Characters of the training part.

    Returns:
        Characters to train on in all.
    """
    characters = min(40e6, 5e6 * math.sqrt(n_train / 90_000))
    return int(min(characters, _USEFUL_EPOCHS * n_train))


def useful_epochs(n_train: int) -> float:
    """Say how often a text may be read before more of it only costs time.

    The held-out loss of 4,500 characters is lowest after 30 to 60 epochs, that
    of 90,000 after 100 or so (docs/recipe.md). A time budget that allows many
    more is not used up, and its schedule is fitted to this.

    Args:
        n_train: Characters of the training part.

    Returns:
        Epochs: 360 for 90,000 characters, in proportion for others, 100 at
        least.
    """
    return max(_USEFUL_EPOCHS, n_train / 250)


def expected_epochs(n_train: int, *, epochs: float | None, minutes: float | None) -> float:
    """Guess how often a run will read its text.

    Args:
        n_train: Characters of the training part.
        epochs: Asked for, or None.
        minutes: Asked for, or None; a nominal speed turns them into
            characters, so that a machine's does not change the recipe.

    Returns:
        Passes over the text.
    """
    n_train = max(1, n_train)
    if epochs is None and minutes is None:
        return default_training_characters(n_train) / n_train
    limits = [math.inf if epochs is None else epochs]
    if minutes is not None:
        limits.append(minutes * 60 * _NOMINAL_CHARS_PER_SECOND / n_train)
        if epochs is None:
            limits.append(useful_epochs(n_train))
    return min(limits)


def adapted_dropout(epochs: float, *, n_train: int) -> tuple[float, float]:
    """Choose dropout by how often the text will be read, and how short it is.

    A text read once or twice cannot be learned by heart; one read forty times
    is. Both kinds grow with the logarithm of the epochs from 2.5 to 40, the
    recurrent one later. Measured in `docs/recipe.md`: at 2.5 epochs none was
    best, at 8 a dropout of 0.25 alone, at 20 0.4 and 0.15, at 40 0.5 and 0.3;
    for a text of 4,500 characters 0.6 and 0.5.

    Args:
        epochs: Passes over the text.
        n_train: Characters of the training part.

    Returns:
        Dropout between the layers, and of the recurrent weights, in hundredths.
    """
    if epochs <= _FEW_EPOCHS:
        return 0.0, 0.0
    strength = min(1.0, math.log(epochs / _FEW_EPOCHS) / math.log(_MANY_EPOCHS / _FEW_EPOCHS))
    shortness = math.log(_SMALL_TEXT / max(1, n_train)) / math.log(_SMALL_TEXT / _TINY_TEXT)
    shortness = min(1.0, max(0.0, shortness))
    return (
        round((0.5 + 0.1 * shortness) * strength**0.8, 2),
        round((0.3 + 0.2 * shortness) * strength**2.5, 2),
    )


def fine_tuning_learning_rate(n_train: int) -> float:
    """Choose the peak learning rate of a run that begins with another model.

    A small text at full speed is learned by heart before the rest is unlearned
    (`docs/training.md`: measured at 13,500 characters); a large one teaches
    more than the other model knows. Between them it grows with the square root.

    Args:
        n_train: Characters of the training part.

    Returns:
        A tenth of the default's up to 10,000 characters, all of it from a
        million on.
    """
    share = math.sqrt(max(1, n_train) / _LARGE_TEXT)
    return round(TrainingConfig.learning_rate * min(1.0, max(0.1, share)), 6)


def recipe_defaults(
    recipe: RecipeName,
    *,
    n_train: int,
    epochs: float | None = None,
    minutes: float | None = None,
    seq_length: int = SEQ_LENGTH,
    is_fine_tuning: bool = False,
) -> TrainingConfig:
    """Return a recipe's training choices for a corpus and a budget.

    Args:
        recipe: "default" or "article".
        n_train: Characters of the training part.
        epochs: Budget that was asked for, or None.
        minutes: Likewise.
        seq_length: Characters in a window.
        is_fine_tuning: Whether it begins with another model's weights.

    Returns:
        The configuration, with the budget that was given; the article's 100
        epochs for "article" without one.
    """
    if recipe == "article":
        return TrainingConfig(
            recipe="article",
            epochs=ARTICLE_EPOCHS if epochs is None and minutes is None else epochs,
            minutes=minutes,
            batch_size=ARTICLE_BATCH_SIZE,
            dropout=ARTICLE_DROPOUT,
            learning_rate=ARTICLE_LEARNING_RATE,
            clip_norm=None,
            val_fraction=0.0,
            patience=0,
            lowercase=True,
        )
    # Small texts cannot fill many rows without each becoming too short to
    # carry its state anywhere: keep at least ten windows in a row, and with
    # short windows as many characters as those of 50 take.
    rows = max(1, min(32, n_train // (10 * max(SEQ_LENGTH, seq_length))))
    dropout, recurrent_dropout = adapted_dropout(
        expected_epochs(n_train, epochs=epochs, minutes=minutes), n_train=n_train
    )
    learning_rate = TrainingConfig.learning_rate
    if is_fine_tuning:
        learning_rate = fine_tuning_learning_rate(n_train)
    return TrainingConfig(
        epochs=epochs,
        minutes=minutes,
        batch_size=rows,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        learning_rate=learning_rate,
    )
