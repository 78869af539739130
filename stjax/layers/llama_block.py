"""The decoder block of LLaMA and its relatives."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stjax.layers.attention import StreamingAttention
from stjax.layers.feed_forward import SwiGLU
from stjax.ops.attention import Cache, Mask, attention


class LlamaBlock(nn.Module):
    """x + attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)); a mixer.

    (Touvron et al. 2023, arXiv 2302.13971, section 2.2; grouped queries arXiv 2307.09288.)

    Attributes:
        hidden: units of the gated map.
        qkv_bias: whether queries, keys and values have a bias (Qwen2); nothing else has one.
        epsilon: of the norms.
        heads, capacity, kv_heads, mask, rotary, qk_norm, method: as in `StreamingAttention`.
    """

    heads: int
    hidden: int
    capacity: int
    kv_heads: int | None = None
    mask: Mask | None = None
    rotary: Callable[[Int[Array, "n"]], Float[Array, "n p"]] | None = None
    qk_norm: Callable[[Array, Array], tuple[Array, Array]] | None = None
    qkv_bias: bool = False
    method: str = "auto"
    epsilon: float = 1e-5
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Cache | None = None,
        *,
        attend: Callable[..., Array] = attention,
        train: bool = False,
    ) -> tuple[Float[Array, "b t c"], Cache]:
        """`attend` as in `StreamingAttention`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = lambda name: nn.RMSNorm(self.epsilon, **types, name=name)
        mixer = StreamingAttention(
            self.heads,
            self.capacity,
            self.kv_heads,
            self.mask,
            self.rotary,
            qk_norm=self.qk_norm,
            bias=self.qkv_bias,
            out_bias=False,
            method=self.method,
            kernel_init=self.kernel_init,
            **types,
            name="attention",
        )
        y, state = mixer(norm("attention_norm")(x), state, attend, train=train)
        self.sow("intermediates", "attended", y)
        x = x + y
        feed_forward = SwiGLU(
            self.hidden, bias=False, kernel_init=self.kernel_init, **types, name="feed_forward"
        )
        x = x + feed_forward(norm("feed_forward_norm")(x), train=train)
        self.sow("intermediates", "output", x)
        return x, state
