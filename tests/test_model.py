"""The Keras networks against the article's `Sequential`, stock layers and NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from charlstm.checkpoint import weight_shapes
from charlstm.config import NetworkConfig
from charlstm.engine import LSTMState, LSTMStep

pytestmark = pytest.mark.tf

# Float32 products over 300 units, summed in another order, differ by some 1e-6.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def keras():
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import keras

    return keras


def articles_own_model(keras, vocabulary_size: int):
    """The article's network as its reader would type it."""
    model = keras.Sequential()
    model.add(keras.Input((50, 1)))
    model.add(keras.layers.LSTM(300, return_sequences=True))
    model.add(keras.layers.Dropout(0.2))
    model.add(keras.layers.LSTM(300))
    model.add(keras.layers.Dropout(0.2))
    model.add(keras.layers.Dense(vocabulary_size, activation="softmax"))
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


def article_network(vocabulary_size: int) -> NetworkConfig:
    return NetworkConfig(vocabulary_size=vocabulary_size, input="scaled", carries_state=False)


def test_article_network_has_the_articles_layers(keras):
    from charlstm.model import build_article_network

    ours = build_article_network(article_network(41), dropout=0.2, random_seed=3)
    theirs = articles_own_model(keras, 41)
    assert [type(layer) for layer in ours.layers] == [type(layer) for layer in theirs.layers]
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        assert our.output.shape == their.output.shape
        for key in ("units", "rate", "return_sequences", "activation", "recurrent_activation"):
            assert getattr(our, key, None) == getattr(their, key, None), (our.name, key)
        for a, b in zip(our.weights, their.weights, strict=True):
            assert a.shape == b.shape
    assert ours.input_shape == theirs.input_shape == (None, 50, 1)


@pytest.mark.parametrize("vocabulary_size", [41, 65])
def test_article_network_has_the_articles_parameters(keras, vocabulary_size):
    from charlstm.model import build_article_network

    ours = build_article_network(article_network(vocabulary_size), dropout=0.2, random_seed=0)
    expected = 362_400 + 721_200 + 301 * vocabulary_size
    trainable = sum(int(np.prod(v.shape)) for v in ours.trainable_variables)
    assert trainable == expected == article_network(vocabulary_size).parameters


def test_article_network_gives_the_articles_outputs_layer_by_layer(keras):
    from charlstm.model import article_inputs, build_article_network

    ours = build_article_network(article_network(41), dropout=0.2, random_seed=3)
    theirs = articles_own_model(keras, 41)
    theirs.set_weights([w.numpy() for w in ours.trainable_variables])
    ids = np.random.default_rng(5).integers(0, 41, (4, 50))
    our_x = article_inputs(ids, 41)
    their_x = np.reshape(ids, (4, 50, 1)) / float(41)
    np.testing.assert_allclose(our_x, their_x, rtol=1e-6)
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        our_x, their_x = our(our_x), their(their_x)
        np.testing.assert_allclose(our_x, their_x, atol=1e-6, err_msg=our.name)


def test_article_step_is_the_articles_step(keras):
    """One optimizer step changes the weights as `fit` on one-hot labels does."""
    from charlstm.config import TrainingConfig
    from charlstm.trainers import ArticleTrainer, TrainerState

    network = article_network(7)
    ids = np.random.default_rng(0).integers(0, 7, 80).astype(np.uint8)
    # Without dropout, since the masks of two models differ.
    config = TrainingConfig(recipe="article", batch_size=30, dropout=0.0, learning_rate=1e-3)
    trainer = ArticleTrainer(network, config, ids)
    theirs = articles_own_model(keras, 7)
    for layer in theirs.layers:
        if "dropout" in layer.name:
            layer.rate = 0.0
    theirs.set_weights([w.numpy() for w in trainer.model.trainable_variables])
    inputs, targets, _ = trainer.batches.batch(0)
    assert inputs.shape == (30, 50)
    assert targets.shape == (30,)
    loss, n_chars = trainer.train_step(TrainerState())
    labels = np.eye(7, dtype=np.float32)[targets]
    their_loss = theirs.train_on_batch(inputs[..., None] / 7.0, labels)
    assert n_chars == 30
    assert loss == pytest.approx(float(their_loss), rel=1e-5)
    for ours, theirs_weight in zip(
        trainer.model.trainable_variables, theirs.trainable_variables, strict=True
    ):
        # Adam divides by the gradient's size: where that is nearly 0 the sign
        # of a rounding error decides, so a few entries may differ by a step.
        difference = np.abs(ours.numpy() - theirs_weight.numpy())
        assert np.quantile(difference, 0.99) < 1e-5, ours.path


