"""Time cut over devices: each holds a stretch of it, and what passes between them is a state.

An operator looks at the mesh that its caller is traced under (`jax.set_mesh`, or
`jax.sharding.use_abstract_mesh` within a jitted function). Where that mesh has an axis "sequence"
longer than one the operator runs in the form of this file; no model knows of it. The other axes of
the mesh stay what they were: a batch cut over them stays cut.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Inexact, Shaped

from stjax.ops import sharding

AXIS = "sequence"

State = Inexact[Array, "..."]


def ways() -> int:
    """Devices that time is cut over: the size of the ambient mesh's axis "sequence", else 1."""
    return sharding.ways(AXIS)


def check_divides(name: str, shape: tuple[int, ...], axis: int) -> None:
    """Raises ValueError where an array's time axis cannot be cut into equal stretches."""
    if shape[axis] % ways():
        raise ValueError(
            f"{name}: time, axis {axis} of {shape}, is of {shape[axis]} steps, which do not "
            f"divide over the {ways()} devices of the mesh's axis {AXIS!r}"
        )


def over_devices(
    mesh: AbstractMesh, function: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """`function` on every device's stretches; the mesh's other axes are left to the compiler."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs,
        axis_names={AXIS}, check_vma=False,
    )


def over_frames(function: Callable[..., Any], *videos: Shaped[Array, "b t ..."]) -> Any:
    """What a function of frames (n, ...) makes of all frames of clips, as clips (b, t, ...).

    Batch and time are merged in one axis for it. Where time is cut over devices, so is that axis:
    each device merges its own stretch. (A plain reshape would order the frames clip by clip, which
    a cut of time does not respect; the compiler would then compute all frames on every device.)

    Args:
        function: of arrays of frames to an array or a tree of arrays of as many frames. Each frame
            is a matter of its own; their order is not promised. It may be a flax module.
        videos: clips of the same batch and length.
    """
    batch, steps = videos[0].shape[:2]

    def merge(x):
        return x.reshape(-1, *x.shape[2:])

    def split(x):
        return x.reshape(batch, -1, *x.shape[1:])

    if ways() > 1 and steps % ways() == 0:
        mesh, timed = jax.sharding.get_abstract_mesh(), PartitionSpec(None, AXIS)
        merge = over_devices(mesh, merge, timed, PartitionSpec(AXIS))
        split = over_devices(mesh, split, PartitionSpec(AXIS), timed)
    return jax.tree.map(split, function(*map(merge, videos)))


def exchange_carries(
    product: Array,
    last: Array,
    initial: Array,
    *,
    reverse: bool = False,
    apply: Callable[[Array, Array], Array] = jnp.multiply,
) -> tuple[Array, Array]:
    """The state that every device's stretch of time starts from; called within a `shard_map`.

    A stretch takes the state x before it to apply(product, x) + last. The stretches are composed
    in a logarithmic number of rounds (Hillis, Steele 1986), in each of which a device sends one
    product and one state: what is sent does not depend on the length of time. (`lax.all_gather`
    would also gather what other axes of the mesh cut, such as the batch.)

    Args:
        product: what this device's stretch does to the state before it.
        last: the state after the stretch, started from zero.
        initial: the state before all of time, the same on every device.
        reverse: time runs from the last device to the first.
        apply: multiplies a product with a state, and a later product with an earlier one: the
            elementwise product, or `jnp.matmul` for products that are matrices.

    Returns:
        The state before this device's stretch, and the state after all of time on every device.
    """
    size = lax.axis_size(AXIS)
    rank = lax.axis_index(AXIS)
    rank = size - 1 - rank if reverse else rank

    def from_before(x: Array, distance: int) -> Array:
        """The x of the device so far before this one; zero where there is none."""
        pairs = [(k, k + distance) for k in range(size - distance)]
        return lax.ppermute(x, AXIS, [pair[::-1] for pair in pairs] if reverse else pairs)

    last = last + jnp.where(rank == 0, apply(product, initial), 0)
    distance = 1
    while distance < size:
        last = last + apply(product, from_before(last, distance))
        product = apply(product, from_before(product, distance))
        distance *= 2
    carry = jnp.where(rank == 0, initial, from_before(last, 1))
    return carry, lax.psum(jnp.where(rank == size - 1, last, 0), AXIS)


class _Run(NamedTuple):
    """How a linear recurrence runs: `scan` on one device, `constant` where the decay is."""

    scan: Callable[..., tuple[State, State]]
    reverse: bool
    axis: int
    constant: bool
    mesh: AbstractMesh

    @property
    def timed(self) -> PartitionSpec:
        return PartitionSpec(*(None,) * self.axis, AXIS)

    @property
    def decays(self) -> PartitionSpec:
        return _WHOLE if self.constant else self.timed


_WHOLE = PartitionSpec()


def sharded_linear_recurrence(
    decay: State,
    inputs: State,
    initial: State | None,
    *,
    scan: Callable[..., tuple[State, State]],
    reverse: bool,
    axis: int,
) -> tuple[State, State]:
    """x_k = decay_k x_{k-1} + inputs_k with time cut over the mesh's axis "sequence".

    Every device scans its stretch twice: from zero, for its last state alone, and from the state
    that `exchange_carries` then says it starts from. The gradient is the same recurrence run the
    other way: with g_k the cotangent of x_k and m_k that of x_{k-1} through step k,
    m_k = decay_k m_{k+1} + decay_k g_k. The cotangent of inputs_k is g_k + m_{k+1}, that of
    decay_k is (g_k + m_{k+1}) x_{k-1}: products of decays are never differentiated.

    Args:
        decay, inputs, initial, reverse, axis: as in `linear_recurrence`, of one dtype; the decay
            with all axes of `inputs`, of length one where it is broadcast.
        scan: the recurrence on one device, `(decay, inputs, initial, reverse=) -> states, last`.

    Returns:
        The states, cut over time like `inputs`, and the last one, on every device.

    Raises:
        ValueError: a number of steps that the axis does not divide.
    """
    check_divides("inputs", inputs.shape, axis)
    if initial is None:
        initial = jnp.zeros_like(inputs, shape=inputs.shape[:axis] + inputs.shape[axis + 1 :])
    mesh = jax.sharding.get_abstract_mesh()
    return _recurrence(
        _Run(scan, reverse, axis, decay.shape[axis] == 1, mesh), decay, inputs, initial
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(run, decay, inputs, initial):
    return _forward(run, decay, inputs, initial)[0]


def _forward(run, decay, inputs, initial):
    def stretch(decay, inputs, initial):
        states, last, carry = _stretch(run, decay, inputs, initial)
        return states, last, jnp.expand_dims(carry, run.axis)

    states, last, carries = over_devices(
        run.mesh, stretch, (run.decays, run.timed, _WHOLE), (run.timed, _WHOLE, run.timed)
    )(decay, inputs, initial)
    return (states, last), (decay, states, carries)


def _backward(run, residuals, cotangents):
    back = run._replace(reverse=not run.reverse)

    def stretch(decay, states, carry, by_states, by_last):
        through, by_initial, after = _stretch(back, decay, decay * by_states, by_last)
        by_inputs = by_states + _shifted(back, through, jnp.expand_dims(after, run.axis))
        by_decay = by_inputs * _shifted(run, states, carry)
        broadcast = [k for k, size in enumerate(decay.shape) if size == 1]
        by_decay = jnp.sum(by_decay, broadcast, _wide(decay), keepdims=True)
        by_decay = lax.psum(by_decay, AXIS) if run.constant else by_decay
        return by_decay.astype(decay.dtype), by_inputs, by_initial

    return over_devices(
        run.mesh,
        stretch,
        (run.decays, run.timed, run.timed, run.timed, _WHOLE),
        (run.decays, run.timed, _WHOLE),
    )(*residuals, *cotangents)


_recurrence.defvjp(_forward, _backward)


def _stretch(run, decay, inputs, initial):
    """One device's states, the state after all of time and the state before this stretch."""
    dtype, wide, steps = inputs.dtype, _wide(inputs), inputs.shape[run.axis]
    if run.constant:
        product = lax.integer_pow(jnp.squeeze(decay, run.axis).astype(wide), steps)
    else:
        product = jnp.prod(decay, run.axis, wide)
    _, from_zero = run.scan(decay, inputs, None, reverse=run.reverse)
    carry, last = exchange_carries(
        product, from_zero.astype(wide), initial.astype(wide), reverse=run.reverse
    )
    carry, last = carry.astype(dtype), last.astype(dtype)
    states, _ = run.scan(decay, inputs, carry, reverse=run.reverse)
    return states, last, carry


def _wide(x):
    """The dtype that sums over devices are taken in: float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _shifted(run, states, carry):
    """The state before every step, from the states after them and the one before them all."""
    steps, axis = states.shape[run.axis], run.axis
    if run.reverse:
        return jnp.concatenate([lax.slice_in_dim(states, 1, steps, axis=axis), carry], axis)
    return jnp.concatenate([carry, lax.slice_in_dim(states, 0, steps - 1, axis=axis)], axis)
