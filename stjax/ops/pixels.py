"""Values of pixels."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit_range(frames: Any) -> Float[Array, "..."]:
    """uint8 frames, or frames in [0, 1], as floats in [0, 1]."""
    if frames.dtype == jnp.uint8:
        return jnp.asarray(frames, jnp.float32) / 255
    return jnp.asarray(frames)
