"""Residual branches that are left out at random in training (Huang et al. 2016)."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class DropPath(nn.Module):
    """Zeroes whole entries of the first axis, and scales the others to keep the mean.

    The rate is an argument, so that blocks of different rates can share one `nn.scan`.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], rate: Float[Array, ""] | None, *, train: bool = False
    ) -> Float[Array, "b ..."]:
        """A rate of None drops nothing, and needs no random key."""
        if rate is None or not train:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
        return x * (keep / (1 - rate)).astype(x.dtype)
