"""Devices, and where arrays lie on them.

A mesh has the axes `data`, `fsdp`, `tensor` and `sequence`. A batch is cut over data x fsdp;
parameters, their moving average and the optimizer's moments are cut over fsdp; the operators that
run over time cut it over sequence (`stjax.ops.sequence_parallel`).
"""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = PartitionSpec(("data", "fsdp"))
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


def cut_time(mesh: Mesh) -> contextlib.AbstractContextManager:
    """What is traced within cuts time over the mesh's axis `sequence`, where that is longer than 1.

    Operators find the mesh by `jax.sharding.get_abstract_mesh`, so that no model passes it on.
    """
    if mesh.shape["sequence"] == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises ValueError where a batch cannot be cut over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch % (ways * accumulate):
        raise ValueError(
            f"train.batch: {batch} is not divisible by {ways * accumulate} "
            f"(data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']} x accumulate {accumulate})"
        )


def advice(batch: int, mesh: Mesh, accumulate: int = 1) -> str | None:
    """What to change where the mesh's axis `sequence` would cut the recurrences alone.

    Convolutions see frames with batch and time merged in one axis. XLA can cut that over time only
    where a device has one sample of the batch at once; else it repeats the work on every device.
    """
    parts = batch // (mesh.shape["data"] * mesh.shape["fsdp"])
    if mesh.shape["sequence"] == 1 or parts == accumulate:
        return None
    return (
        f"run.mesh: a device has {parts // accumulate} samples at once, and sequence "
        f"{mesh.shape['sequence']} may save little; train.accumulate={parts} gives it one at a time"
    )


def state_sharding(mesh: Mesh, abstract: Any) -> Any:
    """The automatic rule: an array's longest axis that fsdp divides is cut; the rest is whole."""
    return jax.tree.map(lambda x: NamedSharding(mesh, _spec(x.shape, mesh.shape["fsdp"])), abstract)


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    axes = [k for k, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda k: shape[k])
    return PartitionSpec(*("fsdp" if k == longest else None for k in range(len(shape))))
