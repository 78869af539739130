"""SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982): few frames in detail, many in outline.

Two residual networks of a clip: the slow one sees one frame in `alpha` and has most of the
channels, the fast one sees all and has few; after the stem and each stage but the last, maps of the
fast one are joined to those of the slow one. As in PyTorchVideo, whose weights are the published.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stjax.layers.norm import torch_batch_norm
from stjax.layers.partitioning import named
from stjax.layers.repeat import repeat
from stjax.ops.conv import conv
from stjax.ops.precision import promote

Clip = Float[Array, "b t h w c"]

# Frames under the first kernel of a stage's blocks: of the slow pathway, of the fast one.
_TIMES = ((1, 1, 3, 3), (3, 3, 3, 3))
he_normal = named(nn.initializers.he_normal(), None, None, None, None, "embed")


class _Conv(nn.Module):
    """A convolution without bias that keeps each axis but for its stride."""

    features: int
    window: tuple[int, int, int]
    strides: tuple[int, int, int] = (1, 1, 1)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Clip) -> Clip:
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, self.param_dtype)
        x, kernel = promote((x, kernel), self.dtype)
        padding = tuple(side // 2 for side in self.window)
        return conv(x, kernel, strides=self.strides, padding=padding)


class Bottleneck(nn.Module):
    """relu(x + h): h three convolutions, of `time` frames, of 3 x 3 pixels, of a pixel.

    Attributes:
        inner, features: channels between, and of the output.
        stride: in space; where it or the channels ask for it, x goes through a convolution too.
    """

    inner: int
    features: int
    time: int
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Clip, _: None = None, train: bool = False) -> tuple[Clip, None]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(torch_batch_norm, train, **dtypes)
        conv = functools.partial(_Conv, **dtypes)
        stride = (1, self.stride, self.stride)
        y = nn.relu(norm(name="norm_a")(conv(self.inner, (self.time, 1, 1), name="conv_a")(x)))
        y = nn.relu(norm(name="norm_b")(conv(self.inner, (1, 3, 3), stride, name="conv_b")(y)))
        y = norm(name="norm_c")(conv(self.features, (1, 1, 1), name="conv_c")(y))
        if self.stride > 1 or x.shape[-1] != self.features:
            x = norm(name="skip_norm")(conv(self.features, (1, 1, 1), stride, name="skip")(x))
        return nn.relu(x + y), None


class SlowFast(nn.Module):
    """A clip to its motion features: the mean of either pathway, the slow one's first.

    Attributes:
        depths: blocks of the stages, of which there are four at most.
        width: channels of the slow stem, and inside the first blocks, which give four times as
            many; stages double both.
        ratio: the slow pathway's channels over the fast one's.
        alpha: the fast pathway's frames over the slow one's.
        classes: 0 for features, else logits of so many classes come out instead.
        remat: compute the blocks' inner values again in the backward pass.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    ratio: int = 8
    alpha: int = 4
    classes: int = 0
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clip: Clip, *, train: bool = False) -> Float[Array, "b features"]:
        """
        Raises:
            ValueError: a number of frames that `alpha` does not divide.
        """
        frames = clip.shape[1]
        if frames % self.alpha:
            raise ValueError(f"clip: {clip.shape}; {self.alpha} does not divide its frames")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        slow, fast = clip[:, slow_frames(frames, self.alpha)], clip
        slow = self._stem("slow", slow, self.width, 1, train)
        fast = self._stem("fast", fast, self.width // self.ratio, 5, train)
        slow = self._fuse("fuse_0", slow, fast, train)
        for k, depth in enumerate(self.depths):
            slow, fast = (
                self._stage(f"{name}_{k}", x, width, _TIMES[p][k], depth, 2 if k else 1, train)
                for p, (name, x, width) in enumerate(
                    (
                        ("slow", slow, self.width * 2**k),
                        ("fast", fast, self.width * 2**k // self.ratio),
                    )
                )
            )
            if k < len(self.depths) - 1:
                slow = self._fuse(f"fuse_{k + 1}", slow, fast, train)
        motion = jnp.concatenate([slow.mean((1, 2, 3)), fast.mean((1, 2, 3))], -1)
        if not self.classes:
            return motion
        return nn.Dense(self.classes, name="head", **dtypes)(motion)

    def _stem(self, name, x, width, time, train):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = _Conv(width, (time, 7, 7), (1, 2, 2), name=f"{name}_stem", **dtypes)(x)
        x = nn.relu(torch_batch_norm(train, name=f"{name}_stem_norm", **dtypes)(x))
        around = ((0, 0), (1, 1), (1, 1))
        return nn.max_pool(x, (1, 3, 3), (1, 2, 2), around)

    def _stage(self, name, x, width, time, depth, stride, train):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        first = nn.remat(Bottleneck, static_argnums=(3,)) if self.remat else Bottleneck
        x, _ = first(width, 4 * width, time, stride, name=f"{name}_first", **dtypes)(x, None, train)
        if depth > 1:
            rest = repeat(Bottleneck, depth - 1, self.remat)
            x, _ = rest(width, 4 * width, time, name=f"{name}_rest", **dtypes)(x, None, train)
        return x

    def _fuse(self, name, slow, fast, train):
        """The slow pathway's maps, and the fast one's brought to its frames, side by side."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = _Conv(2 * fast.shape[-1], (7, 1, 1), (self.alpha, 1, 1), name=name, **dtypes)(fast)
        y = nn.relu(torch_batch_norm(train, name=f"{name}_norm", **dtypes)(y))
        slow = jnp.concatenate([slow, y], -1)
        self.sow("intermediates", f"slow_after_{name}", slow)
        self.sow("intermediates", f"fast_after_{name}", fast)
        return slow


def slow_frames(frames: int, alpha: int) -> np.ndarray:
    """Which frames the slow pathway sees: frames // alpha, evenly spaced, both ends included."""
    return np.linspace(0, frames - 1, frames // alpha, dtype=np.float32).astype(int)
