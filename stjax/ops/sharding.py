"""Where activations lie on the mesh that a function is traced under."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

BATCH = ("data", "fsdp")


def ways(axis: str) -> int:
    """Devices that the ambient mesh's axis cuts arrays over; 1 where it has none of that name.

    Within a `shard_map` over the axis it is manual: what is seen there is one piece already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.axis_names and axis not in mesh.manual_axes else 1


def at_edge(x: Shaped[Array, "b ... c"]) -> Shaped[Array, "b ... c"]:
    """x as it lies between two blocks: the batch cut over data and fsdp, channels whole.

    What lies between is left to the compiler, since time may be cut. Without this the compiler
    may choose to move activations where parameters are cut over fsdp, or to keep channels cut over
    tensor from one block to the next. The batch may be merged with axes that it leads.

    Nothing is said where the ambient mesh has not both axes, where they are manual already, or
    where they do not divide the batch.
    """
    if not _cut(x):
        return x
    between = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH, *between, None))


def over_batch(
    function: Callable[..., Array], batched: Shaped[Array, "b ..."], *whole: Array
) -> Shaped[Array, "b ..."]:
    """function(batched, *whole), each device computing its own samples.

    For operations that the compiler does not cut by itself, such as Fourier transforms: it would
    gather the batch on every device.

    Args:
        function: gives an array of as many samples, each a matter of its own.
        whole: what all samples share.
    """
    if not _cut(batched):
        return function(batched, *whole)
    cut, rest = PartitionSpec(BATCH), (PartitionSpec(),) * len(whole)
    mapped = jax.shard_map(
        function, mesh=jax.sharding.get_abstract_mesh(), in_specs=(cut, *rest), out_specs=cut,
        axis_names=set(BATCH), check_vma=False,
    )
    return mapped(batched, *whole)


def _cut(x: Array) -> bool:
    """Whether the ambient mesh cuts a batch as long as this one's."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_names) - set(mesh.manual_axes)
    if not automatic.issuperset(BATCH):
        return False
    return x.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH) == 0
