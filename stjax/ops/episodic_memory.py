"""What an episodic memory keeps, and in which order: indices of items by the places they are from.

(Cho, Yoon and Ahn 2024, Spatially-Aware Transformers for Embodied Agents, arXiv 2402.15160.) An
item is whatever was seen at one time in one place; here it is its index in time. Functions of one
episode: `jax.vmap` makes them those of a batch.
"""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

# First in, last in, of the least and of the most visited place: first out.
HEURISTICS = ("fifo", "lifo", "lvfo", "mvfo")
_FIRST_BY_PLACE = HEURISTICS.index("lvfo")


def write(
    kept: Bool[Array, " t"],
    places: Int[Array, " t"],
    now: Int[Array, ""],
    heuristic: Int[Array, ""],
    capacity: int,
    num_places: int,
) -> Bool[Array, " t"]:
    """Takes item `now` into the memory; of a full one the heuristic says which item goes.

    FIFO: the oldest; LIFO: the new one itself; LVFO and MVFO: the oldest of the place from which
    the fewest, or the most, items are kept, of equal places the one of the lowest number.

    Args:
        kept: which items are in the memory; none from `now` on.
        places: of all items, below `num_places`.
        heuristic: index in `HEURISTICS`.
        capacity: items that the memory holds.
    """
    counts = jnp.zeros(num_places, jnp.int32).at[places].add(kept.astype(jnp.int32))
    least = jnp.argmin(jnp.where(counts > 0, counts, len(kept) + 1))
    of_least, of_most = kept & (places == least), kept & (places == jnp.argmax(counts))
    victims = jnp.stack([jnp.argmax(kept), now, jnp.argmax(of_least), jnp.argmax(of_most)])
    victim, full = victims[heuristic], kept.sum() >= capacity
    kept = kept.at[now].set(True)
    return kept.at[victim].set(kept[victim] & ~full)


def allocate(
    places: Int[Array, " t"], heuristic: Int[Array, ""], capacity: int, num_places: int
) -> Int[Array, " capacity"]:
    """The items that are left when all have been written, as `contents` lists them."""

    def step(kept, now):
        return write(kept, places, now, heuristic, capacity, num_places), None

    times = jnp.arange(len(places))
    kept, _ = lax.scan(step, jnp.zeros(len(places), bool), times)
    return contents(kept, places, heuristic, capacity)


def contents(
    kept: Bool[Array, " t"], places: Int[Array, " t"], heuristic: Int[Array, ""], capacity: int
) -> Int[Array, " capacity"]:
    """The items of a memory: by time, or, where a heuristic looks at places, place by place.

    Places come in the order of their first visit. -1 stands where the memory is not full.
    """
    times = jnp.arange(len(places))
    first_visit = jnp.argmax(places[:, None] == places, axis=1)
    by_place = heuristic >= _FIRST_BY_PLACE
    rank = jnp.where(by_place, first_visit * len(places), 0) + times
    order = jnp.argsort(jnp.where(kept, rank, len(places) ** 2))
    listed = jnp.where(kept[order], order, -1)[:capacity]
    return jnp.pad(listed, (0, capacity - len(listed)), constant_values=-1)


def place_order(
    places: Int[Array, " t"],
    num_places: int,
    chunk: int,
    length: int,
    rest: Literal["pad", "drop"] = "pad",
) -> Int[Array, " length"]:
    """Place memory: items sorted by place, each place filled up with -1 to whole chunks.

    A place of n items takes n // chunk + 1 chunks, a place that was never visited one. So no chunk
    mixes places. (The authors' `generate_rw.py`; "drop": their `ffhq_pos_gen.py`.)

    Args:
        length: of the result, filled up with -1; `num_places * chunk + t` holds everything.
        rest: what is done with the n % chunk items that fill no chunk. "drop" leaves out those of
            a place that has whole chunks besides, where they are less than half a chunk; no place
            then gets a chunk of nothing but -1, unless it was never visited.

    Returns:
        Indices of items; what lies beyond `length` is lost.
    """
    counts = jnp.zeros(num_places, jnp.int32).at[places].add(1)
    chunks = counts // chunk + 1
    if rest == "drop":
        dropped = (counts >= chunk) & (counts % chunk < chunk - chunk // 2)
        chunks = jnp.where(dropped, counts // chunk, chunks)
    starts = jnp.cumsum(chunks * chunk) - chunks * chunk
    order = jnp.argsort(places, stable=True)
    sorted_places = places[order]
    rank = jnp.arange(len(places)) - (jnp.cumsum(counts) - counts)[sorted_places]
    fits = rank < (chunks * chunk)[sorted_places]
    slots = jnp.where(fits, starts[sorted_places] + rank, length)
    return jnp.full(length, -1, order.dtype).at[slots].set(order, mode="drop")
