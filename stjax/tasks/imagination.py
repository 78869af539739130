"""Imagining the views along a way that was not gone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from stjax.envs.grid_walk import GridWalk
from stjax.ops.pixels import unit_range
from stjax.tasks.base import Aux, Batch, Metrics, Variables
from stjax.viz.frames import sheet

Views = Float[Array, "b t h w c"]


@dataclasses.dataclass(frozen=True)
class Imagination:
    """Trains a model that walks over an image and then imagines another walk over it.

    The model is `model(views, positions, actions, groups) -> views`
    (`stjax.models.language.spatially_aware_transformer.ViewImagination`). Batches hold "image"
    (b, s, s, 3) and either "seed" (b, 2), by which both walks are made on the device, or
    "positions" (b, memorize + imagine + 1, 2) and "actions".

    Attributes:
        model: what remembers and imagines.
        world: where it walks.
        clusters: the group of each cell, for a place memory.
        memorize, imagine: views that are remembered, and that are imagined.
        size, stride: pixels of a view, and between the views of neighbouring cells.
    """

    model: nn.Module
    world: GridWalk
    clusters: tuple[int, ...]
    memorize: int = 256
    imagine: int = 32
    size: int = 16
    stride: int = 8

    headline = "mse"

    @property
    def image_size(self) -> int:
        """Pixels of the images that are walked over."""
        return (self.world.side - 1) * self.stride + self.size

    def init(self, key: jax.Array, batch: Batch) -> Variables:
        return self.model.init(key, *self._inputs(batch))

    def loss(
        self, variables: Variables, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Aux]:
        del key, step
        inputs = self._inputs(batch)
        views = self.model.apply(variables, *inputs, train=True)[:, 1:]
        error = jnp.square(views.astype(jnp.float32) - self._truth(inputs)).mean()
        return error, Aux(metrics={}, updates={})

    def predict(self, variables: Variables, batch: Batch, key: jax.Array) -> Views:
        """The views imagined, all at once."""
        del key
        return self.model.apply(variables, *self._inputs(batch))[:, 1:]

    def metrics(self, predictions: Views, batch: Batch) -> Metrics:
        error = jnp.square(predictions - self._truth(self._inputs(batch))).mean((1, 2, 3, 4))
        return {"mse": (error, batch.get("weight", jnp.ones(len(error))))}

    def render(self, predictions: Views, batch: Batch) -> dict[str, Any]:
        """What was remembered last, what was to be seen, and what was imagined."""

        @jax.jit
        def seen(batch):
            views, positions, *_ = inputs = self._inputs(batch)
            last = positions[:, self.memorize - 8 : self.memorize]
            return self._at(views, last), self._truth(inputs)

        return {"views": sheet(*map(np.asarray, seen(batch)), np.asarray(predictions))}

    def summary(self, batch: Batch) -> Float[Array, "h w c"]:
        return self._truth(self._inputs(batch)).mean((0, 1))

    def trivial(self, summary: Float[Array, "h w c"], batch: Batch) -> dict[str, Views]:
        """The mean view; the view given; the mean of those remembered."""
        views, positions, *_ = inputs = self._inputs(batch)
        truth = self._truth(inputs)
        seen = self._at(views, positions[:, : self.memorize])
        given = self._at(views, positions[:, self.memorize :][:, :1])
        whole = lambda x: jnp.broadcast_to(x, truth.shape)
        return {
            "mean view": whole(summary), "view given": whole(given),
            "mean remembered": whole(seen.mean(1, keepdims=True)),
        }

    def _inputs(self, batch: Batch) -> tuple[Array, Array, Array, Array]:
        image = unit_range(batch["image"])
        corner = np.arange(self.world.side)[:, None] * self.stride + np.arange(self.size)
        views = image[:, corner[:, None, :, None], corner[None, :, None, :]]
        views = views.reshape(len(views), -1, *views.shape[3:])
        if "positions" in batch:
            positions, actions = batch["positions"], batch["actions"]
        else:
            keys = jax.random.wrap_key_data(batch["seed"])
            positions, actions = jax.vmap(self._walks)(keys)
        cells = positions[:, : self.memorize] @ jnp.array([self.world.side, 1])
        return views, positions, actions, jnp.array(self.clusters)[cells]

    def _walks(self, key: jax.Array) -> tuple[Int[Array, "t 2"], Int[Array, " t-1"]]:
        """The walk that is remembered, and one from a new start."""
        first, second = jax.random.split(key)
        seen, taken = self.world.walk(first, self.memorize)
        ahead, actions = self.world.walk(second, self.imagine)
        return jnp.concatenate([seen[:-1], ahead]), jnp.concatenate([taken, actions])

    def _truth(self, inputs: tuple[Array, ...]) -> Views:
        return self._at(inputs[0], inputs[1][:, self.memorize + 1 :])

    def _at(self, views: Float[Array, "b cells h w c"], positions: Int[Array, "b t 2"]) -> Views:
        cells = positions @ jnp.array([self.world.side, 1])
        return jax.vmap(lambda views, cells: views[cells])(views, cells)
