"""The selective scan of Mamba: a diagonal state-space model whose every step is told by the input.

Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, arXiv 2312.00752,
section 3.2 and algorithm 2.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from stjax.ops.measured import fastest
from stjax.ops.recurrence import linear_recurrence

METHODS = ("sequential", "associative", "chunked")


def selective_scan(
    x: Float[Array, "b t d"],
    step: Float[Array, "b t d"],
    rates: Float[Array, "d n"],
    B: Float[Array, "b t g n"] | Float[Array, "b t n"],
    C: Float[Array, "b t g n"] | Float[Array, "b t n"],
    skip: Float[Array, "d"] | None = None,
    initial: Float[Array, "b d n"] | None = None,
    *,
    method: str = "auto",
    chunk: int = 64,
    reverse: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d n"]]:
    """h_t = exp(step_t rates) h_{t-1} + step_t B_t x_t, y_t = C_t . h_t + skip x_t.

    Every channel has a state of n numbers. The decay is discretised with zero-order hold, B by
    Euler's rule, as Mamba's code has them. The step comes as it is used: its bias and softplus
    are the caller's. Whatever the inputs' dtype, states are float32 at least.

    Args:
        x: inputs.
        step: lengths of the steps, positive.
        rates: how fast states decay, negative.
        B: what enters the state. Each of g groups of d/g neighbouring channels shares one; without
            the axis g, all channels share it.
        C: how the state is read, of the shape of B.
        skip: weight of the input in the output; None is zero.
        initial: the state before the first step; None is zero.
        method: "sequential" (a loop), "associative" (logarithmic depth; holds the states of all
            steps), "chunked" (associative within chunks, a loop over them) or "auto", the fastest
            of them (see `stjax.ops.measured`). "sequential" and "chunked" keep one state a chunk
            for the backward pass, and compute the others again.
        chunk: steps to a chunk.
        reverse: run from the last step to the first; `initial` then comes after the last step.

    Returns:
        The outputs, in the dtype of x, and the state after the last step taken.

    Raises:
        ValueError: a shape that does not fit, an unknown method.
    """
    _check(x, step, rates, B, C, skip, initial, chunk)
    if method == "auto":
        method = fastest("selective_scan", x.shape[1])
    if method not in METHODS:
        raise ValueError(f"method: {method!r} is none of {('auto', *METHODS)}")
    B, C = _grouped(B), _grouped(C)
    (batch, time, channels), (groups, size) = x.shape, B.shape[2:]
    dtype = jnp.result_type(x, step, rates, B, C, jnp.float32)

    # Channels last, also within the state: its sums over n then run over whole vectors. Samples and
    # groups share one axis, and each has rates of its own: that no step of the backward pass sums
    # over samples made it four times quicker on a CPU.
    def per_group(state: Float[Array, "b d n"]) -> Float[Array, "b*g n k"]:
        return state.astype(dtype).reshape(batch * groups, -1, size).swapaxes(-1, -2)

    def time_first(array: Float[Array, "b t ..."]) -> Float[Array, "t b*g _"]:
        return jnp.moveaxis(array, 1, 0).reshape(time, batch * groups, -1)

    rates = per_group(jnp.broadcast_to(rates, (batch, *rates.shape)))
    state = jnp.zeros_like(rates) if initial is None else per_group(initial)
    now = tuple(map(time_first, (x, step, B, C)))

    run = _parallel if method in ("associative", "chunked") else _loop
    run = functools.partial(run, rates, reverse)
    if method == "associative":
        last, y = run(state, now)
    else:
        last, y = _by_chunks(run, state, now, min(chunk, time), reverse)
    y = jnp.moveaxis(y.reshape(time, batch, channels), 0, 1)
    if skip is not None:
        y = y + skip * x
    return y.astype(x.dtype), last.swapaxes(-1, -2).reshape(batch, channels, size)


def naive_selective_scan(
    x: Float[Array, "b t d"],
    step: Float[Array, "b t d"],
    rates: Float[Array, "d n"],
    B: Float[Array, "b t g n"] | Float[Array, "b t n"],
    C: Float[Array, "b t g n"] | Float[Array, "b t n"],
    skip: Float[Array, "d"] | None = None,
    initial: Float[Array, "b d n"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d n"]]:
    """The definition, step by step: what the methods of `selective_scan` are tested against."""
    channels, size = rates.shape
    B, C = (jnp.repeat(_grouped(a), channels // _grouped(a).shape[2], axis=2) for a in (B, C))
    if initial is None:
        initial = jnp.zeros((len(x), channels, size), x.dtype)
    skip = 0 if skip is None else skip

    def one(state, now):
        x, step, B, C = now
        state = jnp.exp(step[..., None] * rates) * state + (step * x)[..., None] * B
        return state, jnp.sum(C * state, -1) + skip * x

    now = tuple(jnp.moveaxis(array, 1, 0) for array in (x, step, B, C))
    last, y = lax.scan(one, initial, now, reverse=reverse)
    return jnp.moveaxis(y, 0, 1), last


def _check(x, step, rates, B, C, skip, initial, chunk):
    """Refuses what does not fit."""
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x: {x.shape} instead of (b, t, d), none of them 0")
    batch, time, channels = x.shape
    if step.shape != x.shape:
        raise ValueError(f"step: {step.shape} instead of {x.shape}, the shape of x")
    if rates.ndim != 2 or len(rates) != channels:
        raise ValueError(f"rates: {rates.shape} instead of ({channels}, n)")
    size = rates.shape[1]
    groups = B.shape[2] if B.ndim == 4 else 1
    if B.shape not in ((batch, time, size), (batch, time, groups, size)) or channels % groups:
        raise ValueError(
            f"B: {B.shape} instead of ({batch}, {time}, g, {size}) or ({batch}, {time}, {size}), "
            f"g a divisor of {channels}"
        )
    if C.shape != B.shape:
        raise ValueError(f"C: {C.shape} instead of {B.shape}, the shape of B")
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f"skip: {skip.shape} instead of ({channels},)")
    if initial is not None and initial.shape != (batch, channels, size):
        raise ValueError(f"initial: {initial.shape} instead of {(batch, channels, size)}")
    if chunk < 1:
        raise ValueError(f"chunk: {chunk} steps to a chunk")


def _grouped(array: Float[Array, "b t *g n"]) -> Float[Array, "b t g n"]:
    return array if array.ndim == 4 else array[:, :, None]


# Below, r are samples and groups, k = d / g the channels of a group; rates and state are (r, n, k),
# `now` are x and step (t, r, k), B and C (t, r, n).


def _loop(rates, reverse, state, now):
    """The last state and the outputs, one step at a time: no more than one state is ever there."""

    def one(state, now):
        decay, drive, C = _discretised(rates, *now)
        state = decay * state + drive
        return state, _read(state, C)

    return lax.scan(one, state, now, reverse=reverse)


def _parallel(rates, reverse, state, now):
    """The last state and the outputs, all states at once."""
    decay, drive, C = _discretised(rates, *now)
    states, last = linear_recurrence(
        decay, drive, state, method="associative", axis=0, reverse=reverse, over_time=False
    )
    return last, _read(states, C)


def _by_chunks(run, state, now, chunk, reverse):
    """`run` on one chunk after another; the backward pass runs each a second time."""
    length = len(now[0])

    def cut(array):
        # Steps of length zero, which change nothing, fill up the last chunk.
        array = jnp.pad(array, [(0, -length % chunk)] + [(0, 0)] * (array.ndim - 1))
        return array.reshape(-1, chunk, *array.shape[1:])

    run = jax.checkpoint(run, prevent_cse=False)
    last, y = lax.scan(run, state, jax.tree.map(cut, now), reverse=reverse)
    return last, y.reshape(-1, *y.shape[2:])[:length]


def _discretised(rates, x, step, B, C):
    """Decay and drive (..., r, n, k) of the state, and C, all of the dtype of the rates."""
    x, step, B, C = (array.astype(rates.dtype) for array in (x, step, B, C))
    # As a product of matrices its gradients are such products too: quicker than sums on a CPU.
    drive = jnp.einsum("...n,...k->...nk", B, step * x, precision="highest")
    return jnp.exp(step[..., None, :] * rates), drive, C


def _read(state, C):
    return jnp.einsum("...nk,...n->...k", state, C, precision="highest")
