"""Stacks of mixers over time: the layer around a mixer, and layers one after another."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.ops.loops import trips_at_once
from stjax.ops.sharding import at_edge


class SequenceLayer(nn.Module):
    """A mixer with its residual connection, norm and dropout; itself a mixer.

    Post-norm LayerNorm(x + Dropout(mixer(x))), as in S5 and ConvS5 (arXiv 2310.19694, section
    4.2), or pre-norm x + Dropout(mixer(LayerNorm(x))).

    Attributes:
        mixer: factory of the mixer, called with a `name`.
        norm: "post", "pre" or "none".
        skip: add the input to the output.
        dropout: rate; one mask for all time steps.
    """

    mixer: Callable[..., nn.Module]
    norm: str = "post"
    skip: bool = True
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t ... c"], state: Any = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t ... c"], Any]:
        if self.norm not in ("post", "pre", "none"):
            raise ValueError(f"norm: {self.norm!r} is none of 'post', 'pre', 'none'")
        norm = lambda x: nn.LayerNorm(
            dtype=self.dtype, param_dtype=self.param_dtype, name="norm"
        )(x)
        y = norm(x) if self.norm == "pre" else x
        y, state = self.mixer(name="mixer")(y, state, train=train)
        y = nn.Dropout(self.dropout, broadcast_dims=(1,))(y, deterministic=not train)
        y = x + y if self.skip else y
        return (norm(y) if self.norm == "post" else y), state


class Stack(nn.Module):
    """Alike mixers one after another; itself a mixer.

    Parameters, and the states of the mixers, are stacked over the layers on a new leading axis,
    so compile time does not grow with depth. What it is told by name besides goes to every layer.

    Attributes:
        layer: factory of one layer, a mixer that keeps its input's shape; called with a `name`.
        depth: number of layers.
        skips: pairs (source, target): the input of layer `source` is added to that of `target`.
            Layers past the depth are not there, and their pairs do nothing.
        remat: recompute each layer in the backward pass instead of keeping its inner values.
    """

    layer: Callable[..., nn.Module]
    depth: int
    skips: tuple[tuple[int, int], ...] = ()
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t ..."], state: Any = None, *, train: bool = False, **told: Any
    ) -> tuple[Float[Array, "b t ..."], Any]:
        def apply(layer: nn.Module, carry, at):
            x, kept = carry
            index, state = at
            kept = [
                jnp.where(index == source, x, old) for (source, _), old in zip(self.skips, kept)
            ]
            for (_, target), source in zip(self.skips, kept):
                x = x + jnp.where(index == target, source, 0)
            x, state = layer(at_edge(x), state, train=train, **told)
            return (x, kept), state

        run = nn.scan(
            nn.remat(apply, prevent_cse=False) if self.remat else apply,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
            unroll=trips_at_once(self.depth),
        )
        kept = [jnp.zeros_like(x) for _ in self.skips]
        (x, _), state = run(
            self.layer(name="layers"), (x, kept), (jnp.arange(self.depth), state)
        )
        return x, state




def sequence_layers(
    mixer: Callable[..., nn.Module],
    depth: int,
    *,
    skips: tuple[tuple[int, int], ...] = (),
    remat: bool = False,
    **layer: Any,
) -> Callable[..., Stack]:
    """A factory of `Stack`s of `SequenceLayer`s; `layer` are the fields of these."""
    return functools.partial(
        Stack, functools.partial(SequenceLayer, mixer, **layer), depth, skips, remat
    )
