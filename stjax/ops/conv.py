"""Convolutions of channels-last sequences, frames and clips, fast on CPUs too.

On a CPU, XLA's dense convolution of frames is good; that of clips is 3 to 25 times slower than
frame by frame, and its grouped ones are 20 to 40 times slower than sums of shifted products.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from stjax.ops.patches import unpatchify

Method = Literal["auto", "shifted", "banded", "grouped"]

# Pixels to a piece, and pieces at most, of a kernel's gradient on a CPU.
_PIXELS, _PIECES = 2048, 64


def conv(
    x: Float[Array, "n *grid i"],
    kernel: Float[Array, "*window i o"],
    dilation: int = 1,
    *,
    strides: tuple[int, ...] | None = None,
    padding: tuple[int, ...] | None = None,
) -> Float[Array, "n *out o"]:
    """Convolves in one to three dimensions, unless told otherwise with outputs of the inputs' size.

    Args:
        x: sequences, frames or clips.
        kernel: its window has as many axes as the grid.
        dilation: distance between the pixels under neighbouring entries of the kernel.
        strides: distance between neighbouring outputs along each axis; None: 1.
        padding: zeros on both sides of each axis; None: as many as keep the size at stride 1.

    Raises:
        ValueError: axes or channels of kernel and input that do not fit.
    """
    _check(x, kernel, kernel.ndim - 2)
    if kernel.shape[-2] != x.shape[-1]:
        raise ValueError(f"kernel: {kernel.shape} for inputs {x.shape} of {x.shape[-1]} channels")
    strides = strides or (1,) * (x.ndim - 2)
    if padding is None:
        reach = [(side - 1) * dilation for side in kernel.shape[:-2]]
        pads = tuple((total // 2, total - total // 2) for total in reach)
    else:
        pads = tuple((side, side) for side in padding)
    if not len(strides) == len(pads) == x.ndim - 2:
        raise ValueError(f"strides: {strides}, padding {padding}; one for each axis of {x.shape}")
    options = {"dilation": dilation, "strides": strides, "pads": pads}
    direct = functools.partial(_direct, **options)
    if x.ndim == 4 and any(side > n for side, n in zip(kernel.shape, x.shape[1:])):
        product = functools.partial(_as_product, **options)
        return lax.platform_dependent(x, kernel, cpu=product, default=direct)
    if x.ndim < 5:
        return direct(x, kernel)
    frames = functools.partial(_by_frames, **options)
    return lax.platform_dependent(x, kernel, cpu=frames, default=direct)


def transposed_conv(
    x: Float[Array, "n h w i"], kernel: Float[Array, "side side i o"], stride: int = 1
) -> Float[Array, "n stride*h stride*w o"]:
    """Every pixel adds the kernel, times itself, around its place on a grid `stride` times as fine.

    out[stride m + r] = sum_d x[m + d] kernel[r + p - stride d] along each axis, where p is
    (side - 1) // 2: PyTorch's ConvTranspose2d of padding p, with the output padding that gives this
    size. Computed as a convolution of the coarse grid, whose outputs are the stride^2 fine pixels
    of each of its pixels: its kernel's gradient is many times faster than that of a dilated input
    on a CPU.
    """
    side = kernel.shape[0]
    reach = (side - 1) // 2
    before, after = (side - 1 - reach) // stride, (stride - 1 + reach) // stride
    front = stride * after - reach
    back = stride * (before + 1 + after) - side - front
    kernel = jnp.pad(kernel, ((front, back), (front, back), (0, 0), (0, 0)))
    pattern = "(a r) (b s) i o -> a b i (r s o)"
    kernel = jnp.flip(einops.rearrange(kernel, pattern, r=stride, s=stride), (0, 1))
    return unpatchify(_direct(x, kernel, 1, pads=((before, after),) * 2), stride)


def kernel_gradient(
    by: Callable[[Array, Array], Array],
    x: Float[Array, "n *grid i"],
    cotangent: Float[Array, "n *out o"],
    kernel: Float[Array, "..."],
) -> Float[Array, "..."]:
    """The gradient of `by(x, kernel)` with respect to the kernel, given the output's.

    On a CPU it is summed over pieces of the batch: XLA's convolution for it is two to four times as
    fast over a few thousand pixels as over many.

    Args:
        by: `conv`, or any map that is linear in both and works sample by sample.
    """
    whole = functools.partial(_kernel_gradient, by)
    pieces = functools.partial(_in_pieces, whole)
    return lax.platform_dependent(x, cotangent, kernel, cpu=pieces, default=whole)


def depthwise_conv(
    x: Float[Array, "n *grid c"],
    kernel: Float[Array, "*window c"],
    dilation: int = 1,
    method: Method = "auto",
) -> Float[Array, "n *grid c"]:
    """Convolves every channel with its own kernel, of odd sides; zero padding keeps the size.

    Args:
        x: sequences, frames or clips.
        kernel: a kernel for every channel; its window has as many axes as the grid.
        dilation: distance between the pixels under neighbouring entries of the kernel.
        method: "shifted" sums products with shifted inputs; "banded" multiplies with a matrix for
            each channel that is the kernel's longest side moved along, which compiles quickly for
            large kernels and costs as if that side were as long as the grid; "grouped" is a grouped
            convolution of the backend. "auto": on CPUs, where grouped convolutions are many times
            slower, banded for kernels of more than a hundred entries, the longest side at least
            half the grid's, else shifted.

    Raises:
        ValueError: axes or channels that do not fit, an even side, an unknown method.
    """
    _check(x, kernel, kernel.ndim - 1)
    if kernel.shape[-1] != x.shape[-1] or not all(side % 2 for side in kernel.shape[:-1]):
        raise ValueError(
            f"kernel: {kernel.shape} instead of odd sides and {x.shape[-1]} channels"
        )
    if method not in ("auto", "shifted", "banded", "grouped"):
        raise ValueError(f"method: {method!r} is none of 'auto', 'shifted', 'banded', 'grouped'")
    window, long = kernel.shape[:-1], np.argmax(kernel.shape[:-1])
    large = math.prod(window) > 100 and 2 * window[long] >= x.shape[1 + long]
    if method == "auto" and large:
        banded = functools.partial(_banded, dilation=dilation)
        grouped = functools.partial(_grouped, dilation=dilation)
        return lax.platform_dependent(x, kernel, cpu=banded, default=grouped)
    if method == "banded":
        return _banded(x, kernel, dilation)
    return _depthwise(x, kernel, dilation, method)


def grouped_conv(
    x: Float[Array, "n *grid i"], kernel: Float[Array, "*window i_of_group o"], groups: int
) -> Float[Array, "n *grid o"]:
    """Convolves groups of neighbouring channels apart; outputs of the inputs' size.

    On CPUs group by group: the backend's grouped convolution is 20 to 60 times slower.

    Args:
        x: sequences, frames or clips.
        kernel: of all groups, side by side along the outputs.
        groups: how many; they share inputs and outputs equally.

    Raises:
        ValueError: axes or channels that do not fit, or that the groups do not divide.
    """
    _check(x, kernel, kernel.ndim - 2)
    inputs, outputs = x.shape[-1], kernel.shape[-1]
    if inputs % groups or outputs % groups:
        raise ValueError(f"groups: {groups} do not divide {inputs} inputs and {outputs} outputs")
    if kernel.shape[-2] != inputs // groups:
        raise ValueError(f"kernel: {kernel.shape} for {groups} groups of inputs {x.shape}")

    def apart(x, kernel):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1))
        return jnp.concatenate([_direct(*part, 1) for part in parts], -1)

    together = functools.partial(_direct, dilation=1, groups=groups)
    return lax.platform_dependent(x, kernel, cpu=apart, default=together)


def local_mean(x: Float[Array, "n h w c"], side: int = 3) -> Float[Array, "n h w c"]:
    """The mean over the pixels of a square of odd side around each; fewer at the edges."""
    counts = 1.0
    for axis in (1, 2):
        length, reach = x.shape[axis], side // 2
        widths = [(reach, reach) if a == axis else (0, 0) for a in range(x.ndim)]
        padded = jnp.pad(x, widths)
        x = sum(lax.slice_in_dim(padded, k, k + length, axis=axis) for k in range(side))
        place = np.arange(length)
        seen = np.minimum(place, reach) + np.minimum(place[::-1], reach) + 1
        counts = counts * seen.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return x / counts.astype(x.dtype)


def _kernel_gradient(by, x, cotangent, kernel):
    return jax.linear_transpose(functools.partial(by, x), kernel)(cotangent)[0]


def _in_pieces(gradient, x, cotangent, kernel):
    pixels = math.prod(x.shape[1:-1])
    size = max(_PIXELS // pixels, -(-len(x) // _PIECES), 1)
    pieces = [slice(start, start + size) for start in range(0, len(x), size)]
    return sum(gradient(x[piece], cotangent[piece], kernel) for piece in pieces)


def _check(x, kernel, axes):
    if axes != x.ndim - 2 or not 1 <= axes <= 3:
        raise ValueError(
            f"kernel: {kernel.shape} does not have the 1 to 3 axes of a grid {x.shape[1:-1]}"
        )


def _direct(x, kernel, dilation, strides=None, pads="SAME", groups=1):
    axes = x.ndim - 2
    grid = "DHW"[-axes:]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides or (1,) * axes,
        pads,
        rhs_dilation=(dilation,) * axes,
        dimension_numbers=(f"N{grid}C", f"{grid}IO", f"N{grid}C"),
        feature_group_count=groups,
    )


def _as_product(x, kernel, dilation, strides, pads):
    """The pixels under the kernel side by side as channels, times the kernel.

    Where the kernel is larger than the frame, XLA's convolution is ten times slower on a CPU.
    """
    padded, window = jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel.shape[:2]
    reach = [dilation * (side - 1) for side in window]
    last = [n - far for n, far in zip(padded.shape[1:3], reach)]
    under = [
        padded[:, *(slice(k * dilation, k * dilation + n, s)
                    for k, n, s in zip(entry, last, strides))]
        for entry in itertools.product(*map(range, window))
    ]
    return jnp.concatenate(under, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _by_frames(x, kernel, dilation, strides, pads):
    """Convolves frames, with the frames under the kernel side by side as channels."""
    padded, taps = jnp.pad(x, ((0, 0), pads[0], *[(0, 0)] * 3)), kernel.shape[0]
    last = padded.shape[1] - (taps - 1) * dilation
    under = [padded[:, k * dilation : k * dilation + last : strides[0]] for k in range(taps)]
    frames = jnp.concatenate(under, -1)
    kernel = jnp.moveaxis(kernel, 0, 2)
    kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
    merged = frames.reshape(-1, *frames.shape[2:])
    out = _direct(merged, kernel, dilation, strides[1:], pads[1:])
    return out.reshape(*frames.shape[:2], *out.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, dilation, method):
    shifted = functools.partial(_shifted, dilation=dilation)
    grouped = functools.partial(_grouped, dilation=dilation)
    return _choose(method, shifted, grouped)(x, kernel)


def _depthwise_forward(x, kernel, dilation, method):
    return _depthwise(x, kernel, dilation, method), (x, kernel)


def _depthwise_backward(dilation, method, residuals, cotangent):
    """The input's gradient is the same operation, with the kernel turned round."""
    x, kernel = residuals
    by_x = _depthwise(cotangent, jnp.flip(kernel, range(kernel.ndim - 1)), dilation, method)
    shifted = functools.partial(_shifted_kernel_gradient, dilation=dilation)
    grouped = functools.partial(_grouped_kernel_gradient, dilation=dilation)
    return by_x, _choose(method, shifted, grouped)(x, kernel, cotangent)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _choose(method, shifted, grouped):
    if method == "auto":
        return lambda *args: lax.platform_dependent(*args, cpu=shifted, default=grouped)
    return {"shifted": shifted, "grouped": grouped}[method]


