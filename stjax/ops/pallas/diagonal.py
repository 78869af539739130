"""Elementwise linear recurrences as one kernel: states live in registers and are written once.

The recurrence of `stjax.ops.recurrence.linear_recurrence`, with its gradient. Its transpose is
again a recurrence, run the other way, in which the decay acts after a step and not before it:

    plain:    x_k = a_k x_{k-1} + b_k,     last = x_n
    lagged:   g_k = c_k + y_k,   c_{k+1} = a_k g_k,     last = c_{n+1}

so one kernel does both, any number of derivatives deep, and nothing is kept for the gradient but
decay and states. Complex numbers travel as tuples of real arrays: real part, imaginary part.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Inexact

Parts = tuple[Float[Array, "..."], ...]

# GPU. One warp walks 128 features and reads 8 steps ahead of the state. Time is cut into segments,
# of 64 steps at least, until there are 512 warps: about four for each of a large GPU's
# multiprocessors. Segments cost a second reading of the inputs: fewer than four do not pay.
GPU_FEATURES, GPU_AHEAD, GPU_PROGRAMS, GPU_SHORTEST, GPU_FEWEST = 128, 8, 512, 64, 4
# TPU. A block is 32 steps of 32 rows of 128 lanes: 512 KiB in float32, twelve of which (complex
# decays, inputs and states, each twice for the pipeline) fit the 16 MiB of VMEM that a kernel gets.
TPU_STEPS, TPU_ROWS, LANES = 32, 32, 128


@dataclasses.dataclass(frozen=True)
class Run:
    """How a recurrence is run: which way, before or after the decay, and on what."""

    reverse: bool
    target: str
    interpret: bool
    lagged: bool = False

    @property
    def transposed(self) -> "Run":
        return dataclasses.replace(self, reverse=not self.reverse, lagged=not self.lagged)


def linear_recurrence(
    decay: Inexact[Array, "..."],
    inputs: Inexact[Array, "..."],
    initial: Inexact[Array, "..."] | None,
    axis: int,
    *,
    reverse: bool = False,
    target: str,
    interpret: bool = False,
) -> tuple[Inexact[Array, "..."], Inexact[Array, "..."]]:
    """All states of x_k = decay_k x_{k-1} + inputs_k, and the last one.

    A decay that is constant over time stays so in memory: at most the state's size. One that
    varies is broadcast over all axes but the batch (those before time).

    Args:
        decay: of as many axes as `inputs`, each of its length or one.
        inputs: any shape; float32, bfloat16 (the state is kept in float32), complex, ...
        initial: the shape of `inputs` without `axis`; None is zero.
        axis: the time axis.
        reverse: run from the last step to the first.
        target: "gpu" or "tpu".
        interpret: run the kernel step by step in plain JAX, anywhere.
    """
    shape = inputs.shape
    rows, steps, features = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    before = shape[:axis] if math.prod(decay.shape[:axis]) > 1 else (1,) * axis
    decay = jnp.broadcast_to(decay, (*before, decay.shape[axis], *shape[axis + 1 :]))
    initial = jnp.zeros((), inputs.dtype) if initial is None else initial
    states, last = _recur(
        decay.reshape(math.prod(before), decay.shape[axis], features),
        inputs.reshape(rows, steps, features),
        jnp.broadcast_to(initial, shape[:axis] + shape[axis + 1 :]).reshape(rows, features),
        Run(reverse, target, interpret),
    )
    return states.reshape(shape), last.reshape(shape[:axis] + shape[axis + 1 :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _recur(
    decay: Inexact[Array, "r|1 t|1 f"],
    inputs: Inexact[Array, "r t f"],
    initial: Inexact[Array, "r f"],
    run: Run,
) -> tuple[Inexact[Array, "r t f"], Inexact[Array, "r f"]]:
    launch = _on_gpu if run.target == "gpu" else _on_tpu
    states, last = launch(_parts(decay), _parts(inputs), _in_full(_parts(initial)), run)
    return _whole(states), _whole(last).astype(inputs.dtype)


def _recur_forward(decay, inputs, initial, run):
    states, last = _recur(decay, inputs, initial, run)
    return (states, last), (decay, states, initial)


def _recur_backward(run, kept, cotangents):
    decay, states, initial = kept
    others, last = _recur(decay, *cotangents, run.transposed)
    # The decay's gradient is, either way round, lagged states times the plain ones a step back.
    lagged, plain = (states, others) if run.lagged else (others, states)
    start = cotangents[1] if run.lagged else initial
    reverse = run.reverse != run.lagged
    plain = (plain[:, 1:], start[:, None]) if reverse else (start[:, None], plain[:, :-1])
    full = jnp.promote_types(decay.dtype, jnp.float32)
    product = lagged.astype(full) * jnp.concatenate(plain, 1).astype(full)
    over = tuple(axis for axis in (0, 1) if decay.shape[axis] == 1)
    return product.sum(over, keepdims=True).astype(decay.dtype), others, last


_recur.defvjp(_recur_forward, _recur_backward)


def _parts(array: Inexact[Array, "..."]) -> Parts:
    return (array.real, array.imag) if jnp.iscomplexobj(array) else (array,)


def _whole(parts: Parts) -> Inexact[Array, "..."]:
    return lax.complex(*parts) if len(parts) == 2 else parts[0]


def _in_full(parts: Parts) -> Parts:
    """In the precision that the state is kept in: float32, or float64 if the inputs are."""
    return tuple(part.astype(jnp.promote_types(part.dtype, jnp.float32)) for part in parts)


def _times(a: Parts, b: Parts) -> Parts:
    if len(a) == 1:
        return (a[0] * b[0],)
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _plus(a: Parts, b: Parts) -> Parts:
    return tuple(ours + theirs for ours, theirs in zip(a, b))


def _step(decay: Parts, inputs: Parts, state: Parts, lagged: bool) -> tuple[Parts, Parts]:
    """What a step gives out, and the state that it leaves."""
    if lagged:
        out = _plus(state, inputs)
        return out, _times(decay, out)
    out = _plus(_times(decay, state), inputs)
    return out, out


# GPU: a program walks a segment of time for one row and one block of features.


def _on_gpu(decay: Parts, inputs: Parts, initial: Parts, run: Run) -> tuple[Parts, Parts]:
    rows, steps, features = inputs[0].shape
    block = min(pl.next_power_of_2(features), GPU_FEATURES)
    blocks = pl.cdiv(features, block)
    segments = min(GPU_PROGRAMS // (rows * blocks), steps // GPU_SHORTEST)
    segments = segments if segments >= GPU_FEWEST else 1
    length = pl.cdiv(steps, segments)
    segments = pl.cdiv(steps, length)
    dtype = initial[0].dtype

    def over_time(array):
        return pl.BlockSpec((None, steps, block), lambda block, row, segment: (row, 0, block))

    def decays(array):
        shared, constant = (length == 1 for length in array.shape[:2])
        index = lambda block, row, segment: (0 if shared else row, 0, block)
        return pl.BlockSpec((None, None if constant else steps, block), index)

    def over_segments(array):
        return pl.BlockSpec((None, None, block), lambda block, row, segment: (row, segment, block))

    def launch(kernel, over, arrays, out_over, out_shapes):
        return pl.pallas_call(
            functools.partial(kernel, steps=steps, length=length, features=features, run=run),
            grid=(blocks, rows, segments),
            in_specs=[jax.tree.map(spec, array) for spec, array in zip(over, arrays)],
            out_specs=[jax.tree.map(spec, shape) for spec, shape in zip(out_over, out_shapes)],
            out_shape=out_shapes,
            compiler_params=plgpu.CompilerParams(num_warps=1),
            interpret=run.interpret,
        )(*arrays)

    ends = jax.tree.map(lambda _: jax.ShapeDtypeStruct((rows, segments, features), dtype), initial)
    starts = tuple(part[:, None] for part in initial)
    if segments > 1:
        products, locals_ = launch(
            _gpu_segment, (decays, over_time), (decay, inputs), (over_segments,) * 2, (ends, ends)
        )
        starts = _entering(products, locals_, starts)
    states = jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype), inputs)
    states, lasts = launch(
        _gpu_kernel,
        (decays, over_time, over_segments),
        (decay, inputs, starts),
        (over_time, over_segments),
        (states, ends),
    )
    return states, tuple(part[:, -1] for part in lasts)


def _entering(products: Parts, ends: Parts, initial: Parts) -> Parts:
    """The state that each segment starts from, of what each would do to a state, (r, s, f)."""

    def combine(before, after):
        return _times(after[0], before[0]), _plus(_times(after[0], before[1]), after[1])

    products, ends = lax.associative_scan(combine, (products, ends), axis=1)
    leaving = _plus(_times(products, initial), ends)
    return tuple(jnp.concatenate([a, b[:, :-1]], 1) for a, b in zip(initial, leaving))


def _gpu_segment(decay, inputs, products, ends, *, steps, length, features, run):
    """What a segment does to a state: multiplies it by `products` and adds `ends`."""

    def step(time, decay, inputs, carry):
        product, state = carry
        return _times(decay, product), _step(decay, inputs, state, run.lagged)[1]

    inside = _gpu_inside(ends[0], features)
    zeros = tuple(jnp.zeros(ref.shape, ref.dtype) for ref in ends)
    ones = (zeros[0] + 1, *zeros[1:])
    carry = _gpu_walk(step, (ones, zeros), decay, inputs, inside, steps, length, run)
    _gpu_store((*products, *ends), ..., (*carry[0], *carry[1]), inside)


def _gpu_kernel(decay, inputs, initial, states, last, *, steps, length, features, run):
    def step(time, decay, inputs, state):
        out, state = _step(decay, inputs, state, run.lagged)
        _gpu_store(states, time, out, inside)
        return state

    inside = _gpu_inside(last[0], features)
    state = _gpu_load(initial, ..., inside, initial[0].dtype)
    state = _gpu_walk(step, state, decay, inputs, inside, steps, length, run)
    _gpu_store(last, ..., state, inside)


def _gpu_walk(step, carry, decay, inputs, inside, steps, length, run):
    """Runs `step(time, decay, inputs, carry) -> carry` over the program's segment of time."""
    dtype = jax.tree.leaves(carry)[0].dtype
    constant = _gpu_load(decay, ..., inside, dtype) if decay[0].ndim == 1 else None
    # Of the default integers: the interpreter mixes them with what it indexes by.
    first = pl.program_id(2).astype(int) * length
    here = jnp.minimum(length, steps - first)

    def stretch(start, ahead, carry):
        times = [start + k for k in range(ahead)]
        times = [steps - 1 - time for time in times] if run.reverse else times
        read = [
            (
                constant or _gpu_load(decay, time, inside, dtype),
                _gpu_load(inputs, time, inside, dtype),
            )
            for time in times
        ]
        for time, now in zip(times, read):
            carry = step(time, *now, carry)
        return carry

    def loop(start, ahead, times, carry):
        return lax.fori_loop(0, times, lambda k, c: stretch(start + k * ahead, ahead, c), carry)

    whole = here // GPU_AHEAD
    carry = loop(first, GPU_AHEAD, whole, carry)
    return loop(first + whole * GPU_AHEAD, 1, here - whole * GPU_AHEAD, carry)


