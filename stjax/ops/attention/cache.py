"""What attention remembers of a stream."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


class Cache(NamedTuple):
    """The keys and values of the last `capacity` tokens, the latest at the end.

    Slots of tokens before the first hold zeros. Their positions are negative, so no mask shows
    them.
    """

    keys: Float[Array, "b capacity g d"]
    values: Float[Array, "b capacity g e"]
    position: Int[Array, ""]
    """Tokens seen so far."""


def extend(
    cache: Cache | None,
    keys: Float[Array, "b n g d"],
    values: Float[Array, "b n g e"],
    capacity: int,
) -> tuple[Float[Array, "b m g d"], Float[Array, "b m g e"], Int[Array, ""] | int, Cache]:
    """Appends the keys and values of new tokens.

    Returns:
        All keys and values at hand, the position of the first of them, and the cache after these
        tokens.
    """
    seen = 0 if cache is None else cache.position
    new = keys.shape[1]
    if cache is not None:
        keys = jnp.concatenate([cache.keys, keys], axis=1)
        values = jnp.concatenate([cache.values, values], axis=1)
    kept = (latest(keys, capacity), latest(values, capacity), jnp.int32(seen + new))
    return keys, values, seen + new - keys.shape[1], Cache(*kept)


def latest(
    tokens: Shaped[Array, "b n ..."], capacity: int
) -> Shaped[Array, "b capacity ..."]:
    """What is kept of tokens: the last `capacity`, after zeros where there are fewer."""
    missing = max(capacity - tokens.shape[1], 0)
    tokens = jnp.pad(tokens, ((0, 0), (missing, 0), *[(0, 0)] * (tokens.ndim - 2)))
    return tokens[:, tokens.shape[1] - capacity :]
