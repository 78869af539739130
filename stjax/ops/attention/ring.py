"""Attention with its tokens cut over devices: keys and values travel round a ring.

Liu, Zaharia, Abbeel: Ring Attention with Blockwise Transformers for Near-Infinite Context, arXiv
2310.01889, section 3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from stjax.ops.attention import chunked
from stjax.ops.attention.masks import EMPTY, Mask
from stjax.ops.attention.parts import merge
from stjax.ops.sequence_parallel import AXIS, check_divides, over_devices


def ring_attention(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g e"],
    mask: Mask,
    *,
    scale: float | None,
    block: int,
) -> Float[Array, "b n h e"]:
    """`attention` with the tokens of q, k and v, of one dtype, cut over the axis "sequence".

    Every device keeps its queries. Keys and values go from device to device, and what each part of
    them gives is merged by its log-sum-exp. They go round once more for the gradient, their own
    gradients with them, so that no device ever holds more than its share. They go no further than
    the mask reaches, and a device passes by the parts of which its queries see nothing. Masks
    speak of positions in the whole sequence.

    Raises:
        ValueError: numbers of tokens that the axis does not divide.
    """
    check_divides("q", q.shape, 1)
    check_divides("k", k.shape, 1)
    return _attend(_Ring(mask, scale, block, jax.sharding.get_abstract_mesh()), q, k, v)


class _Ring(NamedTuple):
    """How the keys travel; the fields of what `attention` does with each part of them."""

    mask: Mask
    scale: float | None
    block: int
    mesh: AbstractMesh

    def over_devices(self, function):
        tokens = PartitionSpec(None, AXIS)
        return over_devices(self.mesh, function, tokens, tokens)

    def travel(self, visit, q, kept, travelling):
        """Runs `visit` on every part of the keys that some device's queries see.

        Args:
            visit: `(kept, travelling, starts) -> (kept, travelling)`; the travelling (k, v, *sums)
                come back with other sums. `starts` are the positions of queries and of keys.

        Returns:
            What was kept, and the sums, each on the device whose keys they are for.
        """
        n, m, size = q.shape[1], travelling[0].shape[1], self.mesh.shape[AXIS]
        rank = lax.axis_index(AXIS)
        table = chunked.blocks(self.mask, size * n, size * m, n, m, 0, 0) != EMPTY
        # At hop s a device has the keys of the one s before it.
        order = (np.arange(size)[:, None] - np.arange(size)) % size
        needed = np.take_along_axis(table, order, 1)
        hops = int(np.flatnonzero(needed.any(0)).max(initial=0)) + 1

        def look(hop, kept, travelling):
            starts = {"query_start": rank * n, "key_start": (rank - hop) % size * m}
            return lax.cond(
                jnp.asarray(needed)[rank, hop],
                lambda *both: visit(*both, starts),
                lambda *both: both,
                kept,
                travelling,
            )

        def step(both, hop):
            kept, travelling = look(hop, *both)
            return (kept, self.send(travelling)), None

        both, _ = lax.scan(step, (kept, travelling), jnp.arange(hops - 1))
        kept, (_, _, *sums) = look(hops - 1, *both)
        return kept, self.send(sums, 1 - hops)

    def send(self, arrays, distance=1):
        size = self.mesh.shape[AXIS]
        pairs = [(k, (k + distance) % size) for k in range(size)]
        return jax.tree.map(lambda x: lax.ppermute(x, AXIS, pairs), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(ring, q, k, v):
    return _forward(ring, q, k, v)[0]


def _forward(ring, q, k, v):
    def local(q, k, v):
        def visit(so_far, keys, starts):
            part = chunked.forward(
                q, *keys, ring.mask, scale=ring.scale, block=ring.block, **starts
            )
            return merge([so_far, part]), keys

        wide = jnp.promote_types(q.dtype, jnp.float32)
        nothing = jnp.zeros((*q.shape[:3], v.shape[3]), wide), jnp.full(q.shape[:3], -jnp.inf, wide)
        (y, lse), _ = ring.travel(visit, q, nothing, (k, v))
        return y.astype(v.dtype), lse

    y, lse = ring.over_devices(local)(q, k, v)
    return y, (q, k, v, y, lse)


def _backward(ring, residuals, dy):
    def local(q, k, v, y, lse, dy):
        def visit(by_q, keys, starts):
            k, v, by_k, by_v = keys
            more_q, more_k, more_v, _ = chunked.backward(
                q, k, v, y, lse, dy, ring.mask, scale=ring.scale, block=ring.block, **starts
            )
            return by_q + more_q, (k, v, by_k + more_k, by_v + more_v)

        zeros = lambda x: jnp.zeros_like(x, lse.dtype)
        by_q, sums = ring.travel(visit, q, zeros(q), (k, v, zeros(k), zeros(v)))
        return tuple(by.astype(q.dtype) for by in (by_q, *sums))

    return ring.over_devices(local)(*residuals, dy)


_attend.defvjp(_forward, _backward)
