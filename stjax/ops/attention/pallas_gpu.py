"""Block-sparse flash attention for NVIDIA GPUs: three Triton kernels, written in Pallas.

A mask is cut into blocks of queries by keys. A program owns one line of that table and walks the
blocks of it that hold a visible pair, so time and memory traffic go with what is visible; neither
the logits nor the mask ever exist as a matrix.

Since JAX 0.11 Pallas warns that its Triton backend will be removed some day.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from stjax.ops.attention.masks import EMPTY, FULL, PARTIAL, Mask


class Launch(NamedTuple):
    """How a kernel runs: a program holds one block and takes the others `step` positions at a time.

    The forward pass and the queries' gradient hold queries and step over keys, the gradient of
    keys and values holds keys and steps over queries.
    """

    step: int
    num_warps: int
    num_stages: int


def block_sparse_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask,
    *,
    scale: float,
    block_q: int = 128,
    block_k: int = 128,
    forward: Launch | None = None,
    backward: Launch | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """Softmax attention over the pairs that `mask` lets see each other, and its normaliser.

        y_i = sum_j exp(scale q_i.k_j - lse_i) v_j,   lse_i = log sum_j exp(scale q_i.k_j)

    with j over the keys that query i sees. Both results are differentiable; attentions over
    different keys are merged by their lse. Products are taken in the inputs' dtype and summed in
    float32 (of float32 inputs by the tensor cores' TF32, unless jax.default_matmul_precision says
    otherwise).

    Args:
        q: queries.
        k: keys; each of the g heads serves h / g consecutive heads of the queries.
        v: values.
        mask: frozen; `visible(query, key)` is elementwise on integer arrays, and
            `blocks(queries, keys, block_q, block_k)` says of each block whether none, some or all
            of its pairs are visible (0, 1, 2). `visible` is asked about blocks with some alone:
            within the kernel if it computes, ahead of time if it looks up an array.
        scale: what logits are multiplied by.
        block_q, block_k: positions to a block of the mask, powers of two from 16 on. 128 suits
            heads of up to 256 bytes, 64 those of 512.
        forward, backward: how the kernels run; None goes by the width of the heads.
        interpret: run as ordinary JAX, on any backend.

    Returns:
        y, in the inputs' dtype, and lse, in float32. A query that sees nothing gets zeros and
        -infinity. Lengths that blocks do not divide and widths that are no powers of two are
        padded, which copies the arrays.

    Raises:
        ValueError: a shape that does not fit, a block or a step that is no power of two from 16 on.

    Source: FlashAttention-2 (Dao 2023, arXiv 2307.08691), algorithms 1 and 2; the gradient through
    lse puts D_i - dlse_i in the place of their D_i.
    """
    _check(q, k, v)
    (queries, width), (keys, value_width) = q.shape[1::2], v.shape[1::2]
    block_q = min(_power("block_q", block_q), _next_power(queries))
    block_k = min(_power("block_k", block_k), _next_power(keys))
    # A few steps in flight fit an H100's shared memory beside what is held, and nothing spills.
    row = _next_power(max(width, value_width)) * q.dtype.itemsize
    forward = forward or Launch(max(16, min(64, 2**14 // row)), num_warps=8, num_stages=3)
    backward = backward or Launch(max(16, min(64, 2**13 // row)), num_warps=8, num_stages=3)
    forward = forward._replace(step=min(_power("forward", forward.step), block_k))
    backward = backward._replace(step=min(_power("backward", backward.step), block_q, block_k))
    problem = _Problem(mask, scale, queries, keys, block_q, block_k, forward, backward, interpret)
    q, k, v = _padded(q, block_q), _padded(k, block_k), _padded(v, block_k)
    y, lse = _attention(q, k, v, problem)
    return y[:, :queries, :, :value_width], lse[:, :queries]


@dataclasses.dataclass(frozen=True)
class _Problem:
    """All that is known when the kernels are compiled."""

    mask: Mask
    scale: float
    queries: int
    keys: int
    block_q: int
    block_k: int
    forward: Launch
    backward: Launch
    interpret: bool

    def seen(self, query, key):
        """Elementwise, within a kernel or ahead of it; keys that fill up a block are not seen."""
        seen = self.mask.visible(query, key)
        return seen & (key < self.keys) if self.keys % self.block_k else seen

    def looks_up(self) -> bool:
        """Whether the mask looks up an array, which a kernel cannot do."""
        query, key = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((16, 1), (1, 16)))
        return any(np.ndim(const) for const in jax.make_jaxpr(self.mask.visible)(query, key).consts)

    def options(self, kernel: str, launch: Launch) -> dict[str, Any]:
        """What `pallas_call` is told of how to run a kernel."""
        return {
            # Triton by name: for CUDA, Pallas would take Mosaic.
            "compiler_params": triton.CompilerParams(
                num_warps=launch.num_warps, num_stages=launch.num_stages
            ),
            "interpret": self.interpret,
            "name": f"block_sparse_attention_{kernel}",
        }


class _Lines(NamedTuple):
    """The blocks to walk, line after line, and within a line the full ones first.

    `bounds[line]` says where in `others` the line starts, its partial blocks start and it ends;
    `others[entry]` is the block's place in the line. Of masks that look up an array, the block of
    an entry is `tiles[tile[entry]]`, (queries, keys), nonzero where visible.
    """

    bounds: Int[np.ndarray, "lines 3"]
    others: Int[np.ndarray, "entries"]
    tile: Int[np.ndarray, "entries"] | None
    tiles: Int[np.ndarray, "tiles block_q block_k"] | None


@functools.lru_cache(maxsize=64)
def _lines(problem: _Problem) -> tuple[_Lines, _Lines, bool, bool]:
    """The table's rows, its columns, and whether it has full and partial blocks at all."""
    blocks = np.array(
        problem.mask.blocks(problem.queries, problem.keys, problem.block_q, problem.block_k)
    )
    if problem.keys % problem.block_k:
        blocks[:, -1] = np.minimum(blocks[:, -1], PARTIAL)
    has_full, has_partial = ((blocks == kind).any() for kind in (FULL, PARTIAL))
    tile = tiles = None
    if has_partial and problem.looks_up():
        tile, tiles = _tiles(problem, blocks)
    rows = _compressed(blocks, tile, tiles)
    columns = _compressed(blocks.T, None if tile is None else tile.T, tiles)
    return rows, columns, has_full, has_partial


