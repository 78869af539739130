"""Names of parameters' axes, by which the engine cuts them over a mesh."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import flax.linen as nn

_recording = ContextVar("recording", default=False)


class Named(nn.Partitioned):
    """An array and the names of its axes, which say what an axis is and not where it lies.

    An axis that `nn.scan` stacks has none, and taking the array out constrains nothing.
    """

    def unbox(self, apply_constraint: bool = True) -> Any:
        del apply_constraint
        return self.value

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        return super().add_axis(index, {**params, nn.PARTITION_NAME: None})

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        return super().remove_axis(index, {**params, nn.PARTITION_NAME: None})


def named(init: nn.initializers.Initializer, *names: str | None) -> nn.initializers.Initializer:
    """An initialiser whose array's axes have names; its values are those of `init`.

    The names are "embed" (the width that blocks keep), "heads", "mlp" (hidden units between two
    maps, of which the first may be cut in columns and the second in rows), "vocab", "experts", and
    None. `stjax.train.mesh.RULES` says which axis of a mesh each is cut over.

    Only within `recording` do they show. `nn.with_logical_partitioning` would box the array for
    everyone: whoever calls `model.init` or converts a checkpoint would have to unbox it, and a
    tree of parameters would look otherwise with names than without.

    Args:
        init: of a kernel, or of any array.
        names: of all its axes, in order; for `nn.DenseGeneral` those of the kernel it shows, which
            has more axes than the one it initialises.
    """

    def initialise(*args: Any, **options: Any) -> Any:
        array = init(*args, **options)
        return Named(array, names) if _recording.get() else array

    return initialise


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Within it initialisers made by `named` give `Named` arrays.

    Functions that jax has traced before do not see it: trace a fresh one.
    """
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)
