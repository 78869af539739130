"""From a source to batches: shuffled, shared out to processes, exactly resumable."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stjax.data.records import Record, Source

if TYPE_CHECKING:
    import grain

# Batches read ahead, by two threads: grain's defaults, 16 threads and 500 elements, are for small
# records on distant disks and would hold gigabytes of video.
_AHEAD = 4
_THREADS = 2


def pipeline(
    source: Source,
    batch: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    repeat: bool = False,
    rows: slice | None = None,
    start: int = 0,
    workers: int = 0,
    drop_remainder: bool = False,
) -> "grain.DatasetIterator":
    """An iterator of batches: the records' arrays stacked, and "weight" (b,) float32.

    A finite pass is padded to whole batches with repeated records of weight 0, so that means
    weighted by "weight" neither drop nor double a sample.

    Which records batch k holds depends on nothing but the arguments up to `repeat`. So a run needs
    to remember no more than how many batches it took, and goes on from there in as many processes
    as it likes. Call `close()` when done.

    Args:
        batch: records in a batch, over all processes.
        shuffle: another order every epoch, all of them functions of `seed`.
        repeat: never ends; else one pass.
        rows: the rows of every batch that this process reads; None reads them all.
        start: batches to leave out, without reading them.
        workers: processes that read; 0 reads in threads. A worker takes seconds to start.
        drop_remainder: a finite pass leaves out what fills no batch, not padded.

    Raises:
        ValueError: rows that a batch does not have; an empty source; fewer records than one batch
            needs. While iterating: what the source raised, from whichever process or thread.
    """
    import grain  # imports jax

    rows = rows or slice(0, batch)
    if not 0 <= rows.start < rows.stop <= batch:
        raise ValueError(f"rows {rows.start} to {rows.stop} of a batch of {batch}")
    length = len(source)
    if not length or (drop_remainder and not repeat and length < batch):
        raise ValueError(f"{length} records do not fill one batch of {batch}")

    pad = 0 if repeat or drop_remainder else -length % batch
    order = grain.MapDataset.range(length + pad)
    order = order.shuffle(seed) if shuffle else order
    order = order.repeat() if repeat else order
    share = _Share(source, order, batch, rows, start)
    dataset = grain.MapDataset.source(share).batch(rows.stop - rows.start, batch_fn=_stack)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    iterable = dataset.to_iter_dataset(options)
    if workers:
        _mark_flags_as_parsed()
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable.map(_unguard))


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An exception on its way out of a worker, where raising it would end the worker unheard."""

    error: Exception


@dataclasses.dataclass(frozen=True, eq=False)
class _Share:
    """One process's rows of every batch, one after another; a `_Failure` where the source raises.

    Attributes:
        order: which record is in which place of all batches; places past the source are padding.
        batch, rows, start: as in `pipeline`.
    """

    source: Source
    order: Sequence[int]
    batch: int
    rows: slice
    start: int

    def __len__(self) -> int:
        return (len(self.order) // self.batch - self.start) * (self.rows.stop - self.rows.start)

    def __getitem__(self, index: int) -> Record | _Failure:
        step, row = divmod(index, self.rows.stop - self.rows.start)
        place = (self.start + step) * self.batch + self.rows.start + row
        record = int(self.order[place])
        real = record < len(self.source)
        read = getattr(self.source, "at", lambda index, place: self.source[index])
        try:
            return {**read(record if real else 0, place), "weight": np.float32(real)}
        except (ValueError, OSError) as error:
            return _Failure(error)
        except Exception as error:  # of a type that may not survive the way out of a process
            return _Failure(RuntimeError(f"record {record}: {error!r}"))


def _stack(records: Sequence[Record | _Failure]) -> Record | _Failure:
    for record in records:
        if isinstance(record, _Failure):
            return record
    kind = lambda record: {
        key: (np.shape(x), np.asarray(x).dtype.name) for key, x in record.items()
    }
    for record in records[1:]:
        if kind(record) != kind(records[0]):
            text = f"records of one batch differ: {kind(records[0])}, {kind(record)}"
            return _Failure(ValueError(text))
    return {key: np.stack([record[key] for record in records]) for key in records[0]}


def _unguard(batch: Record | _Failure) -> Record:
    if isinstance(batch, _Failure):
        raise batch.error
    return batch


def _mark_flags_as_parsed():
    """grain's workers read absl flags, which only `absl.app.run` would have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
