"""PhyDNet (Le Guen and Thome 2020, arXiv 2003.01460), as OpenSTL benchmarks it."""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from stjax.layers.convolution import Conv, ConvTranspose
from stjax.layers.norm import frame_group_norm
from stjax.layers.rollout import Rollout
from stjax.ops.conv_recurrence import lstm

Map = Float[Array, "b h w c"]


class PhyDNet(nn.Module):
    """Two recurrent branches over one encoder: physical dynamics, and all that they do not explain.

    It sows PhyCell's moment loss, in the published proportion: there it is added to the
    errors' sum over frames, here to their mean.

    Attributes:
        patch: how much smaller the maps of both branches are than the frames, 2 or 4.
        features: channels of both branches' maps.
        hidden: channels of the residual branch's ConvLSTMs but the last, which has `features`.
        side: of PhyCell's kernels, of which there are side^2.
        groups: of the GroupNorms outside PhyCell.
    """

    patch: int = 4
    features: int = 64
    hidden: tuple[int, ...] = (128, 128)
    side: int = 7
    groups: int = 16
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    def __post_init__(self):
        if self.patch not in (2, 4):
            raise ValueError(f"patch: {self.patch} is neither 2 nor 4")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b t h w c"],
        actions: Array | None = None,
        state: Any = None,
        *,
        train: bool = False,
        truth: Shaped[Array, "b t"] | None = None,
    ) -> tuple[Float[Array, "b t h w c"], Any]:
        """The next frames, and the state after the last, see `Rollout`. Actions are not used."""
        fields = self.patch, self.features, self.hidden, self.side, self.groups
        cell = functools.partial(
            _Branches, *fields, dtype=self.dtype, param_dtype=self.param_dtype
        )
        rollout = Rollout(cell, name="rollout")
        frames, state = rollout(video, state, train=train, truth=truth)
        if not self.is_initializing():
            kernel = rollout.variables["params"]["cell"]["physical"]["derivatives"]["kernel"]
            self.sow("losses", "moments", moment_loss(kernel) / video.shape[1])
        return frames, state


class _Branches(nn.Module):
    """A frame in, the next one out; fields as `PhyDNet`'s."""

    patch: int
    features: int
    hidden: tuple[int, ...]
    side: int
    groups: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Map) -> Any:
        batch, height, width, _ = frame.shape
        zeros = lambda features: jnp.zeros(
            (batch, height // self.patch, width // self.patch, features), frame.dtype
        )
        layers = tuple((zeros(c), zeros(c)) for c in (*self.hidden, self.features))
        return zeros(self.features), layers

    @nn.compact
    def __call__(self, frame: Map, state: Any, *, train: bool = False) -> tuple[Map, Any]:
        physical, layers = state
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = functools.partial(_Block, groups=self.groups, **dtypes)
        c, last_stride = self.features, self.patch // 2
        x = block(c // 2, stride=2, name="encoder_0")(frame)
        x = block(c // 2, name="encoder_1")(x)
        x = block(c, stride=last_stride, name="encoder_2")(x)
        self.sow("intermediates", "encoded", x)
        # Both branches' first blocks, whose groups lie side by side.
        x = block(2 * c, groups=2 * self.groups, name="encoder_3")(x)
        to_physical, hidden = jnp.split(x, 2, -1)
        to_physical = block(c, name="physical_encoder")(to_physical)
        physical = PhyCell(self.side, name="physical", **dtypes)(to_physical, physical)
        hidden, after = block(c, name="residual_encoder")(hidden), []
        for k, (before, cell) in enumerate(layers):
            convolve = Conv(4 * cell.shape[-1], name=f"residual_{k}", **dtypes)
            gates = convolve(jnp.concatenate([hidden, before.astype(hidden.dtype)], -1))
            cell, hidden = lstm(gates, cell, "ifog", "tanh_cell")
            after.append((hidden, cell))
        self.sow("intermediates", "branches", (physical, hidden))
        decoded = 0
        for name, y in (("physical", physical), ("residual", hidden)):
            for k in range(2):
                y = block(c, up=True, name=f"{name}_decoder_{k}")(y)
            decoded = decoded + y
        x = block(c // 2, stride=2, up=True, name="decoder_0")(decoded)
        x = block(c // 2, up=True, name="decoder_1")(x)
        x = ConvTranspose(frame.shape[-1], last_stride, name="decoder_2", **dtypes)(x)
        return nn.sigmoid(x), (physical, tuple(after))


class PhyCell(nn.Module):
    """A step of the physical state: predicted by its derivatives, corrected by what is seen.

    h~ = h + F(h), h' = h~ + K (x - h~), K = sigmoid(conv [x, h]) (equations 5 to 7).

    Attributes:
        side: of the kernels of F, each of which is drawn towards another derivative
            (`moment_loss`); a linear map sums them.
    """

    side: int = 7
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map, hidden: Map) -> Map:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(Conv, **dtypes)
        derivatives = conv(self.side**2, (self.side, self.side), name="derivatives")(hidden)
        norm = frame_group_norm(self.side, epsilon=1e-5, name="derivatives_norm", **dtypes)
        predicted = hidden + conv(x.shape[-1], (1, 1), name="sum")(norm(derivatives))
        both = jnp.concatenate([x, hidden.astype(x.dtype)], -1)
        gain = nn.sigmoid(conv(x.shape[-1], name="gain")(both))
        return predicted + gain * (x - predicted)


def moments(kernel: Float[Array, "side side i o"]) -> Float[Array, "side side i o"]:
    """M k M^T of every kernel k, M[p, a] = (a - side // 2)^p / p! (PDE-Net, arXiv 1710.09668).

    Entry (p, q): how much of the derivative of order p along the rows, q along the columns, the
    kernel takes.
    """
    side = len(kernel)
    order, place = np.mgrid[:side, :side]
    to_moments = (place - side // 2) ** order / np.vectorize(math.factorial)(order)
    to_moments = to_moments.astype(kernel.dtype)
    return jnp.einsum("pa,qb,abio->pqio", to_moments, to_moments, kernel)


def moment_loss(kernel: Float[Array, "side side i side*side"]) -> Float[Array, ""]:
    """Squared distance of output side p + q to the derivative (p, q), summed over the inputs."""
    side, _, inputs, outputs = kernel.shape
    wanted = np.eye(outputs).reshape(side, side, 1, outputs)
    return inputs * jnp.mean(jnp.square(moments(kernel) - wanted))


class _Block(nn.Module):
    """A 3x3 convolution, transposed where `up`, GroupNorm, leaky ReLU."""

    features: int
    groups: int
    stride: int = 1
    up: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map) -> Map:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.up:
            layer = ConvTranspose(self.features, self.stride, name="conv", **dtypes)
        else:
            strides = (self.stride, self.stride)
            layer = Conv(self.features, strides=strides, padding=(1, 1), name="conv", **dtypes)
        norm = frame_group_norm(self.groups, epsilon=1e-5, name="norm", **dtypes)
        return nn.leaky_relu(norm(layer(x)), 0.2)
