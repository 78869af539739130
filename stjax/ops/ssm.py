"""Diagonal state-space models: how they start, and how continuous time becomes steps.

x'(s) = L x(s) + B u(s), y(s) = 2 Re(C x(s)), with L diagonal and complex: one of each pair of
conjugate modes is kept, hence the 2 Re (Smith et al., S5, arXiv 2208.04933, section 3).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Complex128, Float


class Modes(NamedTuple):
    """Half of the spectrum of a real n by n system: p modes, one of each conjugate pair."""

    eigenvalues: Complex128[np.ndarray, "p"]
    basis: Complex128[np.ndarray, "n p"]

    @property
    def inverse(self) -> Complex128[np.ndarray, "p n"]:
        """From the real state to the modes; the basis of a normal system is unitary."""
        return self.basis.conj().T


def hippo_normal(size: int, blocks: int = 1) -> Modes:
    """Eigenvalues and eigenvectors of HiPPO-N, the normal part of HiPPO-LegS, block by block.

    HiPPO-N is HiPPO-LegS plus a matrix of rank one: a skew-symmetric matrix minus half the
    identity (Gu et al., S4, arXiv 2111.00396, theorem 1). Kept is the half with negative
    frequencies, slowest last. An odd block loses its one real mode.

    Args:
        size: order n of the real system.
        blocks: number of equal blocks along the diagonal.

    Raises:
        ValueError: blocks that do not divide the size.
    """
    if size % blocks:
        raise ValueError(f"blocks: {blocks} do not divide a state of size {size}")
    n = np.arange(size // blocks)
    scale = np.sqrt(n + 0.5)
    # LegS is -2 s_n s_k below the diagonal, -(n + 1) on it; adding s s^T leaves it skew.
    product = np.outer(scale, scale)
    skew = np.triu(product, 1) - np.tril(product, -1)
    frequencies, basis = np.linalg.eigh(-1j * skew)
    half = len(n) // 2
    eigenvalues = np.tile(-0.5 + 1j * frequencies[:half], blocks)
    return Modes(eigenvalues, np.kron(np.eye(blocks), basis[:, :half]))


def zero_order_hold(
    eigenvalues: Complex[Array, "p"], step: Float[Array, "p"]
) -> tuple[Complex[Array, "p"], Complex[Array, "p"]]:
    """Steps of length `step` with the input held: x_k = decay x_{k-1} + gain B u_k.

    decay = exp(L step) and gain = (decay - 1) / L. L must not be zero.
    """
    exponent = eigenvalues * step
    return jnp.exp(exponent), jnp.expm1(exponent) / eigenvalues


def log_step_init(shortest: float, longest: float) -> jax.nn.initializers.Initializer:
    """Logarithms of steps, uniform between those of the shortest and of the longest."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, np.log(shortest), np.log(longest))

    return init


def from_pair(pair: Float[Array, "2 ..."]) -> Complex[Array, "..."]:
    """Complex parameters are stored as real pairs on a leading axis: real part, imaginary part."""
    return lax.complex(pair[0], pair[1])


def to_pair(array: Complex[Array, "..."]) -> Float[Array, "2 ..."]:
    return jnp.stack([array.real, array.imag])
