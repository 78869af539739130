"""Alike blocks as one scanned block, so that compile time does not grow with depth."""

import flax.linen as nn

from stjax.ops.loops import trips_at_once


def repeat(
    block: type[nn.Module],
    length: int,
    remat: bool = False,
    *,
    shared: int = 0,
    convolves: bool = True,
) -> type[nn.Module]:
    """A module of `length` blocks whose variables are stacked on a leading axis.

    `block.__call__(x, each, *shared, train) -> (x, None)`; `each` holds what differs from block to
    block, stacked on a leading axis; `shared` are arrays that all blocks are told alike; `train` is
    a Python bool.

    Args:
        block: the block's class.
        length: how many.
        remat: compute the blocks' inner values again in the backward pass, and do not keep them.
        shared: how many arguments are shared.
        convolves: whether there are convolutions within; on a CPU the loop is unrolled for them.
    """
    if remat:
        block = nn.remat(block, prevent_cse=False, static_argnums=(3 + shared,))
    return nn.scan(
        block,
        variable_axes={"params": 0, "batch_stats": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, *[nn.broadcast] * (shared + 1)),
        length=length,
        unroll=trips_at_once(length) if convolves else 1,
    )
