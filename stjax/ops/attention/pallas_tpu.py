"""Block-sparse flash attention for TPUs: JAX's splash attention, told our masks.

Splash attention gives y with its gradients, or y with the log-sum-exp and no gradients, and takes
no query that sees nothing. Here is what makes one function of it, differentiable in both results.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jaxtyping import Array, Bool, Float, UInt8

from stjax.ops.attention.masks import EMPTY, FULL, PARTIAL, Mask

LANES = 128


def block_sparse_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask,
    *,
    scale: float,
    block_q: int = 512,
    block_k: int = 512,
    interpret: bool = False,
) -> tuple[Float[Array, "b n h e"], Float[Array, "b n h"]]:
    """Softmax attention over the pairs that `mask` lets see each other, and its normaliser.

    The same function of the same arguments as in `stjax.ops.attention.pallas_gpu`, but that blocks
    are of a multiple of 128 positions (shorter sequences take smaller ones), and that blocks with
    some visible pairs are worked out ahead of time for every mask, each different one once.

    Where there are gradients, lse is another pass forward, and a gradient through it one more
    forward and one back; XLA drops the passes of an lse that nobody asks for.

    Raises:
        ValueError: a block that is no multiple of 128.
    """
    queries, keys = q.shape[1], k.shape[1]
    block_q, block_k = _block("block_q", block_q, queries), _block("block_k", block_k, keys)
    shown = _Shown(mask, queries, keys, block_q, block_k)
    problem = _Problem(shown, q.shape[2], interpret)
    q = _by_head(q * jnp.asarray(scale, q.dtype), block_q)
    y, lse = _attention(q, _by_head(k, block_k), _by_head(v, block_k), problem)
    y, lse = (array.swapaxes(1, 2)[:, :queries] for array in (y, lse))
    blind = shown.blind[:queries, None]
    return jnp.where(blind[..., None], 0, y), jnp.where(blind, -jnp.inf, lse)


@dataclasses.dataclass(frozen=True)
class _Shown(splash.Mask):
    """A mask as splash attention asks for it: block by block, of lengths that blocks divide.

    Queries that see nothing, and those that fill up a block, are shown the first key, because a
    softmax over nothing is NaN.
    """

    mask: Mask
    queries: int
    keys: int
    block_q: int
    block_k: int

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.kinds.shape
        return rows * self.block_q, columns * self.block_k

    @functools.cached_property
    def kinds(self) -> UInt8[np.ndarray, "rows columns"]:
        kinds = np.array(self.mask.blocks(self.queries, self.keys, self.block_q, self.block_k))
        if self.keys % self.block_k:
            kinds[:, -1] = np.minimum(kinds[:, -1], PARTIAL)
        return kinds

    @functools.cached_property
    def blind(self) -> Bool[np.ndarray, "queries"]:
        """Which queries see nothing."""
        sees = np.zeros((len(self.kinds), self.block_q), bool)
        for row, column in np.argwhere(self.kinds != EMPTY):
            sees[row] |= self._seen(row, column).any(1)
        return ~sees.ravel()

    def __getitem__(self, at: tuple[slice, slice]) -> Bool[np.ndarray, "block_q block_k"]:
        rows, columns = at
        seen = self._seen(rows.start // self.block_q, columns.start // self.block_k)
        if columns.start == 0:
            seen[:, 0] |= self.blind[rows]
        return seen

    def _seen(self, row, column):
        kind = self.kinds[row, column]
        if kind != PARTIAL:
            return np.full((self.block_q, self.block_k), kind == FULL)
        query = row * self.block_q + np.arange(self.block_q)[:, None]
        key = column * self.block_k + np.arange(self.block_k)
        # What fills up a block may lie beyond what the mask knows.
        seen = self.mask.visible(
            np.minimum(query, self.queries - 1), np.minimum(key, self.keys - 1)
        )
        return seen & (query < self.queries) & (key < self.keys)


@dataclasses.dataclass(frozen=True)
class _Problem:
    shown: _Shown
    heads: int
    interpret: bool

    def kernel(self, save_residuals: bool = False):
        """Attention of arrays (b, heads, length, width): y, or y and (lse,) without gradients."""
        rows, columns = self.shown.block_q, self.shown.block_k
        sizes = splash.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        )
        return jax.vmap(
            splash.make_splash_mha_single_device(
                splash.MultiHeadMask([self.shown] * self.heads),
                block_sizes=sizes,
                save_residuals=save_residuals,
                interpret=self.interpret,
            )
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q, k, v, problem):
    y, (lse,) = problem.kernel(save_residuals=True)(q, k, v)
    return y, lse


def _attention_fwd(q, k, v, problem):
    q, k, v = (argument.value for argument in (q, k, v))
    y, y_back = jax.vjp(problem.kernel(), q, k, v)
    # What y_back keeps of it is not to be had from outside.
    _, lse = _attention(q, k, v, problem)
    return (y, lse), (q, k, y_back)


def _attention_bwd(problem, saved, cotangents):
    q, k, y_back = saved
    dy, dlse = cotangents
    if isinstance(dy, SymbolicZero):
        dy = jnp.zeros(dy.shape, dy.dtype)
    dq, dk, dv = y_back(dy)
    if not isinstance(dlse, SymbolicZero):
        # With the weights p: dq_i = dlse_i sum_j p_ij k_j, dk_j = sum_i p_ij dlse_i q_i, which are
        # attention to the keys as values, and the gradient of those values where dlse_i q_i is y's.
        dlse = dlse[..., None]
        keys, keys_back = jax.vjp(lambda values: problem.kernel()(q, k, values), k)
        dq = dq + (dlse * keys).astype(q.dtype)
        dk = dk + keys_back((dlse * q).astype(keys.dtype))[0]
    return dq, dk, dv


_attention.defvjp(_attention_fwd, _attention_bwd, symbolic_zeros=True)


def _by_head(array, block):
    """(b, heads, length, width), filled up to whole blocks."""
    array = array.swapaxes(1, 2)
    return jnp.pad(array, ((0, 0), (0, 0), (0, -array.shape[2] % block), (0, 0)))


def _block(name, block, length):
    if block < 1 or block % LANES:
        raise ValueError(f"{name}: {block} positions instead of a multiple of {LANES}")
    return min(block, length + -length % LANES)