def _compressed(blocks, tile, tiles) -> _Lines:
    order = np.argsort(FULL - blocks.astype(np.int32), axis=1, kind="stable")
    full, listed = (np.sum(blocks >= kind, axis=1) for kind in (FULL, PARTIAL))
    start = np.cumsum(listed) - listed
    taken = np.take_along_axis(blocks, order, 1) != EMPTY
    # A kernel takes no empty array, even if it never looks at it.
    entries = lambda values: np.append(values[taken], 0).astype(np.int32)
    return _Lines(
        np.stack([start, start + full, start + listed], 1).astype(np.int32),
        entries(order),
        None if tile is None else entries(np.take_along_axis(tile, order, 1)),
        tiles,
    )


def _tiles(problem, blocks):
    """Which of the different partial blocks each block is, and those, looked up ahead of time."""
    tile, different = np.zeros(blocks.shape, np.int32), {}
    shape = problem.block_q, problem.block_k
    for row, column in np.argwhere(blocks == PARTIAL):
        query = row * problem.block_q + np.arange(problem.block_q)[:, None]
        key = column * problem.block_k + np.arange(problem.block_k)
        # What fills up a block may lie beyond what is looked up.
        inside = np.minimum(query, problem.queries - 1), np.minimum(key, problem.keys - 1)
        seen = problem.mask.visible(*inside) & (key < problem.keys)
        seen = np.broadcast_to(seen, shape).astype(np.int8)
        tile[row, column] = different.setdefault(seen.tobytes(), len(different))
    return tile, np.frombuffer(b"".join(different), np.int8).reshape(-1, *shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q, k, v, problem):
    batch, queries, heads, _ = q.shape
    lines, _, *kinds = _lines(problem)
    y, lse = pl.pallas_call(
        functools.partial(_forward_kernel, problem=problem, kinds=kinds),
        grid=(len(lines.bounds), heads, batch),
        in_specs=[_lists(lines), _held(q, problem.block_q), _walked(k, heads), _walked(v, heads)],
        out_specs=[
            _held(v, problem.block_q),
            pl.BlockSpec((None, None, problem.block_q), lambda line, head, b: (b, head, line)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, queries, heads, v.shape[3]), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, queries), _sums(q)),
        ],
        **problem.options("forward", problem.forward),
    )(lines, q, k, v)
    return y, lse.transpose(0, 2, 1)


def _attention_fwd(q, k, v, problem):
    y, lse = _attention(q, k, v, problem)
    return (y, lse), (q, k, v, y, lse)


