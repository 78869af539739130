"""Actions beside the frames."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

UNKNOWN = -1
"""The action that is not told; it has the last row of the table."""


class ActionEmbedding(nn.Module):
    """A learned vector for each action, and one for the action that is not told.

    Attributes:
        actions: number of actions; they are 0 .. actions - 1, and `UNKNOWN`.
        features: channels of the vectors.
        dropout: in training, the rate of samples none of whose actions are told.
    """

    actions: int
    features: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        actions: Int[Array, "b t"],
        dropped: Bool[Array, "b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b t features"]:
        """`dropped` names the samples whose actions are not told, and takes the draw's place."""
        if dropped is None and train and self.dropout:
            rng = self.make_rng("dropout")
            dropped = jax.random.bernoulli(rng, self.dropout, actions.shape[:1])
        if dropped is not None:
            actions = jnp.where(dropped[:, None], UNKNOWN, actions)
        rows = jnp.where(actions == UNKNOWN, self.actions, actions)
        return nn.Embed(
            self.actions + 1,
            self.features,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="table",
        )(rows)
