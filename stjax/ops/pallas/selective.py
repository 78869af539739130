"""Mamba's selective scan (S6) as one kernel: discretisation, scan and read-out together.

    h_t = exp(step_t rates) h_{t-1} + step_t x_t B_t,    y_t = <C_t, h_t>,

for every channel a state h of n modes (Gu and Dao, Mamba, arXiv 2312.00752, section 3.2 and
algorithm 2). States stay in registers. For the gradient the state before each chunk of c steps is
kept, n / c times the size of x in float32; a second kernel goes back over the chunks, runs the
steps of each once more from there, and gathers the gradients on the way. Those of B and C are sums
over channels: each block of channels writes its part, and XLA adds them up.

A GPU's program walks all of time for one clip and a block of channels; its state is (channels,
modes), so that sums over modes stay within a warp. A TPU's program takes 128 steps; its state is
(modes, channels), so that channels are lanes, and is handed to the next program in VMEM. What a
step does is the same code for both.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

# GPU. A chunk's states are held in registers, four values of a state to a thread, hence 8 steps. A
# program has 32 channels, halved down to 8 until there are 128 programs, one for each of a large
# GPU's multiprocessors: the wider they are, the fewer parts of the gradients of B and C.
GPU_CHUNK, GPU_VALUES, GPU_CHANNELS, GPU_FEWEST_CHANNELS, GPU_PROGRAMS = 8, 4, 32, 8, 128
# TPU. Rows are read by whole tiles, 16 rows in bfloat16, hence a chunk. Steps lie along the lanes
# of B and C, hence 128 to a program. 256 channels are one's if they divide and the modes are few.
TPU_CHUNK, TPU_STEPS, LANES, TPU_FEW_MODES = 16, 128, 128, 32


class Run(NamedTuple):
    """How a scan is run: which way and on what."""

    reverse: bool
    target: str
    interpret: bool


class Size(NamedTuple):
    """Clips, steps, groups, channels of a group, modes of a channel."""

    b: int
    t: int
    g: int
    c: int
    n: int


class Layout(NamedTuple):
    """Shapes and blocks of what a kernel reads and writes, by kind.

    "channels" (b t g c), "modes" (b t g n), "parts" the same for each block of channels, "rates"
    (g c n), "state" (b g c n), "kept" (b chunks g c n), with axes as the target wants them.
    """

    grid: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    specs: dict[str, pl.BlockSpec]
    params: pltpu.CompilerParams | plgpu.CompilerParams


class Target(NamedTuple):
    """What differs between GPU and TPU.

    Kernels get a dict of kinds to tuples of references that they read, and another that they write.
    """

    lay_out: Callable[[Size, Run], Layout]
    enter: Callable[[str, Array, Layout], Array]
    leave: Callable[[str, Array, Size], Array]
    forward: Callable[..., None]
    backward: Callable[..., None]


def selective_scan(
    x: Float[Array, "b t d"],
    step: Float[Array, "b t d"],
    rates: Float[Array, "d n"],
    B: Float[Array, "b t g n"],
    C: Float[Array, "b t g n"],
    initial: Float[Array, "b d n"],
    *,
    reverse: bool = False,
    target: str,
    interpret: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d n"]]:
    """The outputs y of the scan and its last state.

    States are float32 at least. Can be differentiated once, in reverse mode. Shapes are not
    checked here.

    Args:
        x: inputs.
        step: lengths of the steps, positive.
        rates: of decay, negative: the diagonal of A.
        B: what each step writes; d / g neighbouring channels share a group's.
        C: what each step reads.
        initial: the state before the first step.
        reverse: run from the last step to the first; `initial` then comes after the last step.
        target: "gpu" or "tpu".
        interpret: run the kernel step by step in plain JAX, anywhere.

    Returns:
        y in the dtype of `x`, the last state in that of `initial`.
    """
    (b, t, d), (g, n) = x.shape, B.shape[2:]
    y, last = _scan(
        x.reshape(b, t, g, d // g),
        step.reshape(b, t, g, d // g),
        rates.reshape(g, d // g, n),
        B,
        C,
        initial.reshape(b, g, d // g, n),
        Run(reverse, target, interpret),
    )
    return y.reshape(b, t, d), last.reshape(b, d, n)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _scan(
    x: Float[Array, "b t g c"],
    step: Float[Array, "b t g c"],
    rates: Float[Array, "g c n"],
    B: Float[Array, "b t g n"],
    C: Float[Array, "b t g n"],
    initial: Float[Array, "b g c n"],
    run: Run,
) -> tuple[Float[Array, "b t g c"], Float[Array, "b g c n"]]:
    return _forward(x, step, rates, B, C, initial, run, keep=False)[:2]


def _scan_forward(x, step, rates, B, C, initial, run):
    y, last, kept = _forward(x, step, rates, B, C, initial, run, keep=True)
    return (y, last), (x, step, rates, B, C, initial, kept)


def _forward(x, step, rates, B, C, initial, run, *, keep):
    full = jnp.promote_types(jnp.result_type(x, step, rates, B, C, initial), jnp.float32)
    reads = {
        "channels": (x, step),
        "rates": (rates.astype(full),),
        "modes": (B, C),
        "state": (initial.astype(full),),
    }
    writes = {"channels": (x.dtype,), "state": (full,), "kept": (full,) * keep}
    target = _target(run)
    y, last, *kept = _call(target, target.forward, Size(*x.shape, B.shape[-1]), run, reads, writes)
    return y, last.astype(initial.dtype), *kept


def _scan_backward(run, residuals, cotangents):
    *arguments, kept = residuals
    (x, step, rates, B, C, _), (dy, dlast) = arguments, cotangents
    full = kept.dtype
    reads = {
        "channels": (x, step, dy),
        "rates": (rates.astype(full),),
        "modes": (B, C),
        "state": (dlast.astype(full),),
        "kept": (kept,),
    }
    writes = {"channels": (x.dtype, step.dtype), "parts": (full, full), "state": (full, full)}
    run, target = run._replace(reverse=not run.reverse), _target(run)
    dx, dstep, dB, dC, drates, dinitial = _call(
        target, target.backward, Size(*x.shape, B.shape[-1]), run, reads, writes
    )
    gradients = dx, dstep, drates.sum(0), dB, dC, dinitial
    return tuple(ours.astype(array.dtype) for ours, array in zip(gradients, arguments))


_scan.defvjp(_scan_forward, _scan_backward)


def _target(run: Run) -> Target:
    return GPU if run.target == "gpu" else TPU


def _call(target: Target, kernel, size: Size, run: Run, reads: dict, writes: dict) -> list[Array]:
    """Arrays of the kinds and dtypes of `writes`, one after the other."""
    layout = target.lay_out(size, run)

    def specs(of):
        return {kind: (layout.specs[kind],) * len(many) for kind, many in of.items()}

    (results,) = pl.pallas_call(
        functools.partial(kernel, size=size, run=run),
        grid=layout.grid,
        in_specs=[specs(reads)],
        out_specs=[specs(writes)],
        out_shape=[
            {
                kind: tuple(jax.ShapeDtypeStruct(layout.shapes[kind], dtype) for dtype in dtypes)
                for kind, dtypes in writes.items()
            }
        ],
        compiler_params=layout.params,
        interpret=run.interpret,
    )(
        {
            kind: tuple(target.enter(kind, array, layout) for array in arrays)
            for kind, arrays in reads.items()
        }
    )
    return [target.leave(kind, array, size) for kind in writes for array in results[kind]]


# What a step does. States are (channels, modes) or (modes, channels), `modes` is that axis; x, step
# and dy have length one along the modes, B and C along the channels.


def _advance(state, rates, now):
    return jnp.exp(now["step"] * rates) * state + now["step"] * now["x"] * now["B"]


def _forward_steps(state, rates, steps, modes):
    """What is read at each step, and the state after the last."""
    read = []
    for now in steps:
        state = _advance(state, rates, now)
        read.append((now["C"] * state).sum(modes, keepdims=True))
    return read, state


def _backward_steps(state, grad, rates, steps, modes):
    """Gradients of the last step to the first, of the rates, of the state before the first step.

    Args:
        state: before the first step.
        grad: the gradient of the state after the last step.
    """
    states = [state]
    for now in steps[:-1]:
        states.append(_advance(states[-1], rates, now))
    gradients, of_rates = [], jnp.zeros_like(rates)
    for state, now in zip(states[::-1], steps[::-1]):
        x, step, B = now["x"], now["step"], now["B"]
        decay, written = jnp.exp(step * rates), step * x
        decayed = decay * state
        grad = grad + now["dy"] * now["C"]
        through = decayed * grad
        of_written = (B * grad).sum(modes, keepdims=True)
        of_rates += step * through
        gradients.append(
            {
                "x": step * of_written,
                "step": x * of_written + (rates * through).sum(modes, keepdims=True),
                "B": (written * grad).sum(1 - modes, keepdims=True),
                "C": (now["dy"] * (decayed + written * B)).sum(1 - modes, keepdims=True),
            }
        )
        grad = decay * grad
    return gradients, of_rates, grad


def _turned(items, turn: bool) -> list:
    return list(items)[::-1] if turn else list(items)


# GPU: programs are (block of channels, group, clip).


def _gpu_layout(size: Size, run: Run) -> Layout:
    b, t, g, c, n = size
    block = min(pl.next_power_of_2(c), GPU_CHANNELS)
    while block > GPU_FEWEST_CHANNELS and b * g * pl.cdiv(c, block) < GPU_PROGRAMS:
        block //= 2
    blocks, chunks, width = pl.cdiv(c, block), pl.cdiv(t, GPU_CHUNK), pl.next_power_of_2(n)
    return Layout(
        grid=(blocks, g, b),
        shapes={
            "channels": (b, t, g, c, 1),
            "parts": (b, t, g, blocks, 1, n),
            "state": (b, g, c, n),
            "kept": (b, chunks, g, c, n),
        },
        specs={
            "channels": pl.BlockSpec((None, t, None, block, 1), lambda j, g, b: (b, 0, g, j, 0)),
            "modes": pl.BlockSpec((None, t, None, 1, width), lambda j, g, b: (b, 0, g, 0, 0)),
            "parts": pl.BlockSpec(
                (None, t, None, None, 1, width), lambda j, g, b: (b, 0, g, j, 0, 0)
            ),
            "rates": pl.BlockSpec((None, block, width), lambda j, g, b: (g, j, 0)),
            "state": pl.BlockSpec((None, None, block, width), lambda j, g, b: (b, g, j, 0)),
            "kept": pl.BlockSpec(
                (None, chunks, None, block, width), lambda j, g, b: (b, 0, g, j, 0)
            ),
        },
        params=plgpu.CompilerParams(num_warps=max(1, block * width // (32 * GPU_VALUES))),
    )


def _gpu_enter(kind: str, array: Array, layout: Layout) -> Array:
    if kind == "modes":
        return array[..., None, :]
    return array[..., None] if kind == "channels" else array


def _gpu_leave(kind: str, array: Array, size: Size) -> Array:
    if kind == "parts":
        return array.sum(3)[..., 0, :]
    return array[..., 0] if kind == "channels" else array


def _gpu_inside(block: int, width: int, size: Size):
    """Which of a program's channels, (block, 1), and modes, (1, width), there are."""
    channels = pl.program_id(0) * block + lax.broadcasted_iota(jnp.int32, (block, 1), 0)
    return channels < size.c, lax.broadcasted_iota(jnp.int32, (1, width), 1) < size.n


