"""Quick tests: nearly all of a tiny case's time is spent compiling, so do it cheaply, or not."""

import contextlib
import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.linear import canonicalize_padding
from jax import lax

from stjax.ops import conv as convolutions
from stjax.ops import conv_recurrence

COMPILER_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
jit = functools.partial(jax.jit, compiler_options=COMPILER_OPTIONS)


def variables(module, *args):
    """Variables of a module's shapes, drawn without compiling its initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    draw = lambda leaf: jnp.asarray(rng.uniform(0.1, 0.5, leaf.shape), leaf.dtype)
    return jax.tree.map(draw, shapes)


def conv_as_product(call, arguments, options, context):
    """For `nn.intercept_methods`: XLA's float64 convolutions are plain loops on a CPU.

    Every `nn.Conv` of frames becomes a sum of products over the places of its window.
    """
    conv = context.module
    if not isinstance(conv, nn.Conv) or context.method_name != "__call__":
        return call(*arguments, **options)
    (x,), kernel = arguments, conv.get_variable("params", "kernel")
    window = kernel.shape[:2]
    stride = np.broadcast_to(conv.strides or 1, 2)
    pads = canonicalize_padding(conv.padding, 2)
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(x.shape[-3:-1], window, stride, pads)
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [*pads, (0, 0)])
    height, width = ((n - w) // s + 1 for n, w, s in zip(x.shape[-3:-1], window, stride))
    y = 0
    for i, j in np.ndindex(*window):
        rows = slice(i, i + (height - 1) * stride[0] + 1, stride[0])
        columns = slice(j, j + (width - 1) * stride[1] + 1, stride[1])
        y = y + x[..., rows, columns, :] @ kernel[i, j]
    return y + conv.get_variable("params", "bias") if conv.use_bias else y


@contextlib.contextmanager
def products():
    """Within it `stjax.ops.conv` multiplies matrices, and loops of convolutions are not unrolled.

    XLA's float64 convolutions are plain loops on a CPU, and what is unrolled takes long to compile.
    """
    direct = convolutions._direct

    # What is jitted is traced once for each shape.
    @functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
    def product(x, kernel, dilation, strides=None, pads="SAME", groups=1):
        window = kernel.shape[:-2]
        if groups > 1 or isinstance(pads, str) or len(window) == 3:
            return direct(x, kernel, dilation, strides, pads, groups)
        x = jnp.pad(x, [(0, 0), *pads, (0, 0)])
        under = []
        for place in np.ndindex(*window):
            ends = [n - (w - 1 - k) * dilation for n, w, k in zip(x.shape[1:], window, place)]
            starts = [k * dilation for k in place]
            under.append(x[:, *map(slice, starts, ends, strides or (1,) * len(window))])
        return jnp.concatenate(under, -1) @ kernel.reshape(-1, kernel.shape[-1])

    def with_names(x, kernel, dilation=1, strides=None, pads="SAME", groups=1):
        return product(x, kernel, dilation, strides, pads, groups)

    once = lambda length: 1
    with (
        mock.patch.object(convolutions, "_direct", with_names),
        mock.patch.object(conv_recurrence, "trips_at_once", once),
    ):
        yield
def groups_at_once(call, arguments, options, context):
    """For `nn.intercept_methods`: a `Conv` of groups in one operation; CPUs compile one a group.

    Slow to run, but maps are tiny; tests/test_conv.py holds the two to each other.
    """
    groups = getattr(context.module, "groups", 1)
    if context.method_name != "linear" or groups == 1:
        return call(*arguments, **options)
    _, x, kernel = arguments
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
