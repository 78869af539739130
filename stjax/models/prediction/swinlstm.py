"""SwinLSTM (Tang et al. 2023, arXiv 2308.09891), as OpenSTL benchmarks it."""

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from stjax.layers.convolution import ConvTranspose, torch_conv
from stjax.layers.initializers import torch_default
from stjax.layers.rollout import Rollout
from stjax.layers.window_attention import SwinBlock
from stjax.ops.patches import patchify, unpatchify

Map = Float[Array, "b h w c"]


class SwinLSTM(nn.Module):
    """LSTMs of Swin blocks over patches of 2x2 pixels: SwinLSTM-B has one, SwinLSTM-D several.

    After each cell of the first half the map is halved and its channels doubled, after each of the
    last half the other way round; the middle one of an odd number keeps the size.

    Attributes:
        depths: blocks of each cell.
        heads: of each cell.
        dim: channels of the largest map.
        window: side of the windows of attention.
        drop_path: largest rate of stochastic depth: rates rise from 0 through the first half's
            blocks and fall through the last half's; between them is the largest.
    """

    depths: tuple[int, ...] = (2, 6, 2, 6)
    heads: tuple[int, ...] = (4, 8, 8, 4)
    dim: int = 128
    window: int = 4
    drop_path: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

    def __post_init__(self):
        if len(self.heads) != len(self.depths):
            raise ValueError(f"heads: {self.heads} for cells of {self.depths} blocks")
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
        fields = self.depths, self.heads, self.dim, self.window, self.drop_path
        cell = functools.partial(_Cells, *fields, dtype=self.dtype, param_dtype=self.param_dtype)
        return Rollout(cell, name="rollout")(video, state, train=train, truth=truth)


class _Cells(nn.Module):
    """A frame in, the next one out; fields as `SwinLSTM`'s."""

    depths: tuple[int, ...]
    heads: tuple[int, ...]
    dim: int
    window: int
    drop_path: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Map) -> Any:
        batch, height, width, _ = frame.shape
        state, cells = [], len(self.depths)
        for k in range(cells):
            level = min(k, cells - 1 - k) + (k >= (cells + 1) // 2)
            size = height // 2 ** (level + 1), width // 2 ** (level + 1)
            zeros = jnp.zeros((batch, *size, self.dim * 2**level), frame.dtype)
            state.append((zeros, zeros))
        return tuple(state)

    @nn.compact
    def __call__(self, frame: Map, state: Any, *, train: bool = False) -> tuple[Map, Any]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, **dtypes)
        dense = functools.partial(nn.Dense, use_bias=False, kernel_init=torch_default, **dtypes)
        x = norm(name="patch_norm")(torch_conv(patchify(frame, 2), self.dim, "patches", **dtypes))
        self.sow("intermediates", "patches_out", x)
        after, half = [], len(self.depths) // 2
        for k, (heads, rates) in enumerate(zip(self.heads, self._rates())):
            cell = SwinLSTMCell(heads, self.window, name=f"cell_{k}", **dtypes)
            x, cell_state = cell(x, state[k], rates, train=train)
            after.append(cell_state)
            if k < half:
                x = norm(name=f"merge_{k}_norm")(patchify(x, 2))
                x = dense(x.shape[-1] // 2, name=f"merge_{k}")(x)
            elif k >= len(self.depths) - half:
                x = unpatchify(dense(2 * x.shape[-1], name=f"expand_{k}")(x), 2)
                x = norm(name=f"expand_{k}_norm")(x)
            self.sow("intermediates", f"resized_{k}", x)
        x = ConvTranspose(frame.shape[-1], 2, name="frame", **dtypes)(x)
        return nn.sigmoid(x), tuple(after)

    def _rates(self) -> list[np.ndarray]:
        """Of every block of every cell."""
        half = len(self.depths) // 2
        down, up = self.depths[:half], self.depths[len(self.depths) - half :]
        between = sum(self.depths) - sum(down) - sum(up)
        rise = lambda blocks: np.linspace(0, self.drop_path, blocks)
        rates = [rise(sum(down)), np.full(between, self.drop_path), rise(sum(up))[::-1]]
        return np.split(np.concatenate(rates), np.cumsum(self.depths)[:-1])


class SwinLSTMCell(nn.Module):
    """Swin blocks in the place of an LSTM's gates (section 3.2).

    Every other block, from the first, is shown a second map beside its input: the hidden state,
    the later ones the cell's input. Of the last one's output o, F = sigmoid(o), C' = F (C + tanh o)
    and H' = F tanh(C').

    Attributes:
        heads: of attention.
        window: its windows' side; those of every other block, from the second, are shifted.
    """

    heads: int
    window: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Map,
        state: tuple[Map, Map],
        rates: Float[np.ndarray, "blocks"],
        *,
        train: bool = False,
    ) -> tuple[Map, tuple[Map, Map]]:
        """The hidden state, and it and the cell. `rates`: of stochastic depth, one a block."""
        (hidden, cell), y = state, x
        for k, rate in enumerate(rates):
            block = SwinBlock(
                self.heads,
                (self.window, self.window),
                shifted=k % 2 == 1,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block_{k}",
            )
            beside = None if k % 2 else x if k else hidden
            y = block(y, rate if rate else None, beside, train=train)
            self.sow("intermediates", f"out_{k}", y)
        gate = nn.sigmoid(y)
        cell = gate * (cell + jnp.tanh(y))
        hidden = gate * jnp.tanh(cell)
        self.sow("intermediates", "hidden", hidden)
        return hidden, (hidden, cell)
