"""Quick tests: nearly all of a tiny case's time is spent compiling, so do it cheaply, or not."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.linear import canonicalize_padding
from jax import lax

from stjax.layers.convolution import GroupedConv

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


def groups_at_once(call, arguments, options, context):
    """For `nn.intercept_methods`: a `GroupedConv` in one operation, where CPUs compile one a group.

    Slow to run, but maps are tiny; tests/test_conv.py holds the two to each other.
    """
    conv = context.module
    if not isinstance(conv, GroupedConv) or context.method_name != "__call__":
        return call(*arguments, **options)
    kernel, bias = (conv.get_variable("params", name) for name in ("kernel", "bias"))
    return bias + lax.conv_general_dilated(
        *arguments, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=conv.groups,
    )
