# mypy: ignore-errors
"""TensorFlow Recommenders on the world of ``throughput``: told for how long, it works.

    TF_USE_LEGACY_KERAS=1 python peer_tfrs.py WORLD.npz LOSS ROWS OPTIMIZER

Runs in an environment of its own, so it imports nothing of this project. The towers are those
that users of TFRS write: an id's embedding beside those of the features, then dense layers.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
from peer_loop import CATEGORY_DIM, DIM, HIDDEN, ID_DIM, work


class Tower(tf.keras.Model):
    def __init__(self, codes: np.ndarray) -> None:
        super().__init__()
        sizes = codes.max(axis=0) + 1
        self.codes = tf.constant(codes)
        self.ids = tf.keras.layers.Embedding(len(codes), ID_DIM)
        self.tables = [tf.keras.layers.Embedding(int(size), CATEGORY_DIM) for size in sizes]
        hidden = [tf.keras.layers.Dense(width, activation="relu") for width in HIDDEN]
        self.layers_ = tf.keras.Sequential([*hidden, tf.keras.layers.Dense(DIM)])

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        codes = tf.gather(self.codes, rows)
        parts = [table(codes[:, place]) for place, table in enumerate(self.tables)]
        return self.layers_(tf.concat([self.ids(rows), *parts], axis=1))


def main() -> None:
    path, loss, rows, optimizer = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    world = np.load(path)
    users, items = Tower(world["user_codes"]), Tower(world["item_codes"])
    task = tfrs.tasks.Retrieval()
    rates = {"Adagrad": tf.keras.optimizers.legacy.Adagrad(0.1)}
    way = rates.get(optimizer) or tf.keras.optimizers.legacy.Adam(1e-3)
    positives = int(rows) if loss == "in_batch_softmax" else int(rows) // 2
    num_items = len(world["item_codes"])

    @tf.function
    def step(user: tf.Tensor, item: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            queries = users(user)
            if loss == "in_batch_softmax":
                total = task(queries, items(item), compute_metrics=False)
            else:
                other = tf.random.uniform(tf.shape(item), 1, num_items, tf.int32)
                both = items(tf.concat([item, other], 0))
                logits = tf.reduce_sum(tf.concat([queries, queries], 0) * both, 1)
                labels = tf.concat([tf.ones_like(item), tf.zeros_like(item)], 0)
                labels = tf.cast(labels, tf.float32)
                each = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
                total = tf.reduce_mean(each)
        weights = users.trainable_variables + items.trainable_variables
        way.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))

    pairs = tf.data.Dataset.from_tensor_slices((world["user_rows"], world["item_rows"]))
    batches = iter(pairs.shuffle(100_000).repeat().batch(positives).prefetch(2))
    work(lambda: step(*next(batches)), positives)


if __name__ == "__main__":
    main()
