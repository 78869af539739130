"""PredNet (Lotter et al. 2017, arXiv 1605.08104), as OpenSTL benchmarks it."""

import functools
from typing import Any, ClassVar

import einops
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from stjax.layers.convolution import Conv
from stjax.layers.rollout import Rollout

Map = Float[Array, "b h w c"]


class PredNet(nn.Module):
    """Predictive coding: every layer predicts what it is shown, and hands on its errors alone.

    It is trained on the lowest layer's errors (L_0), which are half the absolute error of a frame:
    the loss "half_l1". A forecast treats the last prediction as the next frame, as the paper says;
    published code hands it on a step too late.

    Attributes:
        features: channels of each layer above the frames'; each halves the map once more.
        kernel_size: side of all kernels.
        largest: of a frame's values.
    """

    features: tuple[int, ...] = (32, 64, 128, 256)
    kernel_size: int = 3
    largest: float = 1.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    predicts: ClassVar[str] = "next"

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
        fields = self.features, self.kernel_size, self.largest
        cell = functools.partial(_Layers, *fields, dtype=self.dtype, param_dtype=self.param_dtype)
        start, steps = state is None, video.shape[1]
        if start:
            # A step before the clip, which makes a prediction of its first frame.
            video = jnp.concatenate([video[:, :1], video], 1)
            truth = None if truth is None else jnp.pad(truth, ((0, 0), (1, 0)), constant_values=1)
        frames, state = Rollout(cell, name="rollout")(video, state, train=train, truth=truth)
        return frames[:, -steps:], state


class _Layers(nn.Module):
    """A frame in, the next one out; fields as `PredNet`'s.

    The state: each layer's representation, its cell and its prediction; and whether anything was
    predicted yet, without which nothing is an error.
    """

    features: tuple[int, ...]
    kernel_size: int
    largest: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Map) -> Any:
        batch, height, width, channels = frame.shape
        layers = []
        for level, features in enumerate((channels, *self.features)):
            size = height // 2**level, width // 2**level
            layers.append((jnp.zeros((batch, *size, features), frame.dtype),) * 3)
        return tuple(layers), jnp.zeros((batch, 1, 1, 1), frame.dtype)

    @nn.compact
    def __call__(self, frame: Map, state: Any, *, train: bool = False) -> tuple[Map, Any]:
        (layers, predicted), window = state, (self.kernel_size, self.kernel_size)
        conv = functools.partial(
            Conv,
            window=window,
            bias_init=nn.initializers.zeros,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        top, shown, errors = len(layers) - 1, frame, []
        for level, (*_, prediction) in enumerate(layers):
            halves = nn.relu(prediction - shown), nn.relu(shown - prediction)
            errors.append(predicted * jnp.concatenate(halves, -1))
            if level < top:
                shown = conv(self.features[level], name=f"target_{level}")(errors[-1])
                shown = nn.max_pool(nn.relu(shown), (2, 2), (2, 2))
        self.sow("intermediates", "errors", tuple(errors))
        above, after = [], []
        for level in reversed(range(top + 1)):
            representation, cell, _ = layers[level]
            seen = jnp.concatenate([representation, errors[level], *above], -1)
            gates = conv(4 * cell.shape[-1], name=f"gates_{level}")(seen)
            enter, forget, candidate, leave = jnp.split(gates, 4, -1)
            cell = _hard(forget) * cell + _hard(enter) * jnp.tanh(candidate)
            representation = _hard(leave) * jnp.tanh(cell)
            self.sow("intermediates", f"state_{level}", (representation, cell))
            prediction = conv(cell.shape[-1], name=f"prediction_{level}")(representation)
            after.append([representation, cell, nn.relu(prediction)])
            above = [einops.repeat(representation, "b h w c -> b (h 2) (w 2) c")]
        after[-1][-1] = jnp.minimum(after[-1][-1], self.largest)
        layers = tuple(map(tuple, reversed(after)))
        return layers[0][-1], (layers, jnp.ones_like(predicted))


def _hard(x):
    """Keras' hard sigmoid."""
    return jnp.clip(0.2 * x + 0.5, 0, 1)
