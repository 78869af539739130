"""What a run will cost, from shapes alone, before anything is launched."""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from stjax.ops.backend import compiling_for
from stjax.train import flops, hlo
from stjax.train import mesh as meshes
from stjax.train import topology as topologies
from stjax.train.errors import RunError
from stjax.train.experiment import Experiment
from stjax.train.state import TrainState
from stjax.train.step import Stepper
from stjax.train.topology import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of one training step.

    Attributes:
        devices: axis -> size, of axes longer than one.
        topology: the accelerators compiled for; None for the devices of this process.
        parameters: trained numbers.
        flops: matmuls and convolutions of the whole step, all devices, two a multiply-add.
        params_bytes, optimizer_bytes, batch_bytes: on each device, from the shardings.
        argument_bytes, output_bytes, aliased_bytes, temporary_bytes, code_bytes: on each device, as
            the compiler plans them; aliased outputs lie where the arguments lay.
        collectives: (kind, axes of the mesh) -> (count, bytes of the results on each device).
        uncertain: of those, how many run in loops whose trips are not known, counted as one.
        seconds: what a step may wait for -> how long that takes at least; empty where the chip is
            not known.
    """

    devices: dict[str, int]
    topology: Topology | None
    parameters: int
    flops: int
    params_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    code_bytes: int
    collectives: hlo.Totals
    uncertain: int
    seconds: dict[str, float]

    @property
    def needed_bytes(self) -> int:
        """What has to fit into a device's memory."""
        kept = self.argument_bytes + self.output_bytes - self.aliased_bytes
        return kept + self.temporary_bytes + self.code_bytes

    def __str__(self) -> str:
        on = " x ".join(f"{axis} {n}" for axis, n in self.devices.items()) or "one device"
        needed = _size(self.needed_bytes)
        if self.topology:
            on = f"{on} of {self.topology}"
            needed = f"{needed}, fits into {_size(self.topology.chip.memory)}"
        lines = [
            f"devices            {on}",
            f"parameters         {self.parameters:,}",
            f"FLOPs a step       {self.flops:.3e}",
            "bytes on a device",
            f"  parameters       {_size(self.params_bytes)}",
            f"  optimizer, EMA   {_size(self.optimizer_bytes)}",
            f"  batch            {_size(self.batch_bytes)}",
            f"  temporaries      {_size(self.temporary_bytes)}",
            f"  in all           {needed}",
            "collectives a step, and their results on a device",
        ]
        lines += [
            f"  {kind:<18} {', '.join(axes):<14} {count} of {_size(size)} in all"
            for (kind, axes), (count, size) in self.collectives.items()
        ] or ["  none"]
        if self.uncertain:
            lines.append(f"  {self.uncertain} of them in loops of unknown length, counted as one")
        if self.seconds:
            longest = max(self.seconds, key=self.seconds.get)
            rest = ", ".join(
                f"{name} {_time(seconds)}"
                for name, seconds in self.seconds.items() if name != longest
            )
            lines.append(
                f"waits for          {longest} ({_time(self.seconds[longest])} at least; {rest})"
            )
        return "\n".join(lines)


def plan(experiment: Experiment, topology: str | None = None) -> Plan:
    """Traces and compiles the training step for the experiment's mesh; allocates no model.

    Args:
        topology: accelerators to compile for, none of which need be at hand, such as "v5e:4x4"
            (see `stjax.train.topology`); None for the devices of this process.

    Raises:
        ValueError: a mesh or a topology that does not fit the devices or the batch.
        RunError: the step does not fit into a device's memory.
    """
    train, run = experiment.train, experiment.run
    target = topologies.make(topology) if topology else None
    mesh = meshes.make(run.mesh, target and list(target.devices))
    if target and mesh.size != len(target.devices):
        raise ValueError(
            f"run.mesh: {dict(run.mesh)} takes {mesh.size} of the {len(target.devices)} devices of "
            f"{target.name}"
        )
    meshes.check_batch(train.batch, mesh, train.accumulate)
    with compiling_for(target and target.chip.platform), _refusing(target):
        step, state, batch = _step(experiment, mesh)
        compiled = step.lower(state, batch).compile(target and target.chip.compiler_options)
        operations = flops.count(step, state, batch)
    memory = compiled.memory_analysis()
    found = hlo.collectives(compiled.as_text())
    costs = Plan(
        devices={axis: n for axis, n in mesh.shape.items() if n > 1},
        topology=target,
        parameters=parameters(state),
        flops=operations,
        params_bytes=_bytes_on_a_device(state.params),
        optimizer_bytes=_bytes_on_a_device(dataclasses.replace(state, params=None)),
        batch_bytes=_bytes_on_a_device(batch),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        collectives=hlo.totals(found, mesh.shape),
        uncertain=sum(not one.exact for one in found),
        seconds={},
    )
    if target is None:
        return costs
    if costs.needed_bytes > target.chip.memory:
        raise RunError(_refusal(target, _size(costs.needed_bytes), _size(target.chip.memory)))
    return dataclasses.replace(costs, seconds=_seconds(costs, found))


def parameters(state: TrainState) -> int:
    """How many numbers are trained; works on abstract states."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))


def _step(experiment: Experiment, mesh: jax.sharding.Mesh) -> tuple[Any, TrainState, Any]:
    """The jitted update, and shapes and shardings of its arguments."""
    train, source = experiment.train, experiment.data.train
    record = source.spec if hasattr(source, "spec") else source[0]
    batch = {
        name: jax.ShapeDtypeStruct(
            (train.batch, *jnp.shape(value)), jnp.asarray(value).dtype,
            sharding=meshes.batch_sharding(mesh),
        )
        for name, value in record.items()
    }
    one = {name: jnp.zeros((1, *x.shape[1:]), x.dtype) for name, x in batch.items()}
    stepper = Stepper(
        experiment.task, experiment.optimizer, mesh, jax.random.key(train.seed), one,
        accumulate=train.accumulate, ema=train.ema,
    )
    return stepper.jitted(), stepper.abstract_state, batch


def _seconds(costs: Plan, found: tuple[hlo.Collective, ...]) -> dict[str, float]:
    """Lower bounds, as if each ran at its peak and all at the same time.

    Memory: arguments are read, outputs are written, temporaries both, once.
    """
    target = costs.topology
    moved = costs.argument_bytes + costs.output_bytes + 2 * costs.temporary_bytes
    seconds = {
        "compute": costs.flops / len(target.devices) / target.chip.flops,
        "memory": moved / target.chip.bandwidth,
    }
    for one in found:
        link, once = target.link(one)
        seconds[link] = seconds.get(link, 0) + one.times * once
    return seconds


@contextlib.contextmanager
def _refusing(target: Topology | None) -> Iterator[None]:
    """Turns the TPU compiler's refusal of a program that is too large into one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        sizes = re.search(r"\(([\d.]+)(\w)\) exceeds available HBM \(([\d.]+)(\w)\)", str(error)) \
            or re.search(r"Used ([\d.]+)(\w) of ([\d.]+)(\w) hbm", str(error))
        if target is None or sizes is None:
            raise
        needs, unit, has, its = sizes.groups()
        raise RunError(_refusal(target, f"{needs} {unit}iB", f"{has} {its}iB")) from error


def _refusal(target: Topology, needs: str, has: str) -> str:
    return (
        f"a device of {target.name} needs {needs} of {has}: try a smaller train.batch, a larger "
        "train.accumulate, model.remat, or more devices along run.mesh.fsdp"
    )


def _bytes_on_a_device(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g}"


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
