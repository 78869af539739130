"""Initial weights that published code relies on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# PyTorch's default for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Of transposed convolutions it takes the outputs for the inputs.
torch_default_transposed = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


def torch_default_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for the bias of a layer whose every output sums `fan_in` inputs."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def step_bias(key, shape, dtype):
    """What softplus makes steps of, uniform in the logarithm between 1e-3 and 0.1 (Mamba)."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, np.log(1e-3), np.log(0.1)))
    return step + jnp.log(-jnp.expm1(-step))
