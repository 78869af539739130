"""Diagonal linear state-space models: what S5 and ConvS5 share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from stjax.layers.partitioning import named
from stjax.ops.precision import promote
from stjax.ops.recurrence import linear_recurrence
from stjax.ops.ssm import from_pair, hippo_normal, log_step_init, to_pair, zero_order_hold


class DiagonalSSM(nn.Module):
    """x_k = A x_{k-1} + B u_k, y_k = 2 Re(C x_k), A diagonal and complex, started from HiPPO-N.

    B and C are linear maps of one frame each; a subclass says which (`_map`), how they start, and
    what is made of y. They are complex, but applied as real maps of real and imaginary parts side
    by side: of all backends none does better with complex products.

    Attributes:
        features: channels of input and output.
        state_size: real size n of the state; p = n / 2 complex modes are computed.
        blocks: blocks of HiPPO-N along the diagonal of the state matrix.
        shortest_step, longest_step: step sizes start uniform in the logarithm between these.
        clip_eigenvalues: hold their real parts at or below -1e-4, so that the model is stable.
        method: of the recurrence, see `linear_recurrence`.
    """

    features: int
    state_size: int
    blocks: int = 1
    shortest_step: float = 1e-3
    longest_step: float = 1e-1
    clip_eigenvalues: bool = False
    method: str = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def _setup_dynamics(self) -> None:
        """Declares the eigenvalues and one step size for each."""
        modes = hippo_normal(self.state_size, self.blocks)
        start = lambda values: named(lambda key: jnp.asarray(values, self.param_dtype), "mlp")
        self.eigenvalues_re = self.param("eigenvalues_re", start(modes.eigenvalues.real))
        self.eigenvalues_im = self.param("eigenvalues_im", start(modes.eigenvalues.imag))
        self.log_step = self.param(
            "log_step",
            named(log_step_init(self.shortest_step, self.longest_step), "mlp"),
            modes.eigenvalues.shape,
            self.param_dtype,
        )

    def _setup_maps(self, into_state, out_of_state, into_shape=(), out_shape=()) -> None:
        """Declares B and C from initialisers of those of the real system behind the modes.

        The initialisers give kernels (*into_shape, features, n) and (*out_shape, n, features),
        real or complex.
        """
        modes = hippo_normal(self.state_size, self.blocks)

        def start(init, pattern, basis):
            def init_pair(key, shape):
                pair = to_pair(jnp.einsum(pattern, init(key, shape, self.param_dtype), basis))
                return pair.astype(self.param_dtype)

            return init_pair

        self.into_state = self.param(
            "into_state",
            named(
                start(into_state, "...cn,pn->...cp", modes.inverse),
                *(None,) * (1 + len(into_shape)), "embed", "mlp",
            ),
            (*into_shape, self.features, self.state_size),
        )
        self.out_of_state = self.param(
            "out_of_state",
            named(
                start(out_of_state, "...nc,np->...pc", modes.basis),
                *(None,) * (1 + len(out_shape)), "mlp", "embed",
            ),
            (*out_shape, self.state_size, self.features),
        )

    def _map(self, x: Float[Array, "b t ... c"], kernel: Float[Array, "... c f"]):
        """The linear map of single frames."""
        raise NotImplementedError

    def discretised(self) -> tuple[Complex[Array, "p"], Complex[Array, "... c p"]]:
        """A and B over one step (zero-order hold)."""
        real = self.eigenvalues_re
        if self.clip_eigenvalues:
            real = jnp.minimum(real, -1e-4)
        decay, gain = zero_order_hold(
            lax.complex(real, self.eigenvalues_im), jnp.exp(self.log_step)
        )
        return decay, gain * from_pair(self.into_state)

    def linear(
        self, x: Float[Array, "b t ... c"], state: Complex[Array, "b ... p"] | None = None
    ) -> tuple[Float[Array, "b t ... c"], Complex[Array, "b ... p"]]:
        """The model up to y, before anything that is not linear."""
        decay, kernel = self.discretised()
        x, kernel = promote((x, _interleaved(kernel)), self.dtype)
        drive = self._map(x, kernel).astype(decay.real.dtype)
        drive = drive.reshape(*drive.shape[:-1], -1, 2)
        drive = lax.complex(drive[..., 0], drive[..., 1])
        states, state = linear_recurrence(decay, drive, state, method=self.method)
        # 2 Re(C x) = 2 Re C Re x - 2 Im C Im x
        real, imaginary = self.out_of_state
        kernel = 2 * jnp.stack([real, -imaginary], -2)
        kernel = kernel.reshape(*kernel.shape[:-3], -1, kernel.shape[-1])
        states, kernel = promote((_interleaved(states), kernel), self.dtype)
        return self._map(states, kernel), state


def _interleaved(x: Complex[Array, "... p"]) -> Float[Array, "... 2*p"]:
    """Real and imaginary part of each entry side by side, so that a cut of p cuts this alike."""
    return jnp.stack([x.real, x.imag], -1).reshape(*x.shape[:-1], -1)
