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

from stjax.ops.conv import conv, kernel_gradient
from stjax.ops.loops import trips_at_once

Kernels = Mapping[str, Float[Array, "..."]]
Step = Callable[[Callable[..., Array], Any, Any, Any], tuple[Any, Any]]


def conv_scan(step: Step, kernels: Kernels, params: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
    """`lax.scan(step, carry, xs)` for a step that convolves with kernels given by name.

    Args:
        step: `(convolve, params, carry, x) -> (carry, y)`; `convolve(name, frames, by=conv)` is
            `by(frames, kernels[name])` for frames `(b, ...)`, any map that is linear in both. What
            the step should be differentiated with respect to comes in through its arguments, not
            by closure.
        kernels: name -> kernel.
        params: everything else that is learned and constant over the steps.
        carry: initial carry.
        xs: scanned inputs, time on the leading axis.

    Returns:
        The last carry and the stacked ys.

    Raises:
        ValueError: a kernel that is never used.
    """
    return _scan(step, dict(kernels), params, carry, xs)


class _Convolver:
    """Convolves by name and keeps what went in; adds `probes` to what comes out.

    Inputs and probes are named after the kernel and how often it was used before in the step.
    """

    def __init__(self, kernels, probes=None):
        self.kernels, self.probes, self.inputs, self.maps = kernels, probes, {}, {}

    def __call__(self, name, frames, by=conv):
        use = name, sum(name == used for used, _ in self.inputs)
        self.inputs[use], self.maps[use] = frames, by
        out = by(frames, self.kernels[name])
        return out if self.probes is None else out + self.probes[use]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(step, kernels, params, carry, xs):
    return _loop(lambda carry, x: step(_Convolver(kernels), params, carry, x), carry, xs)


def _forward(step, kernels, params, carry, xs):
    maps, probes = _zero_probes(step, kernels, params, carry, xs)

    def probed(params, carry, xs, probes):
        def body(carry, scanned):
            x, probes = scanned
            convolve = _Convolver(kernels, probes)
            carry, y = step(convolve, params, carry, x)
            return carry, (y, convolve.inputs)

        carry, (ys, inputs) = _loop(body, carry, (xs, probes))
        return (carry, ys), inputs

    out, pullback, inputs = jax.vjp(probed, params, carry, xs, probes, has_aux=True)
    maps = {use: jax.tree_util.Partial(by) for use, by in maps.items()}
    return out, (pullback, inputs, maps, kernels)


def _backward(step, residuals, cotangents):
    pullback, inputs, maps, kernels = residuals
    by_params, by_carry, by_xs, by_outputs = pullback(cotangents)
    merge = lambda frames: frames.reshape(-1, *frames.shape[2:])
    by_kernels = {}
    for use, cotangent in by_outputs.items():
        name, frames = use[0], merge(inputs[use])
        gradient = kernel_gradient(maps[use], frames, merge(cotangent), kernels[name])
        by_kernels[name] = by_kernels[name] + gradient if name in by_kernels else gradient
    return by_kernels, by_params, by_carry, by_xs


_scan.defvjp(_forward, _backward)


def _loop(body, carry, xs):
    return lax.scan(body, carry, xs, unroll=trips_at_once(len(jax.tree.leaves(xs)[0])))


def _zero_probes(step, kernels, params, carry, xs):
    """The maps, and zeros in the shape of their outputs: their cotangents are the outputs' own."""
    maps = {}

    def outputs(kernels, params, carry, xs):
        convolve = _Convolver(kernels)
        step(convolve, params, carry, jax.tree.map(lambda x: x[0], xs))
        if unused := set(kernels) - {name for name, _ in convolve.inputs}:
            raise ValueError(f"kernels that the step never uses: {sorted(unused)}")
        maps.update(convolve.maps)
        return {use: maps[use](x, kernels[use[0]]) for use, x in convolve.inputs.items()}

    steps = jax.tree.leaves(xs)[0].shape[0]
    shapes = jax.eval_shape(outputs, kernels, params, carry, xs)
    return maps, {use: jnp.zeros((steps, *s.shape), s.dtype) for use, s in shapes.items()}


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
