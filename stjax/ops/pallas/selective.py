"""Mamba's selective scan (S6) as one kernel: discretisation, scan and read-out together.

    h_t = exp(step_t rates) h_{t-1} + step_t x_t B_t,    y_t = <C_t, h_t>,

for every channel a state h of n modes (Gu and Dao, Mamba, arXiv 2312.00752, section 3). The states
stay in registers. For the gradient one state in CHUNK is kept, n / CHUNK times the size of x; a
second kernel goes back over the chunks, takes the steps of each again from its kept state, and
gathers the gradients on the way.

A GPU's program walks all of time for one clip and a block of channels; its state is (channels,
modes), so that sums over modes stay within a warp. A TPU's program takes 128 steps; its state is
(modes, channels), so that channels are lanes, and is handed to the next program in VMEM. What a
step does is the same code for both.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float

# Steps between states that are kept for the gradient: few enough to hold their states in registers.
CHUNK = 16
# GPU. 32 channels a program, halved down to 8 until there are 512 programs; four values of the
# state to a thread.
GPU_CHANNELS, GPU_FEWEST_CHANNELS, GPU_PROGRAMS, GPU_VALUES = 32, 8, 512, 4
# TPU. Steps lie along lanes in B and C: 128 to a block. 256 channels where they divide.
TPU_STEPS, LANES = 128, 128



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

    "channels" (b t g c), "modes" (b t g n), "partial" the same but for each block of channels,
    "rates" (g c n), "state" (b g c n), "kept" (b chunks g c n); their axes as the target wants them.
    """

    grid: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    specs: dict[str, pl.BlockSpec]
    params: pltpu.CompilerParams | plgpu.CompilerParams


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

    The state is kept in float32 at least. Differentiable once, in reverse mode.

    Args:
        x: inputs.
        step: lengths of the steps, positive.
        rates: of decay, negative: the diagonal of A.
        B: what each step writes; d / g neighbouring channels share a group's.
        C: what each step reads.
        initial: the state before the first step.
        reverse: run from the last step to the first.
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
    y, last, *kept = _call(
        _gpu_forward if run.target == "gpu" else _tpu_forward,
        Size(*x.shape, B.shape[-1]),
        run,
        {
            "channels": (x, step),
            "rates": (rates.astype(full),),
            "modes": (B, C),
            "state": (initial.astype(full),),
        },
        {"channels": (x.dtype,), "state": (full,), "kept": (full,) * keep},
    )
    return y, last.astype(initial.dtype), *kept


def _scan_backward(run, residuals, cotangents):
    *arguments, kept = residuals
    x, step, rates, B, C, initial = arguments
    dy, dlast = cotangents
    full = kept.dtype
    dx, dstep, dB, dC, drates, dinitial = _call(
        _gpu_backward if run.target == "gpu" else _tpu_backward,
        Size(*x.shape, B.shape[-1]),
        run._replace(reverse=not run.reverse),
        {
            "channels": (x, step, dy),
            "rates": (rates.astype(full),),
            "modes": (B, C),
            "kept": (kept,),
            "state": (dlast.astype(full),),
        },
        {"channels": (x.dtype, step.dtype), "partial": (full, full), "state": (full, full)},
    )
    gradients = dx, dstep, drates.sum(0), dB, dC, dinitial
    return tuple(ours.astype(array.dtype) for ours, array in zip(gradients, arguments))


_scan.defvjp(_scan_forward, _scan_backward)


def _call(kernel, size: Size, run: Run, inputs: dict, outputs: dict) -> list[Array]:
    """The outputs' arrays of `kernel(inputs, outputs, ...)`, one after the other."""
    lay_out, enter, leave = (
        (_gpu_layout, _gpu_enter, _gpu_leave)
        if run.target == "gpu"
        else (_tpu_layout, _tpu_enter, _tpu_leave)
    )
    layout = lay_out(size, run)

    def spec(kind, arrays):
        return (layout.specs[kind],) * len(arrays)

    (results,) = pl.pallas_call(
        functools.partial(kernel, size=size, run=run),
        grid=layout.grid,
        in_specs=[{kind: spec(kind, arrays) for kind, arrays in inputs.items()}],
        out_specs=[{kind: spec(kind, dtypes) for kind, dtypes in outputs.items()}],
        out_shape=[
            {
                kind: tuple(jax.ShapeDtypeStruct(layout.shapes[kind], dtype) for dtype in dtypes)
                for kind, dtypes in outputs.items()
            }
        ],
        compiler_params=layout.params,
        interpret=run.interpret,
    )({kind: tuple(enter(kind, array, layout) for array in arrays) for kind, arrays in inputs.items()})
    return [
        leave(kind, array, size) for kind in outputs for array in results[kind]
    ]


