"""ConvLSTM (Shi et al. 2015) as OpenSTL benchmarks it (Tan et al. 2023, arXiv 2306.11249)."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util

from stjax.layers import conv_lstm
from stjax.layers.recurrent_stack import Gated
from stjax.models.prediction.recurrent import RecurrentPredictor
from stjax.ops.conv import conv
from stjax.ops.conv_recurrence import lstm
from stjax.ops.precision import promote
from stjax.ops.sequence_parallel import over_frames
from stjax.ops.sharding import at_edge


class Layer(Gated):
    """A step of `stjax.layers.conv_lstm.ConvLSTM`; its state is (cell, hidden state).

    Attributes:
        output: see `ConvLSTM`.
    """

    output: str = "tanh_cell"

    @nn.compact
    def __call__(self, x, state, passed):
        cell, hidden = state
        by_x = self.gates("input", x, "i f g o").values()
        by_hidden = self.gates("hidden", hidden, "i f g o").values()
        gates = jnp.concatenate([a + b for a, b in zip(by_x, by_hidden)], -1)
        cell, hidden = lstm(gates, cell, "ifgo", self.output)
        return hidden, (cell, hidden), passed


class ConvLSTM(RecurrentPredictor):
    """A stack of ConvLSTMs.

    Attributes:
        output: how a layer shows its cell; "candidate" is what OpenSTL v0.3.0 published.
    """

    output: str = "tanh_cell"

    zigzag: ClassVar[bool] = False

    def layers(self):
        return self.alike(Layer, output=self.output)

    def unroll(self, frames, state, train, truth):
        """Where every frame is seen, layer by layer: all inputs of a layer are known at once."""
        if truth is not None or self.is_initializing():
            return super().unroll(frames, state, train, truth)
        params = self.variables["params"]["rollout"]["cell"]
        (states, memory), _ = state or (self.cell(parent=None).start(frames[:, 0]), None)
        hidden, after = frames, {}
        for name, width in zip(states, self.hidden):
            layer = conv_lstm.ConvLSTM(width, output=self.output, **self.options, parent=None)
            variables = {"params": traverse_util.flatten_dict(params[name], sep="_")}
            hidden, after[name] = layer.apply(variables, at_edge(hidden), states[name])
        hidden, readout = promote((hidden, params["readout"]["kernel"]), self.dtype)
        out = over_frames(lambda frames: conv(frames, readout), hidden)
        return out, ((after, memory), out[:, -1])
