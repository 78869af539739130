"""Attention that is factorised: over the tokens of a frame, or over the frames at one place."""

from collections.abc import Callable
from typing import Literal

import einops
import flax.linen as nn
from jaxtyping import Array, Float

# How tokens (b, t, n, d) become sequences.
SEQUENCES = {"space": "(b t) n d", "time": "(b n) t d", "space-time": "b (t n) d"}


class Over(nn.Module):
    """A map of sequences applied over space, over time, or over both together.

    Factorised self-attention is `Over("space", partial(SelfAttention, heads, head_dim))` and the
    same over "time" (Bertasius et al. 2021, TimeSformer, arXiv 2102.05095; Arnab et al. 2021,
    ViViT, arXiv 2103.15691, model 3).

    Attributes:
        axes: what a sequence runs along.
        map: factory of the module, `(sequences (b, n, d), train=...) -> sequences`.
    """

    axes: Literal["space", "time", "space-time"]
    map: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t n d"], *, train: bool = False
    ) -> Float[Array, "b t n d"]:
        """Raises ValueError where `axes` is unknown."""
        if self.axes not in SEQUENCES:
            raise ValueError(f"axes: {self.axes!r} is none of {', '.join(SEQUENCES)}")
        pattern, (b, t, n, _) = SEQUENCES[self.axes], x.shape
        y = self.map(name="map")(einops.rearrange(x, f"b t n d -> {pattern}"), train=train)
        return einops.rearrange(y, f"{pattern} -> b t n d", b=b, t=t, n=n)
