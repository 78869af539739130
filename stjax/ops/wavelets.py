"""The Haar wavelet transform of clips."""

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Sum and difference of two neighbours; its own inverse but for a factor of two.
_PAIR = np.array([[1, 1], [1, -1]])


def haar(
    video: Float[Array, "b t h w c"], levels: int
) -> Float[Array, "b t/2^levels h/2^levels w/2^levels 8^levels*c"]:
    """Cuts a clip into cells of 2 x 2 x 2 values, and these cells again, `levels` times.

    Each cell becomes its mean and seven means of differences, the bands; the channels are ordered
    band by band, a band's number being (time, height, width) in binary, 1 for a difference. Bands
    are cut again like the mean, so that all frequencies come out equally wide (wavelet packets: the
    patches of the Cosmos tokenizers, Agarwal et al. 2025, arXiv 2501.03575, section 4.1).

    Raises:
        ValueError: a side that 2^levels does not divide.
    """
    sides = video.shape[1:4]
    if any(side % 2**levels for side in sides):
        raise ValueError(f"video: {video.shape}, whose sides {sides} {2**levels} does not divide")
    pair = jnp.asarray(_PAIR / 2, video.dtype)
    for _ in range(levels):
        cells = einops.rearrange(
            video, "b (t i) (h j) (w k) c -> b t h w i j k c", i=2, j=2, k=2
        )
        bands = jnp.einsum("...ijkc,xi,yj,zk->...xyzc", cells, pair, pair, pair)
        video = bands.reshape(*bands.shape[:4], -1)
    return video


def inverse_haar(
    bands: Float[Array, "b t h w 8^levels*c"], levels: int
) -> Float[Array, "b t*2^levels h*2^levels w*2^levels c"]:
    """The clip whose `haar` these bands are.

    Raises:
        ValueError: channels that are no bands of so many levels.
    """
    if bands.shape[-1] % 8**levels:
        raise ValueError(f"bands: {bands.shape}, channels that {8**levels} does not divide")
    pair = jnp.asarray(_PAIR, bands.dtype)
    for _ in range(levels):
        cells = bands.reshape(*bands.shape[:4], 2, 2, 2, -1)
        cells = jnp.einsum("...xyzc,xi,yj,zk->...ijkc", cells, pair, pair, pair)
        bands = einops.rearrange(cells, "b t h w i j k c -> b (t i) (h j) (w k) c")
    return bands
