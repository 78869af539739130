"""Clips to coarser grids of tokens."""

from typing import Any

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.layers.partitioning import named


class TubeEmbed(nn.Module):
    """A convolution whose windows meet in space and may overlap in time, then a LayerNorm.

    As a product of matrices: frames under the kernel side by side, pixels of a patch in a row.
    Its kernel is (frames * patch * patch * c, features), in the order frame, row, column, channel.

    Attributes:
        features: channels that come out.
        patch: rows and columns of a window, and the stride in space.
        frames: of a window, odd; zero frames before and after keep time whole.
        stride: in time.
    """

    features: int
    patch: int
    frames: int = 1
    stride: int = 1
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Float[Array, "b t h w c"]) -> Float[Array, "b s i j features"]:
        """
        Raises:
            ValueError: a height or width that `patch` does not divide.
        """
        if video.shape[2] % self.patch or video.shape[3] % self.patch:
            raise ValueError(
                f"video: {video.shape}; {self.patch} does not divide its height and width"
            )
        side, time = self.frames // 2, video.shape[1]
        padded = jnp.pad(video, ((0, 0), (side, side), *[(0, 0)] * 3))
        under = [padded[:, k : k + time : self.stride] for k in range(self.frames)]
        windows = einops.rearrange(
            jnp.stack(under), "k b t (h p) (w q) c -> b t h w (k p q c)", p=self.patch, q=self.patch
        )
        x = nn.Dense(
            self.features,
            kernel_init=named(torch_default, None, "embed"),
            bias_init=named(torch_default_bias(windows.shape[-1]), "embed"),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="projection",
        )(windows)
        return nn.LayerNorm(self.epsilon, self.dtype, self.param_dtype, name="norm")(x)