def _attention_bwd(problem, saved, cotangents):
    q, k, v, y, lse = saved
    dy, dlse = cotangents
    blind = lse == -jnp.inf
    delta = jnp.sum(dy.astype(lse.dtype) * y.astype(lse.dtype), axis=-1) - dlse
    delta = jnp.where(blind, 0, delta).transpose(0, 2, 1)
    # A query that sees nothing then has weights exp2(logits - infinity) = 0 everywhere.
    lse = jnp.where(blind, jnp.inf, lse * math.log2(math.e)).transpose(0, 2, 1)
    arguments = q, k, v, dy, lse, delta
    return _query_gradient(*arguments, problem), *_key_gradients(*arguments, problem)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _query_gradient(q, k, v, dy, lse, delta, problem):
    batch, _, heads, _ = q.shape
    lines, _, *kinds = _lines(problem)
    row = pl.BlockSpec((None, None, problem.block_q), lambda line, head, b: (b, head, line))
    return pl.pallas_call(
        functools.partial(_query_gradient_kernel, problem=problem, kinds=kinds),
        grid=(len(lines.bounds), heads, batch),
        in_specs=[
            _lists(lines),
            _held(q, problem.block_q),
            _walked(k, heads),
            _walked(v, heads),
            _held(dy, problem.block_q),
            row,
            row,
        ],
        out_specs=_held(q, problem.block_q),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        **problem.options("query_gradient", problem.backward),
    )(lines, q, k, v, dy, lse, delta)


def _key_gradients(q, k, v, dy, lse, delta, problem):
    batch, queries, heads, _ = q.shape
    group = heads // k.shape[2]
    _, lines, *kinds = _lines(problem)
    served = lambda array: pl.BlockSpec(
        (None, queries, group, array.shape[3]), lambda line, head, b: (b, 0, head, 0)
    )
    rows = pl.BlockSpec((None, group, queries), lambda line, head, b: (b, head, 0))
    return pl.pallas_call(
        functools.partial(_key_gradients_kernel, problem=problem, kinds=kinds),
        grid=(len(lines.bounds), k.shape[2], batch),
        in_specs=[
            _lists(lines),
            served(q),
            _held(k, problem.block_k),
            _held(v, problem.block_k),
            served(dy),
            rows,
            rows,
        ],
        out_specs=[_held(k, problem.block_k), _held(v, problem.block_k)],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (k, v)],
        **problem.options("key_gradients", problem.backward),
    )(lines, q, k, v, dy, lse, delta)


def _held(array, block):
    """A program's own block of positions, of its own head."""
    return pl.BlockSpec(
        (None, block, None, array.shape[3]), lambda line, head, b: (b, line, head, 0)
    )


def _walked(array, heads):
    """All positions, of the head of keys that serves the program's head of queries."""
    group = heads // array.shape[2]
    return pl.BlockSpec(
        (None, array.shape[1], None, array.shape[3]),
        lambda line, head, b: (b, 0, head // group, 0),
    )


def _lists(lines):
    return jax.tree.map(lambda _: pl.BlockSpec(), lines)


def _forward_kernel(lines, q_ref, k_ref, v_ref, y_ref, lse_ref, *, problem, kinds):
    line, q, sums = pl.program_id(0), q_ref[...], lse_ref.dtype

    def body(start, logits_of, carry):
        y, top, total = carry
        keys = pl.ds(start, problem.forward.step)
        logits = logits_of(q, k_ref[keys, :])
        higher = jnp.maximum(top, jnp.max(logits, axis=1))
        base = jnp.where(higher == -jnp.inf, 0, higher)
        weights = jnp.exp2(logits - base[:, None])
        shrink = jnp.exp2(top - base)
        v = v_ref[keys, :]
        y = y * shrink[:, None] + _dot(weights.astype(v.dtype), v)
        return y, higher, total * shrink + jnp.sum(weights, axis=1)

    carry = (
        jnp.zeros(y_ref.shape, sums),
        jnp.full(lse_ref.shape, -jnp.inf, sums),
        jnp.zeros(lse_ref.shape, sums),
    )
    y, top, total = _walk(lines, line, body, carry, problem, problem.forward.step, kinds)
    blind = total == 0
    total = jnp.where(blind, 1, total)
    y_ref[...] = (y / total[:, None]).astype(y_ref.dtype)
    lse_ref[...] = jnp.where(blind, -jnp.inf, top * math.log(2) + jnp.log(total))


def _query_gradient_kernel(
    lines, q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref, dq_ref, *, problem, kinds
):
    line, q, dy, lse, delta = (
        pl.program_id(0),
        q_ref[...],
        dy_ref[...],
        lse_ref[...],
        delta_ref[...],
    )

    def body(start, logits_of, dq):
        keys = pl.ds(start, problem.backward.step)
        k, v = k_ref[keys, :], v_ref[keys, :]
        weights = jnp.exp2(logits_of(q, k) - lse[:, None])
        dlogits = weights * (_dot(dy, v.T) - delta[:, None])
        return dq + _dot(dlogits.astype(k.dtype), k)

    dq = jnp.zeros(dq_ref.shape, lse.dtype)
    dq = _walk(lines, line, body, dq, problem, problem.backward.step, kinds)
    dq_ref[...] = (dq * problem.scale).astype(dq_ref.dtype)


def _key_gradients_kernel(
    lines, q_ref, k_ref, v_ref, dy_ref, lse_ref, delta_ref, dk_ref, dv_ref, *, problem, kinds
):
    line, k, v = pl.program_id(0), k_ref[...], v_ref[...]

    def add_head(head, carry):
        def body(start, logits_of, carry):
            dk, dv = carry
            queries = pl.ds(start, problem.backward.step)
            q, dy = q_ref[queries, head, :], dy_ref[queries, head, :]
            weights = jnp.exp2(logits_of(k, q) - lse_ref[head, queries][None])
            dv = dv + _dot(weights.astype(dy.dtype), dy)
            dlogits = weights * (_dot(v, dy.T) - delta_ref[head, queries][None])
            return dk + _dot(dlogits.astype(q.dtype), q), dv

        return _walk(lines, line, body, carry, problem, problem.backward.step, kinds, columns=True)

    carry = tuple(jnp.zeros(ref.shape, lse_ref.dtype) for ref in (dk_ref, dv_ref))
    dk, dv = lax.fori_loop(0, q_ref.shape[1], add_head, carry)
    dk_ref[...] = (dk * problem.scale).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)


