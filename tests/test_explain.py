"""An explanation's numbers, against equations written out and the network's own writing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    VOCABULARY,
    make_checkpoint,
    make_network,
    naive_network,
    random_weights,
    sigmoid,
)

from charlstm.activations import ObservedStep
from charlstm.checkpoint import Checkpoint
from charlstm.engine import LSTMStep
from charlstm.errors import InputError
from charlstm.explain import Explanation, as_json, explain
from charlstm.generation import Voice, write_texts
from charlstm.scoring import score_characters, score_ids
from charlstm.stopping import StopRules

TEXT = "abcd é\nadé bca"
SCAN = ("".join(np.random.default_rng(3).choice(list("abcdé \n"), size=600)), "a test")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "tale")


@pytest.fixture
def sliding(tmp_path: Path) -> Checkpoint:
    return make_checkpoint(tmp_path / "article", make_network(carries_state=False, input="scaled"))


def explained(checkpoint: Checkpoint, text: str = TEXT, **options: object) -> Explanation:
    return explain(checkpoint, text, scan=SCAN, **options)  # type: ignore[arg-type]


def test_surprise_is_minus_log2_of_what_came(checkpoint: Checkpoint) -> None:
    explanation = explained(checkpoint)
    logits = naive_network(checkpoint.network, checkpoint.weights, [VOCABULARY.encode(TEXT)]).logits
    p = np.exp(logits[0] - logits[0].max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = [-math.log2(p[t, VOCABULARY.encode(TEXT[t + 1])[0]]) for t in range(len(TEXT) - 1)]
    assert math.isnan(explanation.surprise_bits[0])
    np.testing.assert_allclose(explanation.surprise_bits[1:], expected, atol=1e-4)
    assert explanation.mean_bits == pytest.approx(np.mean(expected), abs=1e-4)
    for t, likeliest in enumerate(explanation.likeliest):
        order = np.argsort(-p[t])[:5]
        assert [c for c, _ in likeliest] == [VOCABULARY.characters[n] for n in order]
        np.testing.assert_allclose([q for _, q in likeliest], p[t, order], atol=1e-4)


@pytest.mark.parametrize("name", ["checkpoint", "sliding"])
def test_surprise_is_what_evaluate_says(name: str, request: pytest.FixtureRequest) -> None:
    checkpoint = request.getfixturevalue(name)
    nats = score_characters(
        LSTMStep(checkpoint.network, checkpoint.weights), VOCABULARY.encode(TEXT)
    )
    bits = explained(checkpoint).surprise_bits
    np.testing.assert_allclose(bits[1:], nats[1:] / math.log(2), atol=1e-5)


@pytest.mark.parametrize("name", ["checkpoint", "sliding"])
def test_the_terms_of_each_gate_add_up_to_it(name: str, request: pytest.FixtureRequest) -> None:
    explanation = explained(request.getfixturevalue(name))
    for layer, gates in enumerate(explanation.terms):
        for gate, terms in gates.items():
            total = terms.below + terms.own + terms.bias
            np.testing.assert_array_equal(total, terms.total)
            value = np.tanh(total) if gate == "candidate" else sigmoid(total)
            seen = getattr(explanation.activations, gate)[layer]
            np.testing.assert_allclose(value, seen, atol=1e-5, err_msg=f"{layer} {gate}")
            assert not terms.own[0].any()  # nothing before the first


def test_a_unit_of_each_layer_has_its_own_terms(checkpoint: Checkpoint) -> None:
    """What comes from below is the character in layer 1 and the layer's hidden state above."""
    explanation = explained(checkpoint)
    activations, units = explanation.activations, checkpoint.network.units
    first, second = explanation.terms[0]["candidate"], explanation.terms[1]["output"]
    column = checkpoint.weights["lstm_1/kernel"][:, 2 * units + 2]
    np.testing.assert_array_equal(first.below[:, 2], column[VOCABULARY.encode(TEXT)])
    column = checkpoint.weights["lstm_2/kernel"][:, 3 * units + 4]
    np.testing.assert_allclose(second.below[:, 4], activations.hidden[0] @ column, atol=1e-6)
    column = checkpoint.weights["lstm_2/recurrent_kernel"][:, 3 * units + 4]
    before = np.concatenate([np.zeros((1, units)), activations.hidden[1][:-1]])
    np.testing.assert_allclose(second.own[:, 4], before @ column, atol=1e-6)
    assert second.bias[4] == checkpoint.weights["lstm_2/bias"][3 * units + 4]


def test_a_longer_text_is_cut(checkpoint: Checkpoint) -> None:
    explanation = explained(checkpoint, max_characters=5, n_seed=9)
    assert explanation.text == TEXT[:5]
    assert explanation.n_left_out == len(TEXT) - 5
    assert explanation.n_seed == 5
    assert len(explanation.surprise_bits) == len(explanation.likeliest) == 5


