# mypy: ignore-errors
"""Keras with Keras-RS on the world of ``throughput``: told for how long, it works.

    KERAS_BACKEND=jax python peer_keras_rs.py WORLD.npz LOSS ROWS OPTIMIZER

Runs in an environment of its own, so it imports nothing of this project. The towers are those
of ``peer_tfrs``; the loop over batches and the loss are the user's to write there.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
import keras
import keras_rs
import numpy as np
from keras import ops
from peer_loop import CATEGORY_DIM, DIM, HIDDEN, ID_DIM, work


class Tower(keras.Model):
    def __init__(self, codes: np.ndarray) -> None:
        super().__init__()
        self.codes = self.add_weight(
            shape=codes.shape,
            dtype="int32",
            trainable=False,
            initializer=lambda *_, **__: codes,
        )
        self.ids = keras.layers.Embedding(len(codes), ID_DIM)
        sizes = codes.max(axis=0) + 1
        self.tables = [keras.layers.Embedding(int(size), CATEGORY_DIM) for size in sizes]
        hidden = [keras.layers.Dense(width, activation="relu") for width in HIDDEN]
        self.layers_ = keras.Sequential([*hidden, keras.layers.Dense(DIM)])

    def call(self, rows):
        codes = ops.take(self.codes, rows, axis=0)
        parts = [table(codes[:, place]) for place, table in enumerate(self.tables)]
        return self.layers_(ops.concatenate([self.ids(rows), *parts], axis=1))


class TwoTowers(keras.Model):
    def __init__(self, world, loss: str) -> None:
        super().__init__()
        self.users, self.items = Tower(world["user_codes"]), Tower(world["item_codes"])
        self.correction = keras_rs.layers.SamplingProbabilityCorrection()
        self.kind = loss

    def call(self, given):
        queries, items = self.users(given["user"]), self.items(given["item"])
        if self.kind == "in_batch_softmax":
            return self.correction(ops.matmul(queries, ops.transpose(items)), given["chance"])
        return ops.sum(ops.concatenate([queries, queries], 0) * items, 1)

    def compute_loss(self, x=None, y=None, y_pred=None, *_, **__):
        del x
        if self.kind == "in_batch_softmax":
            rows = ops.arange(ops.shape(y_pred)[0])
            losses = keras.losses.sparse_categorical_crossentropy(
                rows, y_pred, from_logits=True
            )
        else:
            losses = keras.losses.binary_crossentropy(
                y[:, None], y_pred[:, None], from_logits=True
            )
        return ops.mean(losses)


def main() -> None:
    path, loss, rows, optimizer = sys.argv[1:]
    world = np.load(path)
    rates = {"Adagrad": keras.optimizers.Adagrad(0.1), "Adam": keras.optimizers.Adam(1e-3)}
    model = TwoTowers(world, loss)
    model.compile(optimizer=rates[optimizer])
    is_softmax, num_items = loss == "in_batch_softmax", len(world["item_codes"])
    positives = int(rows) if is_softmax else int(rows) // 2
    rng, count = np.random.default_rng(0), len(world["user_rows"])
    counts = np.bincount(world["item_rows"], minlength=num_items)
    chances = (counts / count).astype(np.float32)
    order, place = rng.permutation(count), 0

    def step() -> None:
        nonlocal place
        if place + positives > count:
            place = 0
        some = order[place : place + positives]
        place += positives
        given = {"user": world_users[some], "item": world_items[some]}
        if is_softmax:
            given["chance"] = chances[given["item"]]
            model.train_on_batch(given)
        else:
            other = rng.integers(1, num_items, positives, np.int32)
            given["item"] = np.concatenate([given["item"], other])
            labels = np.repeat(np.array([1, 0], np.float32), positives)
            model.train_on_batch(given, labels)

    # Read once: a member of an archive is read anew each time it is asked for.
    world_users, world_items = world["user_rows"], world["item_rows"]
    work(step, positives)


if __name__ == "__main__":
    main()