# What a step does. States are (channels, modes) or (modes, channels), `modes` is that axis; x, step
# and dy have length one along the modes, B and C along the channels.


def _advance(state, rates, now):
    return jnp.exp(now["step"] * rates) * state + now["step"] * now["x"] * now["B"]


def _forward_steps(state, rates, steps, modes):
    """The read-outs of all steps, and the state after the last."""
    y = []
    for now in steps:
        state = _advance(state, rates, now)
        y.append((now["C"] * state).sum(modes, keepdims=True))
    return y, state


def _backward_steps(state, grad, rates, steps, modes):
    """Gradients of all steps, of the rates, and of the state before the first step.

    Args:
        state: before the first step.
        grad: the gradient of the state after the last step.
    """
    before = [state]
    for now in steps[:-1]:
        before.append(_advance(before[-1], rates, now))
    gradients, of_rates = [], jnp.zeros_like(rates)
    for state, now in zip(before[::-1], steps[::-1]):
        x, step = now["x"], now["step"]
        decay = jnp.exp(step * rates)
        decayed = decay * state
        written = step * x
        grad = grad + now["dy"] * now["C"]
        through = decayed * grad
        of_written = (now["B"] * grad).sum(modes, keepdims=True)
        of_rates += step * through
        gradients.append(
            {
                "x": step * of_written,
                "step": x * of_written + (rates * through).sum(modes, keepdims=True),
                "B": (written * grad).sum(1 - modes, keepdims=True),
                "C": (now["dy"] * (decayed + written * now["B"])).sum(1 - modes, keepdims=True),
            }
        )
        grad = decay * grad
    return gradients[::-1], of_rates, grad


def _times(first, descending: bool) -> list:
    """The steps of a chunk in the order in which they are taken."""
    times = [first + k for k in range(CHUNK)]
    return times[::-1] if descending else times


# GPU: programs are (block of channels, group, clip).


