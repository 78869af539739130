"""Gated joints of residual blocks."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from stjax.layers.partitioning import named
from stjax.ops.gates import LEARNED, LOGITS, join
from stjax.ops.precision import promote


class Gate(nn.Module):
    """Joins a branch's output with the stream that it came from (`stjax.ops.gates.join`).

    Attributes:
        kind: a key of `LOGITS`.
        start: what the logits start at: of "rate" 0, as in ReZero; of the others -2, so that gates
            start all but closed and a deep stack passes its input on.
    """

    kind: str
    start: float | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, carried: Float[Array, "... d"], new: Float[Array, "... d"]
    ) -> Float[Array, "... d"]:
        width = LOGITS.get(self.kind, 0) * carried.shape[-1]
        if not width:
            return join(self.kind, carried, new)
        start = (0.0 if self.kind == "rate" else -2.0) if self.start is None else self.start
        bias = nn.initializers.constant(start)
        if self.kind in LEARNED:
            logits = self.param("logits", named(bias, "embed"), (width,), self.param_dtype)
        else:
            logits = nn.Dense(
                width,
                kernel_init=named(nn.initializers.lecun_normal(), None, "embed"),
                bias_init=named(bias, "embed"),
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name="logits",
            )(jnp.concatenate([carried, new], -1))
        carried, new, logits = promote((carried, new, logits), self.dtype)
        return join(self.kind, carried, new, logits)
