"""Batches on devices: each process reads the rows that its own devices hold."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding

from stjax.data import pipeline
from stjax.data.records import Source
from stjax.train import mesh as meshes


class Feed(Iterator):
    """An iterator of batches laid out over a mesh; to be closed.

    Args:
        source: what is read.
        batch: samples in a batch, over all devices.
        sharding: where they lie; None leaves them on the host, which `pmap` cuts itself.
        options: of `stjax.data.pipeline`.
    """

    def __init__(self, source: Source, batch: int, sharding: NamedSharding | None, **options: Any):
        self._batch, self._sharding = batch, sharding
        self._rows = meshes.rows(sharding, batch) if sharding else slice(0, batch)
        self._batches = pipeline(source, batch, rows=self._rows, **options)

    def __next__(self) -> dict[str, Any]:
        batch = next(self._batches)
        if self._sharding is None:
            return batch
        if jax.process_count() == 1:
            return jax.device_put(batch, self._sharding)
        return jax.tree.map(self._global, batch)

    def close(self) -> None:
        self._batches.close()

    def _global(self, rows):
        """The array of all processes, of which `rows` are what this one has read."""

        def held_by_a_device(index):
            first, last, _ = index[0].indices(self._batch)
            return rows[first - self._rows.start : last - self._rows.start]

        shape = (self._batch, *rows.shape[1:])
        return jax.make_array_from_callback(shape, self._sharding, held_by_a_device)
