"""Linear recurrences x_k = a_k x_{k-1} + b_k over time: several ways, the same numbers.

No model writes its own scan: state-space layers, gated recurrences and the like all call
`linear_recurrence`, which knows what is fast where.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from stjax.ops import pallas, sequence_parallel, sharding
from stjax.ops.backend import backend
from stjax.ops.measured import fastest

State = Inexact[Array, "..."]


def linear_recurrence(
    decay: State,
    inputs: State,
    initial: State | None = None,
    *,
    method: str = "auto",
    reverse: bool = False,
    axis: int = 1,
    chunk: int = 64,
    over_time: bool = True,
) -> tuple[State, State]:
    """All states of x_k = decay_k x_{k-1} + inputs_k, elementwise, real or complex.

    Args:
        decay: broadcasts against `inputs` by NumPy's rule. Of length one along time, or without a
            time axis at all, such as `(channels,)`: the same decay at every step.
        inputs: any shape with a time axis, such as `(b, t, ..., c)`.
        initial: the state before the first step, the shape of `inputs` without the time axis;
            None is zero.
        method: "sequential" (a loop), "associative" (logarithmic depth), "chunked" (associative
            within chunks, a loop over them: less memory on long clips), "pallas" (one kernel, for
            a gpu or a tpu) or "auto", the fastest of them (see `stjax.ops.measured`).
        reverse: run from the last step to the first; `initial` then comes after the last step.
        axis: the time axis of `inputs`.
        chunk: steps to a chunk, for "chunked" alone.
        over_time: the steps are those of time: under a mesh with an axis "sequence" they are cut
            over its devices (see `stjax.ops.sequence_parallel`). False for a scan over space.

    Returns:
        The states, of the shape of `inputs`, and the state after the last step taken, the shape
        of `initial`.

    Raises:
        ValueError: a shape that does not fit, an unknown method, "pallas" on a CPU, steps that the
            mesh's axis "sequence" does not divide.
    """
    decay, inputs, initial, axis = _checked(decay, inputs, initial, axis)
    scan = functools.partial(_scan, method=method, axis=axis, chunk=chunk)
    if over_time and sequence_parallel.ways() > 1:
        return sequence_parallel.sharded_linear_recurrence(
            decay, inputs, initial, scan=scan, reverse=reverse, axis=axis
        )
    return scan(decay, inputs, initial, reverse=reverse)


def _scan(decay, inputs, initial, *, method, reverse, axis, chunk):
    if method == "auto":
        method = fastest("linear_recurrence", inputs.shape[axis])
    if method == "sequential":
        return _sequential(decay, inputs, initial, axis, reverse)
    if method == "associative":
        return _associative(decay, inputs, initial, axis, reverse)
    if method == "chunked":
        return _chunked(decay, inputs, initial, axis, reverse, chunk)
    if method == "pallas":
        return _pallas(decay, inputs, initial, axis, reverse)
    raise ValueError(
        f"method: {method!r} is none of 'auto', 'sequential', 'associative', 'chunked', 'pallas'"
    )


def naive_linear_recurrence(
    decay: State,
    inputs: State,
    initial: State | None = None,
    *,
    reverse: bool = False,
    axis: int = 1,
) -> tuple[State, State]:
    """The definition, by JAX's own gradient: what `linear_recurrence` is tested against."""
    inputs = jnp.moveaxis(inputs, axis, 0)
    decay = decay if decay.ndim < inputs.ndim else jnp.moveaxis(decay, axis, 0)
    start = jnp.zeros_like(decay[0] * inputs[0]) + (0 if initial is None else initial)

    def step(state, now):
        decay, inputs = now
        state = decay * state + inputs
        return state, state

    now = jnp.broadcast_to(decay, inputs.shape), inputs
    last, states = lax.scan(step, start, now, reverse=reverse)
    return jnp.moveaxis(states, 0, axis), last


def _checked(decay, inputs, initial, axis):
    """The arguments in one dtype, `decay` with all axes of `inputs`; refuses what does not fit."""
    if not -inputs.ndim <= axis < inputs.ndim:
        raise ValueError(f"axis: {axis} is no axis of inputs of shape {inputs.shape}")
    axis %= inputs.ndim
    if inputs.shape[axis] == 0:
        raise ValueError(f"inputs: the time axis of {inputs.shape} is empty")
    if decay.ndim > inputs.ndim or any(
        ours not in (1, theirs) for ours, theirs in zip(decay.shape[::-1], inputs.shape[::-1])
    ):
        raise ValueError(f"decay: {decay.shape} does not broadcast to inputs of {inputs.shape}")
    state_shape = inputs.shape[:axis] + inputs.shape[axis + 1 :]
    if initial is not None and initial.shape != state_shape:
        raise ValueError(f"initial: {initial.shape} instead of {state_shape}")
    dtype = jnp.result_type(*(array for array in (decay, inputs, initial) if array is not None))
    decay = decay.reshape((1,) * (inputs.ndim - decay.ndim) + decay.shape).astype(dtype)
    return decay, inputs.astype(dtype), None if initial is None else initial.astype(dtype), axis


