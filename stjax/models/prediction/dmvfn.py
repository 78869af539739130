"""DMVFN (Hu et al. 2023, arXiv 2303.09875): the next frame as the last two, moved.

Voxel flows, where each pixel of the next frame comes from in both frames and how much of it from
which, are refined block by block at finer and finer scales. A routing network says from the two
frames which blocks are worth their cost.
"""

import functools
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from stjax.layers.convolution import Conv
from stjax.layers.initializers import torch_default, torch_default_bias
from stjax.ops.sample import sample
from stjax.ops.scales import resize
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge

Maps = Float[Array, "n h w c"]
# Where a pixel comes from, in pixels: right and down in the first frame, right and down in the
# second; and what decides between the two.
Motion = Float[Array, "n h w 5"]


class ConvPReLU(nn.Module):
    """A 3x3 convolution, then x or, where it is negative, a learned share of it a channel."""

    features: int
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        strides = (self.stride, self.stride)
        x = Conv(self.features, strides=strides, padding=(1, 1), **types, name="conv")(x)
        init = nn.initializers.constant(0.25)
        slope = self.param("slope", init, (self.features,), self.param_dtype)
        return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


class MVFB(nn.Module):
    """A multi-scale voxel flow block: what is to be added to the motion.

    One path sees everything at 1 / scale of the size, and then at a fourth of that; another, of few
    channels, sees the details at half the size.

    Attributes:
        features: channels of the first path.
        scale: whole number.
    """

    features: int
    scale: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Maps, motion: Motion) -> Motion:
        """Args: x: both frames, both as moved so far, and their mask."""
        conv = functools.partial(ConvPReLU, dtype=self.dtype, param_dtype=self.param_dtype)
        height, width = x.shape[1:3]
        flow = motion[..., :4].astype(x.dtype)
        coarse = jnp.concatenate([x, flow / self.scale], -1)
        coarse = resize(coarse, (height // self.scale, width // self.scale))
        coarse = conv(self.features // 2, 2, name="down_0")(coarse)
        coarse = conv(self.features, 2, name="down_1")(coarse)
        deep = coarse
        for k in range(3):
            deep = conv(self.features, name=f"deep_{k}")(deep)
        coarse = conv(self.features // 4, name="squeeze")(deep + coarse)
        coarse = resize(coarse, (height // 2, width // 2))
        fine = conv(8, 2, name="fine_0")(jnp.concatenate([x, flow], -1))
        fine = conv(8, name="fine_1")(fine)
        return nn.ConvTranspose(
            5,
            (4, 4),
            (2, 2),
            "SAME",
            transpose_kernel=True,
            kernel_init=torch_default,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="up",
        )(jnp.concatenate([coarse, fine], -1))


class Routing(nn.Module):
    """How likely each block is to be used: `beta` of all of them on average, no more than 1 each.

    Attributes:
        blocks: their number.
        features: hidden channels.
        beta: share of the blocks.
    """

    blocks: int
    features: int = 32
    beta: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, pair: Maps) -> Float[Array, "n blocks"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = nn.relu(Conv(self.features, **types, name="conv_0")(pair))
        x = Conv(self.features, **types, name="conv_1")(x).mean((1, 2))
        bias_init = torch_default_bias(self.features)
        x = nn.Dense(
            self.blocks, kernel_init=torch_default, bias_init=bias_init, **types, name="out"
        )(x)
        worth = nn.sigmoid(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        share = worth / (worth.sum(1, keepdims=True) + 1e-6)
        return jnp.clip(self.beta * self.blocks * share, 0, 1)


class DMVFN(nn.Module):
    """Predicts frame t + 1 from frames t - 1 and t, in [0, 1].

    In training a block's gate is drawn, and the gradient passes straight through the draw; at test
    a block is used where that is likelier than not. Blocks that are not used are computed all the
    same, since samples differ in which they are. (The published code draws at test too, and lets
    the first sample's draw decide for its batch.)

    Attributes:
        features: channels of each block.
        scales: of each block.
        routing_features: hidden channels of the routing network.
        beta: share of the blocks that is used on average.
        refined: what the loss of all blocks but the last sees in training: "gated", the frame as
            refined so far; "ungated", as this block would have refined it had it been used
            (published code).
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
    """

    features: tuple[int, ...] = (160, 160, 160, 80, 80, 80, 44, 44, 44)
    scales: tuple[int, ...] = (4, 4, 4, 2, 2, 2, 1, 1, 1)
    routing_features: int = 32
    beta: float = 0.5
    refined: Literal["gated", "ungated"] = "gated"
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t h w c"],
        actions: Array | None = None,
        state: Float[Array, "b h w c"] | None = None,
        *,
        train: bool = False,
        uniform: Float[Array, "b t blocks"] | None = None,
    ) -> tuple[Float[Array, "*refinements b t h w c"], Float[Array, "b h w c"]]:
        """
        Args:
            video: frames.
            actions: not used.
            state: the frame before; None at the start of a clip: the first one stands for it.
            train: whether gates are drawn, and the frames after all blocks are returned on a
                leading axis, instead of those after the last.
            uniform: a gate is open where its probability is greater; None: drawn from the rng
                collection "sample" in training, 1/2 at test.

        Raises:
            ValueError: a height or width that four times the largest scale does not divide, not as
                many scales as features, an unknown `refined`.
        """
        self._check(video)
        before = video[:, :1] if state is None else state[:, None].astype(video.dtype)
        before = jnp.concatenate([before, video[:, :-1]], 1)
        if uniform is None:
            shape = (*video.shape[:2], len(self.scales))
            draw = lambda: jax.random.uniform(self.make_rng("sample"), shape)
            uniform = draw() if train else jnp.full(shape, 0.5)
        frames = over_frames(functools.partial(self._next, train), before, video, uniform)
        return (jnp.stack(frames) if train else frames[-1]), video[:, -1]

    def _next(self, train, first, second, uniform):
        """The frames after the last block, or after all of them."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        pair = jnp.concatenate([first, second], -1)
        routing = Routing(
            len(self.scales), self.routing_features, self.beta, **types, name="routing"
        )
        probability = routing(pair)
        gates = _straight_through(probability, uniform)
        self.sow("intermediates", "probability", probability)
        self.sow("intermediates", "gates", gates)

        block = nn.remat(MVFB) if self.remat else MVFB
        dtype = jnp.promote_types(pair.dtype, jnp.float32)
        motion, frames = jnp.zeros((*pair.shape[:3], 5), dtype), []
        moved, last = pair, len(self.scales) - 1
        for k, (features, scale) in enumerate(zip(self.features, self.scales)):
            x = at_edge(jnp.concatenate([pair, moved, motion[..., 4:].astype(pair.dtype)], -1))
            change = block(features, scale, **types, name=f"block_{k}")(x, motion).astype(dtype)
            self.sow("intermediates", f"change_{k}", change)
            used, motion = motion + change, motion + change * gates[:, k, None, None, None]
            moved = _moved(pair, motion)
            if train and k < last and self.refined == "ungated":
                frames.append(_merged(_moved(pair, used), used))
            elif train or k == last:
                frames.append(_merged(moved, motion))
        return frames

    def _check(self, video):
        if self.refined not in ("gated", "ungated"):
            raise ValueError(f"refined: {self.refined!r} is neither 'gated' nor 'ungated'")
        if len(self.scales) != len(self.features):
            raise ValueError(f"scales: {self.scales}, one for each of {self.features} features")
        least = 4 * max(self.scales)
        if video.ndim != 5 or video.shape[2] % least or video.shape[3] % least:
            raise ValueError(
                f"video: {video.shape} instead of (b, t, h, w, c) with height and width multiples "
                f"of {least}"
            )


def _straight_through(probability, uniform):
    """1 where the probability is above the uniform number, 0 elsewhere; its gradient is passed."""
    drawn = (uniform < probability).astype(probability.dtype)
    return drawn + (probability - lax.stop_gradient(probability))


def _moved(pair, motion):
    """Both frames, each read where its flow points to."""
    rows, columns = (jnp.arange(side, dtype=motion.dtype) for side in motion.shape[1:3])
    places = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), -1)
    flows = jnp.concatenate([motion[..., 1::-1], motion[..., 3:1:-1]])
    frames = jnp.concatenate(jnp.split(pair, 2, -1))
    moved = sample(frames, places + flows, padding="border")
    return jnp.concatenate(jnp.split(moved, 2), -1)


def _merged(moved, motion):
    """The two moved frames weighed with the mask."""
    first, second = jnp.split(moved, 2, -1)
    share = nn.sigmoid(motion[..., 4:]).astype(moved.dtype)
    return jnp.clip(share * first + (1 - share) * second, 0, 1)
