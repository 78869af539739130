"""Activations."""

import math

import jax
from jax import lax
from jaxtyping import Array, Float


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), not approximated (Hendrycks and Gimpel, arXiv 1606.08415), as PyTorch has it.

    By erf: the erfc of `jax.nn.gelu` takes 1.6 times as long on a CPU, forward and backward.
    """
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x sigmoid(1.702 x), CLIP's approximation of the GELU (arXiv 1606.08415, section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)
