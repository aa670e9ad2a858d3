"""Training on several devices: those of one machine, or workers on many.

Each replica (a worker, or a GPU of one) holds all weights and takes its share
of the rows of every batch. It sums the nats of its rows and divides by the
characters of the whole batch; loss and gradients are summed over the replicas
in one collective, and clipped and applied by each alike, so the weights stay
the same everywhere. What is dropped out depends on a row's place in the whole
batch. The number of replicas therefore changes nothing but the order of sums.

What the loop decides must be decided alike by all, or they would wait for each
other for ever. It depends on the step, on losses, which are sums over all, and
on the clock; so there is one clock, worker 0's, whose readings travel with the
sums, and a wish to stop travels with them too.

`tf.distribute` gives the copies of the weights, the collectives and the news
that a worker is gone; its `Model.fit` is not used (keras issue 20585).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

# Private, but there is no other way to ask whether a worker still answers, or to
# let go of the numbers that TensorFlow keeps.
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

from charlstm.batching import Documents, EvaluationRows
from charlstm.binding import hold_port
from charlstm.checkpoint import Arrays
from charlstm.cluster import (
    Cluster,
    bounded,
    check_port,
    held_address,
    lost,
    share_of,
    unreachable,
    wait_for_workers,
)
from charlstm.config import MIN_PART_ROWS, NetworkConfig, TrainingConfig
from charlstm.errors import TrainingError
from charlstm.model import PartRows, States
from charlstm.shards import Ids as CorpusIds
from charlstm.trainers import (
    Piece,
    StreamTrainer,
    TrainerState,
    count_scored,
    learning_rate_at,
    loss_of_finite_step,
)

# How long a worker may take to answer whether it is still there, and how long
# one that has noticed a loss stays, so that the others do not miss it too.
_PROBE_SECONDS, _STAY_SECONDS = 3.0, 6.0
_LEAVE_SECONDS = 1.0
# TensorFlow numbers its collectives, and keeps each number as a tensor:
# 1.6 KB a step, of which 0.6 stay all the same.
_CLEAN_EVERY = 1_000
_LOSSES = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


class Group:
    """The replicas that train together, as one of them sees it.

    Args:
        strategy: Holds the copies of the weights.
        cluster: The workers; None if all replicas are in this process.
        threads: CPU cores that this process uses.
        should_stop: Asked whether this worker was told to stop.
        should_save: Asked whether worker 0 was told to save.
        clock: Seconds that only grow.

    Attributes:
        is_writer: Whether this process plans, prints and saves.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        *,
        cluster: Cluster | None = None,
        threads: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
        should_save: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Agree on the time."""
        self.strategy = strategy
        self.cluster = cluster
        self.threads = threads
        self.is_writer = cluster is None or cluster.is_writer
        self.n_workers = 1 if cluster is None else cluster.n_workers
        self.index = 0 if cluster is None else cluster.index
        self._asks_to_stop = should_stop
        self._asks_to_save = should_save
        self._is_stopping = self._is_saving = False
        self._read = clock
        self._told = self._now = clock()
        if cluster is not None:
            self._told = self._now = float(self.share(self._now))

    # -- what all of them see alike ---------------------------------------------

    def clock(self) -> float:
        """Return worker 0's time when the workers last exchanged something."""
        return self._read() if self.n_workers == 1 else self._now

    def should_stop(self) -> bool:
        """Say whether one of the workers was told to stop, as all know by now."""
        return self._asks_to_stop() if self.n_workers == 1 else self._is_stopping

    def should_save(self) -> bool:
        """Say, and forget, whether worker 0 was told to save, as all know by now."""
        if self.n_workers == 1:
            return self._asks_to_save()
        is_saving, self._is_saving = self._is_saving, False
        return is_saving

    def news(self) -> np.ndarray:
        """Return what this worker adds to the next sum, `(3,)` float32."""
        passed, saves = 0.0, False
        if self.n_workers > 1 and self.is_writer:
            saves = self._asks_to_save()
            # The difference to what was told, so that rounding does not add up.
            passed = float(np.float32(self._read() - self._told))
            self._told += passed
        return np.array([passed, self._asks_to_stop(), saves], np.float32)

    def take_news(self, news: np.ndarray) -> None:
        """Take the sum of what all workers added.

        Args:
            news: `(3,)`.
        """
        self._now += float(news[0])
        self._is_stopping = bool(news[1] > 0)
        self._is_saving = self._is_saving or bool(news[2] > 0)

    def share(self, value: Any) -> Any:
        """Give all workers what worker 0 has.

        Args:
            value: Plain values for JSON; those of the other workers are ignored.

        Returns:
            Worker 0's.
        """
        return self.gather(value if self.is_writer else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Give all workers what each of them has.

        Args:
            value: Plain values for JSON.

        Returns:
            One value a worker, in their order.
        """
        if self.n_workers == 1:
            return [value]
        content = json.dumps([value, self.news().tolist()]).encode()
        lengths = np.zeros(self.n_workers, np.int32)
        lengths[self.index] = len(content)
        lengths = self.sum(lengths)
        ends = np.cumsum(lengths)
        text = np.zeros(-(-int(ends[-1]) // 4) * 4, np.uint8)
        end = int(ends[self.index])
        text[end - len(content) : end] = np.frombuffer(content, np.uint8)
        # Bytes of different workers never overlap, so the sum of words keeps each.
        whole = self.sum(text.view(np.int32)).view(np.uint8).tobytes()
        found = [
            json.loads(whole[int(end) - int(length) : int(end)])
            for end, length in zip(ends, lengths, strict=True)
        ]
        self.take_news(np.sum([news for _, news in found], axis=0))
        return [value for value, _ in found]

    def share_arrays(self, arrays: Arrays) -> Arrays:
        """Give all workers the arrays that worker 0 has.

        Args:
            arrays: By name; those of the other workers are ignored.

        Returns:
            Worker 0's.
        """
        if self.n_workers == 1:
            return arrays
        arrays = arrays if self.is_writer else {}
        kinds = self.share([[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()])
        shared = {}
        for name, dtype, shape in kinds:
            n_bytes = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
            words = np.zeros(-(-n_bytes // 4), np.int32)
            if self.is_writer:
                content = np.ascontiguousarray(arrays[name]).tobytes()
                words.view(np.uint8)[:n_bytes] = np.frombuffer(content, np.uint8)
            content = self.sum(words).tobytes()[:n_bytes]
            shared[name] = np.frombuffer(content, dtype).reshape(shape)
        return shared

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add up what the workers have, element by element.

        Args:
            values: `(n,)` int32, of the same length everywhere; at least 1.

        Returns:
            The sum.
        """
        if self.n_workers == 1:
            return values
        total = self._summed(tf.constant(values))
        summed: np.ndarray = self.strategy.experimental_local_results(total)[0].numpy()
        return summed

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)], reduce_retracing=True
    )
    def _summed(self, values: tf.Tensor) -> Any:
        def of_replica(values: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            # Of the replicas of a worker the first one speaks for it.
            is_first = replica.replica_id_in_sync_group % self.n_replicas_here == 0
            values = tf.where(is_first, values, 0)
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)

        return self.strategy.run(of_replica, args=(values,))

    # -- who trains which rows ---------------------------------------------------

    @property
    def n_replicas_here(self) -> int:
        """Replicas in this process."""
        n: int = self.strategy.num_replicas_in_sync // self.n_workers
        return n

    def rows_of_replica(self, n_rows: int, number: int) -> slice:
        """Say which rows of a batch a replica of this process trains.

        Args:
            n_rows: Of the whole batch.
            number: Of the replica in this process.

        Returns:
            Rows of the whole batch.
        """
        n_here = self.n_replicas_here
        return share_of(n_rows, self.index * n_here + number, self.n_workers * n_here)

    def make_trainer(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        train_ids: CorpusIds,
        documents: Documents | None = None,
    ) -> GroupTrainer:
        """Make the trainer of recipe default, its weights the same on all replicas.

        Args:
            network: The network's shape.
            config: How to train it.
            train_ids: `(characters,)` ids to learn from.
            documents: Where each of several documents begins; None for one.

        Returns:
            A trainer with fresh weights.
        """
        with self.strategy.scope():
            return GroupTrainer(network, config, train_ids, documents, group=self)

    # -- a worker is gone ----------------------------------------------------------

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turn TensorFlow's error about another worker into one that names it.

        Yields:
            Nothing.

        Raises:
            TrainingError: If the workers cannot go on together.
        """
        try:
            yield
            self.leave()
        except _LOSSES as error:
            if self.cluster is None:
                raise
            raise _explain(self.cluster, error) from error

    def leave(self) -> None:
        """Stay until the others have what they came for: they fetch it from here.

        To be called by all workers, or by none.
        """
        if self.n_workers == 1:
            return
        with contextlib.suppress(*_LOSSES):  # all is saved by now
            self.gather(None)
            time.sleep(_LEAVE_SECONDS)


def _explain(cluster: Cluster, error: tf.errors.OpError) -> TrainingError:
    """Find out who is gone, and stay until the others have asked the same."""
    noticed = time.monotonic()
    gone = _gone(cluster)
    time.sleep(max(0.0, _STAY_SECONDS - (time.monotonic() - noticed)))
    reason = next((line for line in str(error.message).splitlines() if "aborted" in line), "")
    return lost(cluster, gone, reason or type(error).__name__)


def _gone(cluster: Cluster) -> list[int]:
    """List the workers that do not answer, asked all at once."""

    def is_gone(index: int) -> bool:
        peer = f"/job:worker/replica:0/task:{index}"
        try:
            context.context().check_collective_ops_peer_health(
                peer, timeout_in_ms=int(_PROBE_SECONDS * 1000)
            )
        except tf.errors.OpError:
            return True
        return False

    others = [index for index in range(cluster.n_workers) if index != cluster.index]
    with ThreadPoolExecutor(len(others)) as pool:
        answers = zip(others, pool.map(is_gone, others), strict=True)
        return [index for index, gone in answers if gone]


def devices_of_this_machine(
    config: TrainingConfig,
    *,
    threads: int,
    should_stop: Callable[[], bool],
) -> Group | None:
    """Make a group of this machine's GPUs.

    Args:
        config: How to train; recipe article keeps to one device.
        threads: CPU cores that this process uses.
        should_stop: Asked after each step.

    Returns:
        The group; None if there are fewer than two GPUs, which need none.
    """
    n_gpus = len(tf.config.list_logical_devices("GPU"))
    if n_gpus < 2 or config.recipe != "default" or config.batch_size < n_gpus:
        return None
    return Group(tf.distribute.MirroredStrategy(), threads=threads, should_stop=should_stop)


def join(
    cluster: Cluster,
    *,
    threads: int,
    should_stop: Callable[[], bool],
    note: Callable[[str], None],
    should_save: Callable[[], bool] = lambda: False,
    check: Callable[[], None] = lambda: None,
) -> Group:
    """Wait for the other workers; to be called before TensorFlow has computed anything.

    Args:
        cluster: The workers.
        threads: CPU cores that this process uses.
        should_stop: Asked while waiting, and after each step.
        note: Told who is missing.
        should_save: Asked after each step, on worker 0.
        check: Called while waiting; raises if one will not come.

    Returns:
        The group of all.

    Raises:
        TrainingError: If some do not come.
        KeyboardInterrupt: If this worker was told to stop.
    """
    wait_for_workers(cluster, should_stop=should_stop, note=note, check=check)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    try:
        with bounded(cluster), _deadly_signals():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        check_port(cluster)  # says it better, if someone was faster since
        raise lost(cluster, unreachable(cluster), str(error.message)) from error
    # Not sooner: while TensorFlow connects, no other Python runs.
    if (held := held_address(cluster)) and not hold_port(*held):
        note(f"warning: {cluster.name()} answers at every address of its machine")
    return Group(
        strategy,
        cluster=cluster,
        threads=threads,
        should_stop=should_stop,
        should_save=should_save,
    )


@contextlib.contextmanager
def _deadly_signals() -> Iterator[None]:
    """Let Ctrl-C end the process at once while nothing can be lost.

    TensorFlow connects the workers deaf to Python. It also takes SIGTERM for
    itself, to tell a cluster of a preemption; that is taken back here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class GroupTrainer(StreamTrainer):
    """Recipe default, the rows of each batch shared out among the replicas of a group.

    Args:
        network: The network's shape.
        config: How to train it; `n_parts` says whose masks are drawn together.
        train_ids: `(characters,)` ids to learn from.
        documents: Where each of several documents begins; None for one.
        group: The replicas.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        train_ids: CorpusIds,
        documents: Documents | None = None,
        *,
        group: Group,
    ) -> None:
        """Build the network in the scope of the group's strategy."""
        self.group = group
        numbers = range(group.n_replicas_here)
        self._rows = [group.rows_of_replica(config.batch_size, n) for n in numbers]
        super().__init__(network, config, train_ids, documents)

    def build(self, train_ids: CorpusIds) -> None:
        """Make the network, the streams, and the states of this worker's rows."""
        super().build(train_ids)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        sizes = [rows.stop - rows.start for rows in self._rows]
        self.states = self._by_replica([self.model.zero_states(size) for size in sizes])

    def _by_replica(self, values: Sequence[Any]) -> Any:
        """Give each replica of this process its own value."""
        if len(values) == 1:
            return values[0]
        n_here = len(values)
        return self.group.strategy.experimental_distribute_values_from_function(
            lambda replica: values[replica.replica_id_in_sync_group % n_here]
        )

    def _of_replicas(self, value: Any) -> list[Any]:
        """Take the replicas' values apart."""
        return list(self.group.strategy.experimental_local_results(value))

    def _pieces(self, rows: slice) -> list[Piece]:
        """Cut a replica's rows where parts of the batch end, and for its threads."""
        n_rows = self.config.batch_size
        threads = self.group.threads if len(self._rows) == 1 else 1
        n_pieces = max(1, min(threads, (rows.stop - rows.start) // MIN_PART_ROWS))
        pieces = []
        for part, whole in enumerate(self._parts(n_rows)):
            first, last = max(rows.start, whole.start), min(rows.stop, whole.stop)
            if first >= last:
                continue
            n = max(1, round(n_pieces * (last - first) / (rows.stop - rows.start)))
            bounds = [first + k * (last - first) // n for k in range(n + 1)]
            for a, b in itertools.pairwise(bounds):
                is_whole = (a, b) == (whole.start, whole.stop)
                within = PartRows(a - whole.start, whole.stop - whole.start)
                here = slice(a - rows.start, b - rows.start)
                pieces.append(Piece(here, part, None if is_whole else within))
        return pieces

    @tf.function(autograph=False)
    def _group_step(
        self,
        inputs: Any,
        targets: Any,
        states: Any,
        news: Any,
        step: tf.Tensor,
        learning_rate: tf.Tensor,
        *documents: Any,
    ) -> Any:
        return self.group.strategy.run(
            self._replica_step,
            args=(inputs, targets, states, news, step, learning_rate, *documents),
        )

    def _replica_step(
        self,
        inputs: tf.Tensor,
        targets: tf.Tensor,
        states: States,
        news: tf.Tensor,
        step: tf.Tensor,
        learning_rate: tf.Tensor,
        ends: tf.Tensor | None = None,
        n_chars: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, States]:
        """Take one replica's share of a step: loss, gradient norm, all news, states."""
        replica = tf.distribute.get_replica_context()
        number = tf.get_static_value(replica.replica_id_in_sync_group) % len(self._rows)
        loss, gradients, after = self._gradients(
            inputs,
            targets,
            states,
            step,
            pieces=self._pieces(self._rows[number]),
            n_chars=self.config.batch_size * inputs.shape[1] if n_chars is None else n_chars,
            ends=ends,
        )
        # One vector: each collective costs its latency, however short it is.
        vector = tf.concat([tf.reshape(t, [-1]) for t in [*gradients, loss, news]], axis=0)
        vector = replica.all_reduce(tf.distribute.ReduceOp.SUM, vector)
        *gradients, loss, news = (
            tf.reshape(flat, like.shape)
            for flat, like in zip(
                tf.split(vector, [t.shape.num_elements() for t in [*gradients, loss, news]]),
                [*gradients, loss, news],
                strict=True,
            )
        )
        norm = tf.linalg.global_norm(gradients)
        if self.config.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.clip_norm, use_norm=norm)
        self.optimizer.apply_here(gradients, self.model.trainable_variables, learning_rate)
        return loss_of_finite_step(loss, norm), norm, news, after

    def train_step(self, state: TrainerState) -> tuple[float, int]:
        """Take one step together with the other replicas."""
        here = slice(self._rows[0].start, self._rows[-1].stop)
        inputs, targets, is_epoch_start = self.batches.batch(state.step, rows=here)
        # Of all rows, as their number counts; it takes no ids to tell.
        ends = self.batches.ends(state.step)
        if is_epoch_start:
            self._begin_epoch()
        learning_rate = learning_rate_at(
            state.step,
            total_steps=state.total_steps,
            peak=self.config.learning_rate * state.learning_rate_scale,
        )
        cuts = [slice(rows.start - here.start, rows.stop - here.start) for rows in self._rows]
        n_chars = count_scored((self.config.batch_size, inputs.shape[1]), ends)
        documents = []
        if ends is not None:
            documents = [
                self._by_replica([tf.constant(ends[rows]) for rows in self._rows]),
                tf.constant(np.asarray(n_chars, np.float32)),
            ]
        own = self.group.news()
        news = [own, *[np.zeros_like(own)] * (len(cuts) - 1)]
        loss, norm, all_news, self.states = self._group_step(
            self._by_replica([tf.constant(inputs[rows]) for rows in cuts]),
            self._by_replica([tf.constant(targets[rows]) for rows in cuts]),
            self.states,
            self._by_replica([tf.constant(n) for n in news]),
            # As arrays, as in `StreamTrainer.train_step`.
            tf.constant(np.asarray(state.step, np.int32)),
            tf.constant(np.asarray(learning_rate, np.float32)),
            *documents,
        )
        if state.step % _CLEAN_EVERY == 0:
            pywrap_tfe.TFE_ClearScalarCache()
        self.group.take_news(self._of_replicas(all_news)[0].numpy())
        self.gradient_norm = self._of_replicas(norm)[0]
        return float(self._of_replicas(loss)[0]), n_chars

    def evaluate(
        self,
        ids: CorpusIds,
        *,
        documents: Documents | None = None,
        max_chunks: int | None = None,
    ) -> float:
        """Return nats/char, each worker reading some of the rows."""
        rows = EvaluationRows(ids, documents)
        mine = share_of(rows.n_rows, self.group.index, self.group.n_workers)
        nats = 0.0
        if mine.stop > mine.start:
            nats = self._nats_of(rows, mine, max_chunks)
        return float(sum(self.group.gather(nats))) / rows.n_scored

    def carried_states(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Gather the states of all rows, which every worker gets."""
        layers, units = self.network.layers, self.network.units
        whole = np.zeros((layers, 2, self.config.batch_size, units), np.float32)
        of_replicas = [self._of_replicas(h_and_c) for h_and_c in tf.nest.flatten(self.states)]
        for n, of_replica in enumerate(of_replicas):
            for rows, state in zip(self._rows, of_replica, strict=True):
                whole[n // 2, n % 2, rows] = state.numpy()
        # As integers, the zeros of the others change no bit.
        words = self.group.sum(whole.view(np.int32).reshape(-1))
        return [(h, c) for h, c in words.view(np.float32).reshape(whole.shape)]

    def restore_states(self, arrays: Arrays) -> None:
        """Take the states of this worker's rows from those of all."""
        super().restore_states(arrays)
        whole = self.states
        self.states = self._by_replica(
            [[(h[rows], c[rows]) for h, c in whole] for rows in self._rows]
        )
