"""Vector quantisation on the sphere."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from stjax.layers.partitioning import named
from stjax.ops.quantize import perplexity, straight_through


class Quantised(NamedTuple):
    """What a codebook makes of vectors, and what its training adds to the loss."""

    embeddings: Float[Array, "... c"]
    codes: Int[Array, "..."]
    commitment_loss: Float[Array, ""]
    codebook_loss: Float[Array, ""]
    perplexity: Float[Array, ""]
    """Of the codes' use, see `stjax.ops.quantize.perplexity`."""


class Codebook(nn.Module):
    """Nearest of the unit vectors of a table, by cosine, in a projection to few dimensions.

    TECO's (Yan et al., arXiv 2210.02396), after ViT-VQGAN (arXiv 2110.04627). The gradient of the
    embeddings goes straight through to the projected vectors.

    Attributes:
        codes: size of the table.
        projection: dimensions in which vectors are compared.
        features: channels of the embeddings.
        commitment: weight of the pull of vectors towards their codes.
    """

    codes: int
    projection: int
    features: int
    commitment: float = 0.25
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        types = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.project = nn.Dense(self.projection, **types)
        self.unproject = nn.Dense(self.features, **types)
        self.table = self.param(
            "table",
            named(nn.initializers.normal(0.02), "vocab", None),
            (self.codes, self.projection),
            self.param_dtype,
        )

    def __call__(self, x: Float[Array, "... c"]) -> Quantised:
        x, table = _unit(self.project(x)), _unit(self.table)
        codes = jnp.argmax(x @ table.T, axis=-1)
        nearest = table[codes]
        half_square = lambda error: 0.5 * jnp.mean(jnp.square(error))
        return Quantised(
            self.unproject(straight_through(x, nearest)),
            codes,
            self.commitment * half_square(x - lax.stop_gradient(nearest)),
            half_square(lax.stop_gradient(x) - nearest),
            perplexity(codes, self.codes),
        )

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... features"]:
        """The embeddings of codes."""
        return self.unproject(_unit(self.table)[codes])


def _unit(x: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Of length one, or shorter where x is too short for it to be told."""
    return x * lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))
