"""Convolutions of channels-last frames."""

import jax
from jax import lax
from jaxtyping import Array, Float

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
