"""The LSTM layer that training runs on a CPU.

Same weights, gate order (i, f, g, o) and results as `keras.layers.LSTM`, in a
fraction of its time. Where the time goes, and what is done about it:

* Forward, TensorFlow's `BlockLSTMV2` kernel runs the whole window in one
  operation: one product of [input, h] with [kernel; recurrent kernel] and the
  gates, for each time step, with no graph machinery between.
* Backward, the gates' derivatives of a time step are one fused kernel
  (`LSTMBlockCellGrad`) and only the product that carries the error from step
  to step stays in the loop. The weight gradients of all steps are one product,
  after it.
* What depends on the weights alone (`pack_weights`) is done once for all parts
  that a batch is cut into; with more than `MAX_ONE_HOT` characters only the
  rows in use are multiplied, which are others in each part, and packed there.
* The gradient that TensorFlow registers for the kernel is not used: it is that
  of the kernel's first version, which packs the gates as i, g, f, o, and so
  silently wrong for this one.

Where a text of several documents is read, the state must be zero before each of
them. What comes out of a document's last step is not used then: neither its
state nor its guess at the next character, which belongs to another document. So
that step is given up for the reset: one more feature, whose row of the kernel is
`CLOSED`, shuts the input, forget and output gate to exactly 0, and with them h
and c, and every derivative that would go through. Neither kernel knows.

With N rows, T time steps, F features and U units the layer keeps 7·T·N·U
floats for the backward pass. It works time-major, so that a time step is a
contiguous block that can be handed on without a copy.

The kernels exist in single precision only, on CPUs and GPUs; on a GPU stock
Keras with cuDNN is faster still, and `model` uses that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

# Up to this many different characters a one-hot product costs less than
# finding out which of them a window uses.
MAX_ONE_HOT = 256
# What the gates i, f and o get added to be 0 to the last bit: below -104 the
# logistic function is 0 in single precision, and sums of weights are far smaller.
CLOSED = -1e6
# A longer window goes back in one operation: a graph with a few nodes for each
# time step takes half a second a hundred steps to trace.
MAX_UNROLLED = 200


class BlockLSTM(keras.layers.Layer):
    """An LSTM layer for training on CPUs, time-major.

    Args:
        units: Size U of the hidden state.
        kernel_initializer: For the `(features, 4·U)` kernel.
        recurrent_initializer: For the `(U, 4·U)` recurrent kernel.
        name: The layer's name.

    The bias starts at 0, that of the forget gate at 1.

    References:
        Hochreiter & Schmidhuber, 1997 (LSTM); Gers et al., 2000 (forget
        gate); Jozefowicz et al., 2015 (forget-gate bias of 1).
    """

    def __init__(
        self,
        units: int,
        *,
        kernel_initializer: keras.initializers.Initializer,
        recurrent_initializer: keras.initializers.Initializer,
        name: str | None = None,
    ) -> None:
        """Keep the sizes; `build` makes the weights."""
        super().__init__(name=name)
        self.units = units
        self.kernel_initializer = kernel_initializer
        self.recurrent_initializer = recurrent_initializer

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights.

        Args:
            input_shape: `(time, batch, features)`.
        """
        units, n_features = self.units, input_shape[-1]
        self.kernel = self.add_weight(
            shape=(n_features, 4 * units), initializer=self.kernel_initializer, name="kernel"
        )
        self.recurrent_kernel = self.add_weight(
            shape=(units, 4 * units),
            initializer=self.recurrent_initializer,
            name="recurrent_kernel",
        )
        self.bias = self.add_weight(
            shape=(4 * units,), initializer=_forget_gate_open(units), name="bias"
        )
        self.built = True

    def pack_weights(
        self, *, recurrent_mask: tf.Tensor | None = None, resets: bool = False
    ) -> PackedWeights:
        """Bring the weights to the form that the kernels want.

        Args:
            recurrent_mask: `(units, 4·units)` factors for the recurrent
                kernel while training, or None.
            resets: Whether `call` will be given `ends`.

        Returns:
            What `call` takes; parts of one batch share it.
        """
        recurrent = tf.convert_to_tensor(self.recurrent_kernel)
        if recurrent_mask is not None:
            recurrent *= recurrent_mask
        kernel = tf.convert_to_tensor(self.kernel)
        if resets:
            kernel = with_reset_row(kernel)
        return _pack(kernel, recurrent, tf.convert_to_tensor(self.bias))

    def call(
        self,
        inputs: tf.Tensor,
        h: tf.Tensor,
        c: tf.Tensor,
        weights: PackedWeights | None = None,
        ends: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Read a window.

        Args:
            inputs: `(time, batch, features)` float32, or `(time, batch)`
                int32 ids, which stand for one-hot rows.
            h: `(batch, units)` hidden state before the window.
            c: `(batch, units)` cell state before the window.
            weights: From `pack_weights`, with `resets` where there are `ends`;
                None packs them here.
            ends: `(time, batch)` bool, True where a document ends: the hidden
                and cell state are 0 there, whatever was read. None if none does.

        Returns:
            The hidden states, `(time, batch, units)`, and the last hidden and
            cell state, `(batch, units)` each.
        """
        if weights is None:
            weights = self.pack_weights(resets=ends is not None)
        if ends is not None:
            inputs = with_resets(inputs, ends, n_features=self.kernel.shape[0])
        if inputs.dtype.is_integer:
            inputs, weights = _one_hot(inputs, weights)
        outputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = _lstm(
            inputs, weights.kernels, weights.swapped, weights.back, weights.bias, h, c
        )
        return outputs


class PackedWeights(NamedTuple):
    """A layer's weights as its kernels want them, F features and U units.

    The forward kernel takes the gates packed i, f, g, o, as Keras does; the
    backward one gives their derivatives packed i, g, f, o. Gradients flow
    through the second form only, so that what several parts of a batch give
    is summed before it is brought to Keras's order, once.

    Attributes:
        kernel: `(F, 4·U)`, the row that resets counted among the F.
        recurrent: `(U, 4·U)`.
        bias: `(4·U,)`.
        kernels: `(F + U, 4·U)`, kernel above recurrent kernel.
        swapped: The same, packed i, g, f, o.
        back: `(4·U, U)`, the swapped recurrent kernel transposed.
    """

    kernel: tf.Tensor
    recurrent: tf.Tensor
    bias: tf.Tensor
    kernels: tf.Tensor
    swapped: tf.Tensor
    back: tf.Tensor


def with_reset_row(kernel: tf.Tensor, *, closed: float = CLOSED) -> tf.Tensor:
    """Give a kernel the row of one more feature, which resets the state.

    Args:
        kernel: `(features, 4·units)`, packed i, f, g, o.
        closed: What shuts a gate.

    Returns:
        `(features + 1, 4·units)`.
    """
    units = kernel.shape[1] // 4
    row = np.full((1, 4 * units), closed, np.float32)
    row[:, 2 * units : 3 * units] = 0.0
    return tf.concat([kernel, row], axis=0)


def with_resets(inputs: tf.Tensor, ends: tf.Tensor, *, n_features: int) -> tf.Tensor:
    """Give inputs the feature that resets the state.

    Args:
        inputs: `(time, batch, features)` float32, or ids `(time, batch)`.
        ends: `(time, batch)` bool, True where the state becomes 0.
        n_features: Features without it.

    Returns:
        `(time, batch, features + 1)`, or ids of that many characters, the last
        of which stands for a reset.
    """
    if inputs.dtype.is_integer:
        return tf.where(ends, n_features, inputs)
    return tf.concat([inputs, tf.cast(ends, inputs.dtype)[..., None]], axis=2)


def _pack(kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> PackedWeights:
    """Concatenate, swap and transpose."""
    kernels = tf.concat([kernel, recurrent], axis=0)
    swapped = _swap_f_and_g(kernels)
    units = recurrent.shape[0]
    # By way of three axes: a plain transpose TensorFlow's optimizer would fold
    # into the products that read it, which takes them three times as long.
    back = tf.transpose(tf.reshape(swapped[tf.shape(kernel)[0] :], [units, 4, units]), [1, 2, 0])
    back = tf.reshape(back, [4 * units, units])
    return PackedWeights(kernel, recurrent, bias, kernels, swapped, back)


def _forget_gate_open(units: int) -> Callable[..., tf.Tensor]:
    def initialize(shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        return tf.concat([tf.zeros(units), tf.ones(units), tf.zeros(2 * units)], axis=0)

    return initialize


def _one_hot(ids: tf.Tensor, weights: PackedWeights) -> tuple[tf.Tensor, PackedWeights]:
    """Turn ids into one-hot rows, of a large vocabulary only the part in use.

    Args:
        ids: `(time, batch)` int32.
        weights: Their kernel is `(vocab, 4·units)`.

    Returns:
        `(time, batch, features)` float32, and the weights with the
        `(features, 4·units)` rows of the kernel that belong to them.
    """
    size = weights.kernel.shape[0]
    if size <= MAX_ONE_HOT:
        return tf.one_hot(ids, size), weights
    used, index = tf.unique(tf.reshape(ids, [-1]))
    rows = tf.one_hot(tf.reshape(index, tf.shape(ids)), tf.size(used))
    rows.set_shape([*ids.shape, None])  # a reshape in a graph forgets it
    kernel = _gather_rows(weights.kernel, used)
    return rows, _pack(kernel, weights.recurrent, weights.bias)


@tf.custom_gradient
def _gather_rows(kernel: tf.Tensor, used: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Take rows of a kernel, with a dense gradient, as the optimizer wants it."""

    def gradient(d_rows: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(d_rows, used, kernel.shape[0]), None

    return tf.gather(kernel, used), gradient


@tf.custom_gradient
def _lstm(
    x: tf.Tensor,
    kernels: tf.Tensor,
    swapped: tf.Tensor,
    back: tf.Tensor,
    bias: tf.Tensor,
    h: tf.Tensor,
    c: tf.Tensor,
) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., Any]]:
    """Run the layer and say how to go back through it.

    With z_t = x_t·K + h_{t-1}·R + b, packed i, f, g, o, and σ the logistic
    function, for t = 1 … T:

        i, f, o = σ(z),  g = tanh(z)
        c_t = f·c_{t-1} + i·g,  h_t = o·tanh(c_t)

    Shapes: x `(T, N, F)`, bias `(4U,)`, h and c `(N, U)`, the others as in
    `PackedWeights`. Returns (h_1 … h_T), h_T, c_T.
    """
    n_steps = x.shape[0]
    units = h.shape[1]
    no_peephole = tf.zeros((units,))
    inputs_and_weights = {
        "seq_len_max": tf.constant(n_steps, tf.int64),
        "x": x,
        "cs_prev": c,
        "h_prev": h,
        "w": kernels,
        "wci": no_peephole,
        "wcf": no_peephole,
        "wco": no_peephole,
        "b": bias,
        "use_peephole": False,
    }
    block = tf.raw_ops.BlockLSTMV2(**inputs_and_weights, cell_clip=0.0)

    def gradient_of_long_window(
        d_outputs: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor
    ) -> tuple[Any, ...]:
        """Go back in one operation, which adds the weight gradient up step by step.

        The error of the final states joins that of the last time step.
        """
        no_error = tf.zeros((n_steps - 1, tf.shape(x)[1], units))
        back_op = tf.raw_ops.BlockLSTMGradV2(
            **inputs_and_weights,
            **block._asdict(),
            cs_grad=tf.concat([no_error, d_c[None]], axis=0),
            h_grad=d_outputs + tf.concat([no_error, d_h[None]], axis=0),
        )
        d_swapped = _swap_f_and_g(back_op.w_grad)
        return (
            back_op.x_grad,
            None,
            d_swapped,
            None,
            back_op.b_grad,
            back_op.h_prev_grad,
            back_op.cs_prev_grad,
        )

    def gradient(d_outputs: tf.Tensor, d_h: tf.Tensor, d_c: tf.Tensor) -> tuple[Any, ...]:
        """Go back in time, then take the weight gradients of all time steps at once."""
        n_features = tf.shape(x)[2]
        d_z, d_h, d_c = _back_through_time(tuple(block), back, c, d_outputs, d_h, d_c)
        h_before = tf.concat([h[None], block.h[:-1]], axis=0)
        x_and_h = tf.reshape(tf.concat([x, h_before], axis=2), [-1, n_features + units])
        d_swapped = tf.matmul(x_and_h, d_z, transpose_a=True)  # (features + units, 4 * units)
        d_x = tf.reshape(tf.matmul(d_z, swapped[:n_features], transpose_b=True), tf.shape(x))
        d_bias = _swap_f_and_g(tf.reduce_sum(d_z, axis=0))
        return d_x, None, d_swapped, None, d_bias, d_h, d_c

    is_long = n_steps > MAX_UNROLLED
    outputs = (block.h, block.h[-1], block.cs[-1])
    return outputs, gradient_of_long_window if is_long else gradient