@pytest.mark.parametrize("kind", ["one_hot", "scaled"])
@pytest.mark.parametrize(("layers", "units"), [(2, 300), (3, 5)])
def test_numpy_step_agrees_with_keras(keras, kind, layers, units):
    from charlstm.model import (
        StreamLSTM,
        article_inputs,
        build_article_network,
        get_weights,
        set_weights,
    )

    network = NetworkConfig(
        vocabulary_size=23, units=units, layers=layers, seq_length=11, input=kind
    )
    if kind == "one_hot":
        model = StreamLSTM(network, dropout=0.5, random_seed=1)
    else:
        model = build_article_network(network, dropout=0.5, random_seed=1)
    rng = np.random.default_rng(2)
    weights = {
        name: rng.normal(0, 0.3 if units < 100 else 0.06, shape).astype(np.float32)
        for name, shape in weight_shapes(network).items()
    }
    set_weights(model, weights)
    for name, array in get_weights(model).items():
        np.testing.assert_array_equal(array, weights[name])
    ids = rng.integers(0, 23, (3, 11))
    step, state = LSTMStep(network, weights), LSTMState(network, 3)
    ours = []
    for t in range(11):
        step.advance(ids[:, t], state)
        ours.append(step.logits(state))
    if kind == "one_hot":
        logits, states = model(ids)
        np.testing.assert_allclose(np.stack(ours, 1), logits, atol=TOLERANCE)
        for n, (h, c) in enumerate(states):
            np.testing.assert_allclose(state.h[n], h, atol=TOLERANCE)
            np.testing.assert_allclose(state.c[n], c, atol=TOLERANCE)
    else:
        log_p = np.log(model(article_inputs(ids, 23)).numpy())
        centred = ours[-1] - np.log(np.exp(ours[-1]).sum(-1, keepdims=True))
        np.testing.assert_allclose(centred, log_p, atol=TOLERANCE)


def test_stream_network_has_the_weights_of_stock_layers(keras):
    from charlstm.model import StreamLSTM, named_variables

    network = NetworkConfig(vocabulary_size=7, units=5, layers=2)
    model = StreamLSTM(network, dropout=0.1, random_seed=1)
    variables = named_variables(model)
    assert {name: tuple(v.shape) for name, v in variables.items()} == weight_shapes(network)
    for n in (1, 2):
        bias = variables[f"lstm_{n}/bias"].numpy()
        # Forget-gate bias 1 (Jozefowicz et al., 2015), the others 0.
        np.testing.assert_array_equal(bias, [0] * 5 + [1] * 5 + [0] * 10)


def test_stream_network_carries_its_state(keras):
    from charlstm.model import StreamLSTM

    model = StreamLSTM(
        NetworkConfig(vocabulary_size=7, units=5, layers=2), dropout=0.4, random_seed=1
    )
    ids = np.random.default_rng(0).integers(0, 7, (2, 12))
    whole, last = model(ids)
    states, pieces = None, []
    for start, stop in ((0, 3), (3, 4), (4, 12)):
        logits, states = model(ids[:, start:stop], states)
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-6)
    for a, b in zip(last, states, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_dropout_is_a_function_of_seed_and_step(keras):
    from charlstm.model import StreamLSTM

    network = NetworkConfig(vocabulary_size=7, units=50, layers=2)
    ids = np.random.default_rng(0).integers(0, 7, (3, 4))
    model = StreamLSTM(network, dropout=0.5, random_seed=1)
    once, _ = model(ids, training=True, step=6)
    again, _ = model(ids, training=True, step=6)
    later, _ = model(ids, training=True, step=7)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, later)
    still, _ = model(ids)
    assert not np.array_equal(once, still)


@pytest.mark.parametrize(("rate", "dropped"), [(0.3, 77 / 256), (0.5, 0.5), (0.001, 1 / 256)])
def test_dropout_drops_a_share_and_keeps_the_mean(keras, rate, dropped):
    """Against a binomial distribution; the rate is a multiple of 1/256."""
    import tensorflow as tf

    from charlstm.model import _dropout_mask

    shape = (50, 13, 301)  # not a multiple of the 8 bytes in a random word
    mask = _dropout_mask(tf.zeros(shape), rate, tf.constant([5, 6])).numpy()
    assert mask.shape == shape
    n_dropped = np.count_nonzero(mask == 0)
    spread = np.sqrt(mask.size * dropped * (1 - dropped))
    assert abs(n_dropped - mask.size * dropped) < 5 * spread
    np.testing.assert_allclose(mask[mask != 0], 1 / (1 - dropped), rtol=1e-6)


