"""Units that follow something: planted ones are found, and correlations are correlations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import (
    BRACKET_UNIT,
    PLANTED_NETWORK,
    PLANTED_VOCABULARY,
    WORD_UNIT,
    gate_columns,
    make_checkpoint,
    make_network,
    naive_network,
    planted_text,
    planted_weights,
)

from charlstm.activations import ObservedStep
from charlstm.engine import LSTMStep
from charlstm.errors import InputError
from charlstm.features import FEATURES, Feature, inside_brackets
from charlstm.neurons import (
    Scan,
    Tracking,
    find_excerpts,
    find_scan_text,
    rank_units,
    read_scan_text,
    untrained_weights,
)


def scan_of(text: str, weights: dict[str, np.ndarray], **extra: int) -> Scan:
    step = LSTMStep(PLANTED_NETWORK, weights)
    return rank_units(step, PLANTED_VOCABULARY.encode(text), text, source="test", **extra)


def by_feature(scan: Scan) -> dict[str, tuple[Tracking, ...]]:
    return {trackings[0].feature.name: trackings for trackings in scan.ranking}


def test_planted_units_are_found() -> None:
    found = by_feature(scan_of(planted_text(6_000), planted_weights()))
    for name, unit in (("inside brackets", BRACKET_UNIT), ("position in the word", WORD_UNIT)):
        best = found[name][0]
        assert (best.layer, best.unit) == (1, unit)
        assert best.correlation > 0.99
        assert best.strength == best.correlation


def test_what_is_not_in_the_text_is_said_to_be_absent() -> None:
    scan = scan_of(planted_text(3_000), planted_weights())
    absent = {feature.name for feature in scan.absent}
    assert absent == {
        "inside quotes",
        "speaker name",
        "capital letter",
        "digit",
        "end of a sentence",
    }
    assert absent | set(by_feature(scan)) == {feature.name for feature in FEATURES}


def without_the_character(values: np.ndarray, text: str) -> np.ndarray:
    """Take each character's own mean away."""
    rest = values.astype(np.float64).copy()
    for character in set(text):
        where = np.array([c == character for c in text])
        rest[where] -= rest[where].mean(axis=0)
    return rest


def test_correlations_are_those_of_numpy_on_the_equations() -> None:
    """Of tanh(c) in float64, over the second half; over the first for the choice."""
    text = planted_text(400)
    weights = planted_weights()
    ids = PLANTED_VOCABULARY.encode(text)
    cells = []  # from zero, with all that came before: one row of text needs no warming
    for n in range(1, len(text)):
        cells.append(
            np.concatenate(naive_network(PLANTED_NETWORK, weights, [ids[:n]]).c, axis=1)[0]
        )
    units = np.tanh(np.array(cells))  # after each character but the last
    half = len(text) // 2
    for trackings in scan_of(text, weights, n_best=10).ranking:
        values = trackings[0].feature.values(text)[:-1].astype(np.float64)
        for tracking in trackings:
            unit = units[:, (tracking.layer - 1) * PLANTED_NETWORK.units + tracking.unit]
            for part, actual in (
                (slice(0, half), tracking.chosen_by),
                (slice(half, None), tracking.correlation),
            ):
                pair = [unit[part], values[part]]
                if not tracking.is_read:
                    pair = [without_the_character(x, text[:-1][part]) for x in pair]
                expected = np.corrcoef(*pair)[0, 1]
                assert actual == pytest.approx(expected, abs=3e-4), tracking


def test_what_the_character_decides_is_told_apart() -> None:
    ranking = scan_of(planted_text(3_000), planted_weights()).ranking
    is_read = {trackings[0].feature.name: trackings[0].is_read for trackings in ranking}
    assert {name for name, is_so in is_read.items() if is_so} == {
        "vowel",
        "line feed",
        "between words",
    }
    assert list(is_read.values()) == sorted(is_read.values())  # what is remembered comes first


def test_a_unit_that_tells_characters_follows_nothing_but_characters() -> None:
    """Capitals begin the lines, and a unit that is on at capitals knows nothing of lines."""
    text = "".join(f"A{word}\n" for word in planted_text(1_900).replace("\n", " ").split())
    weights = planted_weights()
    units = PLANTED_NETWORK.units
    kernel = weights["lstm_1/kernel"]
    for gate, by_character in (("f", -20.0), ("i", 20.0), ("g", None)):
        column = gate_columns(units, gate).start + WORD_UNIT
        kernel[:, column] = 0 if by_character is None else by_character
        if by_character is None:
            kernel[PLANTED_VOCABULARY.char_to_id["A"], column] = 20
    (trackings,) = rank_units(
        LSTMStep(PLANTED_NETWORK, weights),
        PLANTED_VOCABULARY.encode(text),
        text,
        source="test",
        n_best=10,
        features=[feature for feature in FEATURES if feature.name == "position in the line"],
    ).ranking
    (told,) = [t for t in trackings if (t.layer, t.unit) == (1, WORD_UNIT)]
    plain = np.corrcoef(np.array([c == "A" for c in text]), trackings[0].feature.values(text))[0, 1]
    assert abs(plain) > 0.3
    assert abs(told.correlation) < 0.02


def test_untrained_networks_set_the_bar() -> None:
    """What an untrained network's best unit does is told, and only more than that is claimed."""
    text = planted_text(6_000)
    ids = PLANTED_VOCABULARY.encode(text)
    step = LSTMStep(PLANTED_NETWORK, untrained_weights(PLANTED_NETWORK, random_seed=0))
    for trackings in rank_units(step, ids, text, source="test").ranking:
        assert trackings[0].strength == pytest.approx(trackings[0].untrained, abs=1e-6)
        assert not trackings[0].follows
    found = by_feature(scan_of(text, planted_weights()))
    assert found["inside brackets"][0].follows
    assert found["inside brackets"][0].untrained < 0.6


