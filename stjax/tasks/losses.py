"""Losses between predicted and true frames `(b, t, h, w, c)`, in the model's range."""

import jax.numpy as jnp
from jaxtyping import Array, Float

Frames = Float[Array, "b t h w c"]


def mse(prediction: Frames, target: Frames) -> Float[Array, ""]:
    """Mean squared error over all values: OpenSTL, PredFormer, SimVP."""
    return jnp.mean(jnp.square(prediction - target))


def half_mse_half_l1(prediction: Frames, target: Frames) -> Float[Array, ""]:
    """ConvSSM's pixel loss: squared and absolute error, half each.

    Both are summed over width and channels and averaged over the other axes, as published.
    """
    error = prediction - target
    per_row = 0.5 * jnp.square(error) + 0.5 * jnp.abs(error)
    return jnp.mean(jnp.sum(per_row, axis=(-2, -1)))


LOSSES = {"mse": mse, "half_mse_half_l1": half_mse_half_l1}
