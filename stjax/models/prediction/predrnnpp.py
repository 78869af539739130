"""PredRNN++ (Wang et al. 2018, arXiv 1804.06300)."""

import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from stjax.layers.recurrent_stack import Gated
from stjax.models.prediction.recurrent import RecurrentPredictor


class CausalLSTM(Gated):
    """Causal LSTM: the memory's gates see the new cell, the output sees both (equation 1).

    Attributes:
        gated_by: what the cell's gates see besides frame and hidden state, see `PredRNNpp`.
    """

    gated_by: Literal["cell", "memory"] = "cell"

    @nn.compact
    def __call__(self, x, state, passed):
        hidden, cell = state
        memory = passed["memory"]
        if self.gated_by not in ("cell", "memory"):
            raise ValueError(f"gated_by: {self.gated_by!r} is neither 'cell' nor 'memory'")
        third = cell if self.gated_by == "cell" else memory
        by_x = self.gates("x", x, "i f g i' f' g' o")
        by_hidden = self.gates("hidden", hidden, "i f g o")
        by_third = self.gates("cell", third, "i f g")
        by_memory = self.gates("memory", memory, "i' f' m")

        z = {gate: by_x[gate] + by_hidden[gate] + by_third[gate] for gate in "ifg"}
        cell = sigmoid(z["f"] + 1) * cell + sigmoid(z["i"]) * jnp.tanh(z["g"])

        by_cell = self.gates("new_cell", cell, "i' g' f' o")
        forget = sigmoid(by_x["f'"] + by_memory["f'"] + by_cell["f'"] + 1)
        put = sigmoid(by_x["i'"] + by_memory["i'"] + by_cell["i'"])
        memory = forget * jnp.tanh(by_memory["m"]) + put * jnp.tanh(by_x["g'"] + by_cell["g'"])

        by_new = self.gates("new_memory", memory, "o")
        output = jnp.tanh(by_x["o"] + by_hidden["o"] + by_cell["o"] + by_new["o"])
        both = jnp.concatenate([cell, memory], -1)
        hidden = output * jnp.tanh(self.conv("merge", both, self.features))
        return hidden, (hidden, cell), passed | {"memory": memory}


def _nearly_zero(key, shape, dtype):
    """Uniform within 0.001."""
    return jax.random.uniform(key, shape, dtype, -1e-3, 1e-3)


class GradientHighway(Gated):
    """Gradient highway unit: a short way for gradients through time (equation 2)."""

    kernel_init: nn.initializers.Initializer = _nearly_zero

    def start(self, frame):
        return self.zeros(frame)

    @nn.compact
    def __call__(self, x, state, passed):
        by_x, by_state = self.gates("x", x, "p s"), self.gates("state", state, "p s")
        switch = sigmoid(by_x["s"] + by_state["s"])
        state = switch * jnp.tanh(by_x["p"] + by_state["p"]) + (1 - switch) * state
        return state, state, passed


class PredRNNpp(RecurrentPredictor):
    """Stacked `CausalLSTM`s, with a `GradientHighway` after the first.

    Attributes:
        gated_by: what the cell's gates see besides frame and hidden state: "cell", itself before
            the step, as the paper says; "memory", as OpenSTL v0.3.0 published.
    """

    gated_by: Literal["cell", "memory"] = "cell"

    def layers(self):
        causal = functools.partial(self.alike, CausalLSTM, gated_by=self.gated_by)
        highway = functools.partial(GradientHighway, self.hidden[0], **self.options)
        return {**causal(stop=1), "highway": highway, **causal(start=1)}
