"""Hierarchical chunk attention: find the chunks of a memory that matter, then look into them."""

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stjax.layers.initializers import torch_default
from stjax.layers.partitioning import named
from stjax.ops.attention import attention


class HCAM(nn.Module):
    """Reads a memory in two steps: of chunks by their means, then of the items in the best chunks.

    score_n = (W_q q) . (W_k mean_n) / sqrt(d), one head; of the `top_k` chunks of the highest
    scores, softmax over them alone, sum_n softmax(score)_n MultiHead(q; items of chunk n).
    (Lampinen et al. 2021, arXiv 2105.14039, section 2, as the code of arXiv 2402.15160 has it:
    gradients reach the means and the items, and items carry no code of their place in the chunk.)
    A memory whose length is no multiple of the chunk is filled up with zeros at its start.

    Attributes:
        heads, head_dim: number and width of the heads that look into chunks.
        chunk: items of a chunk.
        top_k: chunks that each query looks into; 0: all of them. With chunks of one item that is
            ordinary attention of one head to the whole memory.
        epsilon: keeps the mean of a chunk of no items from 0 / 0.
    """

    heads: int
    head_dim: int
    chunk: int
    top_k: int = 0
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b q d"],
        memory: Float[Array, "b m d"],
        mask: Bool[Array, "b m"] | None = None,
    ) -> Float[Array, "b q d"]:
        """What each query reads; items that are False in the mask do not exist.

        Raises:
            ValueError: more chunks asked for than the memory has.
        """
        batch, length, width = len(queries), queries.shape[1], queries.shape[-1]
        items, valid = self._chunks(memory), None if mask is None else self._chunks(mask)
        if valid is None:
            means = items.mean(2)
        else:
            items = jnp.where(valid[..., None], items, 0)
            count = valid.sum(2, dtype=items.dtype)[..., None]
            means = items.sum(2) / (count + self.epsilon)
        top_k = self.top_k or items.shape[1]
        if top_k > items.shape[1]:
            raise ValueError(f"top_k: {top_k} of {items.shape[1]} chunks of {self.chunk} items")
        asked = self._dense("summary_query", "embed", None, features=width)(queries)
        known = self._dense("summary_key", "embed", None, features=width)(means)
        scores = jnp.einsum("bqd,bnd->bqn", asked, known) * width**-0.5
        if valid is not None:
            scores = jnp.where(valid.any(2)[:, None], scores, jnp.finfo(scores.dtype).min)
        self.sow("intermediates", "scores", scores)
        heads = (self.heads, self.head_dim)
        query = self._dense("query", "embed", "heads", None, features=heads, bias=False)(queries)
        key_value = self._dense(
            "key_value", "embed", None, "heads", None, features=(2, *heads), bias=False
        )
        if (self.chunk, top_k) == (1, items.shape[1]):
            # What is read of a chunk of one item is its value, whatever the query.
            values = einops.rearrange(key_value(items)[..., 1, :, :], "b n 1 h e -> b n 1 (h e)")
            seen = None if valid is None else valid[..., 0]
            read = attention(asked[:, :, None], known[:, :, None], values, key_mask=seen)
            read = read.reshape(*queries.shape[:2], *heads)
        else:
            scores, best = jax.lax.top_k(scores, top_k)
            weights = jax.nn.softmax(scores.astype(jnp.promote_types(scores.dtype, "float32")))
            take = jax.vmap(lambda chunks, best: chunks[best])
            fold = lambda x: einops.rearrange(x, "b q k c ... -> (b q k) c ...")
            keys, values = jnp.moveaxis(key_value(fold(take(items, best))), 2, 0)
            query = jnp.broadcast_to(query[:, :, None, None], (batch, length, top_k, 1, *heads))
            seen = None if valid is None else fold(take(valid, best))
            read = attention(fold(query), keys, values, key_mask=seen)
            read = read.reshape(batch, length, top_k, *heads)
            read = jnp.einsum("bqk,bqkhe->bqhe", weights.astype(read.dtype), read)
        return self._dense("out", "heads", None, "embed", features=width, axis=(-2, -1))(read)

    def _chunks(self, x: Array) -> Array:
        missing = -x.shape[1] % self.chunk
        x = jnp.pad(x, ((0, 0), (missing, 0), *((0, 0),) * (x.ndim - 2)))
        return einops.rearrange(x, "b (n c) ... -> b n c ...", c=self.chunk)

    def _dense(self, name, *axes, features, bias=True, axis=-1):
        return nn.DenseGeneral(
            features,
            axis,
            use_bias=bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=named(torch_default, *axes),
            name=name,
        )
