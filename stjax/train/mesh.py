"""Devices, and where arrays lie on them.

A mesh has the axes `data`, `fsdp`, `tensor` and `sequence`. A batch is cut over data x fsdp;
parameters, their moving average and the optimizer's moments are cut over tensor by the names of
their axes (`stjax.layers.partitioning`) and over fsdp; the operators that run over time cut it
over sequence (`stjax.ops.sequence_parallel`).
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stjax.layers.partitioning import Named
from stjax.ops.sharding import BATCH as BATCH_AXES

AXES = ("data", "fsdp", "tensor", "sequence")
# The axis of the mesh that a named axis of a parameter is cut over.
RULES = {
    "heads": "tensor", "mlp": "tensor", "vocab": "tensor", "experts": "tensor", "embed": "fsdp",
}
BATCH = PartitionSpec(BATCH_AXES)
# A rollout goes frame by frame, so that there is no time to cut: evaluation cuts the batch instead.
EVALUATED = PartitionSpec(("data", "fsdp", "sequence"))
# Below this many entries an array is cheaper to keep whole on every device than to gather.
SMALLEST_SHARDED = 2**12


def make(shape: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of the given axis sizes; -1 (one axis at most) takes the devices that are left.

    Raises:
        ValueError: an unknown axis, or sizes that the devices do not fill.
    """
    devices = jax.devices() if devices is None else devices
    unknown = set(shape) - set(AXES)
    if unknown:
        raise ValueError(f"run.mesh: unknown axes {sorted(unknown)}; a mesh has {AXES}")
    sizes = {axis: shape.get(axis, 1) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"run.mesh: only one axis can be -1, not {free}")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = max(len(devices) // known, 1)
    wanted = math.prod(sizes.values())
    if wanted > len(devices) or min(sizes.values()) < 1:
        raise ValueError(
            f"run.mesh: {dict(shape)} needs {wanted} devices; there are {len(devices)}"
        )
    grid = np.array(devices[:wanted]).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, BATCH)


def evaluation_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, EVALUATED)


def whole(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def rows(sharding: NamedSharding, batch: int) -> slice:
    """The rows of a batch that this process's devices hold, from the first to the last."""
    held = sharding.addressable_devices_indices_map((batch,)).values()
    spans = [index.indices(batch) for (index,) in held]
    return slice(min(span[0] for span in spans), max(span[1] for span in spans))


def ambient(mesh: Mesh) -> contextlib.AbstractContextManager:
    """What is traced within runs on the mesh.

    Operators and layers find it by `jax.sharding.get_abstract_mesh`, so that no model passes it on.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError where a batch cannot be cut over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % (ways * accumulate):
        raise ValueError(
            f"train.batch: {batch} is not divisible by {ways * accumulate} "
            f"(data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x accumulate {accumulate})"
        )


def advice(mesh: Mesh, state: Any) -> str | None:
    """What to change where an axis of the mesh does nothing for a state of such shardings."""
    cut = any("tensor" in x.sharding.spec for x in jax.tree.leaves(state))
    if mesh.shape["tensor"] == 1 or cut:
        return None
    return f"run.mesh: tensor {mesh.shape['tensor']} cuts no parameter of this model"


def state_sharding(mesh: Mesh, recorded: Any) -> Any:
    """Where a state lies whose arrays are `Named` or plain; without the names, a tree alike.

    A named axis is cut as `RULES` says where that divides it. Then the longest axis that is left
    and that fsdp divides is cut over fsdp.
    """

    def sharding(x):
        names, x = (x.names, x.value) if isinstance(x, Named) else ((None,) * x.ndim, x)
        return NamedSharding(mesh, _spec(x.shape, names, mesh.shape))

    return jax.tree.map(sharding, recorded, is_leaf=lambda x: isinstance(x, Named))


def _spec(shape, names, mesh):
    wanted = [(k, RULES[name]) for k, name in enumerate(names) if name is not None]
    wanted += [(k, "fsdp") for k in sorted(range(len(shape)), key=lambda k: -shape[k])]
    small, cut = math.prod(shape) < SMALLEST_SHARDED, [None] * len(shape)
    for k, axis in wanted:
        free = cut[k] is None and axis not in cut and not (axis == "fsdp" and small)
        if free and mesh[axis] > 1 and shape[k] % mesh[axis] == 0:
            cut[k] = axis
    # As jax writes the specs of what a step returns: else the next step would be compiled anew.
    while cut and cut[-1] is None:
        cut.pop()
    return PartitionSpec(*cut)
