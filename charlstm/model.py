"""The two networks in Keras: the article's, and the one with carried state.

The article's is made of stock Keras layers. The other trains with the faster
layer of `lstm` on CPUs and with stock Keras (cuDNN) on a GPU. The weights are
those of `keras.layers.LSTM` (gates packed i, f, g, o) and `keras.layers.Dense`
in each, named as in `checkpoint.weight_shapes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from charlstm.checkpoint import Arrays
from charlstm.config import NetworkConfig, Precision
from charlstm.lstm import CLOSED, BlockLSTM, PackedWeights, with_reset_row, with_resets
from charlstm.vocabulary import Vocabulary

# As `CLOSED`, within what half precision can hold.
CLOSED_IN_HALF = -3e4
# One (hidden state h, cell state c) pair a layer, each (batch, units) float32.
States = list[tuple[tf.Tensor, tf.Tensor]]
# One a layer; where stock Keras runs it, a masked recurrent kernel or None.
Weights = list[PackedWeights | tf.Tensor | None]
# Masks on weights are drawn under this number, those of a part under its own.
_WHOLE_BATCH = 4095


class PartRows(NamedTuple):
    """Which rows of a part of a batch these are; the part's masks are drawn whole.

    So what is dropped does not depend on who trains which rows.

    Attributes:
        first: The first of them.
        n_rows: Rows of the part in all.
    """

    first: int
    n_rows: int


class StreamLSTM(keras.Model):
    """The default recipe's network: one-hot characters, state carried along.

    Args:
        network: Shape; `input` must be "one_hot".
        dropout: Share of each LSTM layer's outputs dropped while training.
        recurrent_dropout: Share of each recurrent kernel's weights dropped
            while training, the same ones for a whole step.
        random_seed: Fixes initial weights and dropout masks.
        precision: "mixed" lets training steps on a GPU multiply in half
            precision; weights, states and logits are single.

    References:
        Hochreiter & Schmidhuber, 1997, Long Short-Term Memory; Gers et al.,
        2000 (forget gate); Jozefowicz et al., 2015 (forget-gate bias of 1);
        Zaremba et al., 2014 (dropout between layers only); Merity et al.,
        2018 (dropping recurrent weights); Micikevicius et al., 2018, Mixed
        Precision Training.
    """

    def __init__(
        self,
        network: NetworkConfig,
        *,
        dropout: float,
        random_seed: int,
        recurrent_dropout: float = 0.0,
        precision: Precision = "float32",
    ) -> None:
        """Build the layers with seeded initial weights."""
        super().__init__(name="stream_lstm")
        if network.input != "one_hot":
            raise ValueError("this network reads one-hot characters")
        self.network = network
        self.rate = dropout
        self.recurrent_rate = recurrent_dropout
        self.random_seed = random_seed
        self.has_gpu = bool(tf.config.list_logical_devices("GPU"))
        self.is_mixed = precision == "mixed"
        if self.is_mixed and not self.has_gpu:
            raise ValueError("mixed precision is for GPUs")
        self.lstms = [self._make_lstm(network.units, n, random_seed) for n in range(network.layers)]
        self.dense = _dense(network.vocabulary_size, random_seed, activation=None)
        n_inputs = network.vocabulary_size
        for lstm in self.lstms:
            lstm.build((None, None, n_inputs))
            n_inputs = network.units
        self._twins = _Twins(self.lstms, is_mixed=self.is_mixed) if self.has_gpu else None
        self.dense.build((None, None, n_inputs))
        self.built = True

    def _make_lstm(self, units: int, n: int, random_seed: int) -> keras.Layer:
        if self.has_gpu:
            return _lstm(units, n, random_seed, return_sequences=True, return_state=True)
        kernel, recurrent = _initializers(n, random_seed)
        return BlockLSTM(
            units,
            kernel_initializer=kernel,
            recurrent_initializer=recurrent,
            name=f"lstm_{n + 1}",
        )

    def call(
        self,
        ids: tf.Tensor,
        states: States | None = None,
        *,
        training: bool = False,
        step: tf.Tensor | int = 0,
        part: int = 0,
        part_rows: PartRows | None = None,
        part_sizes: Sequence[int] = (),
        weights: Weights | None = None,
        ends: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, States]:
        """Read characters and score what comes after each.

        Args:
            ids: `(batch, time)` int32.
            states: Where to start; None for zero.
            training: Whether to drop out.
            step: Scalar integer; with the random seed it fixes the masks, so
                that a resumed run drops what the first one would have.
            part: Which part of a batch this is; each has its own masks.
            part_rows: Which rows of the part; None for all of them.
            part_sizes: Rows of each part, if these are several, from `part` on.
            weights: From `pack_weights`, which parts of a batch share; None
                packs them here.
            ends: `(batch, time)` bool, True at the last character of a
                document, after which all states are zero; the logits there
                mean nothing. None for a text of one document.

        Returns:
            `(batch, time, vocab)` float32 logits, and the states after the
            last character.
        """
        if states is None:
            states = self.zero_states(tf.shape(ids)[0])
        if weights is None:
            weights = self.pack_weights(training=training, step=step, resets=ends is not None)
        x = tf.transpose(ids)  # (time, batch): the layers are time-major
        ends = None if ends is None else tf.transpose(ends)
        after: States = []
        for n, (h, c) in enumerate(states):
            x, h, c = self._run_lstm(n, x, h, c, weights[n], ends, training=training)
            after.append((h, c))
            if training and self.rate > 0:
                x *= tf.cast(self._output_mask(x, step, n, part, part_rows, part_sizes), x.dtype)
        return tf.transpose(self._score(x), [1, 0, 2]), after

    def _output_mask(
        self,
        x: tf.Tensor,
        step: tf.Tensor | int,
        layer: int,
        part: int,
        part_rows: PartRows | None,
        part_sizes: Sequence[int],
    ) -> tf.Tensor:
        """Draw the mask of each part, whichever of them go through together."""
        if not part_sizes:
            seed = self._mask_seed(step, layer=layer, part=part)
            return _dropout_mask(x, self.rate, seed, part_rows)
        masks = []
        for number, rows in enumerate(tf.split(x, part_sizes, axis=1), part):
            seed = self._mask_seed(step, layer=layer, part=number)
            masks.append(_dropout_mask(rows, self.rate, seed))
        return tf.concat(masks, axis=1)

    def _score(self, x: tf.Tensor) -> tf.Tensor:
        """Turn the last layer's outputs into float32 logits."""
        if x.dtype == tf.float32:
            return self.dense(x)
        kernel = tf.cast(self.dense.kernel, x.dtype)
        products = tf.cast(tf.matmul(x, kernel), tf.float32)  # (time, batch, vocab)
        return products + tf.convert_to_tensor(self.dense.bias)

    def pack_weights(
        self, *, training: bool = False, step: tf.Tensor | int = 0, resets: bool = False
    ) -> Weights:
        """Do what depends on the weights alone, once for all parts of a batch.

        Args:
            training: Whether to drop out recurrent weights.
            step: As in `call`.
            resets: Whether `call` will be given `ends`.

        Returns:
            One entry a layer, for `call`.
        """
        if not training or self.recurrent_rate == 0:
            return [
                None if self.has_gpu else lstm.pack_weights(resets=resets) for lstm in self.lstms
            ]
        packed: Weights = []
        for n, lstm in enumerate(self.lstms):
            seed = self._mask_seed(step, layer=n, part=_WHOLE_BATCH)
            kernel = tf.convert_to_tensor(getattr(lstm, "cell", lstm).recurrent_kernel)
            mask = _dropout_mask(kernel, self.recurrent_rate, seed)
            packed.append(
                kernel * mask
                if self.has_gpu
                else lstm.pack_weights(recurrent_mask=mask, resets=resets)
            )
        return packed

    def _mask_seed(self, step: tf.Tensor | int, *, layer: int, part: int) -> tf.Tensor:
        seed = tf.stack([self.random_seed % 2**31, tf.cast(step, tf.int32)])
        return tf.random.experimental.stateless_fold_in(seed, 4096 * layer + part)

    def _run_lstm(
        self,
        n: int,
        x: tf.Tensor,
        h: tf.Tensor,
        c: tf.Tensor,
        weights: PackedWeights | tf.Tensor | None,
        ends: tf.Tensor | None,
        *,
        training: bool,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Run layer n: `(time, batch, units)` outputs, and the states after them."""
        if self._twins is None:
            outputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = self.lstms[n](x, h, c, weights, ends)
            return outputs
        lstm, is_half = self.lstms[n], self.is_mixed and training
        dtype = tf.float16 if is_half else tf.float32
        kernel, n_features = lstm.cell.kernel, lstm.cell.kernel.shape[0]
        if ends is not None:
            x = with_resets(x, ends, n_features=n_features)
            closed = CLOSED_IN_HALF if is_half else CLOSED
            kernel = with_reset_row(tf.convert_to_tensor(kernel), closed=closed)
            n_features += 1
        x = tf.one_hot(x, n_features, dtype=dtype) if x.dtype.is_integer else tf.cast(x, dtype)
        # Stock Keras is batch-major.
        x, states = tf.transpose(x, [1, 0, 2]), [tf.cast(h, dtype), tf.cast(c, dtype)]
        if weights is None and ends is None and not is_half:
            x, h, c = lstm(x, initial_state=states)
        else:
            recurrent = lstm.cell.recurrent_kernel if weights is None else weights
            taken = [tf.convert_to_tensor(w) for w in (kernel, recurrent, lstm.cell.bias)]
            twin = self._twins.find(n, is_wider=ends is not None, is_half=is_half)
            (x, h, c), _ = twin.stateless_call(
                taken, twin.non_trainable_variables, x, initial_state=states
            )
        return tf.transpose(x, [1, 0, 2]), tf.cast(h, tf.float32), tf.cast(c, tf.float32)

    def zero_states(self, batch: tf.Tensor | int) -> States:
        """Return the states before the first character.

        Args:
            batch: Rows.

        Returns:
            Zeros.
        """
        zeros = tf.zeros((batch, self.network.units))
        return [(zeros, zeros) for _ in self.lstms]


class _Twins:
    """Stock layers that are only ever called with the weights of others.

    A stock layer takes no kernel of another shape than it was built with, and
    no other precision. A plain object, in which Keras does not look for the
    network's own weights.

    Args:
        lstms: The layers whose weights they get.
        is_mixed: Whether those of half precision are needed.
    """

    def __init__(self, lstms: Sequence[keras.layers.LSTM], *, is_mixed: bool) -> None:
        """Build them here: inside a traced function no variable can be made."""
        self._made = {(n, False, False): lstm for n, lstm in enumerate(lstms)}
        for n, lstm in enumerate(lstms):
            for is_wider, is_half in ((True, False), (False, True), (True, True)):
                if is_half <= is_mixed:
                    dtype = {"dtype": "mixed_float16"} if is_half else {}
                    twin = type(lstm).from_config(lstm.get_config() | dtype)
                    twin.build((None, None, lstm.cell.kernel.shape[0] + is_wider))
                    self._made[n, is_wider, is_half] = twin

    def find(self, n: int, *, is_wider: bool, is_half: bool) -> keras.layers.LSTM:
        """Return the twin of layer n, with one more feature or in half precision."""
        return self._made[n, is_wider, is_half]


def _dropout_mask(
    like: tf.Tensor, rate: float, seed: tf.Tensor, part_rows: PartRows | None = None
) -> tf.Tensor:
    """Draw what a tensor is multiplied by to drop some of it out.

    One random byte decides for each element, a quarter of what a random float
    would cost, so that the rate is rounded to a multiple of 1/256.

    Args:
        like: Gives the shape.
        rate: Share to drop, in (0, 1); at least 1/256 and at most 255/256 is.
        seed: `(2,)` int32; the mask is a function of it.
        part_rows: Where along the second axis of a larger mask this one is;
            None if it is whole.

    Returns:
        float32: 0 where dropped, and where not what keeps the mean.

    References:
        Srivastava et al., 2014, Dropout.
    """
    n_dropped = min(255, max(1, round(256 * rate)))
    shape = tf.shape(like)
    if part_rows is not None:
        shape = tf.stack([shape[0], part_rows.n_rows, shape[2]])
    n_words = (tf.reduce_prod(shape) + 7) // 8
    words = tf.random.stateless_uniform([n_words], seed, minval=None, maxval=None, dtype=tf.uint64)
    octets = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[: tf.reduce_prod(shape)]
    # A comparison would cost three times as much.
    kept = tf.clip_by_value(tf.cast(octets, tf.float32) - (n_dropped - 1.0), 0.0, 1.0)
    if part_rows is not None:
        n_rows = tf.shape(like)[1]
        kept = tf.reshape(kept, shape)[:, part_rows.first : part_rows.first + n_rows]
        shape = tf.shape(like)
    return tf.reshape(kept, shape) * (256 / (256 - n_dropped))


def build_article_network(
    network: NetworkConfig, *, dropout: float, random_seed: int
) -> keras.Sequential:
    """Build the article's network, layer by layer.

    `(batch, 50, 1)` ids divided by the vocabulary's size – LSTM(300, all
    outputs) – Dropout 0.2 – LSTM(300, last output) – Dropout 0.2 – softmax.

    Args:
        network: Shape; `input` must be "scaled".
        dropout: Share of each LSTM layer's outputs dropped while training.
        random_seed: Fixes initial weights and dropout masks.

    Returns:
        A model from `(batch, seq_length, 1)` float32 to `(batch, vocab)`
        probabilities.
    """
    if network.input != "scaled":
        raise ValueError("the article's network reads scaled ids")
    layers: list[Any] = [keras.Input((network.seq_length, 1))]
    for n in range(network.layers):
        is_last = n + 1 == network.layers
        layers.append(_lstm(network.units, n, random_seed, return_sequences=not is_last))
        layers.append(keras.layers.Dropout(dropout, seed=random_seed % 2**31 + n))
    layers.append(_dense(network.vocabulary_size, random_seed, activation="softmax"))
    return keras.Sequential(layers, name="article_lstm")


def article_inputs(ids: tf.Tensor | np.ndarray, vocabulary_size: int) -> tf.Tensor:
    """Scale ids as the article does.

    Args:
        ids: `(batch, seq_length)` integers.
        vocabulary_size: What they are divided by.

    Returns:
        `(batch, seq_length, 1)` float32 in [0, 1).
    """
    return tf.cast(ids, tf.float32)[..., None] / float(vocabulary_size)


def _initializers(n: int, random_seed: int) -> tuple[keras.Initializer, keras.Initializer]:
    """Make Keras's own choices for layer n, seeded."""
    seed = random_seed % 2**31 + 10 * n
    return keras.initializers.GlorotUniform(seed), keras.initializers.Orthogonal(seed=seed + 1)


