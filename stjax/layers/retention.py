"""Retention with several time scales: a mixer over time with a matrix for a memory."""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.gated_linear_attention import retention
from stjax.ops.norm import layer_norm
from stjax.ops.xpos import xpos


class MultiScaleRetention(nn.Module):
    """proj(silu(G x) * norm(retention(q, k, v))), every head with a decay of its own.

    As TimelyGPT has it (Song et al., arXiv 2312.00817; after RetNet, arXiv 2307.08621, section 2):
    q and k carry xPos codes over their full width, before the heads are split, the decays are
    1 - r with r in geometric progression over the heads, fixed, and the norm is of each head's
    values at each step. A causal mixer.

    The state is a matrix for each head, as seen from the step that comes next: positions count
    from there, so a stream has no end.

    Attributes:
        heads: number of heads; they share the widths of q, k and v.
        qk_features, v_features: widths of q and k, and of v; None is the input's.
        forgetting: r of the first head and of the last. RetNet's is (1 / 32, 2^-(4 + heads)).
        bias, out_bias: whether q, k and v, and the output, have a bias.
        method, chunk: see `stjax.ops.gated_linear_attention.retention`.
    """

    heads: int
    qk_features: int | None = None
    v_features: int | None = None
    forgetting: tuple[float, float] = (1 / 32, 1 / 512)
    bias: bool = False
    out_bias: bool = False
    method: str = "auto"
    chunk: int = 64
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Float[Array, "b h k v"] | None = None,
        *,
        mask: Float[Array, "b t"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b h k v"]]:
        """`mask` is 0 at steps that write nothing into the memory."""
        length, features = x.shape[1:]
        qk, values = self.qk_features or features, self.v_features or features
        if qk % (2 * self.heads) or values % self.heads:
            raise ValueError(
                f"heads: {self.heads} do not divide {qk} features of keys in pairs, and {values} "
                "of values"
            )
        dense = lambda features, bias, name, *names: nn.Dense(
            features,
            bias,
            kernel_init=named(nn.initializers.lecun_normal(), *names),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
        # Heads of q, k and v are not side by side here, so that to cut them would not keep them.
        qkv = dense(2 * qk + values, self.bias, "qkv", "embed", None)(x)
        q, k, v = jnp.split(qkv, [qk, 2 * qk], -1)
        if mask is not None:
            k = k * mask[..., None].astype(k.dtype)
        q, k = xpos(q, jnp.arange(length)), xpos(k, jnp.arange(length), keys=True)
        split = lambda y: einops.rearrange(y, "b t (h c) -> b t h c", h=self.heads)
        y, state = retention(
            split(q), split(k), split(v), self.decay(), state, method=self.method, chunk=self.chunk
        )
        y = einops.rearrange(layer_norm(y, 1.0, 0.0), "b t h c -> b t (h c)")
        y = nn.silu(dense(values, False, "gate", "embed", "heads")(x)) * y
        return dense(features, self.out_bias, "proj", "heads", "embed")(y), moved(state, length)

    def decay(self) -> Float[Array, "h"]:
        """What each head keeps from one step to the next."""
        return 1 - jnp.geomspace(*self.forgetting, self.heads)


def moved(state: Float[Array, "b h k v"], steps: int) -> Float[Array, "b h k v"]:
    """The memory as seen from `steps` further on: keys' positions, counted from there, are less."""
    heads = state.shape[1]
    rows = einops.rearrange(state, "b h k v -> b v (h k)")
    return einops.rearrange(xpos(rows, -steps, keys=True), "b v (h k) -> b h k v", h=heads)
