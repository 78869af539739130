"""Normalisation layers."""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named


def frame_group_norm(groups: int, channels: str = "embed", **options: Any) -> nn.GroupNorm:
    """GroupNorm over the map of each frame, whatever axes lead: x is (..., h, w, c).

    flax's own takes all axes but the first, and so would look along time. `channels` is the name of
    their axis (`stjax.layers.partitioning`).
    """
    return nn.GroupNorm(
        groups,
        reduction_axes=(-3, -2, -1),
        scale_init=named(nn.initializers.ones, channels),
        bias_init=named(nn.initializers.zeros, channels),
        **options,
    )


def torch_batch_norm(train: bool, **options: Any) -> nn.BatchNorm:
    """BatchNorm as PyTorch has it unless told otherwise: a momentum of 0.1, there, is 0.9 here."""
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, **options)


def frame_layer_norm(**options: Any) -> nn.LayerNorm:
    """LayerNorm over each frame, with a scale and a bias for every entry: x is (..., h, w, c).

    (PyTorch's LayerNorm([c, h, w]).)
    """
    axes = (-3, -2, -1)
    return nn.LayerNorm(
        1e-5, reduction_axes=axes, feature_axes=axes, use_fast_variance=False, **options
    )


def joint_layer_norm(**options: Any) -> nn.LayerNorm:
    """LayerNorm over nodes and channels of each step together: x is (..., n, c), a scale each.

    (Yu et al. 2018, STGCN, arXiv 1709.04875, whose code takes an epsilon of 1e-6, as here.)
    """
    axes = (-2, -1)
    return nn.LayerNorm(
        1e-6, reduction_axes=axes, feature_axes=axes, use_fast_variance=False, **options
    )


class QKNorm(nn.Module):
    """Queries and keys, each normalised with a scale of its own, so that logits stay bounded.

    (Henry et al. 2020, arXiv 2010.04245; with layer norms, Dehghani et al. 2023, ViT-22B, arXiv
    2302.05442, section 2.) It comes before rotary codes.

    Attributes:
        over: "head": every head by itself, with one scale (d,) for all; "width": all heads of a
            token together, with a scale (h, d).
        center: whether the mean is taken off and a bias added (LayerNorm), or not (RMSNorm).
    """

    over: Literal["head", "width"] = "head"
    center: bool = False
    epsilon: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, q: Float[Array, "... n h d"], k: Float[Array, "... m g d"]
    ) -> tuple[Float[Array, "... n h d"], Float[Array, "... m g d"]]:
        axes = {"head": (-1,), "width": (-2, -1)}[self.over]
        norm = functools.partial(
            nn.LayerNorm if self.center else nn.RMSNorm,
            self.epsilon,
            reduction_axes=axes,
            feature_axes=axes,
            use_fast_variance=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        return norm(name="q")(q), norm(name="k")(k)