def _lstm(units: int, n: int, random_seed: int, **options: bool) -> keras.layers.LSTM:
    kernel, recurrent = _initializers(n, random_seed)
    return keras.layers.LSTM(
        units,
        kernel_initializer=kernel,
        recurrent_initializer=recurrent,
        # Nothing is drawn from it, but a checkpoint of recipe article holds it.
        seed=random_seed % 2**31,
        name=f"lstm_{n + 1}",
        **options,
    )


def _dense(size: int, random_seed: int, *, activation: str | None) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=random_seed % 2**31 + 1_000)
    return keras.layers.Dense(
        size, activation=activation, kernel_initializer=initializer, name="dense"
    )


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return a network's weights under the names that checkpoints use.

    Args:
        model: A network of this module.

    Returns:
        Variables by name, in the order of `checkpoint.weight_shapes`.
    """
    variables: dict[str, keras.Variable] = {}
    for layer in _weight_layers(model):
        cell = getattr(layer, "cell", layer)
        variables[f"{layer.name}/kernel"] = cell.kernel
        if hasattr(cell, "recurrent_kernel"):
            variables[f"{layer.name}/recurrent_kernel"] = cell.recurrent_kernel
        variables[f"{layer.name}/bias"] = cell.bias
    return variables


def _weight_layers(model: keras.Model) -> Sequence[keras.Layer]:
    if isinstance(model, StreamLSTM):
        return [*model.lstms, model.dense]
    return [layer for layer in model.layers if layer.weights]


def get_weights(model: keras.Model) -> Arrays:
    """Copy a network's weights out.

    Args:
        model: A network of this module.

    Returns:
        Float32 arrays by name.
    """
    return {name: variable.numpy() for name, variable in named_variables(model).items()}


def set_weights(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Put weights into a network.

    Args:
        model: A network of this module.
        weights: Arrays by name, all of them.
    """
    for name, variable in named_variables(model).items():
        variable.assign(weights[name])