def _shifted(x, kernel, dilation):
    padded, out = _pad(x, kernel, dilation), jnp.zeros_like(x)
    for entry in itertools.product(*map(range, kernel.shape[:-1])):
        start = [k * dilation for k in entry]
        under = tuple(slice(k, k + size) for k, size in zip(start, x.shape[1:-1]))
        out += kernel[entry] * padded[:, *under]
    return out


def _banded(x, kernel, dilation):
    """A product along the kernel's longest side; along the others, shifted inputs side by side."""
    window = kernel.shape[:-1]
    long = int(np.argmax(window))
    side, length = window[long], x.shape[1 + long]
    short = [(1 if axis == long else width) for axis, width in enumerate(window)]
    padded = _pad(x, jnp.empty((*short, 0)), dilation)
    under = jnp.stack([
        padded[:, *(slice(k * dilation, k * dilation + n) for k, n in zip(entry, x.shape[1:-1]))]
        for entry in itertools.product(*map(range, short))
    ])
    under = jnp.moveaxis(under, 2 + long, 2)
    away = dilation * (np.arange(side) - side // 2)
    places = np.arange(length)
    band = places == places[:, None] + away[:, None, None]
    kernel = jnp.moveaxis(kernel, long, 0).reshape(side, -1, kernel.shape[-1])
    matrices = jnp.einsum("kyh,kjc->cjyh", jnp.asarray(band, kernel.dtype), kernel)
    flat = under.reshape(*under.shape[:3], -1, under.shape[-1])
    out = jnp.einsum("cjyh,jbhrc->byrc", matrices, flat).reshape(under.shape[1:])
    return jnp.moveaxis(out, 1, 1 + long)


def _shifted_kernel_gradient(x, kernel, cotangent, dilation):
    """Sample by sample, a few channels at a time, so that a core's cache holds what is read again.

    A loop over the kernel's entries: unrolled it is slower, and takes seconds to compile.
    """
    padded, window, channels = _pad(x, kernel, dilation), kernel.shape[:-1], x.shape[-1]
    wide = next(size for size in (128, 64, channels) if channels % size == 0)
    blocks = channels // wide
    entries = jnp.stack(jnp.meshgrid(*map(jnp.arange, window), indexing="ij"), -1)
    entries = entries.reshape(-1, len(window))

    def block(index):
        start = index // blocks, *(0,) * len(window), index % blocks * wide
        cut = lambda a: lax.dynamic_slice(a, start, (1, *a.shape[1:-1], wide))[0]
        above, below = cut(cotangent), cut(padded)

        def gradient(entry):
            under = lax.dynamic_slice(below, (*(dilation * entry), 0), above.shape)
            return jnp.einsum("...c,...c->c", under, above)

        return lax.map(gradient, entries)

    parts = lax.map(block, jnp.arange(len(x) * blocks))
    parts = parts.reshape(len(x), blocks, -1, wide).sum(0)
    return parts.swapaxes(0, 1).reshape(kernel.shape)


def _grouped(x, kernel, dilation):
    return _direct(x, kernel[..., None, :], dilation, groups=x.shape[-1])


def _grouped_kernel_gradient(x, kernel, cotangent, dilation):
    return jax.linear_transpose(lambda kernel: _grouped(x, kernel, dilation), kernel)(cotangent)[0]


def _pad(x, kernel, dilation):
    sides = [dilation * (side // 2) for side in kernel.shape[:-1]]
    return jnp.pad(x, ((0, 0), *((side, side) for side in sides), (0, 0)))