def _gpu_load(ref, mask, dtype, at=...):
    return plgpu.load(ref.at[at], mask=mask, other=0).astype(dtype)


def _gpu_store(ref, array, mask, at=...):
    plgpu.store(ref.at[at], array.astype(ref.dtype), mask=mask)


def _gpu_steps(refs: dict, times: list, end: int, dtype) -> list[dict]:
    """What `refs`, of (reference, mask), hold; steps past the end are zero and change nothing."""
    return [
        {
            name: _gpu_load(ref, mask & (time < end), dtype, time)
            for name, (ref, mask) in refs.items()
        }
        for time in times
    ]


def _gpu_forward(reads, writes, *, size: Size, run: Run):
    (x, step), (rates,), (B, C) = reads["channels"], reads["rates"], reads["modes"]
    (initial,), (y,), (last,) = reads["state"], writes["channels"], writes["state"]
    channels, modes = _gpu_inside(*last.shape, size)
    both, full, chunks = channels & modes, last.dtype, pl.cdiv(size.t, GPU_CHUNK)
    refs = {"x": (x, channels), "step": (step, channels), "B": (B, modes), "C": (C, modes)}
    rates = _gpu_load(rates, both, full)

    def chunk(k, state):
        k = chunks - 1 - k if run.reverse else k
        for kept in writes["kept"]:
            _gpu_store(kept, state, both, k)
        times = _turned([k * GPU_CHUNK + i for i in range(GPU_CHUNK)], run.reverse)
        steps = _gpu_steps(refs, times, size.t, full)
        read, state = _forward_steps(state, rates, steps, modes=1)
        for time, now in zip(times, read):
            _gpu_store(y, now, channels & (time < size.t), time)
        return state

    state = lax.fori_loop(0, chunks, chunk, _gpu_load(initial, both, full))
    _gpu_store(last, state, both)