def transfer_weights(
    source: Arrays, source_vocabulary: Vocabulary, fresh: Arrays, vocabulary: Vocabulary
) -> Arrays:
    """Begin with another model's weights where the vocabularies differ.

    Args:
        source: The other model's weights.
        source_vocabulary: Its characters.
        fresh: Initial weights of the new network, for what it does not know.
        vocabulary: The new network's characters.

    Returns:
        The new network's weights: characters in common keep their row of the
        input kernel and their column of the softmax, all else is copied whole.
    """
    shared = [c for c in vocabulary.characters if c in source_vocabulary]
    ours = [vocabulary.char_to_id[c] for c in shared]
    theirs = [source_vocabulary.char_to_id[c] for c in shared]
    if vocabulary.has_unknown and source_vocabulary.has_unknown:
        ours.append(len(vocabulary))
        theirs.append(len(source_vocabulary))
    weights = {name: array.copy() for name, array in source.items()}
    for name, axis in (("lstm_1/kernel", 0), ("dense/kernel", 1), ("dense/bias", 0)):
        if fresh[name].shape[axis] != vocabulary.n_ids:
            continue  # the article's input is one number, whatever the vocabulary
        rows = np.moveaxis(fresh[name].copy(), axis, 0)
        rows[ours] = np.moveaxis(source[name], axis, 0)[theirs]
        weights[name] = np.moveaxis(rows, 0, axis)
    return weights
