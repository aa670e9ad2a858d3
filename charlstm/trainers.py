"""What one optimizer step is, for each recipe.

A trainer is a network, its optimizer and its batches. Everything that shapes
the weights is a function of (configuration, step): which characters come, what
is dropped, the learning rate. So a trainer that got back the weights, the
optimizer's slots and the carried states of a step goes on as if it had never
stopped.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from charlstm.batching import Documents, EvaluationRows, ShuffledWindows, Streams
from charlstm.checkpoint import Arrays
from charlstm.config import NetworkConfig, TrainingConfig
from charlstm.engine import LSTMStep
from charlstm.model import (
    PartRows,
    States,
    StreamLSTM,
    article_inputs,
    build_article_network,
    get_weights,
    named_variables,
    set_weights,
)
from charlstm.scoring import score_ids
from charlstm.shards import Ids as CorpusIds
from charlstm.shards import sample_ids

WARM_UP_STEPS = 200
FINAL_LEARNING_RATE = 0.01  # share of the peak
FALLING_SHARE = 0.4  # of the run
EVALUATION_CHUNK = 100
ENOUGH_CHARACTERS = 1_000_000  # to tell how frequent each is


@dataclasses.dataclass
class TrainerState:
    """What the loop carries from step to step, as stored in `trainer.json`.

    Attributes:
        step: Optimizer steps done.
        characters: Characters trained on.
        total_steps: Where the schedule ends; None until it is planned.
        eval_every: Steps between evaluations; None until planned.
        is_plan_final: Whether a plan by time has seen its first evaluation.
        seconds: Wall time of earlier sessions.
        loss_sum: Nats summed since the last evaluation.
        loss_count: Characters in that sum.
        train_loss: Mean at the last evaluation.
        val_loss: At the last evaluation.
        best_loss: Lowest evaluated loss so far.
        stale_evaluations: Evaluations since then.
        n_failures: Times that the loss or gradient was not finite.
    """

    step: int = 0
    characters: int = 0
    total_steps: int | None = None
    eval_every: int | None = None
    is_plan_final: bool = False
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    best_loss: float | None = None
    stale_evaluations: int = 0
    n_failures: int = 0

    @property
    def learning_rate_scale(self) -> float:
        """Each failure halves the learning rate."""
        return 0.5**self.n_failures


def learning_rate_at(step: int, *, total_steps: int | None, peak: float) -> float:
    """Warm up, stay at the peak, and fall by half a cosine to 1% of it.

    The fall takes the last two fifths of the run; over all of it the loss was
    0.01 to 0.04 nats higher (docs/recipe.md). A straight line there is as good,
    but steep at its end, which a run bounded by time may not quite reach. The
    rise is as slow in a short
    run, which then stays below the peak: where it was four times as fast, one
    run in seven without dropout ended with cell states that grew without bound
    in the first steps, and learned nothing.

    Args:
        step: Steps done before this one.
        total_steps: Where the fall ends; None before it is planned.
        peak: The learning rate at its highest.

    Returns:
        The learning rate of this step.

    References:
        Hu et al., 2024, MiniCPM (warm-up, stable, decay); Loshchilov & Hutter,
        2017, SGDR (the cosine, without restarts).
    """
    rise = min(1.0, (step + 1) / WARM_UP_STEPS)
    left = 1.0 if total_steps is None else max(0.0, 1 - step / total_steps)
    height = 0.5 * (1 - math.cos(math.pi * min(1.0, left / FALLING_SHARE)))
    fall = FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * height
    return peak * rise * fall


def log_frequencies(ids: CorpusIds, vocabulary_size: int) -> np.ndarray:
    """Give the logits that guess by how frequent each character is.

    Args:
        ids: `(characters,)`; of a long text a sample of a million is looked at.
        vocabulary_size: Number of characters; each counts once more than it is
            there, so that none has a share of 0.

    Returns:
        `(vocab,)` float32, the logarithms of shares that sum to 1.
    """
    counts = np.bincount(sample_ids(ids, ENOUGH_CHARACTERS), minlength=vocabulary_size) + 1.0
    logits: np.ndarray = np.log(counts / counts.sum()).astype(np.float32)
    return logits


class FusedAdam(keras.optimizers.Adam):
    """Keras's Adam with its ten passes over each weight made one.

    Same slots, same update, by TensorFlow's own fused kernel. The passes took
    a fifth of a step on two cores.

    References:
        Kingma & Ba, 2015, Adam; epsilon as in the formulation before section 2.1.
    """

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Update one variable and its two slots in place."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )

    def apply_here(
        self,
        gradients: list[tf.Tensor],
        variables: list[keras.Variable],
        learning_rate: tf.Tensor,
    ) -> None:
        """Update the copies of one replica, whose gradients are already the sum of all.

        `apply` would sum them again, and let the replicas agree on each number
        that they have agreed on.

        Args:
            gradients: The same ones on every replica.
            variables: As the optimizer was built with.
            learning_rate: Scalar float32.
        """
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable.value, learning_rate)
        tf.raw_ops.AssignVariableOp(
            resource=self.learning_rate.value.handle, value=tf.cast(learning_rate, tf.float32)
        )
        one = tf.ones((), self.iterations.dtype)
        tf.raw_ops.AssignAddVariableOp(resource=self.iterations.value.handle, value=one)


class Trainer(abc.ABC):
    """A network, its optimizer and its batches.

    Args:
        network: The network's shape.
        config: How to train it.
        train_ids: `(characters,)` ids to learn from.
        documents: Where each of several documents begins, which recipe default
            keeps apart; None for one.

    Attributes:
        model: The network.
        batches: Which characters come in which step.
        gradient_norm: Length of the last step's gradient before it was
            clipped, on the device that took the step; NaN before the first.
    """

    model: keras.Model
    batches: Streams | ShuffledWindows

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        train_ids: CorpusIds,
        documents: Documents | None = None,
    ) -> None:
        """Build the network and the optimizer's slots."""
        self.network = network
        self.config = config
        self.documents = documents
        self.build(train_ids)
        self.optimizer = FusedAdam(config.learning_rate)
        self.optimizer.build(self.model.trainable_variables)
        self.gradient_norm: tf.Tensor = tf.constant(math.nan)

    @abc.abstractmethod
    def build(self, train_ids: CorpusIds) -> None:
        """Make `model` and `batches`."""

    @abc.abstractmethod
    def train_step(self, state: TrainerState) -> tuple[float, int]:
        """Take one optimizer step.

        Args:
            state: Where training is.

        Returns:
            Mean nats/char, not finite if the gradient was not, and the number
            of characters learned from, at least 1.
        """

    @abc.abstractmethod
    def evaluate(
        self,
        ids: CorpusIds,
        *,
        documents: Documents | None = None,
        max_chunks: int | None = None,
    ) -> float:
        """Return the nats/char of a text by the definition of `EvaluationRows`.

        Args:
            ids: `(characters,)`, at least 2.
            documents: Where documents begin in it, or None.
            max_chunks: Stop after so many chunks, which traces the graph and
                shows what one takes; the result is then meaningless.

        Returns:
            Nats/char.
        """

    @abc.abstractmethod
    def evaluation_chunks(self, n_chars: int) -> int:
        """Return the number of chunks that `evaluate` takes, of equal work each.

        Args:
            n_chars: Length of the text, at least 2.
        """

    def carried_states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Copy out the states that are carried, if any: h and c of each layer.

        Returns:
            `(batch, units)` float32 each.
        """
        return []

    def arrays(self) -> Arrays:
        """Return what `state.safetensors` holds."""
        return {
            name: np.asarray(variable.numpy()) for name, variable in self._state_variables().items()
        }

    def _state_variables(self) -> dict[str, keras.Variable]:
        """Name the optimizer's variables."""
        names = ["iteration", "learning_rate"]
        for weight in named_variables(self.model):
            names += [f"{weight}/momentum", f"{weight}/velocity"]
        variables = {
            f"optimizer/{name}": variable
            for name, variable in zip(names, self.optimizer.variables, strict=True)
        }
        # Keras's own order is relied on, so a change of it must not pass unseen.
        assert all(v.name.endswith(n.rsplit("/")[-1]) for n, v in variables.items())
        return variables

    def restore(self, weights: Arrays, arrays: Arrays) -> None:
        """Go back to an earlier point.

        Args:
            weights: As `model.get_weights` gave them.
            arrays: The rest, as `arrays` gave it.

        Raises:
            KeyError: If an array is missing.
            ValueError: If an array is of another shape.
        """
        set_weights(self.model, weights)
        for name, variable in self._state_variables().items():
            variable.assign(arrays[name])
        self.restore_states(arrays)

    def restore_states(self, arrays: Arrays) -> None:  # noqa: B027
        """Take the carried states back, if there are any."""