def test_one_character_and_none(checkpoint: Checkpoint) -> None:
    explanation = explained(checkpoint, "a")
    assert math.isnan(explanation.mean_bits)
    with pytest.raises(InputError, match="no character to explain"):
        explained(checkpoint, "")


def test_a_model_whose_own_text_is_too_short_writes_one(tmp_path: Path) -> None:
    """Units are still looked for, in what it writes, and it is said."""
    explanation = explain(make_checkpoint(tmp_path / "tale"), TEXT)
    assert explanation.scan.source.startswith("a text that it wrote itself")
    assert len(explanation.scan.text) == 20_000


def test_telling_units_are_at_least_as_good_as_was_asked(checkpoint: Checkpoint) -> None:
    for unit in explained(checkpoint).units:
        assert unit.tracking is None or unit.tracking.follows


def test_where_no_unit_follows_anything_the_liveliest_is_shown(tmp_path: Path) -> None:
    network = make_network()
    weights = {name: np.zeros_like(a) for name, a in random_weights(network).items()}
    still = gate = make_checkpoint(tmp_path / "still", network, weights)
    assert [(u.layer, u.unit, u.tracking) for u in explained(gate).units] == [(1, 0, None)]
    assert len(explained(still).units) == 1


# --- ablations ------------------------------------------------------------------


def test_ablations_are_what_the_held_network_writes_and_scores(checkpoint: Checkpoint) -> None:
    explanation = explained(checkpoint, n_seed=4, ablate=["forget", "output"], random_seed=5)
    ways = [(a.gate, a.held) for a in explanation.ablations]
    assert ways == [
        (None, None),
        ("forget", "open"),
        ("forget", "shut"),
        ("output", "open"),
        ("output", "shut"),
    ]
    held = {None: {}, "open": 1.0, "shut": 0.0}
    for ablation in explanation.ablations:
        gates = {} if ablation.gate is None else {ablation.gate: held[ablation.held]}
        step = ObservedStep(checkpoint.network, checkpoint.weights, held=gates)
        voice = Voice(parts=((step, VOCABULARY, 1.0),), vocabulary=VOCABULARY)
        pieces = write_texts(voice, [TEXT[:4]], random_seeds=[5], rules=StopRules(length=200))
        assert ablation.text == "".join(piece.text for piece in pieces)
        loss = score_ids(step, VOCABULARY.encode(SCAN[0])).nats_per_char
        assert ablation.nats_per_char == pytest.approx(loss, abs=1e-6)
    texts = {ablation.text for ablation in explanation.ablations}
    assert len(texts) == len(explanation.ablations)  # every gate makes a difference


def test_without_memory_only_the_character_itself_counts(tmp_path: Path) -> None:
    """With output gates shut the logits are the last layer's bias, whatever was read."""
    checkpoint = make_checkpoint(tmp_path / "tale")
    shut = explained(checkpoint, ablate=["output"]).ablations[2]
    bias = checkpoint.weights["dense/bias"].astype(np.float64)
    log_p = bias - np.log(np.exp(bias).sum())
    expected = -np.mean(log_p[VOCABULARY.encode(SCAN[0])[1:]])
    assert shut.nats_per_char == pytest.approx(expected, abs=1e-5)


def test_a_forget_gate_that_is_open_lets_cell_states_grow(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tale")
    as_it_is, opened, shut = explained(checkpoint, ablate=["forget"]).ablations
    assert opened.cell_size > 3 * as_it_is.cell_size
    assert shut.cell_size < 1  # one candidate at most


# --- JSON -----------------------------------------------------------------------


def test_json_has_all_the_numbers(checkpoint: Checkpoint) -> None:
    explanation = explained(checkpoint, n_seed=6, ablate=["input"])
    content = json.loads(json.dumps(as_json(explanation), allow_nan=False))
    assert content["text"] == TEXT
    assert content["seed_characters"] == 6
    assert content["surprise_bits"][0] is None
    for name in ("input", "forget", "candidate", "output", "cell", "cell_before", "hidden",
                 "hidden_before"):  # fmt: skip
        np.testing.assert_allclose(
            content[name], getattr(explanation.activations, name), atol=1e-6, err_msg=name
        )
    assert [len(row) for row in content["likeliest"]] == [5] * len(TEXT)
    assert len(content["ablations"]) == 3
    unit = content["telling_units"][0]
    assert set(unit["terms"]) == {"input", "forget", "candidate", "output"}
    assert len(unit["terms"]["input"]["below"]) == len(TEXT)
    assert content["scan"] == {"source": "a test", "characters": 600}