def test_dropout_masks_nothing_in_common(keras):
    """What falls out at one place says nothing about its neighbours, the next layer or step."""
    import tensorflow as tf

    from charlstm.model import StreamLSTM, _dropout_mask

    network = NetworkConfig(vocabulary_size=7, units=5, layers=2)
    model = StreamLSTM(network, dropout=0.5, random_seed=1)
    seeds = [
        model._mask_seed(step, layer=layer, part=part)
        for step in (3, 4)
        for layer in (0, 1)
        for part in (0, 1)
    ]
    like = tf.zeros((20, 8, 100))
    kept = [_dropout_mask(like, 0.5, seed).numpy().ravel() > 0 for seed in seeds]
    pairs = [(a, b) for n, a in enumerate(kept) for b in kept[:n]]
    pairs += [(kept[0][:-lag], kept[0][lag:]) for lag in (1, 2, 4, 8, 100, 800)]
    for a, b in pairs:
        assert abs(np.mean(a == b) - 0.5) < 5 * 0.5 / np.sqrt(len(a))


def test_initial_weights_follow_the_random_seed(keras):
    from charlstm.model import StreamLSTM, get_weights

    network = NetworkConfig(vocabulary_size=7, units=5, layers=2)

    def kernel(random_seed: int) -> np.ndarray:
        model = StreamLSTM(network, dropout=0.1, random_seed=random_seed)
        return get_weights(model)["lstm_1/kernel"]

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert not np.array_equal(kernel(1), kernel(2))


def test_recurrent_dropout_is_a_mask_on_the_recurrent_kernel(keras):
    """Half the recurrent weights fall out, the same ones at every step of a window."""
    import tensorflow as tf

    from charlstm.model import StreamLSTM

    network = NetworkConfig(vocabulary_size=7, units=40, layers=2)
    model = StreamLSTM(network, dropout=0.0, recurrent_dropout=0.5, random_seed=1)
    (first, second) = model.pack_weights(training=True, step=3)
    for lstm, packed in zip(model.lstms, (first, second), strict=True):
        kernel = lstm.recurrent_kernel.numpy()
        kept = packed.recurrent.numpy() != 0
        assert 0.45 < kept.mean() < 0.55
        np.testing.assert_allclose(packed.recurrent.numpy()[kept], 2 * kernel[kept], rtol=1e-6)
    assert not np.array_equal(first.recurrent.numpy() == 0, second.recurrent.numpy() == 0)
    again, _ = model.pack_weights(training=True, step=3)
    np.testing.assert_array_equal(again.recurrent, first.recurrent)
    still, _ = model.pack_weights()
    np.testing.assert_array_equal(still.recurrent, model.lstms[0].recurrent_kernel)

    ids = tf.constant(np.random.default_rng(0).integers(0, 7, (3, 4)))
    dropped, _ = model(ids, training=True, step=3)
    plain = StreamLSTM(network, dropout=0.0, random_seed=1)
    for lstm, packed in zip(plain.lstms, (first, second), strict=True):
        lstm.recurrent_kernel.assign(packed.recurrent)
    np.testing.assert_allclose(dropped, plain(ids)[0], atol=1e-6)


def test_rows_of_a_part_drop_what_the_whole_part_would(keras):
    """Also the rows in its middle, through both layers' masks."""
    import tensorflow as tf

    from charlstm.model import PartRows, StreamLSTM

    model = StreamLSTM(
        NetworkConfig(vocabulary_size=7, units=5, seq_length=4), dropout=0.4, random_seed=3
    )
    ids = tf.constant(np.random.default_rng(0).integers(0, 7, (9, 4)), tf.int32)
    options = {"training": True, "step": 6, "part": 2}
    whole, states = model(ids, **options)
    some, some_states = model(ids[3:8], part_rows=PartRows(3, 9), **options)
    np.testing.assert_allclose(some, whole[3:8], atol=1e-6)
    np.testing.assert_allclose(some_states[1][0], states[1][0][3:8], atol=1e-6)
    other, _ = model(ids[3:8], part_rows=PartRows(4, 9), **options)
    assert not np.allclose(other, whole[3:8], atol=1e-3)
