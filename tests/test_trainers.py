"""What one optimizer step does, against stock Keras and against itself in other parts."""

from __future__ import annotations

import numpy as np
import pytest

from charlstm.config import NetworkConfig, TrainingConfig

pytestmark = pytest.mark.tf

SIZE, UNITS, TIME = 7, 6, 9
IDS = np.random.default_rng(3).integers(0, SIZE, 2_300).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def trainers():
    from charlstm.backend import start_tensorflow

    start_tensorflow(threads=2, random_seed=0, parts=2)
    import charlstm.trainers

    return charlstm.trainers


def make(trainers, *, ids=IDS, documents=None, **options):
    config = TrainingConfig(**({"batch_size": 25, "dropout": 0.0} | options))
    network = NetworkConfig(vocabulary_size=SIZE, units=UNITS, seq_length=TIME)
    return trainers.StreamTrainer(network, config, ids, documents)


def steps_of(trainers, trainer, n, first=0):
    """Take n steps and return their losses."""
    losses = []
    for step in range(first, first + n):
        losses.append(trainer.train_step(trainers.TrainerState(step=step, total_steps=100))[0])
    return losses


def with_sgd(trainer):
    """Plain gradient descent shows the gradients as they are."""
    import keras

    trainer.optimizer = keras.optimizers.SGD(1.0)
    trainer.optimizer.build(trainer.model.trainable_variables)
    return trainer


def test_fused_adam_is_adam(trainers):
    """Over many steps, so that both moments and their bias corrections count."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 5)).astype(np.float32)
    ours, theirs = tf.Variable(start), tf.Variable(start)
    fused, stock = trainers.FusedAdam(1e-2), keras.optimizers.Adam(1e-2)
    fused.build([ours])
    stock.build([theirs])
    for step in range(20):
        gradient = tf.constant(rng.normal(size=(3, 5)).astype(np.float32) * 10.0 ** (step % 3 - 2))
        for optimizer, variable in ((fused, ours), (stock, theirs)):
            optimizer.learning_rate.assign(1e-2 / (1 + step))
            optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    for mine, its in zip(fused.variables, stock.variables, strict=True):
        # 1 - 0.999 is rounded before the product there, and in it here.
        np.testing.assert_allclose(mine, its, rtol=2e-5)


@pytest.mark.parametrize("threads", [2, 3])
def test_parts_of_unequal_size_are_the_whole(trainers, threads):
    """25 rows in parts of 12 and 13, or 8, 8 and 9: loss, weights and carried states."""
    whole = with_sgd(make(trainers, threads=1))
    parts = with_sgd(make(trainers, threads=threads))
    assert (whole.config.n_parts, parts.config.n_parts) == (1, threads)
    np.testing.assert_allclose(
        steps_of(trainers, parts, 3), steps_of(trainers, whole, 3), rtol=1e-6
    )
    for a, b in zip(parts.model.trainable_variables, whole.model.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.path)
    for (h, c), (h_whole, c_whole) in zip(parts.states, whole.states, strict=True):
        np.testing.assert_allclose(h, h_whole, atol=1e-6)
        np.testing.assert_allclose(c, c_whole, atol=1e-6)


def test_parts_do_not_share_their_dropout(trainers):
    """Twice the same rows: with masks of their own the halves end in other states."""
    ids = np.tile(IDS[:1_008], 2)  # 16 rows of 126: row b and row b + 8 are equal
    trainer = make(trainers, ids=ids, batch_size=16, dropout=0.5, threads=2)
    assert trainer.config.n_parts == 2
    inputs, _, _ = trainer.batches.batch(0)
    np.testing.assert_array_equal(inputs[:8], inputs[8:])
    steps_of(trainers, trainer, 1)
    h = trainer.states[1][0].numpy()  # the second layer reads what the first one's mask left
    assert not np.allclose(h[:8], h[8:], atol=1e-4)


def test_recurrent_dropout_is_in_the_training_step(trainers):
    """A step with it is a step without it on masked kernels, and a masked gradient."""
    dropped = with_sgd(make(trainers, recurrent_dropout=0.5, clip_norm=None))
    masked = with_sgd(make(trainers, clip_norm=None))
    packed = dropped.model.pack_weights(training=True, step=0)
    masks = []
    for lstm, weights in zip(masked.model.lstms, packed, strict=True):
        before = lstm.recurrent_kernel.numpy()
        masks.append(weights.recurrent.numpy() / before)
        lstm.recurrent_kernel.assign(weights.recurrent)
    assert all(0.3 < np.mean(mask == 0) < 0.7 for mask in masks)
    start = [lstm.recurrent_kernel.numpy() for lstm in dropped.model.lstms]
    start_masked = [lstm.recurrent_kernel.numpy() for lstm in masked.model.lstms]
    assert steps_of(trainers, dropped, 1) == pytest.approx(steps_of(trainers, masked, 1), rel=1e-6)
    for n, mask in enumerate(masks):
        change = dropped.model.lstms[n].recurrent_kernel.numpy() - start[n]
        its_change = masked.model.lstms[n].recurrent_kernel.numpy() - start_masked[n]
        np.testing.assert_allclose(change, its_change * mask, atol=1e-7)


def test_the_state_is_carried_within_an_epoch_and_begins_anew_with_the_next(trainers):
    trainer = with_sgd(make(trainers))
    per_epoch = trainer.batches.steps_per_epoch
    steps_of(trainers, trainer, per_epoch - 1)
    weights = [v.numpy() for v in trainer.model.trainable_variables]
    fresh = with_sgd(make(trainers))

    def loss_of(step, states):
        """Return a step's loss from given states, with the weights as they were."""
        for variable, value in zip(fresh.model.trainable_variables, weights, strict=True):
            variable.assign(value)
        fresh.states = states
        return steps_of(trainers, fresh, 1, first=step)[0]

    zero = trainer.model.zero_states(25)
    carried = trainer.states
    assert any(np.abs(h).max() > 0.01 for h, _ in carried)
    last = per_epoch - 1
    (loss,) = steps_of(trainers, trainer, 1, first=last)
    assert loss == pytest.approx(loss_of(last, carried), rel=1e-6)
    assert loss != pytest.approx(loss_of(last, zero), rel=1e-6)
    weights = [v.numpy() for v in trainer.model.trainable_variables]
    carried = trainer.states
    (loss,) = steps_of(trainers, trainer, 1, first=per_epoch)
    assert loss == pytest.approx(loss_of(per_epoch, zero), rel=1e-6)
    # What the trainer itself does with leftover states at the start of an epoch:
    assert loss == pytest.approx(loss_of(per_epoch, carried), rel=1e-6)


