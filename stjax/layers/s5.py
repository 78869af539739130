"""S5: a diagonal linear state-space model on vectors (Smith, Warrington, Linderman, 2208.04933)."""

import flax.linen as nn
from jaxtyping import Array, Complex, Float

from stjax.layers.ssm import DiagonalSSM
from stjax.ops.ssm import from_pair


class S5(DiagonalSSM):
    """v * sigmoid(Dense(v)), v = gelu(2 Re(C x) + D u), x_k = A x_{k-1} + B u_k.

    As ConvS5's frame-by-frame baseline has it (arXiv 2310.19694, official code): HiPPO-N in
    blocks, one step size for each mode, D elementwise.
    """

    def setup(self) -> None:
        self._setup_dynamics()
        # As published, both maps are scaled by the size of the state.
        self._setup_maps(
            nn.initializers.variance_scaling(1.0, "fan_out", "truncated_normal"), _complex_lecun
        )
        self.feedthrough = self.param(
            "feedthrough", nn.initializers.normal(1.0), (self.features,), self.param_dtype
        )
        self.gate = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype)

    def __call__(
        self,
        x: Float[Array, "b t c"],
        state: Complex[Array, "b p"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b t c"], Complex[Array, "b p"]]:
        y, state = self.linear(x, state)
        v = nn.gelu(y + self.feedthrough * x)
        return v * nn.sigmoid(self.gate(v)), state

    def _map(self, x: Float[Array, "b t c"], kernel: Float[Array, "c f"]) -> Float[Array, "b t f"]:
        return x @ kernel


def _complex_lecun(key, shape, dtype):
    return from_pair(nn.initializers.lecun_normal(batch_axis=0)(key, (2, *shape), dtype))