def _gpu_inside(ref, features: int):
    """Which of the block's features exist."""
    block = ref.shape[-1]
    return pl.program_id(0) * block + jnp.arange(block) < features


def _gpu_load(refs, at, inside, dtype) -> Parts:
    return tuple(plgpu.load(ref.at[at], mask=inside, other=0).astype(dtype) for ref in refs)


def _gpu_store(refs, at, parts: Parts, inside) -> None:
    for ref, part in zip(refs, parts):
        plgpu.store(ref.at[at], part.astype(ref.dtype), mask=inside)


# TPU: rows and features together are lanes; a program takes a chunk of time for a block of them,
# and its neighbour in time, which comes next, finds the state where it was left.


def _on_tpu(decay: Parts, inputs: Parts, initial: Parts, run: Run) -> tuple[Parts, Parts]:
    rows, steps, features = inputs[0].shape
    lanes = rows * features

    def tiles(array: Float[Array, "r|1 t|1 f"]) -> Float[Array, "t|1 l/128 128"]:
        array = jnp.broadcast_to(array, (rows, *array.shape[1:])).swapaxes(0, 1)
        array = array.reshape(-1, lanes)
        return jnp.pad(array, ((0, 0), (0, -lanes % LANES))).reshape(len(array), -1, LANES)

    def untiled(array: Float[Array, "t|1 l/128 128"]) -> Float[Array, "r t|1 f"]:
        return array.reshape(len(array), -1)[:, :lanes].reshape(-1, rows, features).swapaxes(0, 1)

    decay, inputs, initial = jax.tree.map(
        tiles, (decay, inputs, tuple(part[:, None] for part in initial))
    )
    height, chunk = min(inputs[0].shape[1], TPU_ROWS), min(steps, TPU_STEPS)
    chunks = pl.cdiv(steps, chunk)

    def over_time(array):
        def index(block, chunk):
            return chunks - 1 - chunk if run.reverse else chunk, block, 0

        if len(array) == 1:
            return pl.BlockSpec((1, height, LANES), lambda block, chunk: (0, block, 0))
        return pl.BlockSpec((chunk, height, LANES), index)

    def shape(array):
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    specs = jax.tree.map(over_time, (decay, inputs, initial))
    states, last = pl.pallas_call(
        functools.partial(_tpu_kernel, steps=steps, run=run),
        grid=(pl.cdiv(inputs[0].shape[1], height), chunks),
        in_specs=list(specs),
        out_specs=list(specs[1:]),
        out_shape=jax.tree.map(shape, (inputs, initial)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=run.interpret,
    )(decay, inputs, initial)
    states, last = jax.tree.map(untiled, (states, last))
    return states, tuple(part[:, 0] for part in last)


def _tpu_kernel(decay, inputs, initial, states, last, *, steps, run):
    # The block of `last` stays in VMEM until the lanes are done: the state is carried there.
    @pl.when(pl.program_id(1) == 0)
    def _():
        for ref, start in zip(last, initial):
            ref[...] = start[...]

    chunk, dtype = inputs[0].shape[0], last[0].dtype
    constant = decay[0].shape[0] == 1
    chunks = pl.num_programs(1)
    first = (chunks - 1 - pl.program_id(1) if run.reverse else pl.program_id(1)) * chunk

    def step(k, state):
        k = chunk - 1 - k if run.reverse else k
        at = lambda refs, k: tuple(ref[k].astype(dtype) for ref in refs)
        out, after = _step(at(decay, 0 if constant else k), at(inputs, k), state, run.lagged)
        for ref, part in zip(states, out):
            ref[k] = part.astype(ref.dtype)
        # The last chunk may hang over the end, with whatever lies there.
        return tuple(jnp.where(first + k < steps, a, b) for a, b in zip(after, state))

    state = lax.fori_loop(0, chunk, step, tuple(ref[0] for ref in last), unroll=8)
    for ref, part in zip(last, state):
        ref[0] = part
