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
    def weights(self, frame: tuple[int, int, int]) -> tuple[dict[str, Array], dict[str, Array]]:
        """The two kernels, and the other parameters, for frames of (height, width, channels)."""
        height, width, channels = frame
        gates = 4 * self.features
        window = (self.kernel_size, self.kernel_size)
        param = lambda *args: self.param(*args, self.param_dtype)
        kernels = {
            "input": param("input_kernel", self.kernel_init, (*window, channels, gates)),
            "hidden": param("hidden_kernel", self.kernel_init, (*window, self.features, gates)),
        }
        other = {}
        if self.use_bias:
            other["bias"] = param("bias", nn.initializers.zeros, (gates,))
        if self.layer_norm:
            for name in ("input", "hidden"):
                shape = (height, width, gates)
                other[f"{name}_scale"] = param(f"{name}_scale", nn.initializers.ones, shape)
                other[f"{name}_bias"] = param(f"{name}_bias", nn.initializers.zeros, shape)
        return kernels, other

    def input_gates(self, convolved: Float[Array, "... h w 4*f"], other: dict[str, Array]) -> Array:
        """What the convolved inputs add to the gates."""
        gates = self._normalise("input", convolved, other)
        return gates + other["bias"] if self.use_bias else gates

    def step(
        self,
        convolved: Float[Array, "b h w 4*f"],
        gates: Float[Array, "b h w 4*f"],
        cell: Float[Array, "b h w f"],
        other: dict[str, Array],
    ) -> State:
        """Cell and hidden state after a step, from the convolved hidden state before it."""
        gates = gates + self._normalise("hidden", convolved, other)
        return lstm(gates, cell, self.gate_order, self.output)

    def start(self, frame: Float[Array, "b h w c"]) -> State:
        """The state before the first frame."""
        zeros = jnp.zeros((*frame.shape[:-1], self.features), frame.dtype)
        return zeros, zeros

    def __call__(
        self, x: Float[Array, "b t h w c"], state: State | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t h w f"], State]:
        """The hidden states at every frame, and the (cell, hidden) state after the last."""
        weights = self.weights(x.shape[2:])
        x, state, (kernels, other) = promote((x, state, weights), self.dtype)
        frames = jnp.moveaxis(x, 1, 0)
        steps, batch = frames.shape[:2]
        convolved = conv(frames.reshape(-1, *frames.shape[2:]), kernels["input"])
        gates = self.input_gates(convolved, other).reshape(steps, batch, *convolved.shape[1:])

        def step(convolve, other, state, gates):
            cell, hidden = state
            state = self.step(convolve("hidden", hidden), gates, cell, other)
            return state, state[1]

        state = self.start(frames[0]) if state is None else state
        state, hidden = conv_scan(step, {"hidden": kernels["hidden"]}, other, state, gates)
        return jnp.moveaxis(hidden, 0, 1), state

    def _normalise(self, name, gates, other):
        if not self.layer_norm:
            return gates
        return layer_norm(gates, other[f"{name}_scale"], other[f"{name}_bias"], axes=(-3, -2, -1))
