"""Ranges, recipes and the count of parameters."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charlstm.config import (
    NetworkConfig,
    TrainingConfig,
    adapted_dropout,
    check_float,
    check_int,
    default_training_characters,
    expected_epochs,
    fine_tuning_learning_rate,
    recipe_defaults,
    useful_epochs,
)
from charlstm.errors import ConfigError

PROPERTY = settings(max_examples=60, deadline=None, database=None)  # writes no files
NEVER_A_NUMBER: list[Any] = [math.nan, math.inf, -math.inf, True, False, "5", "", [3], 1j]
HUGE: Any = 10**400  # a JSON file can hold it, a float cannot


# --- the network ----------------------------------------------------------------


@pytest.mark.parametrize("vocabulary_size", [2, 47, 65, 100])
def test_the_article_network_has_the_parameters_of_the_article(vocabulary_size: int) -> None:
    network = NetworkConfig(vocabulary_size=vocabulary_size, input="scaled", carries_state=False)
    # 4·300·(1 + 300 + 1) = 362,400; 4·300·(300 + 300 + 1) = 721,200; (300 + 1)·V.
    assert network.parameters == 362_400 + 721_200 + 301 * vocabulary_size
    assert network.parameters == 1_083_600 + 301 * vocabulary_size


def test_one_hot_input_widens_the_first_kernel_only() -> None:
    scaled = NetworkConfig(vocabulary_size=65, input="scaled")
    one_hot = NetworkConfig(vocabulary_size=65, input="one_hot")
    assert scaled.input_size == 1
    assert one_hot.input_size == 65
    assert one_hot.parameters - scaled.parameters == 64 * 1200  # rows of (features, 4·300)


@given(
    vocabulary_size=st.integers(2, 300),
    units=st.integers(1, 40),
    layers=st.integers(1, 5),
    kind=st.sampled_from(["one_hot", "scaled"]),
)
@PROPERTY
def test_parameters_are_the_sizes_of_the_weights(
    vocabulary_size: int, units: int, layers: int, kind: Any
) -> None:
    total = 0
    features = vocabulary_size if kind == "one_hot" else 1
    for _ in range(layers):
        shapes = [(features, 4 * units), (units, 4 * units), (4 * units,)]  # as in Keras
        total += sum(math.prod(shape) for shape in shapes)
        features = units
    total += math.prod((features, vocabulary_size)) + vocabulary_size
    network = NetworkConfig(vocabulary_size=vocabulary_size, units=units, layers=layers, input=kind)
    assert network.parameters == total


def test_the_network_is_two_layers_of_300_units_over_windows_of_50() -> None:
    network = NetworkConfig(vocabulary_size=7)
    assert (network.layers, network.units, network.seq_length) == (2, 300, 50)
    assert network.input == "one_hot"
    assert network.carries_state


NETWORK_RANGES = [
    ("vocabulary_size", "the vocabulary size", 2, 0x110000),
    ("units", "units", 1, 16_384),
    ("layers", "layers", 1, 64),
    ("seq_length", "seq-length", 1, 100_000),
]


@pytest.mark.parametrize(("field", "shown", "low", "high"), NETWORK_RANGES)
def test_network_sizes_are_whole_numbers_in_a_range(
    field: str, shown: str, low: Any, high: Any
) -> None:
    for good in (low, high):
        assert getattr(NetworkConfig(**{"vocabulary_size": 9, field: good}), field) == good
    for bad in (low - 1, high + 1, low + 0.5, float(low), None, HUGE, *NEVER_A_NUMBER):
        with pytest.raises(ConfigError) as caught:
            NetworkConfig(**{"vocabulary_size": 9, field: bad})
        expected = f"{shown} must be a whole number from {low} to {high}, not {bad!r}"
        assert caught.value.message == expected
        assert caught.value.hint is None
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", ["embedded", "", None, 1, ["one_hot"]])
def test_an_unknown_kind_of_input_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkConfig(vocabulary_size=9, input=kind)
    assert "'one_hot', 'scaled'" in caught.value.message
    assert repr(kind) in caught.value.message
    assert caught.value.exit_code == 2


# --- training -----------------------------------------------------------------

# field, what a person calls it, values just inside, values just outside
TRAINING_RANGES: list[tuple[str, str, list[Any], list[Any]]] = [
    ("epochs", "epochs", [None, 1e-9, 0.5, 3, 1e9], [0, 0.0, -1]),
    ("minutes", "minutes", [None, 0.01, 60], [0, -0.5]),
    ("batch_size", "batch-size", [1, 1_000_000], [0, -3, 1_000_001, 2.0, None]),
    ("dropout", "dropout", [0, 0.0, 0.999], [-1e-9, 1, 1.0, 1.5, None]),
    ("learning_rate", "learning-rate", [1e-9, 10], [0, -1e-3, 10.000001, None]),
    ("clip_norm", "clip-norm", [None, 1e-9, 5], [0, -1]),
    ("val_fraction", "val-fraction", [0, 0.9], [-1e-9, 0.900001, 1, None]),
    ("patience", "patience", [0, 1_000_000], [-1, 1_000_001, 1.5, None]),
    ("random_seed", "random-seed", [0, 2**63 - 1], [-1, 2**63, 0.0, None]),
    ("threads", "threads", [1, 4_096], [0, 4_097, 2.0, None]),
]


@pytest.mark.parametrize(("field", "shown", "inside", "outside"), TRAINING_RANGES)
def test_training_settings_have_ranges(
    field: str, shown: str, inside: list[Any], outside: list[Any]
) -> None:
    for good in inside:
        assert getattr(TrainingConfig(**{field: good}), field) == good
    for bad in (*outside, *NEVER_A_NUMBER):
        with pytest.raises(ConfigError) as caught:
            TrainingConfig(**{field: bad})
        assert caught.value.message.startswith(f"{shown} must be a ")
        assert caught.value.message.endswith(f", not {bad!r}")
        assert caught.value.hint is None
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("field", [field for field, *_ in TRAINING_RANGES])
def test_a_number_too_large_for_a_float_is_out_of_range(field: str) -> None:
    with pytest.raises(ConfigError, match="must be a"):
        TrainingConfig(**{field: HUGE})


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(recipe="keras")  # type: ignore[arg-type]
    assert "'default', 'article'" in caught.value.message
    assert caught.value.message.endswith("not 'keras'")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"low": 0}, "share must be a finite number at least 0, not -2"),
        ({"low": 0, "low_open": True}, "share must be a finite number above 0, not -2"),
        ({"low": 0, "high": 1}, "share must be a finite number at least 0 and at most 1, not -2"),
        (
            {"low": 0, "high": 1, "high_open": True},
            "share must be a finite number at least 0 and below 1, not -2",
        ),
    ],
)
def test_a_range_error_says_what_is_allowed(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_float("share", -2, **limits)
    assert caught.value.message == message


@given(value=st.floats(), low_open=st.booleans(), high_open=st.booleans())
@PROPERTY
def test_check_float_accepts_exactly_the_numbers_in_the_range(
    value: float, low_open: bool, high_open: bool
) -> None:
    in_range = -3 <= value <= 5  # false for NaN
    if (low_open and value == -3) or (high_open and value == 5):
        in_range = False
    try:
        check_float("x", value, low=-3, high=5, low_open=low_open, high_open=high_open)
        is_accepted = True
    except ConfigError:
        is_accepted = False
    assert is_accepted == in_range


@given(value=st.integers(-10, 10))
@PROPERTY
def test_check_int_accepts_exactly_the_closed_range(value: int) -> None:
    try:
        check_int("x", value, low=-3, high=5)
        is_accepted = True
    except ConfigError:
        is_accepted = False
    assert is_accepted == (value in range(-3, 6))


@pytest.mark.parametrize("config", [NetworkConfig(vocabulary_size=9), TrainingConfig()])
def test_a_configuration_cannot_be_changed(config: Any) -> None:
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, getattr(config, field))


# --- recipes ------------------------------------------------------------------


def test_the_article_recipe_is_the_article() -> None:
    config = recipe_defaults("article", n_train=100_000)
    assert config.recipe == "article"
    assert config.epochs == 100
    assert config.batch_size == 30
    assert config.dropout == 0.2
    assert config.learning_rate == 0.001  # Adam's default in Keras
    assert config.clip_norm is None
    assert config.lowercase
    assert config.val_fraction == 0  # no validation split and no early stop
    assert config.patience == 0


@pytest.mark.parametrize("n_train", [51, 90_000, 40_000_000])
def test_the_article_recipe_does_not_look_at_the_text(n_train: int) -> None:
    assert recipe_defaults("article", n_train=n_train) == recipe_defaults("article", n_train=7)


def test_the_default_recipe_leaves_the_budget_open_and_holds_out_a_tenth() -> None:
    config = recipe_defaults("default", n_train=90_000)
    assert config.recipe == "default"
    assert config.epochs is None
    assert config.minutes is None
    assert config.val_fraction == 0.1
    assert config.clip_norm is not None
    assert config.patience > 0
    assert not config.lowercase


@pytest.mark.parametrize(
    ("n_train", "rows"),
    [(51, 1), (499, 1), (999, 1), (1_000, 2), (15_999, 31), (16_000, 32), (10**9, 32)],
)
def test_small_texts_get_fewer_rows_of_ten_windows_at_least(n_train: int, rows: int) -> None:
    assert recipe_defaults("default", n_train=n_train).batch_size == rows
    for shorter in (9, 50):
        assert recipe_defaults("default", n_train=n_train, seq_length=shorter).batch_size == rows


@pytest.mark.parametrize(
    ("n_train", "seq_length", "rows"),
    [(20_000, 500, 4), (90_000, 500, 18), (159_999, 500, 31), (160_000, 500, 32), (70, 60, 1)],
)
def test_long_windows_get_fewer_rows(n_train: int, seq_length: int, rows: int) -> None:
    assert recipe_defaults("default", n_train=n_train, seq_length=seq_length).batch_size == rows


@given(n_train=st.integers(0, 10**10))
@PROPERTY
def test_every_size_of_text_gets_a_valid_configuration(n_train: int) -> None:
    config = recipe_defaults("default", n_train=n_train)
    assert 1 <= config.batch_size <= 32
    assert 0 <= config.dropout <= 0.6


@given(sizes=st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
@example(sizes=[0, 12_501])  # twice 12,501 characters were once read 100.008 times, not 100
@PROPERTY
def test_larger_texts_train_on_more_with_less_dropout(sizes: list[int]) -> None:
    sizes.sort()
    characters = [default_training_characters(n) for n in sizes]
    dropouts = [recipe_defaults("default", n_train=n).dropout for n in sizes]
    assert characters == sorted(characters)
    assert dropouts == sorted(dropouts, reverse=True)
    # Twice the text is never read more often than the text itself.
    doubled = [default_training_characters(2 * n) for n in sizes]
    assert all(more <= 2 * c + 1 for more, c in zip(doubled, characters, strict=True))


@given(epochs=st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
@PROPERTY
def test_a_text_read_more_often_gets_more_of_both_dropouts(epochs: list[float]) -> None:
    pairs = [adapted_dropout(e, n_train=9_000) for e in sorted(epochs)]
    for kind in (0, 1):
        values = [pair[kind] for pair in pairs]
        assert values == sorted(values)
        assert all(0 <= v <= 0.6 for v in values)


def test_dropout_grows_with_the_logarithm_of_the_epochs() -> None:
    def adapted(epochs: float) -> tuple[float, float]:
        return adapted_dropout(epochs, n_train=1_000_000)

    assert adapted(0.1) == adapted(2.5) == (0, 0)
    # The geometric middle of 2.5 and 40 is half the way.
    assert adapted(10) == (round(0.5 * 0.5**0.8, 2), round(0.3 * 0.5**2.5, 2))
    assert adapted(8) == (0.25, 0.03)
    assert adapted(20) == (0.4, 0.15)
    assert adapted(40) == adapted(1_000) == (0.5, 0.3)


def test_a_short_text_gets_more_dropout() -> None:
    pairs = [adapted_dropout(40, n_train=n) for n in (10, 4_500, 20_125, 90_000, 10**7)]
    # The geometric middle of 4,500 and 90,000 is half the way.
    assert pairs == [(0.6, 0.5), (0.6, 0.5), (0.55, 0.4), (0.5, 0.3), (0.5, 0.3)]
    assert adapted_dropout(2.5, n_train=10) == (0, 0)


def test_a_text_is_read_only_as_often_as_is_of_use() -> None:
    assert [useful_epochs(n) for n in (0, 25_000, 90_000)] == [100, 100, 360]
    # Ten minutes are 4,000 passes over a text of 4,500 characters, and none is learned from.
    assert expected_epochs(4_500, epochs=None, minutes=10) == 100
    assert expected_epochs(4_500, epochs=4_000, minutes=10) == 4_000
    assert default_training_characters(4_500) == 450_000


def test_the_budget_decides_how_often_a_text_is_read() -> None:
    assert expected_epochs(120_000, epochs=7.5, minutes=None) == 7.5
    # 30,000 characters a second, nominally.
    assert expected_epochs(120_000, epochs=None, minutes=3) == 45
    assert expected_epochs(120_000, epochs=8, minutes=3) == 8
    assert expected_epochs(90_000, epochs=None, minutes=None) == pytest.approx(55.6, abs=0.1)
    short = recipe_defaults("default", n_train=1_000_000, minutes=1)
    long = recipe_defaults("default", n_train=1_000_000, minutes=60)
    assert short.recurrent_dropout == 0
    assert short.dropout < long.dropout == 0.5


def test_a_small_text_after_another_is_learned_slowly() -> None:
    fresh = recipe_defaults("default", n_train=13_500)
    tuned = recipe_defaults("default", n_train=13_500, is_fine_tuning=True)
    assert tuned.learning_rate == pytest.approx(0.116 * fresh.learning_rate, rel=0.01)
    assert dataclasses.replace(tuned, learning_rate=fresh.learning_rate) == fresh
    rates = [fine_tuning_learning_rate(n) for n in (0, 9_000, 10_000, 250_000, 10**6, 10**9)]
    assert rates == pytest.approx([8e-4, 8e-4, 8e-4, 4e-3, 8e-3, 8e-3])


def test_training_grows_with_the_square_root_of_the_text_up_to_a_cap() -> None:
    assert default_training_characters(90_000) == 5_000_000
    assert default_training_characters(4 * 90_000) == 10_000_000
    assert default_training_characters(64 * 90_000) == 40_000_000
    assert default_training_characters(10**9) == 40_000_000


@pytest.mark.parametrize(
    ("recipe", "threads", "batch_size", "n_parts"),
    [
        ("default", 2, 32, 2),
        ("default", 1, 32, 1),
        ("default", 16, 32, 4),
        ("default", 2, 5, 1),
        ("article", 2, 30, 1),
    ],
)
def test_a_batch_is_cut_into_a_part_for_each_thread(
    recipe: Any, threads: int, batch_size: int, n_parts: int
) -> None:
    config = TrainingConfig(recipe=recipe, threads=threads, batch_size=batch_size)
    assert config.n_parts == n_parts
