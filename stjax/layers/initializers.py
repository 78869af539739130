"""Initial weights that published code relies on."""

import flax.linen as nn

# PyTorch's default for linear layers and convolutions: uniform within 1 / sqrt(fan in).
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
