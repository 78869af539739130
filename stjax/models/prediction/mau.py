"""MAU (Chang et al. 2021, NeurIPS), as OpenSTL benchmarks it."""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from stjax.layers.convolution import Conv, ConvTranspose
from stjax.layers.norm import frame_layer_norm
from stjax.layers.rollout import Rollout

Map = Float[Array, "b h w c"]
Maps = Float[Array, "b tau h w c"]


class MAU(nn.Module):
    """Motion-aware units between an encoder and a decoder of frames.

    Attributes:
        features: channels, of all maps.
        layers: how many units.
        kernel_size: side of the units' kernels.
        halvings: how often the encoder halves the frame.
        tau: how many steps the units look back.
        residual: whether a unit's spatial state is added to what it makes of it.
        recall: whether the decoder is shown the encoder's maps of the same size.
    """

    features: int = 64
    layers: int = 4
    kernel_size: int = 5
    halvings: int = 2
    tau: int = 5
    residual: bool = False
    recall: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t h w c"],
        actions: Array | None = None,
        state: Any = None,
        *,
        train: bool = False,
        truth: Shaped[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t h w c"], Any]:
        """The next frames, and the state after the last, see `Rollout`. Actions are not used."""
        cell = functools.partial(
            _Units,
            self.features,
            self.layers,
            self.kernel_size,
            self.halvings,
            self.tau,
            self.residual,
            self.recall,
            self.dtype,
            self.param_dtype,
        )
        return Rollout(cell, name="rollout")(video, state, train=train, truth=truth)


class _Units(nn.Module):
    """A frame in, the next one out; fields as `MAU`'s."""

    features: int
    layers: int
    kernel_size: int
    halvings: int
    tau: int
    residual: bool
    recall: bool
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Map) -> Any:
        batch, *size, _ = frame.shape
        size = [side // 2**self.halvings for side in size]
        now = jnp.zeros((batch, *size, self.features), frame.dtype)
        past = jnp.zeros((batch, self.tau, *size, self.features), frame.dtype)
        return ((now, past, past),) * self.layers

    @nn.compact
    def __call__(self, frame: Map, state: Any, *, train: bool = False) -> tuple[Map, Any]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, **dtypes)
        maps = [nn.leaky_relu(conv(self.features, (1, 1), name="encoder_0")(frame), 0.2)]
        for k in range(1, self.halvings + 1):
            half = conv(self.features, strides=(2, 2), padding=(1, 1), name=f"encoder_{k}")
            maps.append(nn.leaky_relu(half(maps[-1]), 0.2))
        x, after = maps[-1], []
        self.sow("intermediates", "encoded", x)
        for k, (temporal, temporal_past, spatial_past) in enumerate(state):
            unit = MotionAwareUnit(self.kernel_size, self.residual, name=f"unit_{k}", **dtypes)
            spatial_after = _pushed(spatial_past, x)
            temporal, x = unit(temporal, x, temporal_past, spatial_past)
            self.sow("intermediates", f"states_{k}", (temporal, x))
            after.append((temporal, _pushed(temporal_past, temporal), spatial_after))
        for k in range(self.halvings):
            x = ConvTranspose(self.features, 2, name=f"decoder_{k}", **dtypes)(x)
            if k + 1 < self.halvings:
                x = nn.leaky_relu(x, 0.2)
            if self.recall:
                x = x + maps[-2 - k]
        return conv(frame.shape[-1], (1, 1), name="readout")(x), tuple(after)


class MotionAwareUnit(nn.Module):
    """A step of a temporal and a spatial state, which are fused with attention to the past.

    What came after spatial states like the present one (softmax over the past of their products),
    is the trend that the temporal state is mixed with (section 3.1, equations 1 to 6).

    Attributes:
        kernel_size: side of the kernels.
        residual: whether the spatial state is added to its successor.
    """

    kernel_size: int = 5
    residual: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, temporal: Map, spatial: Map, temporal_past: Maps, spatial_past: Maps
    ) -> tuple[Map, Map]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features, window = spatial.shape[-1], (self.kernel_size, self.kernel_size)
        conv = functools.partial(Conv, window=window, **dtypes)
        norm = functools.partial(frame_layer_norm, **dtypes)
        convolved = conv(4 * features, name="spatial")(spatial)
        query, own = jnp.split(convolved, [features], -1)
        query = norm(name="spatial_query_norm")(query)
        likeness = jnp.einsum("bthwc,bhwc->bt", spatial_past, query)
        weights = nn.softmax(likeness / math.sqrt(math.prod(query.shape[1:])))
        trend = jnp.einsum("bt,bthwc->bhwc", weights, temporal_past)
        gate = norm(name="temporal_gate_norm")(conv(features, name="temporal_gate")(temporal))
        gate = nn.sigmoid(gate)
        fused = gate * temporal + (1 - gate) * trend
        others = norm(name="temporal_norm")(conv(3 * features, name="temporal")(fused))
        temporal_gate, temporal_own, temporal_other = jnp.split(others, 3, -1)
        own = norm(name="spatial_norm")(own)
        spatial_gate, spatial_other, spatial_own = jnp.split(own, 3, -1)
        mix = lambda gate, mine, other: other + nn.sigmoid(gate) * (mine - other)
        next_temporal = mix(temporal_gate, temporal_own, spatial_other)
        next_spatial = mix(spatial_gate, spatial_own, temporal_other)
        return next_temporal, next_spatial + spatial if self.residual else next_spatial


def _pushed(past: Maps, now: Map) -> Maps:
    """The past without its first entry, and with a new last one."""
    return jnp.concatenate([past[:, 1:], now[:, None].astype(past.dtype)], 1)
