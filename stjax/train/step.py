"""One step function, sharded by `jit` over a mesh or replicated by `pmap`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import jax_utils
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from stjax.layers.partitioning import recording
from stjax.tasks.base import Batch, Task
from stjax.train import mesh as meshes
from stjax.train.state import Optimizers, TrainState, create, update

MODES = ("jit", "pmap")
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Stepper:
    """How a run's state is made, placed on devices, stepped and read back.

    Between `place` and `whole` the state is as the mode keeps it: one sharded tree under "jit", a
    copy a device under "pmap". `whole` is what checkpoints and evaluation see in either mode.

    Attributes:
        task, optimizer: what is learned and how.
        mesh: the devices; "pmap" replicates over all of them.
        key: the run's key.
        example: a batch of one sample; one is enough to know the shapes of the parameters.
        mode: "jit" or "pmap".
        accumulate, ema: see `state.update`.
    """

    task: Task
    optimizer: Optimizers
    mesh: Mesh
    key: jax.Array
    example: Batch
    mode: str = "jit"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"run.parallelism: {self.mode!r} is none of {MODES}")
        spread = {axis: n for axis, n in self.mesh.shape.items() if n > 1 and axis != "data"}
        if self.mode == "pmap" and spread:
            raise ValueError(f"run.parallelism: pmap only replicates; run.mesh asks for {spread}")
        if self.mode == "pmap" and jax.process_count() > 1:
            raise ValueError("run.parallelism: pmap is for one process; there are several, use jit")

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the whole state; allocates nothing."""
        with recording():
            # A function of its own, because jax would not trace one that it knows again.
            named = jax.eval_shape(lambda *args: self._create(*args), self.key, self.example)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            nn.unbox(named),
            meshes.state_sharding(self.mesh, named),
        )

    def create(self) -> TrainState:
        """The whole state before the first step, made where it will lie."""
        return jax.jit(self._create, out_shardings=self._shardings)(self.key, self.example)

    @property
    def batch_sharding(self) -> NamedSharding | None:
        """Where `step` wants its batches; None: whole, on the host."""
        return meshes.batch_sharding(self.mesh) if self.mode == "jit" else None

    def place(self, state: TrainState) -> Any:
        return state if self.mode == "jit" else jax_utils.replicate(state, self._devices)

    def whole(self, state: Any) -> TrainState:
        if self.mode == "jit":
            return state
        return jax.device_put(jax_utils.unreplicate(state), self._shardings)

    def step(self) -> Step:
        """The compiled update on global batches; the state that is given is used up."""
        if self.mode == "pmap":
            return self._pmapped()
        return self.jitted()

    def jitted(self) -> Step:
        """The update as `jit` compiles it, for batches that lie on the mesh."""

        def step(state, batch):
            with meshes.ambient(self.mesh):
                new, logs = self._update(state, batch, self.key)
            return jax.lax.with_sharding_constraint(new, self._shardings), logs

        return jax.jit(step, donate_argnums=0)

    def _pmapped(self) -> Step:
        mapped = jax.pmap(
            functools.partial(self._update, axis_name="batch"),
            axis_name="batch",
            in_axes=(0, 0, None),
            devices=self._devices,
            donate_argnums=0,
        )

        def step(state, batch):
            rows = jax.tree.map(
                lambda x: x.reshape(len(self._devices), -1, *x.shape[1:]), batch
            )
            state, logs = mapped(state, rows, self.key)
            return state, jax_utils.unreplicate(logs)

        return step

    @property
    def _devices(self):
        return list(self.mesh.devices.flat)

    @property
    def _shardings(self):
        return jax.tree.map(lambda x: x.sharding, self.abstract_state)

    def _create(self, key, batch):
        return create(self.task, self.optimizer, key, batch, self.ema)

    def _update(self, state, batch, key, axis_name=None):
        return update(
            self.task, self.optimizer, state, batch, key,
            accumulate=self.accumulate, ema=self.ema, axis_name=axis_name,
        )