def _gpu_layout(size: Size, run: Run) -> Layout:
    b, t, g, c, n = size
    block = min(pl.next_power_of_2(c), GPU_CHANNELS)
    while block > GPU_FEWEST_CHANNELS and b * g * pl.cdiv(c, block) < GPU_PROGRAMS:
        block //= 2
    blocks, chunks, width = pl.cdiv(c, block), pl.cdiv(t, CHUNK), pl.next_power_of_2(n)
    return Layout(
        grid=(blocks, g, b),
        shapes={
            "channels": (b, t, g, c, 1),
            "partial": (b, t, g, blocks, 1, n),
            "state": (b, g, c, n),
            "kept": (b, chunks, g, c, n),
        },
        specs={
            "channels": pl.BlockSpec((None, t, None, block, 1), lambda j, g, b: (b, 0, g, j, 0)),
            "modes": pl.BlockSpec((None, t, None, 1, width), lambda j, g, b: (b, 0, g, 0, 0)),
            "partial": pl.BlockSpec(
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


def _gpu_enter(kind, array, layout):
    if kind == "modes":
        return array[..., None, :]
    return array[..., None] if kind == "channels" else array


def _gpu_leave(kind, array, size):
    if kind == "partial":
        return array.sum(3)[..., 0, :]
    return array[..., 0] if kind == "channels" else array


def _gpu_inside(block: int, width: int, size: Size):
    """Which of a program's channels, (block, 1), and modes, (1, width), there are."""
    channels = pl.program_id(0) * block + lax.broadcasted_iota(jnp.int32, (block, 1), 0) < size.c
    return channels, lax.broadcasted_iota(jnp.int32, (1, width), 1) < size.n


def _gpu_load(ref, mask, dtype, at=...):
    return plgpu.load(ref.at[at], mask=mask, other=0).astype(dtype)


def _gpu_store(ref, array, mask, at=...):
    plgpu.store(ref.at[at], array.astype(ref.dtype), mask=mask)


def _gpu_forward(inputs, outputs, *, size: Size, run: Run):
    (x, step), (rates,), (B, C) = inputs["channels"], inputs["rates"], inputs["modes"]
    (initial,), (y,), (last,) = inputs["state"], outputs["channels"], outputs["state"]
    channels, modes = _gpu_inside(*last.shape, size)
    load = functools.partial(_gpu_load, dtype=last.dtype)
    rates = load(rates, channels & modes)
    chunks = pl.cdiv(size.t, CHUNK)

    def chunk(k, state):
        k = chunks - 1 - k if run.reverse else k
        for kept in outputs["kept"]:
            _gpu_store(kept, state, channels & modes, k)
        times = _times(k * CHUNK, run.reverse)
        # Steps past the end are of length zero: they change nothing.
        steps = [
            {
                "x": load(x, channels & (time < size.t), at=time),
                "step": load(step, channels & (time < size.t), at=time),
                "B": load(B, modes & (time < size.t), at=time),
                "C": load(C, modes & (time < size.t), at=time),
            }
            for time in times
        ]
        read, state = _forward_steps(state, rates, steps, modes=1)
        for time, now in zip(times, read):
            _gpu_store(y, now, channels & (time < size.t), time)
        return state

    state = lax.fori_loop(0, chunks, chunk, load(initial, channels & modes))
    _gpu_store(last, state, channels & modes)


def _gpu_backward(inputs, outputs, *, size: Size, run: Run):
    (x, step, dy), (rates,), (B, C) = inputs["channels"], inputs["rates"], inputs["modes"]
    (kept,), (dlast,), (dx, dstep) = inputs["kept"], inputs["state"], outputs["channels"]
    (dB, dC), (drates, dinitial) = outputs["partial"], outputs["state"]
    channels, modes = _gpu_inside(*drates.shape, size)
    load = functools.partial(_gpu_load, dtype=drates.dtype)
    rates = load(rates, channels & modes)
    chunks = pl.cdiv(size.t, CHUNK)

    def chunk(k, carry):
        grad, of_rates = carry
        k = chunks - 1 - k if run.reverse else k
        times = _times(k * CHUNK, not run.reverse)
        steps = [
            {
                "x": load(x, channels & (time < size.t), at=time),
                "step": load(step, channels & (time < size.t), at=time),
                "B": load(B, modes & (time < size.t), at=time),
                "C": load(C, modes & (time < size.t), at=time),
                "dy": load(dy, channels & (time < size.t), at=time),
            }
            for time in times
        ]
        state = load(kept, channels & modes, at=k)
        gradients, here, grad = _backward_steps(state, grad, rates, steps, modes=1)
        for time, now in zip(times, gradients):
            _gpu_store(dx, now["x"], channels & (time < size.t), time)
            _gpu_store(dstep, now["step"], channels & (time < size.t), time)
            _gpu_store(dB, now["B"], modes & (time < size.t), time)
            _gpu_store(dC, now["C"], modes & (time < size.t), time)
        return grad, of_rates + here

    carry = load(dlast, channels & modes), jnp.zeros(drates.shape, drates.dtype)
    grad, of_rates = lax.fori_loop(0, chunks, chunk, carry)
    _gpu_store(dinitial, grad, channels & modes)
    _gpu_store(drates, of_rates, channels & modes)


# TPU: programs are (clip, group, block of channels, 128 steps), these one after the other. The blocks
# of `last`, or of the gradients of state and rates, stay in VMEM meanwhile, and carry them.


def _tpu_layout(size: Size, run: Run) -> Layout:
    b, t, g, c, n = size
    t, c = -(-t // TPU_STEPS) * TPU_STEPS, -(-c // LANES) * LANES
    block = 2 * LANES if c % (2 * LANES) == 0 and n <= 32 else LANES
    blocks, spans = c // block, t // TPU_STEPS
    along = lambda k: spans - 1 - k if run.reverse else k
    return Layout(
        grid=(b, g, blocks, spans),
        shapes={
            "channels": (b, t, g * c),
            "modes": (b, g, n, t),
            "partial": (b, g, blocks, n, t),
            "rates": (g, n, c),
            "state": (b, g, n, c),
            "kept": (b, t // CHUNK, g, n, c),
        },
        specs={
            "channels": pl.BlockSpec(
                (None, TPU_STEPS, block), lambda b, g, j, k: (b, along(k), g * blocks + j)
            ),
            "modes": pl.BlockSpec(
                (None, None, n, TPU_STEPS), lambda b, g, j, k: (b, g, 0, along(k))
            ),
            "partial": pl.BlockSpec(
                (None, None, None, n, TPU_STEPS), lambda b, g, j, k: (b, g, j, 0, along(k))
            ),
            "rates": pl.BlockSpec((None, n, block), lambda b, g, j, k: (g, 0, j)),
            "state": pl.BlockSpec((None, None, n, block), lambda b, g, j, k: (b, g, 0, j)),
            "kept": pl.BlockSpec(
                (None, TPU_STEPS // CHUNK, None, n, block),
                lambda b, g, j, k: (b, along(k), g, 0, j),
            ),
        },
        params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
    )


def _tpu_enter(kind, array, layout):
    if kind == "kept":
        return array
    if kind == "channels":
        (b, t, g, c), (_, steps, channels) = array.shape, layout.shapes[kind]
        array = jnp.pad(array, ((0, 0), (0, steps - t), (0, 0), (0, channels // g - c)))
        return array.reshape(layout.shapes[kind])
    # (b t g n) -> (b g n t), (... c n) -> (... n c)
    array = jnp.moveaxis(array, 1, -1) if kind == "modes" else array.swapaxes(-1, -2)
    missing = layout.shapes[kind][-1] - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])


def _tpu_leave(kind, array, size):
    b, t, g, c, n = size
    if kind == "channels":
        return array.reshape(*array.shape[:2], g, -1)[:, :t, :, :c]
    if kind == "partial":
        return jnp.moveaxis(array.sum(2), -1, 1)[:, :t]
    return array if kind == "kept" else array[..., :c].swapaxes(-1, -2)


def _tpu_steps(k, descending: bool, rows: dict, columns: dict, dtype):
    """The steps of chunk k of a program: rows (1, channels), columns (modes, 1)."""
    rows = {name: ref[_tpu_rows(k)].astype(dtype) for name, ref in rows.items()}
    columns = {name: ref[...].astype(dtype) for name, ref in columns.items()}
    steps = []
    for row in _times(0, descending):
        now = {name: array[row : row + 1] for name, array in rows.items()}
        for name, array in columns.items():
            here = lax.broadcasted_iota(jnp.int32, array.shape, 1) == k * CHUNK + row
            now[name] = jnp.where(here, array, 0).sum(1, keepdims=True)
        steps.append(now)
    return steps


def _tpu_rows(k):
    return pl.ds(pl.multiple_of(k * CHUNK, CHUNK), CHUNK)


def _tpu_store_rows(ref, k, rows, descending: bool):
    rows = rows[::-1] if descending else rows
    ref[_tpu_rows(k)] = jnp.concatenate(rows, 0).astype(ref.dtype)


def _tpu_forward(inputs, outputs, *, size: Size, run: Run):
    (x, step), (rates,), (B, C) = inputs["channels"], inputs["rates"], inputs["modes"]
    (initial,), (y,), (last,) = inputs["state"], outputs["channels"], outputs["state"]

    @pl.when(pl.program_id(3) == 0)
    def _():
        last[...] = initial[...]

    rates, chunks = rates[...], TPU_STEPS // CHUNK

    def chunk(k, state):
        k = chunks - 1 - k if run.reverse else k
        for kept in outputs["kept"]:
            kept[k] = state
        steps = _tpu_steps(k, run.reverse, {"x": x, "step": step}, {"B": B, "C": C}, last.dtype)
        read, state = _forward_steps(state, rates, steps, modes=0)
        _tpu_store_rows(y, k, read, run.reverse)
        return state

    last[...] = lax.fori_loop(0, chunks, chunk, last[...])


def _tpu_backward(inputs, outputs, *, size: Size, run: Run):
    (x, step, dy), (rates,), (B, C) = inputs["channels"], inputs["rates"], inputs["modes"]
    (kept,), (dlast,), (dx, dstep) = inputs["kept"], inputs["state"], outputs["channels"]
    (dB, dC), (drates, dinitial) = outputs["partial"], outputs["state"]

    @pl.when(pl.program_id(3) == 0)
    def _():
        drates[...] = jnp.zeros(drates.shape, drates.dtype)
        dinitial[...] = dlast[...]

    rates, chunks, forward = rates[...], TPU_STEPS // CHUNK, not run.reverse

    def chunk(k, carry):
        grad, of_rates, of_B, of_C = carry
        k = chunks - 1 - k if run.reverse else k
        rows = {"x": x, "step": step, "dy": dy}
        steps = _tpu_steps(k, forward, rows, {"B": B, "C": C}, drates.dtype)
        gradients, here, grad = _backward_steps(kept[k], grad, rates, steps, modes=0)
        _tpu_store_rows(dx, k, [now["x"] for now in gradients], forward)
        _tpu_store_rows(dstep, k, [now["step"] for now in gradients], forward)
        for row, now in zip(_times(k * CHUNK, forward), gradients):
            lane = lax.broadcasted_iota(jnp.int32, of_B.shape, 1) == row
            of_B, of_C = of_B + jnp.where(lane, now["B"], 0), of_C + jnp.where(lane, now["C"], 0)
        return grad, of_rates + here, of_B, of_C

    none = jnp.zeros(dB.shape, dB.dtype)
    carry = lax.fori_loop(0, chunks, chunk, (dinitial[...], drates[...], none, none))
    dinitial[...], drates[...], dB[...], dC[...] = carry
