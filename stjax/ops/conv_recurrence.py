"""Recurrences whose step convolves, with each kernel's gradient taken once over all steps.

Plain autodiff of a `lax.scan` over convolutions computes a kernel's gradient inside the reverse
loop: one small convolution of a shape that backends are slow at, and an accumulation, per step.
Here the reverse loop yields only the cotangent of every convolution's output; one convolution over
(time x batch) then gives the kernel's whole gradient.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from stjax.ops.conv import conv, conv_kernel_gradient
from stjax.ops.loops import trips_at_once

Kernels = Mapping[str, Float[Array, "kh kw i o"]]
Step = Callable[[Callable[[str, Array], Array], Any, Any, Any], tuple[Any, Any]]


def conv_scan(step: Step, kernels: Kernels, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan(step, carry, xs)` for a step that convolves with kernels given by name.

    Args:
        step: `(convolve, params, carry, x) -> (carry, y)`; `convolve(name, frames)` convolves
            frames `(b, h, w, i)` with `kernels[name]`, each name once a step. What the step should
            be differentiated with respect to comes in through its arguments, not by closure.
        kernels: name -> kernel.
        params: everything else that is learned and constant over the steps.
        carry: initial carry.
        xs: scanned inputs, time on the leading axis.

    Returns:
        The last carry and the stacked ys.

    Raises:
        ValueError: a name convolved twice in a step, or a kernel never used.
    """
    return _scan(step, dict(kernels), params, carry, xs)


class _Convolver:
    """Convolves by name and keeps what went in; adds `probes` to what comes out."""

    def __init__(self, kernels, probes=None):
        self.kernels, self.probes, self.inputs = kernels, probes, {}

    def __call__(self, name, frames):
        if name in self.inputs:
            raise ValueError(f"kernel {name!r} convolves twice in one step")
        self.inputs[name] = frames
        out = conv(frames, self.kernels[name])
        return out if self.probes is None else out + self.probes[name]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(step, kernels, params, carry, xs):
    return _loop(lambda carry, x: step(_Convolver(kernels), params, carry, x), carry, xs)


def _forward(step, kernels, params, carry, xs):
    def probed(params, carry, xs, probes):
        def body(carry, scanned):
            x, probes = scanned
            convolve = _Convolver(kernels, probes)
            carry, y = step(convolve, params, carry, x)
            return carry, (y, convolve.inputs)

        carry, (ys, inputs) = _loop(body, carry, (xs, probes))
        return (carry, ys), inputs

    probes = _zero_probes(step, kernels, params, carry, xs)
    out, pullback, inputs = jax.vjp(probed, params, carry, xs, probes, has_aux=True)
    return out, (pullback, inputs, kernels)


def _backward(step, residuals, cotangents):
    pullback, inputs, kernels = residuals
    by_params, by_carry, by_xs, by_outputs = pullback(cotangents)
    merge = lambda frames: frames.reshape(-1, *frames.shape[2:])
    by_kernels = {
        name: conv_kernel_gradient(merge(inputs[name]), merge(by_outputs[name]), kernel)
        for name, kernel in kernels.items()
    }
    return by_kernels, by_params, by_carry, by_xs


_scan.defvjp(_forward, _backward)


def _loop(body, carry, xs):
    return lax.scan(body, carry, xs, unroll=trips_at_once(len(jax.tree.leaves(xs)[0])))


def _zero_probes(step, kernels, params, carry, xs):
    """Zeros in the shape of every convolution's output: their cotangents are the outputs' own."""

    def outputs(kernels, params, carry, xs):
        convolve = _Convolver(kernels)
        step(convolve, params, carry, jax.tree.map(lambda x: x[0], xs))
        if unused := set(kernels) - set(convolve.inputs):
            raise ValueError(f"kernels that the step never uses: {sorted(unused)}")
        return {name: conv(frames, kernels[name]) for name, frames in convolve.inputs.items()}

    steps = jax.tree.leaves(xs)[0].shape[0]
    shapes = jax.eval_shape(outputs, kernels, params, carry, xs)
    return {name: jnp.zeros((steps, *s.shape), s.dtype) for name, s in shapes.items()}


def lstm(
    gates: Float[Array, "... 4*c"], cell: Float[Array, "... c"], order: str, output: str
) -> tuple[Float[Array, "... c"], Float[Array, "... c"]]:
    """One step of an LSTM from the sums before its gates' activations.

    Args:
        gates: input (i), forget (f), output (o) gate and candidate (g), in the order of `order`.
        cell: the cell before the step.
        order: a permutation of "ifgo".
        output: "tanh_cell", o * tanh(cell'), or "candidate", o * g.

    Returns:
        The new cell and hidden state.

    Raises:
        ValueError: an unknown order or output.
    """
    if sorted(order) != sorted("ifgo"):
        raise ValueError(f"gate order {order!r} is not a permutation of 'ifgo'")
    z = dict(zip(order, jnp.split(gates, 4, axis=-1)))
    candidate = jnp.tanh(z["g"])
    cell = jax.nn.sigmoid(z["f"]) * cell + jax.nn.sigmoid(z["i"]) * candidate
    if output == "tanh_cell":
        shown = jnp.tanh(cell)
    elif output == "candidate":
        shown = candidate
    else:
        raise ValueError(f"output {output!r} is neither 'tanh_cell' nor 'candidate'")
    return cell, jax.nn.sigmoid(z["o"]) * shown
