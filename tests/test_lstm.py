"""The training layer against stock Keras and against finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytestmark = pytest.mark.tf

# (batch N, time T, features F, units U): each axis its own size; batch 1,
# window 1, units that are no multiple of a vector register; the real size.
SIZES = [(1, 1, 3, 5), (2, 3, 4, 7), (3, 1, 2, 13), (1, 6, 5, 9), (16, 50, 65, 300)]
LONG = (2, 211, 4, 7)  # takes another way back
# Sums over 800 rows in another order: some 1e-6 of the largest value.
RELATIVE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def tf():
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import tensorflow

    return tensorflow


def make_layer(weights):
    from charlstm.lstm import BlockLSTM

    layer = BlockLSTM(
        weights[1].shape[0], kernel_initializer="zeros", recurrent_initializer="zeros"
    )
    layer.build((None, None, weights[0].shape[0]))
    layer.set_weights(weights)
    return layer


def make_weights(rng, n_features, units):
    scale = 0.5 if units < 100 else 0.06
    shapes = [(n_features, 4 * units), (units, 4 * units), (4 * units,)]
    return [rng.normal(0, scale, shape).astype(np.float32) for shape in shapes]


def outputs_and_gradients(tf, call, tensors, variables, loss_weights):
    """Weigh all three outputs, so that each of them has a gradient."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = call()
        loss = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(results, loss_weights, strict=True)])
    gradients = tape.gradient(loss, [*tensors, *variables])
    return [r.numpy() for r in [*results, *gradients]]


NAMES = ["outputs", "h", "c", "d x", "d h0", "d c0", "d kernel", "d recurrent", "d bias"]


@pytest.mark.parametrize(("batch", "time", "n_features", "units"), [*SIZES, LONG])
def test_it_is_the_stock_layer(tf, batch, time, n_features, units):
    import keras

    rng = np.random.default_rng(1)
    weights = make_weights(rng, n_features, units)
    ours = make_layer(weights)
    stock = keras.layers.LSTM(units, return_sequences=True, return_state=True)
    stock.build((batch, time, n_features))
    stock.set_weights(weights)  # the weights move over as they are
    x = tf.constant(rng.normal(size=(time, batch, n_features)).astype(np.float32))
    h, c = (tf.constant(rng.normal(size=(batch, units)).astype(np.float32)) for _ in range(2))
    loss_weights = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((time, batch, units), (batch, units), (batch, units))
    ]

    def run_stock():
        out, h1, c1 = stock(tf.transpose(x, [1, 0, 2]), initial_state=[h, c])
        return tf.transpose(out, [1, 0, 2]), h1, c1

    @tf.function
    def run_ours():
        return ours(x, h, c)

    expected = outputs_and_gradients(
        tf, run_stock, [x, h, c], stock.trainable_variables, loss_weights
    )
    got = outputs_and_gradients(tf, run_ours, [x, h, c], ours.trainable_variables, loss_weights)
    for name, a, b in zip(NAMES, got, expected, strict=True):
        assert a.shape == b.shape, name
        assert np.abs(a - b).max() <= RELATIVE * np.abs(b).max(), name


