"""Multi-head attention."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.ops.attention import attention


class SelfAttention(nn.Module):
    """Every token attends to all tokens of its sequence.

    Queries, keys and values come from one map, kernel (dim, 3, heads, head_dim).

    Attributes:
        heads, head_dim: number and width of the heads; their product need not be the input's width.
        qkv_bias: whether queries, keys and values have a bias.
        project: whether a linear map brings the heads together; without one they are concatenated.
        dropout: rate on what comes out (not on the attention weights).
    """

    heads: int
    head_dim: int
    qkv_bias: bool = False
    project: bool = True
    dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], *, train: bool = False) -> Float[Array, "b n o"]:
        common = {
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        shape = (3, self.heads, self.head_dim)
        qkv = nn.DenseGeneral(shape, use_bias=self.qkv_bias, name="qkv", **common)(x)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        out = attention(q, k, v)
        if not self.project:
            return out.reshape(*x.shape[:-1], -1)
        out = nn.DenseGeneral(x.shape[-1], axis=(-2, -1), name="out", **common)(out)
        return nn.Dropout(self.dropout)(out, deterministic=not train)
