"""SS2D: the selective scan over maps (Liu et al., VMamba, arXiv 2401.10166)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.initializers import step_bias, torch_default
from stjax.ops.conv import depthwise_conv
from stjax.ops.cross_scan import cross_merge, cross_scan
from stjax.ops.precision import promote
from stjax.ops.selective_scan import selective_scan


class SS2D(nn.Module):
    """Dense(LayerNorm(scans(silu(depthwise convolution(Dense(x)))))).

    The scans run over the map by rows, by columns and both backwards, each with parameters of its
    own, and are added up (VMamba's "v3noz": no gate beside them). They compute in float32 at least.

    Attributes:
        state_size: numbers n in every channel's state.
        expansion: channels of the scans, as a multiple of the input's.
        step_rank: rank r of the map to the steps; None is a sixteenth of the channels, rounded up.
        kernel_size: side of the depthwise convolution.
        method: of the scans, see `selective_scan`.
    """

    state_size: int = 1
    expansion: float = 2.0
    step_rank: int | None = None
    kernel_size: int = 3
    method: str = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        height, width, channels = x.shape[1:]
        inner, n = int(self.expansion * channels), self.state_size
        rank = self.step_rank or -(-channels // 16)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = functools.partial(nn.Dense, use_bias=False, **types)
        param = lambda name, init, *shape: self.param(name, init, shape, self.param_dtype)

        sides = (self.kernel_size, self.kernel_size)
        kernel = param("kernel", nn.initializers.normal(1 / self.kernel_size), *sides, inner)
        x, kernel = promote((dense(inner, name="in")(x), kernel), self.dtype)
        x = depthwise_conv(x, kernel)
        self.sow("intermediates", "convolved", x)

        # k are the directions.
        x = cross_scan(nn.silu(x))
        project = param("project", _each(torch_default), 4, inner, rank + 2 * n)
        to_step = param("to_step", _uniform(rank**-0.5), 4, rank, inner)
        x, project, to_step = promote((x, project, to_step), self.dtype)
        told = jnp.einsum("blkd,kdr->blkr", x, project)
        step, B, C = jnp.split(told, (rank, rank + n), -1)
        step = jnp.einsum("blkr,krd->blkd", step, to_step)
        step = nn.softplus(step + param("step_bias", step_bias, 4, inner))
        flat = lambda array: array.reshape(*array.shape[:2], -1)
        y, _ = selective_scan(
            flat(x),
            flat(step),
            -jnp.exp(param("log_rates", _log_rates, 4 * inner, n)),
            B,
            C,
            param("skip", nn.initializers.ones, 4 * inner),
            method=self.method,
        )
        y = cross_merge(y.reshape(x.shape), height, width)
        self.sow("intermediates", "merged", y)
        y = nn.LayerNorm(epsilon=1e-5, **types, name="norm")(y)
        return dense(channels, name="out")(y)


def _each(init):
    """An initialiser for arrays of alike ones, one for each entry of the leading axis."""

    def each(key, shape, dtype):
        return jax.vmap(lambda key: init(key, shape[1:], dtype))(jax.random.split(key, shape[0]))

    return each


def _uniform(bound):
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _log_rates(key, shape, dtype):
    """Rates 1 .. n in every channel."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)
