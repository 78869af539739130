"""What a run will cost, from shapes alone, before anything is launched."""

import collections
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from stjax.train import flops
from stjax.train import mesh as meshes
from stjax.train.experiment import Experiment
from stjax.train.state import TrainState
from stjax.train.step import Stepper

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4,
          "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of one training step.

    Attributes:
        devices: axis -> size, of axes longer than one.
        parameters: trained numbers.
        flops: matmuls and convolutions of the whole step, all devices, two a multiply-add.
        params_bytes, optimizer_bytes, batch_bytes: on each device, from the shardings.
        temporary_bytes: on each device, as the compiler of this machine's platform plans them.
        collectives: kind -> (count, bytes on each device); a loop's body counts once.
    """

    devices: dict[str, int]
    parameters: int
    flops: int
    params_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    temporary_bytes: int
    collectives: dict[str, tuple[int, int]]

    def __str__(self) -> str:
        on = " x ".join(f"{axis} {n}" for axis, n in self.devices.items()) or "one device"
        lines = [
            f"devices            {on}",
            f"parameters         {self.parameters:,}",
            f"FLOPs a step       {self.flops:.3e}",
            "bytes on a device",
            f"  parameters       {_size(self.params_bytes)}",
            f"  optimizer, EMA   {_size(self.optimizer_bytes)}",
            f"  batch            {_size(self.batch_bytes)}",
            f"  temporaries      {_size(self.temporary_bytes)}",
            "collectives (a loop's body counts once)",
        ]
        lines += [
            f"  {kind:<16} {count} of {_size(size)} in all"
            for kind, (count, size) in self.collectives.items()
        ] or ["  none"]
        return "\n".join(lines)


def plan(experiment: Experiment) -> Plan:
    """Traces and compiles the training step for the experiment's mesh; allocates no model."""
    train, run = experiment.train, experiment.run
    mesh = meshes.make(run.mesh)
    meshes.check_batch(train.batch, mesh, train.accumulate)
    source = experiment.data.train
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
    state, step = stepper.abstract_state, stepper.jitted()
    compiled = step.lower(state, batch).compile()
    rest = dataclasses.replace(state, params=None)
    return Plan(
        devices={axis: n for axis, n in mesh.shape.items() if n > 1},
        parameters=parameters(state),
        flops=flops.count(step, state, batch),
        params_bytes=_bytes_on_a_device(state.params),
        optimizer_bytes=_bytes_on_a_device(rest),
        batch_bytes=_bytes_on_a_device(batch),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        collectives=collectives(compiled.as_text()),
    )


def parameters(state: TrainState) -> int:
    """How many numbers are trained; works on abstract states."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """Collectives of a compiled program (HLO text): kind -> (count, bytes of their results)."""
    found = collections.defaultdict(lambda: [0, 0])
    pattern = re.compile(rf"= (\(?.*?\)?) ({'|'.join(_COLLECTIVES)})(?:-start)?\(")
    for shapes, kind in pattern.findall(program):
        found[kind][0] += 1
        found[kind][1] += sum(
            _BYTES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        )
    return {kind: tuple(value) for kind, value in sorted(found.items())}


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
