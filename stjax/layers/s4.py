"""S4 as a layer (Gu, Goel, Ré, arXiv 2111.00396), in the form of ViS4mer (arXiv 2204.01692)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from stjax.ops.activations import gelu
from stjax.ops.s4 import (
    NPLR,
    fft_convolution,
    hippo_nplr,
    s4_kernel,
    s4_recurrence,
    truncated,
    untruncated,
)
from stjax.ops.ssm import from_pair, log_step_init, to_pair


class S4System(nn.Module):
    """The parameters of S4: a state-space model for every channel, and the length of its steps.

    It starts as HiPPO-LegS, with a random C. The eigenvalues are shared by all channels. C is
    truncated to the layer's length, and its conjugate is kept.
    """

    features: int
    state_size: int = 64
    shortest_step: float = 1e-3
    longest_step: float = 1e-1
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[NPLR, Float[Array, "c"]]:
        start_L, start_P, start_B = hippo_nplr(self.state_size)
        shape = (self.features, len(start_L))

        def pair(name, start):
            """A complex parameter, from a function of a key."""
            init = lambda key: to_pair(jnp.asarray(start(key))).astype(self.param_dtype)
            return from_pair(self.param(name, init))

        alike = lambda row: jnp.broadcast_to(row, shape)
        random = lambda key: from_pair(nn.initializers.normal(0.5**0.5)(key, (2, *shape)))
        L = pair("eigenvalues", lambda key: start_L)
        B, P = pair("into_state", lambda key: jnp.stack([alike(start_B), alike(start_P)]))
        C, Q = pair("out_of_state", lambda key: jnp.stack([random(key), alike(start_P)]))
        log_step = self.param(
            "log_step",
            log_step_init(self.shortest_step, self.longest_step),
            (self.features,),
            self.param_dtype,
        )
        return NPLR(L[None], P, Q, B, C.conj()), jnp.exp(log_step)


class S4(nn.Module):
    """Dense(dropout(gelu(S4(x) + D x))), causal; a mixer.

    A clip from its start is a convolution, up to the state after it; a clip from a state, or a
    single frame, runs through the recurrence: the same numbers.

    Attributes:
        features: channels of input and output.
        length: steps of the longest clip that is met; C is learned as truncated to it. Longer
            clips are right, but cost a kernel more.
        state_size: real size n of every channel's state.
        shortest_step, longest_step: steps start uniform in the logarithm between these.
        taps: of the kernel, where they are not `length` (see `s4_kernel`): the recurrence knows
            nothing of them.
        dropout: rate; whole channels of a sample.
    """

    features: int
    length: int
    state_size: int = 64
    shortest_step: float = 1e-3
    longest_step: float = 1e-1
    taps: int | None = None
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Complex[Array, "b c p"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t c"], Complex[Array, "b c p"]]:
        system, step = S4System(
            self.features,
            self.state_size,
            self.shortest_step,
            self.longest_step,
            self.param_dtype,
            name="system",
        )()
        if state is None and x.shape[1] > 1:
            kernel = self._kernel(system, step, x.shape[1])
            self.sow("intermediates", "kernel", kernel)
            y = fft_convolution(x, kernel)
            # Where nobody asks for the state, the compiler drops this.
            _, state = s4_recurrence(system, step, x)
        else:
            y, state = s4_recurrence(untruncated(system, step, self.length), step, x, state)
        feedthrough = self.param(
            "feedthrough", nn.initializers.normal(1.0), (self.features,), self.param_dtype
        )
        y = gelu(y + feedthrough.astype(y.dtype) * x)
        y = nn.Dropout(self.dropout, broadcast_dims=(1,))(y, deterministic=not train)
        y = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name="out")(y)
        return y, state

    def _kernel(self, system, step, length):
        if length <= self.length:
            return s4_kernel(system, step, self.length, self.taps)
        whole = untruncated(system, step, self.length)
        return s4_kernel(truncated(whole, step, length), step, length)
