"""Matrices of a fixed graph: weights from distances, Laplacians and their polynomials.

Constants of NumPy, computed once and in float64: a graph is part of a model, not of a batch.
"""

import numpy as np
from jaxtyping import Float

Square = Float[np.ndarray, "n n"]


def gaussian_weights(
    distances: Square, *, variance: float = 0.1, threshold: float = 0.5, unit: float = 10_000.0
) -> Square:
    """w_ij = exp(-(d_ij / unit)^2 / variance), 0 below the threshold and on the diagonal.

    (Yu et al. 2018, STGCN, arXiv 1709.04875, equation 10; 10 km and their thresholds by default.)

    Args:
        distances: between nodes, in metres where `unit` is.
        variance: width of the kernel, of a squared distance in units.
        threshold: smaller weights are no edges.
        unit: the distance that counts as one.

    Raises:
        ValueError: distances that are not one square matrix of finite numbers from 0 up.
    """
    distances = _square("distances", distances)
    weights = np.exp(-((distances / unit) ** 2) / variance)
    weights[weights < threshold] = 0
    np.fill_diagonal(weights, 0)
    return weights


def scaled_laplacian(weights: Square) -> Square:
    """2 L / lambda_max - I of L = D - W, normalised to I - D^(-1/2) W D^(-1/2).

    Its eigenvalues lie in [-1, 1], where Chebyshev polynomials live. lambda_max is the largest
    eigenvalue of L, not the 2 that it is often taken for. An edge to a node without edges of its
    own is not normalised, and the diagonal of W counts in its degrees alone, as in STGCN's code.

    Raises:
        ValueError: weights that are not one square matrix of finite numbers from 0 up, or all 0.
    """
    weights = _square("weights", weights)
    degree = weights.sum(1)
    laplacian = -weights
    np.fill_diagonal(laplacian, degree)
    both = np.outer(degree, degree)
    laplacian /= np.sqrt(np.where(both > 0, both, 1))
    largest = np.linalg.eigvals(laplacian).real.max()
    if largest <= 0:
        raise ValueError(f"weights: {weights.shape} without an edge has no scaled Laplacian")
    return 2 * laplacian / largest - np.eye(len(weights))


def chebyshev(matrix: Square, order: int) -> Float[np.ndarray, "order n n"]:
    """T_0 = I, T_1 = M, T_k = 2 M T_(k-1) - T_(k-2): the first `order` polynomials of a matrix.

    (Defferrard et al. 2016, arXiv 1606.09375, section 2.1, of a scaled Laplacian.)

    Raises:
        ValueError: an order below 1, or no square matrix.
    """
    matrix = _square("matrix", matrix, low=-np.inf)
    if order < 1:
        raise ValueError(f"order: {order} polynomials")
    terms = [np.eye(len(matrix)), matrix]
    while len(terms) < order:
        terms.append(2 * matrix @ terms[-1] - terms[-2])
    return np.stack(terms[:order])


def first_order(weights: Square) -> Square:
    """I + D^(-1/2) (W + I) D^(-1/2), D the degrees of W + I.

    (STGCN's first-order approximation; Kipf and Welling 2017, arXiv 1609.02907, equation 7.)

    Raises:
        ValueError: weights that are not one square matrix of finite numbers from 0 up.
    """
    weights = _square("weights", weights)
    looped = weights + np.eye(len(weights))
    root = looped.sum(1) ** -0.5
    return np.eye(len(weights)) + root[:, None] * looped * root


def standardised(weights: Square, epsilon: float = 1e-5) -> Square:
    """All entries of a matrix to mean 0 and variance 1, as an instance norm of one map does."""
    weights = _square("weights", weights, low=-np.inf)
    return (weights - weights.mean()) / np.sqrt(weights.var() + epsilon)


def _square(name: str, matrix: Square, low: float = 0.0) -> Square:
    """A float64 copy of a square matrix of finite numbers, `low` the least of them."""
    matrix = np.array(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"{name}: {matrix.shape} instead of (n, n)")
    if not np.isfinite(matrix).all() or matrix.min() < low:
        raise ValueError(f"{name}: {matrix.shape} holds numbers that are negative or not finite")
    return matrix
