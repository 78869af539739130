"""S4: state-space models as convolutions of whole clips, and as recurrences over steps.

Gu, Goel, Ré, Efficiently Modeling Long Sequences with Structured State Spaces, arXiv 2111.00396;
the diagonal kernel is S4D's (Gu et al., arXiv 2206.11893).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Complex, Complex128, Float, Float64

from stjax.ops import sharding
from stjax.ops.ssm import hippo_normal


class NPLR(NamedTuple):
    """x'(s) = (L - P Q^*) x + B u(s), y(s) = 2 Re(C x), one system for every channel.

    Normal plus low rank: L is diagonal, and P Q^* of rank one. One of each pair of conjugate modes
    is kept, so that products with x are twice their real part: Q^* x stands for 2 Re(Q^* x).
    """

    eigenvalues: Complex[Array, "#c p"]
    P: Complex[Array, "#c p"]
    Q: Complex[Array, "#c p"]
    B: Complex[Array, "#c p"]
    C: Complex[Array, "c p"]


def hippo_legs(size: int) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n"]]:
    """The transition A and the input map B of HiPPO-LegS (S4, equation 2)."""
    n = np.arange(size)
    B = np.sqrt(2 * n + 1)
    return -np.tril(np.outer(B, B), -1) - np.diag(n + 1.0), B


def hippo_nplr(
    size: int,
) -> tuple[Complex128[np.ndarray, "p"], Complex128[np.ndarray, "p"], Complex128[np.ndarray, "p"]]:
    """Eigenvalues, P = Q and B of HiPPO-LegS of an even size in the modes of `hippo_normal`.

    A = V L V^* - P P^T, P_n = sqrt(n + 1/2), with V unitary (S4, theorem 1); given are L, V^* P and
    V^* B.

    Raises:
        ValueError: an odd size.
    """
    if size % 2:
        raise ValueError(f"size: {size} modes are no pairs of conjugates")
    modes = hippo_normal(size)
    _, B = hippo_legs(size)
    return modes.eigenvalues, modes.inverse @ (B / np.sqrt(2)), modes.inverse @ B


def s4_kernel(
    system: NPLR, step: Float[Array, "c"], length: int, taps: int | None = None
) -> Float[Array, "c taps"]:
    """The convolution kernel of bilinear discretisation, from its generating function.

    K_k = C A_^k B_ for k < length, where the system's own C is C (I - A_^length): what
    `truncated` makes, and what S4 learns. The generating function is evaluated at the roots of
    unity: Cauchy's kernel, the low rank by Woodbury's identity, an inverse FFT (S4, section 3.2
    and appendix C.3).

    Args:
        system: continuous, its C truncated to `length`.
        step: the steps' length in every channel.
        length: number of roots of unity.
        taps: what the inverse FFT is asked for; `length` where None. (ViS4mer's official code
            asks it of an odd length for one less, which is not the kernel's beginning.)

    Raises:
        ValueError: steps of other channels than the system's, a length of 0.
    """
    _check(system, step)
    if length < 1:
        raise ValueError(f"length: a kernel of {length} taps")
    half_angle = jnp.pi * jnp.arange(length // 2 + 1, dtype=step.dtype) / length
    step = step[:, None]
    # At w = exp(-2i angle) the resolvent's argument is imaginary, 2 (1 - w) / (step (1 + w)) =
    # 2i tan(angle) / step. Numerator and denominator apart, w = -1 is a point like any other.
    above, below = 2 * jnp.sin(half_angle), step * jnp.cos(half_angle)

    def cauchy(mode: NPLR) -> Complex[Array, "2 2 c l"]:
        """step v / (i above - L below), v = CB, CP, QB and QP, of one mode and its conjugate."""
        L = mode.eigenvalues[:, None]
        v = jnp.array([[mode.C], [mode.Q.conj()]]) * jnp.array([[mode.B, mode.P]])
        v, size = v[..., None], jnp.abs(L)
        numerator = lax.complex(-2 * (v * L.conj()).real * below, 2 * v.real * above)
        square = (size * below - above) * (size * below + above)
        return numerator * (step / lax.complex(square, -2 * L.real * above * below))

    # One mode after another, computed again for the gradient: (c, p, l) is never held.
    modes = jax.tree.map(lambda a: jnp.broadcast_to(a, system.C.shape).T, system)
    add = lambda sums, mode: (sums + jax.checkpoint(cauchy, prevent_cse=False)(mode), None)
    sums = jnp.zeros((2, 2, len(step), len(half_angle)), system.C.dtype)
    ((CB, CP), (QB, QP)), _ = lax.scan(add, sums, modes)
    cosine = jnp.cos(half_angle)
    spectrum = CB - cosine * CP * QB / (1 + cosine * QP)
    spectrum *= lax.complex(cosine, jnp.sin(half_angle))
    return jnp.fft.irfft(spectrum, length if taps is None else taps)


def truncated(system: NPLR, step: Float[Array, "c"], length: int) -> NPLR:
    """The system with C (I - A_^length) for its C: what `s4_kernel` takes."""
    power = jnp.linalg.matrix_power(_transition(system, step), length)
    row = _row(system.C)
    return system._replace(C=_from_row(row - _times(row, power)))


def untruncated(system: NPLR, step: Float[Array, "c"], length: int) -> NPLR:
    """The inverse of `truncated`: what `s4_recurrence` takes of a system made for `s4_kernel`.

    It loses digits where the whole length is short for the system: about the inverse of length
    times step.
    """
    power = jnp.linalg.matrix_power(_transition(system, step), length)
    matrix = jnp.eye(power.shape[-1], dtype=power.dtype) - power
    row = jnp.linalg.solve(matrix.swapaxes(-1, -2), _row(system.C)[..., None])
    return system._replace(C=_from_row(row[..., 0]))


def s4_step(
    system: NPLR,
    step: Float[Array, "c"],
    state: Complex[Array, "b c p"],
    u: Float[Array, "b c"],
) -> tuple[Complex[Array, "b c p"], Float[Array, "b c"]]:
    """One step of bilinear discretisation in a time of order p: the state after it, and y.

    (2 / step - A) x_k = (2 / step + A) x_{k-1} + 2 B u_k, solved by Woodbury's identity.
    """
    L, P, Q, B, C = system
    rate = 2 / step[:, None]
    resolvent = 1 / (rate - L)
    right = (rate + L) * state - P * _product(Q.conj(), state) + 2 * B * u[..., None]
    right = resolvent * right
    correction = _product(Q.conj(), right) / (1 + _product(Q.conj(), resolvent * P))
    state = right - resolvent * P * correction
    return state, _product(C, state)[..., 0]


def s4_recurrence(
    system: NPLR,
    step: Float[Array, "c"],
    u: Float[Array, "b t c"],
    initial: Complex[Array, "b c p"] | None = None,
) -> tuple[Float[Array, "b t c"], Complex[Array, "b c p"]]:
    """y_k = C x_k, x_k = A_ x_{k-1} + B_ u_k, step by step: the numbers of the convolution.

    Args:
        system: continuous, C as it is (not truncated).
        step: the steps' length in every channel.
        u: inputs.
        initial: the state before the first step; None is zero.

    Returns:
        The outputs, in the dtype of u, and the last state.

    Raises:
        ValueError: a shape that does not fit.
    """
    _check(system, step)
    if u.ndim != 3 or u.shape[-1] != len(step):
        raise ValueError(f"u: {u.shape} instead of (b, t, {len(step)})")
    state_shape = (len(u), *system.C.shape)
    if initial is None:
        initial = jnp.zeros(state_shape, system.C.dtype)
    if initial.shape != state_shape:
        raise ValueError(f"initial: {initial.shape} instead of {state_shape}")
    one = lambda state, u: s4_step(system, step, state, u)
    last, y = lax.scan(one, initial, jnp.moveaxis(u, 1, 0).astype(step.dtype))
    return jnp.moveaxis(y, 0, 1).astype(u.dtype), last


def diagonal_kernel(
    exponents: Complex[Array, "c p"], weights: Complex[Array, "c p"], length: int
) -> Float[Array, "c length"]:
    """K_k = 2 Re sum_p weights exp(k exponents), k < length: S4D's kernel, Vandermonde's product.

    With k = i s + j, s about sqrt(length), it is a product of two small matrices for each channel;
    (c, p, length) is never held.

    Args:
        exponents: the eigenvalues times the steps' length.
        weights: C times the discretised B, mode by mode.
        length: number of taps.
    """
    stride = max(round(length**0.5), 1)
    powers = lambda k: jnp.exp(exponents[..., None] * k.astype(exponents.real.dtype))
    far = weights[..., None] * powers(stride * jnp.arange(-(-length // stride)))
    near = powers(jnp.arange(stride))
    kernel = 2 * jnp.einsum("cpi,cpj->cij", far, near, precision="highest").real
    return kernel.reshape(len(kernel), -1)[:, :length]


def fft_convolution(
    u: Float[Array, "b t c"], kernel: Float[Array, "c k"]
) -> Float[Array, "b t c"]:
    """y_t = sum_{k <= t} kernel_k u_{t-k}: causal and linear, every channel with its own kernel.

    The kernel may be shorter than the clip, or longer. bfloat16 is computed in float32.

    Returns:
        The outputs, in the dtype of u.

    Raises:
        ValueError: a kernel of other channels.
    """
    if u.ndim != 3:
        raise ValueError(f"u: {u.shape} instead of (b, t, c)")
    length, channels = u.shape[1:]
    if kernel.ndim != 2 or len(kernel) != channels:
        raise ValueError(f"kernel: {kernel.shape} instead of ({channels}, k)")
    kernel = kernel[:, :length]
    dtype = jnp.result_type(u, kernel, jnp.float32)
    size = _smooth(length + kernel.shape[1] - 1)

    def convolve(u, kernel):
        transform = lambda x, axis: jnp.fft.rfft(x.astype(dtype), size, axis)
        y = jnp.fft.irfft(transform(u, 1) * transform(kernel.T, 0), size, 1)
        return y[:, :length].astype(u.dtype)

    return sharding.over_batch(convolve, u, kernel)


def _check(system, step):
    if step.shape != system.C.shape[:1]:
        raise ValueError(f"step: {step.shape} instead of {system.C.shape[:1]}")


def _smooth(size: int) -> int:
    """The next number without prime factors above 5, for which FFTs are quick."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def _product(row: Complex[Array, "... p"], state: Complex[Array, "... p"]) -> Float[Array, "... 1"]:
    """A row times a state, of which half the modes are kept."""
    return 2 * jnp.sum(row * state, -1, keepdims=True).real


def _transition(system: NPLR, step: Float[Array, "c"]) -> Float[Array, "c n n"]:
    """A_ as a matrix, for states as real parts and then imaginary parts."""
    channels, p = system.C.shape
    units = jnp.eye(2 * p, dtype=step.dtype)
    units = jnp.broadcast_to(
        lax.complex(units[:, :p], units[:, p:])[:, None], (2 * p, channels, p)
    )
    images, _ = s4_step(system, step, units, jnp.zeros((2 * p, channels), step.dtype))
    return jnp.moveaxis(jnp.concatenate([images.real, images.imag], -1), 0, -1)


def _row(C: Complex[Array, "c p"]) -> Float[Array, "c n"]:
    """C for states as real parts and then imaginary parts (half of it, as Re(C x) has no 2)."""
    return jnp.concatenate([C.real, -C.imag], -1)


def _from_row(row: Float[Array, "c n"]) -> Complex[Array, "c p"]:
    real, imaginary = jnp.split(row, 2, -1)
    return lax.complex(real, -imaginary)


def _times(row: Float[Array, "c n"], matrix: Float[Array, "c n n"]) -> Float[Array, "c n"]:
    return jnp.einsum("ci,cij->cj", row, matrix, precision="highest")