def _gpu_backward(reads, writes, *, size: Size, run: Run):
    (x, step, dy), (rates,), (B, C) = reads["channels"], reads["rates"], reads["modes"]
    (kept,), (dlast,), (drates, dinitial) = reads["kept"], reads["state"], writes["state"]
    channels, modes = _gpu_inside(*drates.shape, size)
    both, full, chunks = channels & modes, drates.dtype, pl.cdiv(size.t, GPU_CHUNK)
    refs = {"x": (x, channels), "step": (step, channels), "B": (B, modes), "C": (C, modes)}
    refs["dy"] = dy, channels
    targets = {
        "x": (writes["channels"][0], channels),
        "step": (writes["channels"][1], channels),
        "B": (writes["parts"][0], modes),
        "C": (writes["parts"][1], modes),
    }
    rates = _gpu_load(rates, both, full)

    def chunk(k, carry):
        grad, of_rates = carry
        k = chunks - 1 - k if run.reverse else k
        times = _turned([k * GPU_CHUNK + i for i in range(GPU_CHUNK)], run.reverse)
        steps = _gpu_steps(refs, times[::-1], size.t, full)
        state = _gpu_load(kept, both, full, k)
        gradients, here, grad = _backward_steps(state, grad, rates, steps, modes=1)
        for time, now in zip(times, gradients):
            for name, (ref, mask) in targets.items():
                _gpu_store(ref, now[name], mask & (time < size.t), time)
        return grad, of_rates + here

    carry = _gpu_load(dlast, both, full), jnp.zeros(drates.shape, full)
    grad, of_rates = lax.fori_loop(0, chunks, chunk, carry)
    _gpu_store(dinitial, grad, both)
    _gpu_store(drates, of_rates, both)


