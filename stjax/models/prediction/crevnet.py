"""CrevNet (Yu et al. 2020, ICLR), as OpenSTL benchmarks it."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.convolution import Conv
from stjax.layers.rollout import Rollout
from stjax.ops.patches import patchify, unpatchify

Clips = Float[Array, "b t h w c"]
Halves = tuple[Clips, Clips]
WINDOW = 3


class CrevNet(nn.Module):
    """A predictor between an encoder of windows of three frames and its exact inverse.

    Windows of the clip are encoded and decoded all at once, so that BatchNorm looks at all of them.
    It sows the error of the predicted windows' first two frames, which are known: the published
    loss is that of whole windows.

    Published code forecasts from the last window alone: it forgets what came before. So does this
    model for a clip of three frames.

    Attributes:
        layers: of the predictor.
        blocks: of the encoder; all but the first entry halve the frame once more, as does the
            start. The widths follow: every halving keeps the number of values.
    """

    layers: int = 8
    blocks: tuple[int, ...] = (4, 5, 3)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    @nn.compact
    def __call__(
        self, video: Clips, actions: Array | None = None, state: Any = None, *, train: bool = False
    ) -> tuple[Clips, Any]:
        """The next frames, and the state after the last.

        The first two of a clip have no whole window before them: they are given back as they are.

        Args:
            actions: not used.
            state: what an earlier call returned, the last two frames within it; None at the start
                of a clip.

        Raises:
            ValueError: less than three frames at the start of a clip.
        """
        if state is None and video.shape[1] < WINDOW:
            raise ValueError(f"video: {video.shape}, wanted {WINDOW} frames at least at the start")
        known, state = (video[:, :0], None) if state is None else state
        frames = jnp.concatenate([known, video], 1)
        batch, windows = len(video), frames.shape[1] - WINDOW + 1
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        encoder = ReversibleEncoder(self.blocks, name="encoder", **dtypes)
        cell = functools.partial(ReversiblePredictor, self.layers, **dtypes)
        clips = jnp.stack([frames[:, k : k + windows] for k in range(WINDOW)], 2)
        codes = jnp.concatenate(encoder(clips.reshape(-1, *clips.shape[2:]), train=train), -1)
        codes = codes.reshape(batch, windows, *codes.shape[1:])
        self.sow("intermediates", "codes", codes)
        codes, state = Rollout(cell, name="predictor")(codes, state, train=train)
        self.sow("intermediates", "predicted_codes", codes)
        codes = codes.reshape(-1, *codes.shape[2:])
        predicted = encoder.inverse(tuple(jnp.split(codes, 2, -1)), train=train)
        predicted = predicted.reshape(clips.shape).astype(video.dtype)
        if not self.is_initializing():
            error = jnp.square(predicted[:, :, :-1] - clips[:, :, 1:]).mean((0, 2, 3, 4, 5))
            self.sow("losses", "known_frames", (WINDOW - 1) * error.sum() / video.shape[1])
        unseen = video[:, : video.shape[1] - windows]
        out = jnp.concatenate([unseen, predicted[:, :, -1]], 1)
        return out, (frames[:, 1 - WINDOW :], state)


class ReversibleEncoder(nn.Module):
    """Clips as two halves of their channels, which hold all that the clips hold.

    i-RevNet (Jacobsen et al. 2018, arXiv 1802.07088) in three dimensions. `inverse` is exact.
    Attributes as `CrevNet`'s.
    """

    blocks: tuple[int, ...]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self):
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stack = [
            ReversibleBlock(2 if stage and k == 0 else 1, stage == k == 0, **dtypes)
            for stage, blocks in enumerate(self.blocks)
            for k in range(blocks)
        ]

    def __call__(self, clips: Clips, *, train: bool = False) -> Halves:
        halves = tuple(jnp.split(patchify(clips, 2), 2, -1))
        for block in self.stack:
            halves = block(halves, train=train)
        return halves

    def inverse(self, halves: Halves, *, train: bool = False) -> Clips:
        for block in reversed(self.stack):
            halves = block.inverse(halves, train=train)
        return unpatchify(jnp.concatenate(halves, -1), 2)


class ReversibleBlock(nn.Module):
    """(x, y) -> (y', x' + F(y)); where the stride is 2, x' and y' are folded, 2x2 pixels in one.

    F is three convolutions of 3x3x3 with BatchNorm and ReLU before each, but for the first block's
    first; it is half as wide inside.
    """

    stride: int = 1
    first: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __call__(self, halves: Halves, *, train: bool = False) -> Halves:
        x, y = halves
        added = self.residual(y, train)
        if self.stride == 2:
            x, y = patchify(x, 2), patchify(y, 2)
        return y, x + added

    def inverse(self, halves: Halves, *, train: bool = False) -> Halves:
        y, x = halves
        if self.stride == 2:
            y = unpatchify(y, 2)
        x = x - self.residual(y, train)
        return (unpatchify(x, 2) if self.stride == 2 else x), y

    @nn.compact
    def residual(self, y: Clips, train: bool) -> Clips:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = y.shape[-1] * self.stride**2
        plan = [(max(1, features // 2), self.stride), (max(1, features // 2), 1), (features, 1)]
        for k, (width, stride) in enumerate(plan):
            if k or not self.first:
                norm = nn.BatchNorm(not train, momentum=0.9, name=f"norm_{k}", **dtypes)
                y = nn.relu(norm(y))
            window, strides, padding = (3, 3, 3), (1, stride, stride), (1, 1, 1)
            options = {"use_bias": False, "name": f"conv_{k}", **dtypes}
            y = Conv(width, window, strides, padding, **options)(y)
        return y


class ReversiblePredictor(nn.Module):
    """The next window's two halves from one's, on the channels of one array (section 3.2).

    Every layer's cell sees one half, and its hidden state h is mixed into the other, (1 - g) x +
    g h, g = sigmoid(conv h); then the halves change places. A memory runs through all cells, and
    from the last to the first of the next step.
    """

    layers: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, codes: Clips) -> Any:
        zeros = jnp.zeros_like(codes[..., ::2])
        return ((zeros, zeros),) * self.layers, zeros

    @nn.compact
    def __call__(self, codes: Clips, state: Any, *, train: bool = False) -> tuple[Clips, Any]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        (states, memory), after = state, []
        x, y = jnp.split(codes, 2, -1)
        for k, before in enumerate(states):
            cell = SpatiotemporalLSTM(name=f"cell_{k}", **dtypes)
            (hidden, cell), memory = cell(x, before, memory)
            gate = nn.sigmoid(Conv(hidden.shape[-1], (1, 1, 1), name=f"gate_{k}", **dtypes)(hidden))
            x, y = y + gate * (hidden - y), x
            after.append((hidden, cell))
        self.sow("intermediates", "first", (memory, after[0][0]))
        return jnp.concatenate([x, y], -1), (tuple(after), memory)


class SpatiotemporalLSTM(nn.Module):
    """An ST-LSTM (Wang et al. 2017) in three dimensions, as wide as its input.

    Gates of the cell see [x, h, c], those of the memory m [x, m, c'], that of the output
    [x, h, c', m']; h' = o tanh(conv [c', m']).
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Clips, state: Halves, memory: Clips) -> tuple[Halves, Clips]:
        (hidden, cell), features = state, x.shape[-1]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def conv(name, features, *seen, window=(3, 3, 3)):
            return Conv(features, window, name=name, **dtypes)(jnp.concatenate(seen, -1))

        def gated(name, old, *seen):
            enter, keep, new = jnp.split(conv(name, 3 * features, *seen), 3, -1)
            return nn.sigmoid(keep) * old + nn.sigmoid(enter) * jnp.tanh(new)

        cell = gated("cell_gates", cell, x, hidden, cell)
        memory = gated("memory_gates", memory, x, memory, cell)
        gate = nn.sigmoid(conv("out_gate", features, x, hidden, cell, memory))
        hidden = gate * jnp.tanh(conv("both", features, cell, memory, window=(1, 1, 1)))
        return (hidden, cell), memory
