"""xPos: rotary codes of positions whose lengths decay with distance (arXiv 2212.10554)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from stjax.ops.rotary import axial_spectrum, rotary_angles, rotate


def xpos(
    x: Float[Array, "*b c"],
    positions: Num[Array, "*n"] | int,
    *,
    keys: bool = False,
    scale_base: float = 512,
) -> Float[Array, "*b c"]:
    """Turns the channels 2 j and 2 j + 1 by position n and scales them by zeta_j^(n / scale_base).

    zeta_j = (j / p + 0.4) / 1.4 and the angle is n 10000^(-j / p), p pairs (Sun et al., arXiv
    2212.10554, section 3). Keys are scaled by the inverse, so that a query's product with a key
    depends on their distance alone, and fades with it.

    Args:
        x: queries or keys, or anything whose rows are keys.
        positions: broadcast against x without its channels, by NumPy's rule. Far from 0 queries
            vanish and keys grow, out of float32's range past 36,000: count from a near origin.
        keys: x holds keys.

    Raises:
        ValueError: an odd number of channels.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x: {x.shape}, an odd number of channels; they are turned in pairs")
    spectrum = axial_spectrum((x.shape[-1] // 2,))
    pair = np.arange(x.shape[-1] // 2) / (x.shape[-1] // 2)
    growth = np.repeat(np.log((pair + 0.4) / 1.4), 2) * (-1 if keys else 1) / scale_base
    positions = jnp.asarray(positions, jnp.promote_types(x.dtype, jnp.float32))[..., None]
    scaled = x.astype(positions.dtype) * jnp.exp(positions * growth)
    angles = rotary_angles(positions, spectrum)
    turned = rotate(scaled[..., None, :], angles, interleaved=True)
    return turned[..., 0, :].astype(x.dtype)