def test_untrained_weights_are_those_that_keras_begins_with() -> None:
    """Orthogonal recurrent kernels, kernels within Glorot's limits, forget biases 1."""
    weights = untrained_weights(PLANTED_NETWORK, random_seed=3)
    recurrent, units = weights["lstm_2/recurrent_kernel"], PLANTED_NETWORK.units
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(units), atol=1e-6)
    kernel = weights["lstm_1/kernel"]
    limit = np.sqrt(6 / sum(kernel.shape))
    assert 0.9 * limit < np.abs(kernel).max() <= limit
    assert weights["lstm_1/bias"].tolist() == [0] * units + [1] * units + [0] * 2 * units
    assert not weights["dense/bias"].any()


def test_units_are_ranked_by_the_first_half_alone() -> None:
    """What follows brackets in the first half and line feeds in the second is a bracket's unit."""

    def values(text: str) -> np.ndarray:
        half = len(text) // 2
        other = np.array([c == "\n" for c in text[half:]], np.float32)
        return np.concatenate([inside_brackets(text)[:half], other])

    text = planted_text(1_900)
    ((best, *_),) = rank_units(
        LSTMStep(PLANTED_NETWORK, planted_weights()),
        PLANTED_VOCABULARY.encode(text),
        text,
        source="test",
        features=[Feature("two-faced", "", values)],
    ).ranking
    assert (best.layer, best.unit) == (1, BRACKET_UNIT)
    assert best.chosen_by > 0.95
    assert abs(best.correlation) < 0.5


def test_a_unit_whose_halves_disagree_is_worth_nothing() -> None:
    tracking = Tracking(
        feature=FEATURES[0],
        layer=1,
        unit=0,
        correlation=-0.7,
        chosen_by=0.7,
        untrained=0.1,
        is_read=False,
    )
    assert tracking.strength == 0
    assert not tracking.follows


def test_the_best_units_come_once_each_and_the_strongest_first() -> None:
    scan = scan_of(planted_text(6_000), planted_weights())
    best = scan.best(at_most=4)
    assert len({(t.layer, t.unit) for t in best}) == len(best) <= 4
    order = [(t.is_read, -t.strength) for t in best]
    assert order == sorted(order)
    assert all(t.follows for t in best)
    assert len(scan.best(at_most=1)) == 1


def test_sliding_windows_are_read_as_they_are_for_writing() -> None:
    """Within a window of 8 the counting unit still knows the place in a short word."""
    network = make_network(vocabulary_size=len(PLANTED_VOCABULARY), carries_state=False)
    text = planted_text(1_500)
    scan = rank_units(
        LSTMStep(network, planted_weights(network)),
        PLANTED_VOCABULARY.encode(text),
        text,
        source="test",
    )
    best = by_feature(scan)["position in the word"][0]
    assert (best.layer, best.unit) == (1, WORD_UNIT)
    assert 0.9 < best.correlation < 0.999  # words of nine letters do not fit


def test_an_excerpt_shows_the_unit_where_the_feature_changes() -> None:
    lines = planted_text(800).rpartition("\n")[0] + "\n"  # where no bracket is open
    text = lines + "abcde " * 300 + planted_text(600, 5) + "abcde " * 100
    weights = planted_weights()
    scan = scan_of(text, weights)
    ids = PLANTED_VOCABULARY.encode(text)
    excerpts = find_excerpts(ObservedStep(PLANTED_NETWORK, weights), scan, ids, length=90)
    (brackets,) = [e for e in excerpts if e.tracking.feature.name == "inside brackets"]
    assert len(brackets.text) == len(brackets.values) == len(brackets.feature) == 90
    start = text.index(brackets.text)
    assert start >= len(text) // 2
    assert "(" in brackets.text
    np.testing.assert_array_equal(
        brackets.feature, brackets.tracking.feature.values(text)[start : start + 90]
    )
    # The planted unit is tanh(1) inside and 0 outside.
    np.testing.assert_allclose(brackets.values, np.tanh(1) * brackets.feature, atol=1e-3)


def test_a_short_text_is_refused() -> None:
    with pytest.raises(InputError, match="199 characters are too few"):
        scan_of(planted_text(199), planted_weights())


def test_a_unit_that_stands_still_follows_nothing() -> None:
    weights = {name: np.zeros_like(array) for name, array in planted_weights().items()}
    for trackings in scan_of(planted_text(500), weights).ranking:
        assert {t.correlation for t in trackings} == {0.0}


def test_without_its_text_a_model_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = make_checkpoint(tmp_path / "tale")
    text, source = find_scan_text(checkpoint, limit=700)
    assert len(text) == 700
    assert "wrote itself" in source
    assert find_scan_text(checkpoint, limit=700) == (text, source)  # the same each time


def test_a_text_that_is_given_is_read_as_the_corpus_was(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tale")  # lower-cased, and knows no z
    path = tmp_path / "other.txt"
    path.write_text("ABCD zé " * 100, encoding="utf-8", newline="")
    left_out = ", without 100 characters that the model has never seen"
    assert read_scan_text(checkpoint, path) == ("abcd é " * 100, f"all of other.txt{left_out}")
    text, source = read_scan_text(checkpoint, path, limit=8)
    assert text == "cd é abcd é "[-8:]
    assert source == f"the last 8 characters of other.txt{left_out}"
