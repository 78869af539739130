"""Where activations lie on the mesh that a function is traced under."""

import math

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
    mesh = jax.sharding.get_abstract_mesh()
    automatic = set(mesh.axis_names) - set(mesh.manual_axes)
    if not automatic.issuperset(BATCH) or x.shape[0] % math.prod(mesh.shape[a] for a in BATCH):
        return x
    between = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH, *between, None))