class Piece(NamedTuple):
    """Rows that go through the network together.

    Attributes:
        rows: Which of the rows at hand.
        part: The part of the batch that they belong to, which has its own masks.
        part_rows: Which rows of the part they are; None if they are all of it.
        part_sizes: Rows of each part, if they are those of several.
    """

    rows: slice
    part: int
    part_rows: PartRows | None = None
    part_sizes: tuple[int, ...] = ()


class StreamTrainer(Trainer):
    """Recipe default: truncated back-propagation with the state carried.

    References:
        Williams & Peng, 1990 (truncation); Pascanu et al., 2013 (clipping);
        Kingma & Ba, 2015 (Adam).
    """

    def build(self, train_ids: CorpusIds) -> None:
        """Make the network and the streams."""
        config, network = self.config, self.network
        self.batches: Streams = Streams(
            train_ids, config.batch_size, network.seq_length, config.random_seed, self.documents
        )
        self.model: StreamLSTM = StreamLSTM(
            network,
            dropout=config.dropout,
            recurrent_dropout=config.recurrent_dropout,
            random_seed=config.random_seed,
            precision=config.precision,
        )
        # Else the first 60 steps go to learning how frequent each character is.
        self.model.dense.bias.assign(log_frequencies(train_ids, network.vocabulary_size))
        self.states: States = self.model.zero_states(config.batch_size)

    @tf.function(autograph=False)  # nothing to convert: a quarter of a second less
    def _step(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor,
        states: States,
        step: tf.Tensor,
        learning_rate: tf.Tensor,
        ends: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, States]:
        parts = self._parts(inputs.shape[0])
        pieces = [Piece(rows, part) for part, rows in enumerate(parts)]
        if self.model.has_gpu:  # which has no threads to share out
            pieces = [Piece(slice(None), 0, None, tuple(r.stop - r.start for r in parts))]
        n_chars = inputs.shape[0] * inputs.shape[1] if ends is None else n_scored(ends)
        loss, gradients, after = self._gradients(
            inputs, targets, states, step, pieces=pieces, n_chars=n_chars, ends=ends
        )
        variables = self.model.trainable_variables
        norm = tf.linalg.global_norm(gradients)
        if self.config.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.clip_norm, use_norm=norm)
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(gradients, variables)
        return loss_of_finite_step(loss, norm), norm, after

    def _gradients(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor,
        states: States,
        step: tf.Tensor,
        *,
        pieces: list[Piece],
        n_chars: int | tf.Tensor,
        ends: tf.Tensor | None,
    ) -> tuple[tf.Tensor, list[tf.Tensor], States]:
        """Return nats a character of `n_chars`, their gradients, and the states after."""
        after: list[States] = []
        nats = []
        with tf.GradientTape() as tape:
            weights = self.model.pack_weights(training=True, step=step, resets=ends is not None)
            for rows, part, part_rows, part_sizes in pieces:
                logits, states_after = self.model(
                    inputs[rows],
                    [(h[rows], c[rows]) for h, c in states],
                    training=True,
                    step=step,
                    part=part,
                    part_rows=part_rows,
                    part_sizes=part_sizes,
                    weights=weights,
                    ends=None if ends is None else ends[rows],
                )
                losses = _cross_entropy(targets[rows], logits)
                if ends is not None:
                    losses = tf.where(ends[rows], 0.0, losses)
                nats.append(tf.reduce_sum(losses))
                after.append(states_after)
            total = tf.add_n(nats)
            divisor = float(n_chars) if isinstance(n_chars, int) else n_chars
            loss = total / divisor
        variables = self.model.trainable_variables
        if self.model.is_mixed:
            # The sum's gradients are large enough for half precision, the mean's not.
            gradients = [g / divisor for g in tape.gradient(total, variables)]
        else:
            gradients = tape.gradient(loss, variables)
        return loss, gradients, _join(after)

    def _parts(self, n_rows: int) -> list[slice]:
        """Cut rows into a part for each thread; they run side by side."""
        n_parts = min(self.config.n_parts, n_rows)
        bounds = [n * n_rows // n_parts for n in range(n_parts + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(bounds)]

    def train_step(self, state: TrainerState) -> tuple[float, int]:
        """Take one step on the next window of every stream."""
        inputs, targets, is_epoch_start = self.batches.batch(state.step)
        ends = self.batches.ends(state.step)
        if is_epoch_start:
            self.states = self.model.zero_states(self.config.batch_size)
        learning_rate = learning_rate_at(
            state.step,
            total_steps=state.total_steps,
            peak=self.config.learning_rate * state.learning_rate_scale,
        )
        loss, self.gradient_norm, self.states = self._step(
            tf.constant(inputs),
            tf.constant(targets),
            self.states,
            # As arrays: of Python's numbers TensorFlow keeps every one that it
            # ever met, 0.8 KB a step.
            tf.constant(np.asarray(state.step, np.int32)),
            tf.constant(np.asarray(learning_rate, np.float32)),
            *([] if ends is None else [tf.constant(ends)]),
        )
        return float(loss), count_scored(targets.shape, ends)

    @tf.function(autograph=False)  # nothing to convert: a quarter of a second less
    def _evaluation_step(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor,
        is_scored: tf.Tensor,
        states: States,
        ends: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, States]:
        after: list[States] = []
        nats = []
        weights = self.model.pack_weights(resets=ends is not None)
        parts = [slice(None)] if self.model.has_gpu else self._parts(inputs.shape[0])
        for rows in parts:
            logits, states_after = self.model(
                inputs[rows],
                [(h[rows], c[rows]) for h, c in states],
                weights=weights,
                ends=None if ends is None else ends[rows],
            )
            losses = _cross_entropy(targets[rows], logits)
            nats.append(tf.reduce_sum(tf.where(is_scored[rows], losses, 0.0)))
            after.append(states_after)
        return tf.add_n(nats), _join(after)

    def evaluate(
        self,
        ids: CorpusIds,
        *,
        documents: Documents | None = None,
        max_chunks: int | None = None,
    ) -> float:
        """Return nats/char with the state carried along each row."""
        rows = EvaluationRows(ids, documents)
        return self._nats_of(rows, slice(0, rows.n_rows), max_chunks) / rows.n_scored

    def evaluation_chunks(self, n_chars: int) -> int:
        """Count stretches of all rows."""
        return -(-EvaluationRows(np.broadcast_to(np.uint8(0), n_chars)).width // EVALUATION_CHUNK)

    def _nats_of(self, rows: EvaluationRows, mine: slice, max_chunks: int | None) -> float:
        """Sum the nats of some of an evaluation's rows."""
        states = self.model.zero_states(mine.stop - mine.start)
        nats = 0.0
        for start in range(0, rows.width, EVALUATION_CHUNK)[:max_chunks]:
            inputs, targets, is_scored = (
                tf.constant(array[mine]) for array in rows.chunk(start, EVALUATION_CHUNK)
            )
            ends = rows.ends(start, EVALUATION_CHUNK)
            part, states = self._evaluation_step(
                inputs,
                targets,
                is_scored,
                states,
                *([] if ends is None else [tf.constant(ends[mine])]),
            )
            nats += float(part)
        return nats

    def arrays(self) -> Arrays:
        """Add the carried states."""
        arrays = super().arrays()
        for n, (h, c) in enumerate(self.carried_states(), 1):
            arrays[f"states/lstm_{n}/h"] = h
            arrays[f"states/lstm_{n}/c"] = c
        return arrays

    def carried_states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Copy the states of all rows out."""
        return [(h.numpy(), c.numpy()) for h, c in self.states]

    def restore_states(self, arrays: Arrays) -> None:
        """Take the carried states back."""
        shape = (self.config.batch_size, self.network.units)
        states = [
            (arrays[f"states/lstm_{n}/h"], arrays[f"states/lstm_{n}/c"])
            for n in range(1, self.network.layers + 1)
        ]
        if any(a.shape != shape for pair in states for a in pair):
            raise ValueError(f"carried states are not of shape {shape}")
        self.states = [(tf.constant(h), tf.constant(c)) for h, c in states]


def n_scored(ends: tf.Tensor) -> tf.Tensor:
    """Count the characters of a batch that are scored, at least 1, as float32."""
    return tf.maximum(1.0, tf.reduce_sum(tf.cast(~ends, tf.float32)))


def count_scored(shape: tuple[int, ...], ends: np.ndarray | None) -> int:
    """Count the characters of a batch that are scored.

    Args:
        shape: Of the batch's targets.
        ends: `(batch, time)` bool, where documents end; None if none does.

    Returns:
        At least 1, by which the nats can be divided.
    """
    n_chars = int(np.prod(shape))
    return n_chars if ends is None else max(1, n_chars - int(ends.sum()))


def _cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)


def loss_of_finite_step(loss: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    """Let a gradient that is not finite show in the loss."""
    return tf.where(tf.math.is_finite(norm), loss, float("nan"))


def _join(parts: list[States]) -> States:
    """Put the states of a batch's parts together again."""
    return [
        tuple(tf.concat([state[k] for state in layer], axis=0) for k in (0, 1))
        for layer in zip(*parts, strict=True)
    ]


class ArticleTrainer(Trainer):
    """Recipe article: shuffled windows, one label each, constant learning rate."""

    def build(self, train_ids: CorpusIds) -> None:
        """Make the article's network and its windows."""
        config, network = self.config, self.network
        self.batches = ShuffledWindows(
            train_ids, config.batch_size, network.seq_length, config.random_seed
        )
        self.model = build_article_network(
            network, dropout=config.dropout, random_seed=config.random_seed
        )
        # The last batch of an epoch is smaller: one graph serves every size.
        self._step = tf.function(
            self._one_step,
            input_signature=[
                tf.TensorSpec((None, network.seq_length), tf.int32),
                tf.TensorSpec((None,), tf.int32),
            ],
            autograph=False,
        )

    def _one_step(self, inputs: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = self.network.vocabulary_size
        with tf.GradientTape() as tape:
            probabilities = self.model(article_inputs(inputs, size), training=True)
            losses = keras.losses.categorical_crossentropy(tf.one_hot(targets, size), probabilities)
            loss = tf.reduce_mean(losses)
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(gradients, variables)
        norm = tf.linalg.global_norm(gradients)
        return loss_of_finite_step(loss, norm), norm

    def _state_variables(self) -> dict[str, keras.Variable]:
        """Add the states of Keras's dropout generators."""
        variables = super()._state_variables()
        for n, variable in enumerate(self.model.non_trainable_variables):
            variables[f"generator/{n}"] = variable
        return variables

    def train_step(self, state: TrainerState) -> tuple[float, int]:
        """Take one step on the next batch of shuffled windows."""
        inputs, targets, _ = self.batches.batch(state.step)
        self.optimizer.learning_rate.assign(self.config.learning_rate * state.learning_rate_scale)
        loss, self.gradient_norm = self._step(tf.constant(inputs), tf.constant(targets))
        return float(loss), targets.size

    def evaluate(
        self,
        ids: CorpusIds,
        *,
        documents: Documents | None = None,
        max_chunks: int | None = None,
    ) -> float:
        """Return nats/char with the window sliding over the text; nothing is traced."""
        if max_chunks is not None:
            ids = ids[: self.network.seq_length + max_chunks * EVALUATION_CHUNK]
        return score_ids(
            LSTMStep(self.network, get_weights(self.model)), np.asarray(ids)
        ).nats_per_char

    def evaluation_chunks(self, n_chars: int) -> int:
        """Count stretches of the text after the first window, which is read in one pass."""
        return max(1, -(-(n_chars - self.network.seq_length) // EVALUATION_CHUNK))


def make_trainer(
    network: NetworkConfig,
    config: TrainingConfig,
    train_ids: CorpusIds,
    documents: Documents | None = None,
) -> Trainer:
    """Make the trainer of a recipe.

    Args:
        network: The network's shape.
        config: How to train it.
        train_ids: `(characters,)` ids to learn from.
        documents: Where each of several documents begins; None for one.

    Returns:
        A trainer with fresh weights.
    """
    cls = StreamTrainer if config.recipe == "default" else ArticleTrainer
    return cls(network, config, train_ids, documents)
