"""Recurrent cells as temporal mixers: LSTM, GRU and recurrent highway network.

What each cell carries on, and what is new, are joined by a gate that may be another
(`stjax.ops.gates`). The maps of the inputs of all steps are one product, outside the recurrence.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.gates import LEARNED, LOGITS, join
from stjax.ops.precision import promote

Hidden = Float[Array, "b f"]
_orthogonal = nn.initializers.orthogonal()
_xavier = nn.initializers.xavier_uniform()


class _Cell(nn.Module):
    """What the cells share.

    Attributes:
        features: width of the state and of the output.
        gate: how the candidate enters the state, a key of `stjax.ops.gates.LOGITS`.
    """

    features: int
    gate: str
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def _read(self) -> int:
        """Width of the gate's logits that are read from input and state."""
        return 0 if self.gate in LEARNED else LOGITS.get(self.gate, 0) * self.features

    def _param(self, name, init, *shape):
        return self.param(name, named(init, *[None] * len(shape)), shape, self.param_dtype)

    def _rate(self):
        """The gate's learned logits; None where it has none."""
        if self.gate not in LEARNED:
            return None
        return self._param("rate", nn.initializers.zeros, self.features)

    def _join(self, carried, new, read, rate):
        """The new state, by logits that were `read` or else learned."""
        logits = rate if rate is not None else read if self._read else None
        return join(self.gate, carried, new, logits)

    def _zeros(self, x):
        return jnp.zeros((x.shape[0], self.features), x.dtype)


class LSTM(_Cell):
    """c' = f c + i tanh(g), h = o tanh(c') (Hochreiter & Schmidhuber 1997).

    i, f, o are logistic, and all of i, f, g, o linear in input and last h, in this order.

    Attributes:
        gate: of the cell; with "coupled" f = 1 - i.
        forget_bias: what f's bias starts at.
    """

    gate: str = "uncoupled"
    forget_bias: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: tuple[Hidden, Hidden] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t f"], tuple[Hidden, Hidden]]:
        """Every step's h, and (c, h) after the last."""
        f, read = self.features, self._read
        width = read + 2 * f

        def start_bias(key, shape, dtype):
            forget = slice(f, 2 * f) if self.gate == "uncoupled" else slice(0)
            return jnp.zeros(shape, dtype).at[forget].set(self.forget_bias)

        weights = {
            "input": self._param("input", _xavier, x.shape[-1], width),
            "hidden": self._param("hidden", _orthogonal, f, width),
            "bias": self._param("bias", start_bias, width),
            "rate": self._rate(),
        }
        x, state, weights = promote((x, state, weights), self.dtype)

        def step(state, sums):
            cell, hidden = state
            sums = sums + hidden @ weights["hidden"]
            logits, new, out = jnp.split(sums, [read, read + f], -1)
            cell = self._join(cell, jnp.tanh(new), logits, weights["rate"])
            hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
            return (cell, hidden), hidden

        state = (self._zeros(x), self._zeros(x)) if state is None else state
        return _over_time(step, state, x @ weights["input"] + weights["bias"])


class GRU(_Cell):
    """h' = z h + (1 - z) n, n = tanh(W x + r (U h + b)) (Cho et al. 2014, arXiv 1406.1078).

    The reset gate r comes after the map of h, as in PyTorch and cuDNN; r, z, n are in this order.

    Attributes:
        gate: z's; its logits, as read, say what is kept.
    """

    gate: str = "coupled"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t c"], state: Hidden | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "b t f"], Hidden]:
        """Every step's h, and the last."""
        f, read = self.features, self._read
        width = read + 2 * f
        weights = {
            "input": self._param("input", _xavier, x.shape[-1], width),
            "hidden": self._param("hidden", _orthogonal, f, width),
            "bias": self._param("bias", nn.initializers.zeros, width),
            "hidden_bias": self._param("hidden_bias", nn.initializers.zeros, f),
            "rate": self._rate(),
        }
        x, state, weights = promote((x, state, weights), self.dtype)

        def step(hidden, sums):
            mapped = hidden @ weights["hidden"]
            gates = sums[:, : f + read] + mapped[:, : f + read]
            reset = jax.nn.sigmoid(gates[:, :f])
            mapped = mapped[:, f + read :] + weights["hidden_bias"]
            new = jnp.tanh(sums[:, f + read :] + reset * mapped)
            hidden = self._join(hidden, new, -gates[:, f:], weights["rate"])
            return hidden, hidden

        state = self._zeros(x) if state is None else state
        return _over_time(step, state, x @ weights["input"] + weights["bias"])


class RHN(_Cell):
    """Recurrent highway network: every step goes through `depth` gated layers of the state.

        h = tanh(W_l s + b_l + [l = 0] U x),  t = sigmoid(V_l s + c_l + [l = 0] T x)
        s <- s + t (h - s),  l = 0 ... depth - 1

    (Zilly et al. 2017, arXiv 1607.03474, equations 6 to 9, carry and transform coupled.)

    Attributes:
        gate: t's.
        depth: layers of a step.
        gate_bias: what t's bias starts at: -2 or -4 in their experiments.
        dropout: rate on the state that the maps read; one mask for all steps and layers (Gal &
            Ghahramani 2016, arXiv 1512.05287).
    """

    gate: str = "coupled"
    depth: int = 3
    gate_bias: float = -2.0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Hidden | None = None,
        *,
        train: bool = False,
        mask: Hidden | None = None,
    ) -> tuple[Float[Array, "b t f"], Hidden]:
        """Every step's state, and the last. `mask` is the dropout's; None: drawn in training."""
        f, channels, deeper = self.features, x.shape[-1], self.depth - 1
        stacked = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=0)
        weights = {"rate": self._rate()}
        bias = nn.initializers.constant(self.gate_bias)
        for name, width, start in (
            ("gate", self._read, bias),
            ("candidate", f, nn.initializers.zeros),
        ):
            if width:
                weights[name] = (
                    self._param(name, _xavier, channels + f, width),
                    self._param(f"{name}_deeper", stacked, deeper, f, width),
                    self._param(f"{name}_bias", start, self.depth, width),
                )
        x, state, weights = promote((x, state, weights), self.dtype)
        side_by_side = [weights[name] for name in ("gate", "candidate") if name in weights]
        first, later, biases = (jnp.concatenate(parts, -1) for parts in zip(*side_by_side))
        kernels = [first[channels:], *later]
        state = self._zeros(x) if state is None else state
        if mask is None and train and self.dropout:
            mask = nn.Dropout(self.dropout, deterministic=False)(jnp.ones_like(state))

        def step(state, sums):
            states = []
            for depth, kernel in enumerate(kernels):
                seen = state if mask is None else state * mask
                sums = seen @ kernel + (sums if depth == 0 else biases[depth])
                logits, new = jnp.split(sums, [self._read], -1)
                state = self._join(state, jnp.tanh(new), logits, weights["rate"])
                states.append(state)
            return state, tuple(states)

        states, state = _over_time(step, state, x @ first[:channels] + biases[0])
        self.sow("intermediates", "first", states[0])
        return states[-1], state


def _over_time(step: Callable[..., Any], state: Any, x: Float[Array, "b t k"]) -> tuple[Any, Any]:
    """What a step gives at all times, and the state after the last."""
    state, y = lax.scan(step, state, jnp.moveaxis(x, 1, 0))
    return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), y), state
