"""Attention block by block with an online softmax: memory linear in length, cost as the mask's.

Only blocks of (query, key) pairs that the mask leaves are visited. Where they are is known when the
program is built, so one plain loop runs over a list of them, and updates its carry in place.

Milakov and Gimelshein 2018, arXiv 1805.02867 (the softmax); Rabe and Staats 2021, arXiv 2112.05682
(the chunks); Dao et al. 2022, arXiv 2205.14135 (the gradient from the output and its log-sum-exp).

`forward` and `backward` are the plain pieces, for a ring of devices that each hold a part of the
sequence; `attend` is the two with a gradient.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from stjax.ops.attention.masks import EMPTY, FULL, PARTIAL, Mask

Start = int | Int[Array, ""]


def forward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask,
    *,
    bias: Float[Array, "#b #h #n #m"] | None = None,
    key_mask: Bool[Array, "b m"] | None = None,
    scale: float | None = None,
    query_start: Start = 0,
    key_start: Start = 0,
    block: int = 128,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """What `stjax.ops.attention.attention` computes, with its log-sum-exp; no gradient of its own.

    Both come in the dtype of accumulation, float32 (float64 for float64 inputs). With a traced
    start all blocks are visited.
    """
    tiles = _Tiles(q, k, mask, bias, key_mask, scale, query_start, key_start, block)
    queries, values = tiles.cut_queries(q), tiles.cut_keys(v)
    shape = queries.shape[:-1]
    carry = (
        jnp.full(shape, -jnp.inf, tiles.dtype),
        jnp.zeros(shape, tiles.dtype),
        jnp.zeros((*shape, v.shape[-1]), tiles.dtype),
    )

    def visit(carry, i, j, masked):
        scores = tiles.scores(i, j, masked)
        top, total, out = (_take(part, i) for part in carry)
        higher = jnp.maximum(top, scores.max(-1))
        finite = jnp.where(jnp.isfinite(higher), higher, 0)
        weights = jnp.exp(scores - finite[..., None])
        kept = jnp.exp(top - finite)
        seen = tiles.product("bgrqk,bgke->bgrqe", weights.astype(v.dtype), _take(values, j))
        new = higher, kept * total + weights.sum(-1), kept[..., None] * out + seen
        return tuple(_put(part, value, i) for part, value in zip(carry, new))

    top, total, out = tiles.run(visit, carry)
    nothing = total == 0
    total = jnp.where(nothing, 1, total)
    lse = jnp.where(nothing, -jnp.inf, top + jnp.log(total))
    return tiles.join_queries(out / total[..., None]), tiles.join_queries(lse[..., None])[..., 0]


def backward(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    y: Float[Array, "b n h e"],
    lse: Float[Array, "b n h"],
    dy: Float[Array, "b n h e"],
    mask: Mask,
    *,
    dlse: Float[Array, "b n h"] | None = None,
    bias: Float[Array, "#b #h #n #m"] | None = None,
    key_mask: Bool[Array, "b m"] | None = None,
    scale: float | None = None,
    query_start: Start = 0,
    key_start: Start = 0,
    block: int = 128,
) -> tuple[Array, Array, Array, Array | None]:
    """Cotangents of q, k, v and the bias (None where there is none), in the dtype of accumulation.

    The probabilities are computed anew from `lse`. `y` and `lse` may be those over more keys than
    these, as in a ring: the cotangents are then these keys' shares.
    """
    tiles = _Tiles(q, k, mask, bias, key_mask, scale, query_start, key_start, block)
    common = (y.astype(tiles.dtype) * dy.astype(tiles.dtype)).sum(-1)
    common = common if dlse is None else common - dlse.astype(tiles.dtype)
    column = lambda rows, fill=0: tiles.cut_queries(rows[..., None].astype(tiles.dtype), fill)
    # Queries that see nothing, those that only fill up a block too, get the probability 0.
    lse = column(jnp.where(jnp.isneginf(lse), jnp.inf, lse), jnp.inf)
    common, dys, values = column(common), tiles.cut_queries(dy.astype(v.dtype)), tiles.cut_keys(v)
    zeros = lambda array: jnp.zeros(array.shape, tiles.dtype)
    carry = {"q": zeros(tiles.q), "k": zeros(tiles.k), "v": zeros(values)}
    if bias is not None:
        carry["bias"] = zeros(tiles.bias)

    def visit(carry, i, j, masked):
        weights = jnp.exp(tiles.scores(i, j, masked) - _take(lse, i))
        dy, key, query = _take(dys, i), _take(tiles.k, j), _take(tiles.q, i)
        by_weights = tiles.product("bgrqe,bgke->bgrqk", dy, _take(values, j))
        by_scores = weights * (by_weights - _take(common, i))
        low = by_scores.astype(q.dtype)
        carry = carry | {
            "q": _add(carry["q"], tiles.scale * tiles.product("bgrqk,bgkd->bgrqd", low, key), i),
            "k": _add(carry["k"], tiles.scale * tiles.product("bgrqk,bgrqd->bgkd", low, query), j),
            "v": _add(
                carry["v"], tiles.product("bgrqk,bgrqe->bgke", weights.astype(v.dtype), dy), j
            ),
        }
        if bias is not None:
            carry["bias"] = tiles.add_to_bias(carry["bias"], by_scores, i, j)
        return carry

    sums = tiles.run(visit, carry)
    by_bias = tiles.join_bias(sums["bias"], bias.shape) if bias is not None else None
    return (
        tiles.join_queries(sums["q"]),
        tiles.join_keys(sums["k"]),
        tiles.join_keys(sums["v"]),
        by_bias,
    )


def attend(q, k, v, mask, *, bias, key_mask, scale, query_start, key_start, block):
    """`forward` with a gradient, which keeps q, k, v, the output and its log-sum-exp, no more."""
    static = known(query_start, key_start)
    starts = None if static else (jnp.asarray(query_start), jnp.asarray(key_start))
    options = (mask, scale, block, (query_start, key_start) if static else None)
    return _attend(options, q, k, v, bias, key_mask, starts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options, q, k, v, bias, key_mask, starts):
    y, lse = forward(q, k, v, **_keywords(options, bias, key_mask, starts))
    return y.astype(v.dtype), lse


def _attend_forward(options, q, k, v, bias, key_mask, starts):
    y, lse = _attend(options, q, k, v, bias, key_mask, starts)
    return (y, lse), (q, k, v, bias, key_mask, starts, y, lse)


def _attend_backward(options, residuals, cotangents):
    q, k, v, bias, key_mask, starts, y, lse = residuals
    dy, dlse = cotangents
    keywords = _keywords(options, bias, key_mask, starts)
    sums = backward(q, k, v, y, lse, dy, dlse=dlse, **keywords)
    cast = (None if x is None else s.astype(x.dtype) for s, x in zip(sums, (q, k, v, bias)))
    return (*cast, None, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _keywords(options, bias, key_mask, starts):
    mask, scale, block, static = options
    query_start, key_start = starts if static is None else static
    return {
        "mask": mask,
        "bias": bias,
        "key_mask": key_mask,
        "scale": scale,
        "query_start": query_start,
        "key_start": key_start,
        "block": block,
    }


class _Tiles:
    """Queries and keys in blocks, which pairs of blocks are visited, and the scores of a pair.

    A block of queries is (b, g, r, queries, d), r the heads that share one of the g heads of keys;
    a block of keys is (b, g, keys, d). Blocks are stacked on a leading axis.
    """

    def __init__(self, q, k, mask, bias, key_mask, scale, query_start, key_start, block):
        (_, self.queries, heads, width), (_, self.keys, self.groups, _) = q.shape, k.shape
        self.shared = heads // self.groups
        self.block_q, self.block_k = min(block, self.queries), min(block, self.keys)
        self.dtype = jnp.promote_types(q.dtype, jnp.float32)
        self.scale = 1 / math.sqrt(width) if scale is None else scale
        self.mask, self.starts = mask, (query_start, key_start)
        self.q, self.k = self.cut_queries(q), self.cut_keys(k)
        self.bias = None if bias is None else self._cut_bias(bias)
        self.key_mask = None
        if key_mask is not None:
            self.key_mask = self.cut_keys(key_mask[:, :, None, None])

    def run(self, visit, carry):
        """`visit(carry, i, j, masked)` for all pairs of blocks that the mask leaves, in turn."""
        for pairs, masked in zip(self._pairs(), (False, True)):
            if len(pairs):
                step = lambda carry, ij, masked=masked: (visit(carry, *ij, masked), None)
                carry, _ = lax.scan(step, carry, jnp.asarray(pairs, jnp.int32))
        return carry

    def _pairs(self):
        """Blocks that are seen whole, and those that are seen in part."""
        if known(*self.starts):
            table = blocks(
                self.mask, self.queries, self.keys, self.block_q, self.block_k, *self.starts
            )
        else:
            shape = -(-self.queries // self.block_q), -(-self.keys // self.block_k)
            table = np.full(shape, PARTIAL)
        whole, part = table == FULL, table == PARTIAL
        if self.keys % self.block_k:  # the last block is filled up with keys that nobody may see
            whole, part = whole.copy(), table != EMPTY
            whole[:, -1] = False
            part &= ~whole
        return np.argwhere(whole), np.argwhere(part)

    def scores(self, i, j, masked):
        """Logits of one pair of blocks, (b, g, r, queries, keys); -inf where nothing is seen."""
        scores = self.scale * self.product("bgrqd,bgkd->bgrqk", _take(self.q, i), _take(self.k, j))
        if self.bias is not None:
            scores += lax.dynamic_slice(
                self.bias, self._bias_place(i, j), self._bias_shape(self.bias)
            ).astype(self.dtype)
        if masked:
            number = j * self.block_k + jnp.arange(self.block_k)
            query = self.starts[0] + i * self.block_q + jnp.arange(self.block_q)
            seen = self.mask.visible(query[:, None], self.starts[1] + number)
            scores = jnp.where(seen & (number < self.keys), scores, -jnp.inf)
        if self.key_mask is not None:
            seen = _take(self.key_mask, j)[..., 0]
            scores = jnp.where(seen[:, :, None, None], scores, -jnp.inf)
        return scores

    def product(self, pattern, left, right):
        return jnp.einsum(pattern, left, right, preferred_element_type=self.dtype)

    def cut_queries(self, rows, fill=0):
        rows = _cut(rows, self.block_q, fill)
        blocks, b, length, _, width = rows.shape
        rows = rows.reshape(blocks, b, length, self.groups, self.shared, width)
        return rows.transpose(0, 1, 3, 4, 2, 5)

    def join_queries(self, blocks):
        count, b, _, _, length, width = blocks.shape
        rows = blocks.transpose(1, 0, 4, 2, 3, 5).reshape(b, count * length, -1, width)
        return rows[:, : self.queries]

    def cut_keys(self, rows):
        return _cut(rows, self.block_k).swapaxes(2, 3)

    def join_keys(self, blocks):
        count, b, groups, length, width = blocks.shape
        rows = blocks.transpose(1, 0, 3, 2, 4).reshape(b, count * length, groups, width)
        return rows[:, : self.keys]

    def _cut_bias(self, bias):
        """(b, g, r, n, m), filled up to whole blocks; axes of length one stay."""
        b, h, n, m = bias.shape
        fill = [
            (0, -length % block if length > 1 else 0)
            for length, block in zip((n, m), (self.block_q, self.block_k))
        ]
        bias = jnp.pad(bias, ((0, 0), (0, 0), *fill))
        heads = (1, 1) if h == 1 else (self.groups, self.shared)
        return bias.reshape(b, *heads, *bias.shape[2:])

    def join_bias(self, bias, shape):
        return bias[..., : shape[2], : shape[3]].reshape(shape)

    def _bias_shape(self, bias):
        n, m = bias.shape[3:]
        return *bias.shape[:3], self.block_q if n > 1 else 1, self.block_k if m > 1 else 1

    def _bias_place(self, i, j):
        n, m = self.bias.shape[3:]
        zero = jnp.zeros_like(i)
        row = i * self.block_q if n > 1 else zero
        column = j * self.block_k if m > 1 else zero
        return zero, zero, zero, row, column

    def add_to_bias(self, total, scores, i, j):
        place, shape = self._bias_place(i, j), self._bias_shape(total)
        axes = [axis for axis, length in enumerate(shape) if length == 1]
        added = lax.dynamic_slice(total, place, shape) + scores.sum(axes, keepdims=True)
        return lax.dynamic_update_slice(total, added, place)


def known(*starts: Start) -> bool:
    """Whether positions are known while the program is built."""
    return all(isinstance(start, int | np.integer) for start in starts)


@functools.lru_cache(maxsize=64)
def blocks(mask, queries, keys, block_q, block_k, query_start, key_start):
    """`mask.blocks`, remembered: the way forward and the way back ask the same."""
    return mask.blocks(
        queries, keys, block_q, block_k, query_start=query_start, key_start=key_start
    )


def _cut(rows, block, fill=0):
    """(b, length, ...) to (blocks, b, block, ...), the last block filled up."""
    b, length, *rest = rows.shape
    widths = [(0, 0), (0, -length % block)] + [(0, 0)] * len(rest)
    rows = jnp.pad(rows, widths, constant_values=fill)
    return rows.reshape(b, -1, block, *rest).swapaxes(0, 1)


def _take(stack, i):
    return lax.dynamic_index_in_dim(stack, i, keepdims=False)


def _put(stack, value, i):
    return lax.dynamic_update_index_in_dim(stack, value, i, 0)


def _add(stack, value, i):
    return _put(stack, _take(stack, i) + value, i)