def naive(x, h, c, kernel, recurrent, bias):
    """The equations, gate by gate, in float64."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    units = h.shape[1]
    outputs = []
    for x_t in x:
        z = x_t @ kernel + h @ recurrent + bias
        i, f, g, o = (z[:, n * units : (n + 1) * units] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), h, c


@pytest.mark.parametrize(("batch", "time", "n_features", "units"), SIZES[:4])
def test_gradients_are_finite_differences(tf, batch, time, n_features, units):
    """Each gradient against central differences of a float64 network, every entry."""
    rng = np.random.default_rng(2)
    weights = make_weights(rng, n_features, units)
    layer = make_layer(weights)
    arrays = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((time, batch, n_features), (batch, units), (batch, units))
    ]
    loss_weights = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((time, batch, units), (batch, units), (batch, units))
    ]
    tensors = [tf.constant(a) for a in arrays]
    got = outputs_and_gradients(
        tf, lambda: layer(*tensors), tensors, layer.trainable_variables, loss_weights
    )
    values = [a.astype(np.float64) for a in [*arrays, *weights]]

    def loss():
        return sum(float((a * b).sum()) for a, b in zip(naive(*values), loss_weights, strict=True))

    for name, value, gradient in zip(NAMES[3:], values, got[3:], strict=True):
        numeric = np.empty_like(value)
        for index in np.ndindex(value.shape):
            original = value[index]
            value[index] = original + 1e-5
            above = loss()
            value[index] = original - 1e-5
            numeric[index] = (above - loss()) / 2e-5
            value[index] = original
        # The layer is single precision: 1e-5 of the largest entry is its rounding.
        np.testing.assert_allclose(
            gradient, numeric, atol=2e-5 * np.abs(numeric).max(), err_msg=name
        )


def test_the_whole_is_its_pieces(tf):
    rng = np.random.default_rng(3)
    layer = make_layer(make_weights(rng, 4, 7))
    x = rng.normal(size=(11, 2, 4)).astype(np.float32)
    h = c = tf.zeros((2, 7))
    whole, *last = layer(x, h, c)
    pieces = []
    for start, stop in ((0, 5), (5, 6), (6, 11)):
        out, h, c = layer(x[start:stop], h, c)
        pieces.append(out)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)
    np.testing.assert_allclose(h, last[0], atol=1e-6)
    np.testing.assert_allclose(c, last[1], atol=1e-6)


@pytest.mark.parametrize("vocabulary_size", [7, 257, 4_000])
def test_ids_stand_for_one_hot_rows(tf, vocabulary_size):
    """A large vocabulary takes another way to the same outputs and gradients."""
    rng = np.random.default_rng(4)
    layer = make_layer(make_weights(rng, vocabulary_size, 5))
    ids = rng.integers(0, vocabulary_size, (6, 3)).astype(np.int32)
    ids[4] = ids[1]  # one character several times: its gradients add up
    h, c = (tf.constant(rng.normal(size=(3, 5)).astype(np.float32)) for _ in range(2))
    loss_weights = [
        rng.normal(size=shape).astype(np.float32) for shape in ((6, 3, 5), (3, 5), (3, 5))
    ]
    by_ids, by_rows = (
        outputs_and_gradients(
            tf,
            # In a graph, as in training: there the number of characters in
            # use is not known when it is traced, the window's length must be.
            tf.function(lambda x=x: layer(x, h, c)),
            [h, c],
            layer.trainable_variables,
            loss_weights,
        )
        for x in (tf.constant(ids), tf.one_hot(ids, vocabulary_size))
    )
    for a, b in zip(by_ids, by_rows, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("time", "starts"), [(11, [0, 4, 5, 9]), (11, [3, 11]), (1, [1]), (211, [7, 90])]
)
def test_documents_are_read_one_by_one(tf, time, starts):
    """Against the stock layer on each document alone, from zero; the last steps are given up."""
    import keras

    rng = np.random.default_rng(5)
    batch, n_features, units = 3, 4, 7
    weights = make_weights(rng, n_features, units)
    ours = make_layer(weights)
    stock = keras.layers.LSTM(units, return_sequences=True, return_state=True)
    stock.build((batch, time, n_features))
    stock.set_weights(weights)
    x = tf.constant(rng.normal(size=(time, batch, n_features)).astype(np.float32))
    h, c = (tf.constant(rng.normal(size=(batch, units)).astype(np.float32)) for _ in range(2))
    # The middle row alone has documents, so rows must not touch one another.
    ends = np.zeros((time, batch), bool)
    ends[[start - 1 for start in starts if start], 1] = True
    loss_weights = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((time, batch, units), (batch, units), (batch, units))
    ]

    def run_stock():
        bounds = sorted({0, *starts, time})
        rows = []
        for row in range(batch):
            state = [h[row : row + 1], c[row : row + 1]]
            outs = []
            for a, b in itertools.pairwise(bounds):
                out, *state = stock(x[a:b, row][None], initial_state=state)
                outs.append(out[0])
                if ends[b - 1, row]:
                    outs[-1] = tf.concat([out[0, :-1], tf.zeros((1, units))], axis=0)
                    state = [tf.zeros((1, units))] * 2
            rows.append((tf.concat(outs, axis=0), state[0][0], state[1][0]))
        out, h1, c1 = (tf.stack(series) for series in zip(*rows, strict=True))
        return tf.transpose(out, [1, 0, 2]), h1, c1

    @tf.function
    def run_ours():
        return ours(x, h, c, ends=tf.constant(ends))

    expected = outputs_and_gradients(
        tf, run_stock, [x, h, c], stock.trainable_variables, loss_weights
    )
    got = outputs_and_gradients(tf, run_ours, [x, h, c], ours.trainable_variables, loss_weights)
    for name, a, b in zip(NAMES, got, expected, strict=True):
        assert np.abs(a - b).max() <= RELATIVE * np.abs(b).max(), name
    # Nothing at all is left of what came before, forwards or backwards.
    assert not got[0][ends].any()
    assert not got[3][ends].any()