def test_the_network_of_a_gpu_takes_the_same_steps(trainers, monkeypatch):
    """With stock Keras layers, here on the CPU; either goes on from the other's state."""
    import tensorflow as tf

    from charlstm.model import get_weights

    options = {"dropout": 0.3, "recurrent_dropout": 0.5}
    ours = make(trainers, **options)
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
        theirs = make(trainers, **options)
    for lstm in theirs.model.lstms:
        lstm.use_cudnn = False  # there is none here
    assert theirs.model.has_gpu
    assert not ours.model.has_gpu
    assert steps_of(trainers, theirs, 1) == pytest.approx(steps_of(trainers, ours, 1), rel=1e-5)
    theirs.restore(get_weights(ours.model), ours.arrays())
    for step in (1, 2):
        loss = steps_of(trainers, ours, 1, first=step)
        assert steps_of(trainers, theirs, 1, first=step) == pytest.approx(loss, rel=1e-5)
    ours.restore(get_weights(theirs.model), theirs.arrays())


def test_it_begins_by_guessing_how_frequent_each_character_is(trainers):
    """Of a text in which they differ much, one of the vocabulary missing."""
    rng = np.random.default_rng(5)
    shares = np.array([0.5, 0.3, 0.1, 0.06, 0.03, 0.01, 0.0])
    ids = rng.choice(SIZE, 2_300, p=shares).astype(np.uint8)
    trainer = make(trainers, ids=ids)
    bias = trainer.model.dense.bias.numpy()
    assert np.exp(bias).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(bias[:6]) == pytest.approx(np.bincount(ids) / 2_300, abs=0.005)
    assert bias[6] == pytest.approx(np.log(1 / 2_307), abs=1e-4)
    entropy = -(shares[:6] * np.log(shares[:6])).sum()
    assert steps_of(trainers, trainer, 1)[0] == pytest.approx(entropy, abs=0.1)


# Empty ones, one of a single character, and one past the end.
DOCUMENTS = np.array([0, 31, 31, 32, 400, 777, 1_500, 2_299, 2_400], "<u8")