@tf.function(autograph=False)  # traced once for the layers and parts of one shape
def _back_through_time(
    block: tuple[tf.Tensor, ...],
    back: tf.Tensor,
    c: tf.Tensor,
    d_outputs: tf.Tensor,
    d_h: tf.Tensor,
    d_c: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Carry the error from the last time step to the first.

    With δ for the gradient of the loss, ∘ for the element-wise product, z as in
    `_lstm` and R the recurrent kernel, for t = T … 1:

        δh_t = δoutput_t + δz_{t+1}·Rᵀ
        δc_t = δh_t ∘ o ∘ (1 - tanh²(c_t)) + f_{t+1} ∘ δc_{t+1}
        δz_o = δh_t ∘ tanh(c_t) ∘ o ∘ (1 - o)
        δz_f = δc_t ∘ c_{t-1} ∘ f ∘ (1 - f)
        δz_i = δc_t ∘ g ∘ i ∘ (1 - i)
        δz_g = δc_t ∘ i ∘ (1 - g²)

    beginning with the errors of the last states in place of those from t + 1.

    Args:
        block: What the forward kernel kept: i, cs, f, o, ci, co, h, each
            `(T, N, U)`.
        back: `(4U, U)`, as in `PackedWeights`.
        c: `(N, U)` cell state before the window.
        d_outputs: `(T, N, U)` error of the outputs.
        d_h: `(N, U)` error of the last hidden state.
        d_c: `(N, U)` error of the last cell state.

    Returns:
        Errors of the pre-activations `(T·N, 4U)`, packed i, g, f, o, and of
        the first hidden and cell state.

    References:
        Werbos, 1990 (back-propagation through time); Graves & Schmidhuber,
        2005, appendix A (all of it for LSTM).
    """
    n_steps, units = d_outputs.shape[0], c.shape[1]
    i, cs, f, o, ci, co, _, d_out = (
        tf.unstack(series, num=n_steps) for series in (*block, d_outputs)
    )
    # What the fused kernel checks the shape of and never reads.
    n_rows = tf.shape(c)[0]
    no_peephole = tf.zeros((units,))
    unread = {
        "x": tf.zeros((n_rows, 1)),
        "w": tf.zeros((1 + units, 4 * units)),
        "b": tf.zeros((4 * units,)),
        "wci": no_peephole,
        "wcf": no_peephole,
        "wco": no_peephole,
    }
    d_z: list[tf.Tensor] = []
    for t in reversed(range(n_steps)):
        before = cs[t - 1] if t > 0 else c
        cell = tf.raw_ops.LSTMBlockCellGrad(
            **unread,
            cs_prev=before,
            h_prev=before,
            i=i[t],
            cs=cs[t],
            f=f[t],
            o=o[t],
            ci=ci[t],
            co=co[t],
            cs_grad=d_c,
            h_grad=d_out[t] + d_h,
            use_peephole=False,
        )
        d_c = cell.cs_prev_grad
        d_h = tf.matmul(cell.dicfo, back)  # (batch, units)
        d_z.append(cell.dicfo)
    return tf.concat(d_z[::-1], axis=0), d_h, d_c


def _swap_f_and_g(packed: tf.Tensor) -> tf.Tensor:
    """Go between the packings i, f, g, o (Keras) and i, g, f, o (the fused kernel)."""
    i, second, third, o = tf.split(packed, 4, axis=-1)
    return tf.concat([i, third, second, o], axis=-1)