def _walk(lines, line, body, carry, problem, step, kinds, columns=False):
    """`body(start, logits_of, carry)` for every `step` positions from `start` that are to be seen.

    `logits_of(held, walked)` are their logits to the base 2, (held, walked), -infinity where the
    two do not see each other. A row of the table holds queries, a column keys.
    """
    held_block, block = problem.block_q, problem.block_k
    if columns:
        held_block, block = block, held_block
    steps = block // step

    def at(i, carry, partial):
        entry, first = i // steps, i % steps * step
        start = lines.others[entry] * block + first

        def logits_of(held, walked):
            logits = _dot(held, walked.T) * (problem.scale * math.log2(math.e))
            if not partial:
                return logits
            if lines.tiles is None:
                ours = line * held_block + jnp.arange(held_block, dtype=jnp.int32)[:, None]
                theirs = start + jnp.arange(step, dtype=jnp.int32)[None]
                seen = problem.seen(theirs, ours) if columns else problem.seen(ours, theirs)
            else:
                tile, part = lines.tile[entry], pl.ds(first, step)
                seen = lines.tiles[tile, part, :].T if columns else lines.tiles[tile, :, part]
                seen = seen != 0
            return jnp.where(seen, logits, -jnp.inf)

        return body(start, logits_of, carry)

    start, middle, stop = (lines.bounds[line, i] * steps for i in range(3))
    has_full, has_partial = kinds
    if has_full:
        carry = lax.fori_loop(start, middle, functools.partial(at, partial=False), carry)
    if has_partial:
        carry = lax.fori_loop(middle, stop, functools.partial(at, partial=True), carry)
    return carry


def _dot(a, b):
    return lax.dot(a, b, preferred_element_type=_sums(a))


def _sums(array):
    """What products of the array's dtype are summed in."""
    return jnp.promote_types(array.dtype, jnp.float32)


def _padded(array, block):
    width = array.shape[3]
    return jnp.pad(
        array,
        ((0, 0), (0, -array.shape[1] % block), (0, 0), (0, _next_power(width) - width)),
    )


def _next_power(size):
    """The power of two from `size` on; the tensor cores take no less than 16."""
    return pl.next_power_of_2(max(size, 16))


def _power(name, size):
    if size < 16 or size != pl.next_power_of_2(size):
        raise ValueError(f"{name}: {size} positions instead of a power of two from 16 on")
    return size


def _check(q, k, v):
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim != 4 or 0 in array.shape:
            raise ValueError(f"{name}: {array.shape} instead of (batch, length, heads, width)")
        if array.dtype != q.dtype or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: {array.dtype} is not real, or not the {q.dtype} of q")
    batch, _, heads, width = q.shape
    if k.shape[0] != batch or k.shape[3] != width or heads % k.shape[2]:
        raise ValueError(
            f"k: {k.shape} instead of ({batch}, keys, a divisor of {heads} heads, {width})"
        )
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: {v.shape} instead of {k.shape[:3]} and a width")
