"""Convolutional LSTM (Shi et al. 2015, arXiv 1506.04214), without peepholes."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.ops.conv import conv
from stjax.ops.conv_recurrence import conv_scan, lstm
from stjax.ops.norm import layer_norm
from stjax.ops.precision import promote

State = tuple[Float[Array, "b h w f"], Float[Array, "b h w f"]]


class ConvLSTM(nn.Module):
    """A temporal mixer: an LSTM at every pixel whose gates convolve the input and hidden state.

    The inputs of all frames are convolved at once, outside the recurrence; the kernels' gradients
    are taken once over all frames (`stjax.ops.conv_recurrence`).

    Attributes:
        features: channels of cell and hidden state.
        kernel_size: side of both kernels.
        gate_order: order of the gates among the kernels' output channels, a permutation of "ifgo".
        output: "tanh_cell", h = o * tanh(c); "candidate", h = o * g, as OpenSTL v0.3.0 published.
        use_bias: whether the gates have one.
        layer_norm: whether both convolutions' outputs are normalised over height, width and
            channels together, with a scale and a bias of that shape (OpenSTL).
    """

    features: int
    kernel_size: int = 3
    gate_order: str = "ifgo"
    output: str = "tanh_cell"
    use_bias: bool = False
    layer_norm: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], state: State | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t h w f"], State]:
        """The hidden states at every frame, and the (cell, hidden) state after the last."""
        kernels = {"input": x.shape[-1], "hidden": self.features}
        for name, channels in kernels.items():
            shape = (self.kernel_size, self.kernel_size, channels, 4 * self.features)
            kernels[name] = self.param(
                f"{name}_kernel", self.kernel_init, shape, self.param_dtype
            )
        others = self._others((*x.shape[2:4], 4 * self.features))
        x, state, kernels, others = promote((x, state, kernels, others), self.dtype)
        frames = jnp.moveaxis(x, 1, 0)
        steps, batch = frames.shape[:2]
        convolved = conv(frames.reshape(-1, *frames.shape[2:]), kernels["input"])
        gates = self._normalise("input", convolved, others)
        gates = gates + others["bias"] if self.use_bias else gates

        def step(convolve, others, state, gates):
            cell, hidden = state
            gates = gates + self._normalise("hidden", convolve("hidden", hidden), others)
            state = lstm(gates, cell, self.gate_order, self.output)
            return state, state[1]

        if state is None:
            zeros = jnp.zeros((*frames.shape[1:-1], self.features), frames.dtype)
            state = zeros, zeros
        gates = gates.reshape(steps, batch, *convolved.shape[1:])
        state, hidden = conv_scan(step, {"hidden": kernels["hidden"]}, others, state, gates)
        return jnp.moveaxis(hidden, 0, 1), state

    def _others(self, gates):
        """All parameters but the kernels, for gates of that shape."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        wanted = {"bias": (zeros, gates[-1:])} if self.use_bias else {}
        if self.layer_norm:
            for name in ("input_norm", "hidden_norm"):
                wanted |= {f"{name}_scale": (ones, gates), f"{name}_bias": (zeros, gates)}
        return {name: self.param(name, *init, self.param_dtype) for name, init in wanted.items()}

    def _normalise(self, name, gates, others):
        if not self.layer_norm:
            return gates
        scale, bias = (others[f"{name}_norm_{part}"] for part in ("scale", "bias"))
        return layer_norm(gates, scale, bias, axes=(-3, -2, -1))