def test_the_end_of_a_document_is_neither_scored_nor_carried_over(trainers):
    """The first step's loss by NumPy, each stretch of a row scored as a text of its own."""
    from charlstm.engine import LSTMStep
    from charlstm.model import get_weights
    from charlstm.scoring import score_ids

    trainer = make(trainers, documents=DOCUMENTS)
    step = LSTMStep(trainer.network, get_weights(trainer.model))
    inputs, targets, _ = trainer.batches.batch(0)
    ends = trainer.batches.ends(0)
    assert ends.any()
    nats, n_scored = 0.0, 0
    for row, last, cut in zip(inputs, targets[:, -1], ends, strict=True):
        text = np.append(row, last)
        for stretch in np.split(text, np.flatnonzero(cut) + 1):
            if len(stretch) > 1:
                score = score_ids(step, stretch)
                nats, n_scored = nats + score.nats, n_scored + score.n_scored
    loss, n_chars = trainer.train_step(trainers.TrainerState(step=0))
    assert n_chars == n_scored
    assert loss == pytest.approx(nats / n_scored, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "recurrent_dropout": 0.5}])
def test_both_networks_keep_documents_apart_alike(trainers, monkeypatch, options):
    """Stock layers, as on a GPU, here on the CPU, and the project's own."""
    import tensorflow as tf

    ours = make(trainers, documents=DOCUMENTS, **options)
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
        theirs = make(trainers, documents=DOCUMENTS, **options)
    for n in range(len(theirs.model.lstms)):
        theirs.model._twins.find(n, is_wider=True, is_half=False).use_cudnn = False
    assert steps_of(trainers, theirs, 3) == pytest.approx(steps_of(trainers, ours, 3), rel=1e-5)


def test_parts_keep_documents_apart_as_the_whole(trainers):
    whole = make(trainers, documents=DOCUMENTS)
    parts = make(trainers, documents=DOCUMENTS, threads=3)
    for step in range(3):
        state = trainers.TrainerState(step=step)
        loss, n_chars = parts.train_step(state)
        assert n_chars == 25 * TIME - whole.batches.ends(step).sum()
        assert whole.train_step(state)[0] == pytest.approx(loss, rel=1e-5)


def test_keras_and_numpy_give_documents_the_same_loss(trainers):
    from charlstm.engine import LSTMStep
    from charlstm.model import get_weights
    from charlstm.scoring import score_ids

    trainer = make(trainers, documents=DOCUMENTS)
    steps_of(trainers, trainer, 5)
    step = LSTMStep(trainer.network, get_weights(trainer.model))
    score = score_ids(step, IDS, documents=DOCUMENTS)
    assert score.n_scored == 2_300 - 7
    assert trainer.evaluate(IDS, documents=DOCUMENTS) == pytest.approx(
        score.nats_per_char, abs=1e-4
    )
    assert abs(score.nats_per_char - score_ids(step, IDS).nats_per_char) > 1e-6


def test_a_document_knows_nothing_of_the_one_before(trainers):
    """Its logits are the same to the last bit, whatever stands before it."""
    model = make(trainers).model
    other = IDS[:180].copy().reshape(2, 90)
    ids, ends = other.copy(), np.zeros((2, 90), bool)
    ends[:, 39] = True
    other[:, :40] = (other[:, :40] + 3) % SIZE
    logits, states = model(ids.astype(np.int32), ends=ends)
    other_logits, other_states = model(other.astype(np.int32), ends=ends)
    assert not np.array_equal(logits[:, 5], other_logits[:, 5])
    np.testing.assert_array_equal(logits[:, 40:], other_logits[:, 40:])
    for pair, other_pair in zip(states, other_states, strict=True):
        np.testing.assert_array_equal(pair, other_pair)


def test_what_follows_from_a_beginning_is_learned(trainers):
    """One sequence, cut off anywhere: only who knows where it began can go on with it."""
    rng = np.random.default_rng(8)
    sequence = rng.integers(0, SIZE - 4, 40)
    pieces = [sequence[:n] for n in rng.integers(6, 40, 300)]
    ids = np.concatenate(pieces).astype(np.uint8)
    starts = np.cumsum([0, *map(len, pieces[:-1])]).astype("<u8")
    losses = []
    for documents in (starts, None):
        trainer = make(trainers, ids=ids, documents=documents, learning_rate=2e-2)
        steps_of(trainers, trainer, 250)
        losses.append(trainer.evaluate(ids, documents=documents))
    apart, joined = losses
    assert apart < joined - 0.05
