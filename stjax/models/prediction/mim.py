"""Memory In Memory (Wang et al. 2019, arXiv 1811.07490)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from stjax.layers.recurrent_stack import Gated
from stjax.models.prediction.predrnn import STLSTM
from stjax.models.prediction.recurrent import RecurrentPredictor


class Differences(nn.Module):
    """Hands on how its input differs from that of the step before; at the first step, zeros.

    Under "started" it is handed on whether a step went before (1) or not (0).
    """

    features: int

    def start(self, frame):
        return jnp.zeros((*frame.shape[:-1], self.features), frame.dtype), jnp.zeros(())

    def __call__(self, x, state, passed):
        before, started = state
        passed = passed | {"difference": started * (x - before), "started": started}
        return x, (x, jnp.ones_like(started)), passed


class MIMUnit(Gated):
    """MIM-N and MIM-S alike: an LSTM with peepholes of their own for every place (figure 2)."""

    @nn.compact
    def __call__(self, x, hidden, cell):
        by_x = self.gates("x", x, "i g f o")
        by_hidden = self.gates("hidden", hidden, "i g f o")
        peephole = lambda name: self.param(
            name, nn.initializers.zeros, cell.shape[1:], self.param_dtype
        ).astype(by_x["i"].dtype)
        z = {gate: by_x[gate] + by_hidden[gate] for gate in "igfo"}
        put = sigmoid(z["i"] + peephole("input") * cell)
        forget = sigmoid(z["f"] + peephole("forget") * cell + 1)
        cell = forget * cell + put * jnp.tanh(z["g"])
        return sigmoid(z["o"] + peephole("output") * cell) * jnp.tanh(cell), cell


class MIMBlock(Gated):
    """An ST-LSTM whose forget gate is two units in cascade (equations 1 to 3).

    MIM-N (non-stationary) makes of the layer below's difference signal this one's; MIM-S
    (stationary) makes of that and the cell what is remembered of the cell.

    Attributes:
        detached: see `MIM`.
    """

    detached: bool = False

    def start(self, frame):
        zeros = self.zeros(frame)
        return {"layer": (zeros, zeros), "nonstationary": (zeros, zeros), "stationary": zeros}

    @nn.compact
    def __call__(self, x, state, passed):
        (hidden, cell), memory = state["layer"], passed["memory"]
        unit = lambda name: MIMUnit(
            self.features, self.kernel_size, self.layer_norm, dtype=self.dtype,
            param_dtype=self.param_dtype, name=name,
        )
        nonstationary = unit("nonstationary")(passed["difference"], *state["nonstationary"])
        nonstationary = jax.tree.map(lambda x: passed["started"] * x, nonstationary)
        stationary = state["stationary"]
        if self.detached:
            stationary = jax.lax.stop_gradient(stationary)
        remembered, stationary = unit("stationary")(nonstationary[0], cell, stationary)

        by_x = self.gates("x", x, "i g f o")
        by_hidden = self.gates("hidden", hidden, "i g o")
        by_memory = self.gates("memory", memory, "i g f o")
        put = sigmoid(by_x["i"] + by_hidden["i"])
        cell = remembered + put * jnp.tanh(by_x["g"] + by_hidden["g"])
        put = sigmoid(by_x["i"] + by_memory["i"]) * jnp.tanh(by_x["g"] + by_memory["g"])
        memory = sigmoid(by_x["f"] + by_memory["f"] + 1) * memory + put

        both = jnp.concatenate([cell, memory], -1)
        output = sigmoid(by_x["o"] + by_hidden["o"] + by_memory["o"])
        hidden = output * jnp.tanh(self.conv("merge", both, self.features))
        after = {"layer": (hidden, cell), "nonstationary": nonstationary, "stationary": stationary}
        return hidden, after, passed | {"memory": memory, "difference": nonstationary[0]}


class MIM(RecurrentPredictor):
    """An `STLSTM`, and `MIMBlock`s above it.

    OpenSTL carries the state of MIM-S from one clip to the next, whatever they show; here every
    clip starts at zero, and `state` says otherwise.

    Attributes:
        detached: no gradient flows through MIM-S's state from step to step, as OpenSTL published.
    """

    detached: bool = False

    def layers(self):
        differences = functools.partial(Differences, self.hidden[0])
        blocks = self.alike(MIMBlock, start=1, detached=self.detached)
        return {**self.alike(STLSTM, stop=1), "differences": differences, **blocks}