def _sequential(decay, inputs, initial, axis, reverse):
    decay, inputs = jnp.moveaxis(decay, axis, 0), jnp.moveaxis(inputs, axis, 0)
    initial = jnp.zeros_like(inputs[0]) if initial is None else initial
    shape = inputs.shape
    if len(decay) == 1:
        decay = jnp.broadcast_to(decay, (1, *shape[1:]))
    whole = sharding.ways("tensor") == 1  # a cut of the channels is lost in one long axis
    if backend() == "cpu" and decay.shape[1:] == shape[1:] and whole:
        # As one long axis: a state of several XLA hands out to threads, at every step anew, and two
        # thirds of the time are gone with it.
        decay, inputs = (array.reshape(len(array), -1) for array in (decay, inputs))
    states, last = _loop(decay, inputs, initial.reshape(inputs.shape[1:]), reverse)
    return jnp.moveaxis(states.reshape(shape), 0, axis), last.reshape(shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _loop(decay, inputs, initial, reverse):
    """Time on the leading axis. The gradient is our own: JAX's keeps the states a second time."""
    constant, wide = len(decay) == 1, _wide(inputs.dtype)

    def step(state: State, now: tuple[State | None, State]) -> tuple[State, State]:
        decay_now, inputs = now
        state = (decay[0] if constant else decay_now) * state + inputs
        return state.astype(wide), state.astype(inputs.dtype)

    now = (None if constant else decay), inputs
    last, states = lax.scan(step, initial.astype(wide), now, reverse=reverse)
    return states, last.astype(inputs.dtype)


def _loop_forward(decay, inputs, initial, reverse):
    states, last = _loop(decay, inputs, initial, reverse)
    return (states, last), (decay, states, initial)


def _loop_backward(reverse, residuals, cotangents):
    """The cotangents of the states go through the same recurrence, the other way."""
    decay, states, initial = residuals
    by_states, by_last = cotangents
    constant, wide = len(decay) == 1, _wide(states.dtype)
    first, before = (len(states) - 1, 1) if reverse else (0, -1)

    def step(carry, now):
        by_state, by_constant = carry
        k, decay_now, by_states = now
        by_input = by_states + by_state
        previous = jnp.where(k == first, initial, states[jnp.clip(k + before, 0, len(states) - 1)])
        by_decay = previous * by_input
        by_state = (decay[0] if constant else decay_now) * by_input
        if constant:
            by_constant, by_decay = by_constant + by_decay, None
        else:
            by_decay = _sum_to(by_decay, decay_now.shape).astype(decay.dtype)
        return (by_state.astype(wide), by_constant), (by_input.astype(states.dtype), by_decay)

    now = jnp.arange(len(states)), (None if constant else decay), by_states
    carry = by_last.astype(wide), (jnp.zeros(initial.shape, wide) if constant else None)
    (by_initial, by_constant), (by_inputs, by_decay) = lax.scan(
        step, carry, now, reverse=not reverse
    )
    if constant:
        by_decay = _sum_to(by_constant, decay.shape[1:])[None].astype(decay.dtype)
    return by_decay, by_inputs, by_initial.astype(initial.dtype)


_loop.defvjp(_loop_forward, _loop_backward)


def _wide(dtype):
    """The dtype that sums over time are kept in."""
    return jnp.promote_types(dtype, jnp.float32)


def _sum_to(array, shape):
    """Sums over the axes along which an array of `shape` was broadcast."""
    axes = [k for k, size in enumerate(shape) if size < array.shape[k]]
    return jnp.sum(array, axes, keepdims=True)


def _associative(decay, inputs, initial, axis, reverse):
    narrow, wide = inputs.dtype, _wide(inputs.dtype)
    decay, inputs = decay.astype(wide), inputs.astype(wide)
    first, last = (-1, 0) if reverse else (0, -1)
    if initial is not None:
        at = (slice(None),) * axis + (first,)
        inputs = inputs.at[at].add(decay[at] * initial)
    shape = list(decay.shape)
    shape[axis] = inputs.shape[axis]

    def combine(before, after):
        return after[0] * before[0], after[0] * before[1] + after[1]

    elements = jnp.broadcast_to(decay, shape), inputs
    states = lax.associative_scan(combine, elements, reverse=reverse, axis=axis)[1].astype(narrow)
    return states, jnp.take(states, last, axis)


def _chunked(decay, inputs, initial, axis, reverse, chunk):
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} steps to a chunk")
    decay, inputs = jnp.moveaxis(decay, axis, 0), jnp.moveaxis(inputs, axis, 0)
    initial = jnp.zeros_like(inputs[0]) if initial is None else initial
    length = len(inputs)
    decay = jnp.broadcast_to(decay, (length, *decay.shape[1:]))

    def cut(array: State, fill: float) -> State:
        # Steps that change nothing fill up the last chunk, whichever way it is run through.
        widths = [(0, -length % chunk)] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(array, widths, constant_values=fill)
        return array.reshape(-1, chunk, *array.shape[1:])

    def step(state: State, now: tuple[State, State]) -> tuple[State, State]:
        states, last = _associative(*now, state, 0, reverse)
        return last, states

    last, states = lax.scan(step, initial, (cut(decay, 1), cut(inputs, 0)), reverse=reverse)
    states = states.reshape(-1, *states.shape[2:])[:length]
    return jnp.moveaxis(states, 0, axis), last


def _pallas(decay, inputs, initial, axis, reverse):
    target = pallas.target()
    from stjax.ops.pallas import diagonal

    return diagonal.linear_recurrence(decay, inputs, initial, axis, reverse=reverse, target=target)
