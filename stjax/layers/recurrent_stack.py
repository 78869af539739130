"""Recurrent layers of maps whose gates are sums of convolutions, and cells that stack them."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.convolution import Conv
from stjax.layers.initializers import torch_default
from stjax.layers.norm import frame_layer_norm
from stjax.ops.sharding import at_edge

Frame = Float[Array, "b h w d"]
Map = Float[Array, "b h w c"]


class Gated(nn.Module):
    """Base of a `Stack`'s layers, `layer(x, state, passed) -> (shown, state, passed)`.

    What a layer shows is the next one's x; `state` is its own; `passed` is what the layers of a
    step hand on to each other, by name.

    Attributes:
        features: channels of its states.
        kernel_size: side of its gates' kernels.
        layer_norm: LayerNorm over channels, height and width after every gates' convolution.
    """

    features: int
    kernel_size: int = 5
    layer_norm: bool = False
    kernel_init: nn.initializers.Initializer = torch_default
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Frame) -> Any:
        """The state before the first step: hidden state and cell."""
        return self.zeros(frame), self.zeros(frame)

    def zeros(self, frame: Frame) -> Map:
        return jnp.zeros((*frame.shape[:-1], self.features), frame.dtype)

    def gates(self, name: str, x: Map, gates: str) -> dict[str, Map]:
        """What x, convolved by the layer `name`, adds to each gate, before its activation.

        Args:
            gates: their names, with spaces between, in the order of the kernel's output channels.
        """
        names = gates.split()
        window = (self.kernel_size, self.kernel_size)
        out = self.conv(name, x, len(names) * self.features, window)
        if self.layer_norm:
            out = self.norm(f"{name}_norm", out)
        return dict(zip(names, jnp.split(out, len(names), -1)))

    def conv(self, name: str, x: Map, features: int, window: tuple[int, int] = (1, 1)) -> Map:
        """A convolution without bias."""
        layer = Conv(
            features, window, use_bias=False, kernel_init=self.kernel_init,
            dtype=self.dtype, param_dtype=self.param_dtype, name=name,
        )
        return layer(x)

    def norm(self, name: str, x: Map) -> Map:
        """LayerNorm over the whole map, with a scale and a bias for each of its entries."""
        layer = frame_layer_norm(dtype=self.dtype, param_dtype=self.param_dtype, name=name)
        return layer(x)


class Stack(nn.Module):
    """A cell (`stjax.layers.rollout`): layers one after the other, and a linear map of each pixel.

    What the last layer leaves in `passed["memory"]` is there for the first one at the next step:
    the memory runs in zigzag through space and time (PredRNN).

    Attributes:
        layers: name -> factory of a layer, see `Gated`.
        memory: channels of the memory; 0: the layers have none.
    """

    layers: Mapping[str, Callable[..., nn.Module]]
    memory: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def start(self, frame: Frame) -> tuple[dict[str, Any], Map]:
        states = {name: layer(parent=None).start(frame) for name, layer in self.layers.items()}
        return states, jnp.zeros((*frame.shape[:-1], self.memory), frame.dtype)

    @nn.compact
    def __call__(
        self, frame: Frame, state: tuple[dict[str, Any], Map], *, train: bool = False
    ) -> tuple[Frame, tuple[dict[str, Any], Map]]:
        states, memory = state
        shown, passed, after = frame, {"memory": memory}, {}
        for name, layer in self.layers.items():
            shown, own, passed = layer(name=name)(at_edge(shown), states[name], passed)
            self.sow("intermediates", f"after_{name}", {"state": own, **passed})
            after[name] = own
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        readout = Conv(frame.shape[-1], (1, 1), use_bias=False, **types, name="readout")
        return readout(shown), (after, passed["memory"])
