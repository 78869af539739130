"""Convolutions of channels-last frames."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Method = Literal["auto", "shifted", "grouped"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: Float[Array, "n h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "n h w o"]:
    """Convolves at stride 1 with zero padding that keeps height and width."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


def conv_kernel_gradient(
    x: Float[Array, "n h w i"],
    cotangent: Float[Array, "n h w o"],
    kernel: Float[Array, "kh kw i o"],
) -> Float[Array, "kh kw i o"]:
    """The gradient of `conv(x, kernel)` with respect to the kernel, given the output's."""
    return jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(cotangent)[0]


def depthwise_conv(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c"],
    dilation: int = 1,
    method: Method = "auto",
) -> Float[Array, "n h w c"]:
    """Convolves every channel with its own kernel, of odd sides; zero padding keeps the size.

    Args:
        x: frames.
        kernel: a kernel for every channel.
        dilation: distance between the pixels under neighbouring entries of the kernel.
        method: "shifted" sums products with shifted frames, "grouped" is a grouped convolution of
            the backend. "auto": shifted on CPUs, where grouped convolutions are many times slower.
    """
    if method not in ("auto", "shifted", "grouped"):
        raise ValueError(f"method {method!r} is none of 'auto', 'shifted', 'grouped'")
    return _depthwise(x, kernel, dilation, method)


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
    by_x = _depthwise(cotangent, kernel[::-1, ::-1], dilation, method)
    shifted = functools.partial(_shifted_kernel_gradient, dilation=dilation)
    grouped = functools.partial(_grouped_kernel_gradient, dilation=dilation)
    return by_x, _choose(method, shifted, grouped)(x, kernel, cotangent)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _choose(method, shifted, grouped):
    if method == "auto":
        return lambda *args: lax.platform_dependent(*args, cpu=shifted, default=grouped)
    return {"shifted": shifted, "grouped": grouped}[method]


def _shifted(x, kernel, dilation):
    rows, columns, _ = kernel.shape
    padded, (_, height, width, _) = _pad(x, kernel, dilation), x.shape
    out = jnp.zeros_like(x)
    for i in range(rows):
        for j in range(columns):
            top, left = i * dilation, j * dilation
            out += kernel[i, j] * padded[:, top : top + height, left : left + width]
    return out


def _shifted_kernel_gradient(x, kernel, cotangent, dilation):
    """A loop over the kernel's entries: unrolled it is slower, and takes seconds to compile."""
    padded, columns = _pad(x, kernel, dilation), kernel.shape[1]

    def entry(index):
        top, left = index // columns * dilation, index % columns * dilation
        return jnp.sum(lax.dynamic_slice(padded, (0, top, left, 0), x.shape) * cotangent, (0, 1, 2))

    return lax.map(entry, jnp.arange(kernel[..., 0].size)).reshape(kernel.shape)


def _grouped(x, kernel, dilation):
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _grouped_kernel_gradient(x, kernel, cotangent, dilation):
    return jax.linear_transpose(lambda kernel: _grouped(x, kernel, dilation), kernel)(cotangent)[0]


def _pad(x, kernel, dilation):
    rows, columns = (dilation * (side // 2) for side in kernel.shape[:2])
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
