"""Linear recurrences x_k = a_k x_{k-1} + b_k over time: several ways, the same numbers.

No model writes its own scan: state-space layers, gated recurrences and the like all call
`linear_recurrence`, which knows what is fast where.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from stjax.ops import pallas
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

    Returns:
        The states, of the shape of `inputs`, and the state after the last step taken, the shape
        of `initial`.

    Raises:
        ValueError: a shape that does not fit, an unknown method, "pallas" on a CPU.
    """
    decay, inputs, initial, axis = _checked(decay, inputs, initial, axis)
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
    """The definition, step by step: what the methods of `linear_recurrence` are tested against."""
    inputs = jnp.moveaxis(inputs, axis, 0)
    decay = jnp.broadcast_to(
        decay if decay.ndim < inputs.ndim else jnp.moveaxis(decay, axis, 0), inputs.shape
    )
    state, states = (jnp.zeros(()) if initial is None else initial), {}
    steps = range(len(inputs))
    for k in reversed(steps) if reverse else steps:
        state = states[k] = decay[k] * state + inputs[k]
    return jnp.stack([states[k] for k in steps], axis), state


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

    constant = decay[0] if len(decay) == 1 else None

    def step(state: State, now: tuple[State | None, State]) -> tuple[State, State]:
        decay, inputs = now
        state = (decay if constant is None else constant) * state + inputs
        return state, state

    now = (decay if constant is None else None), inputs
    last, states = lax.scan(step, initial, now, reverse=reverse)
    return jnp.moveaxis(states, 0, axis), last


def _associative(decay, inputs, initial, axis, reverse):
    first, last = (-1, 0) if reverse else (0, -1)
    if initial is not None:
        at = (slice(None),) * axis + (first,)
        inputs = inputs.at[at].add(decay[at] * initial)
    shape = list(decay.shape)
    shape[axis] = inputs.shape[axis]

    def combine(before, after):
        return after[0] * before[0], after[0] * before[1] + after[1]

    elements = jnp.broadcast_to(decay, shape), inputs
    states = lax.associative_scan(combine, elements, reverse=reverse, axis=axis)[1]
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
