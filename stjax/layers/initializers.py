"""Initial weights that published code relies on."""

import flax.linen as nn
import jax

# PyTorch's default for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_default_bias(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for the bias of a layer whose every output sums `fan_in` inputs."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