GPU = Target(_gpu_layout, _gpu_enter, _gpu_leave, _gpu_forward, _gpu_backward)


# TPU: programs are (clip, group, block of channels, 128 steps), these one after the other. The
# blocks of the last state, or of the gradients of initial state and rates, stay in VMEM meanwhile:
# they carry them. Steps and channels are filled up with zeros, which change nothing.


def _tpu_layout(size: Size, run: Run) -> Layout:
    b, t, g, c, n = size
    t, c = pl.cdiv(t, TPU_STEPS) * TPU_STEPS, pl.cdiv(c, LANES) * LANES
    block = 2 * LANES if c % (2 * LANES) == 0 and n <= TPU_FEW_MODES else LANES
    blocks, spans = c // block, t // TPU_STEPS
    along = lambda k: spans - 1 - k if run.reverse else k
    return Layout(
        grid=(b, g, blocks, spans),
        shapes={
            "channels": (b, t, g * c),
            "modes": (b, g, n, t),
            "parts": (b, g, blocks, n, t),
            "rates": (g, n, c),
            "state": (b, g, n, c),
            "kept": (b, t // TPU_CHUNK, g, n, c),
        },
        specs={
            "channels": pl.BlockSpec(
                (None, TPU_STEPS, block), lambda b, g, j, k: (b, along(k), g * blocks + j)
            ),
            "modes": pl.BlockSpec(
                (None, None, n, TPU_STEPS), lambda b, g, j, k: (b, g, 0, along(k))
            ),
            "parts": pl.BlockSpec(
                (None, None, None, n, TPU_STEPS), lambda b, g, j, k: (b, g, j, 0, along(k))
            ),
            "rates": pl.BlockSpec((None, n, block), lambda b, g, j, k: (g, 0, j)),
            "state": pl.BlockSpec((None, None, n, block), lambda b, g, j, k: (b, g, 0, j)),
            "kept": pl.BlockSpec(
                (None, TPU_STEPS // TPU_CHUNK, None, n, block),
                lambda b, g, j, k: (b, along(k), g, 0, j),
            ),
        },
        params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
    )


def _tpu_enter(kind: str, array: Array, layout: Layout) -> Array:
    if kind == "kept":
        return array
    if kind == "channels":
        (_, t, g, c), shape = array.shape, layout.shapes[kind]
        more = ((0, 0), (0, shape[1] - t), (0, 0), (0, shape[2] // g - c))
        return jnp.pad(array, more).reshape(shape)
    array = jnp.moveaxis(array, 1, -1) if kind == "modes" else array.swapaxes(-1, -2)
    more = [(0, 0)] * (array.ndim - 1) + [(0, layout.shapes[kind][-1] - array.shape[-1])]
    return jnp.pad(array, more)


def _tpu_leave(kind: str, array: Array, size: Size) -> Array:
    if kind == "kept":
        return array
    if kind == "channels":
        return array.reshape(*array.shape[:2], size.g, -1)[:, : size.t, :, : size.c]
    if kind == "parts":
        return jnp.moveaxis(array.sum(2), -1, 1)[:, : size.t]
    return array[..., : size.c].swapaxes(-1, -2)


def _tpu_rows(k):
    return pl.ds(pl.multiple_of(k * TPU_CHUNK, TPU_CHUNK), TPU_CHUNK)


def _tpu_store_rows(ref, k, rows: list):
    ref[_tpu_rows(k)] = jnp.concatenate(rows, 0).astype(ref.dtype)


def _tpu_column(shape: tuple[int, int], k, row: int):
    """Which lanes belong to a row of chunk k."""
    return lax.broadcasted_iota(jnp.int32, shape, 1) == k * TPU_CHUNK + row


def _tpu_steps(rows: dict, columns: dict, k, dtype) -> list[dict]:
    """The steps of chunk k: of `rows` (1, channels), of `columns` (modes, 1)."""
    rows = {name: ref[_tpu_rows(k)].astype(dtype) for name, ref in rows.items()}
    columns = {name: ref[...].astype(dtype) for name, ref in columns.items()}
    return [
        {name: array[row : row + 1] for name, array in rows.items()}
        | {
            name: jnp.where(_tpu_column(array.shape, k, row), array, 0).sum(1, keepdims=True)
            for name, array in columns.items()
        }
        for row in range(TPU_CHUNK)
    ]


def _tpu_forward(reads, writes, *, size: Size, run: Run):
    (x, step), (rates,), (B, C) = reads["channels"], reads["rates"], reads["modes"]
    (initial,), (y,), (last,) = reads["state"], writes["channels"], writes["state"]

    @pl.when(pl.program_id(3) == 0)
    def _():
        last[...] = initial[...]

    rates, chunks = rates[...], TPU_STEPS // TPU_CHUNK

    def chunk(k, state):
        k = chunks - 1 - k if run.reverse else k
        for kept in writes["kept"]:
            kept[k] = state
        steps = _tpu_steps({"x": x, "step": step}, {"B": B, "C": C}, k, last.dtype)
        read, state = _forward_steps(state, rates, _turned(steps, run.reverse), modes=0)
        _tpu_store_rows(y, k, _turned(read, run.reverse))
        return state

    last[...] = lax.fori_loop(0, chunks, chunk, last[...])


def _tpu_backward(reads, writes, *, size: Size, run: Run):
    (x, step, dy), (rates,), (B, C) = reads["channels"], reads["rates"], reads["modes"]
    (kept,), (dlast,), (dx, dstep) = reads["kept"], reads["state"], writes["channels"]
    (dB, dC), (drates, dinitial) = writes["parts"], writes["state"]

    @pl.when(pl.program_id(3) == 0)
    def _():
        drates[...] = jnp.zeros(drates.shape, drates.dtype)
        dinitial[...] = dlast[...]

    rates, chunks = rates[...], TPU_STEPS // TPU_CHUNK

    def chunk(k, carry):
        grad, of_rates, of_B, of_C = carry
        k = chunks - 1 - k if run.reverse else k
        steps = _tpu_steps({"x": x, "step": step, "dy": dy}, {"B": B, "C": C}, k, drates.dtype)
        steps = _turned(steps, not run.reverse)
        gradients, here, grad = _backward_steps(kept[k], grad, rates, steps, modes=0)
        gradients = _turned(gradients, run.reverse)
        _tpu_store_rows(dx, k, [now["x"] for now in gradients])
        _tpu_store_rows(dstep, k, [now["step"] for now in gradients])
        for row, now in enumerate(gradients):
            column = _tpu_column(of_B.shape, k, row)
            of_B, of_C = jnp.where(column, now["B"], of_B), jnp.where(column, now["C"], of_C)
        return grad, of_rates + here, of_B, of_C

    none = jnp.zeros(dB.shape, dB.dtype)
    carry = lax.fori_loop(0, chunks, chunk, (dinitial[...], drates[...], none, none))
    dinitial[...], drates[...], dB[...], dC[...] = carry


TPU = Target(_tpu_layout, _tpu_enter, _tpu_leave, _tpu_forward, _tpu_backward)
