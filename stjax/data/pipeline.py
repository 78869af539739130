"""From a source to batches: shuffled, split over hosts, exactly resumable."""

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
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    drop_remainder: bool = False,
) -> "grain.DatasetIterator":
    """An iterator of batches: the records' arrays stacked, and "weight" (b,) float32.

    Every host gets equally many batches and each record goes to exactly one host. A finite pass
    is padded to whole batches with repeated records of weight 0, so that means weighted by
    "weight" neither drop nor double a sample.

    The iterator's place is saved by `grain.checkpoint.CheckpointSave(iterator)` or `get_state()`
    and taken up exactly by a pipeline with the same arguments. Call `close()` when done.

    Args:
        batch: records in a batch of this host.
        shuffle: another order every epoch, all of them functions of `seed`.
        repeat: never ends; else one pass.
        host, hosts: this host's share is every `hosts`-th record from the `host`-th.
        workers: processes that read; 0 reads in threads. A worker takes seconds to start.
        drop_remainder: a finite pass leaves out what fills no batch on every host, not padded.

    Raises:
        ValueError: no host of that index; an empty source; fewer records than one batch needs.
            While iterating: what the source raised, from whichever process or thread.
    """
    import grain  # imports jax

    if not 0 <= host < hosts:
        raise ValueError(f"host {host} of {hosts}")
    length, whole = len(source), batch * hosts
    if not length or (drop_remainder and not repeat and length < whole):
        raise ValueError(f"{length} records do not fill one batch of {batch} on {hosts} host(s)")

    pad = 0 if repeat or drop_remainder else -length % whole
    dataset = grain.MapDataset.source(_Guarded(source, length + pad))
    if shuffle:
        dataset = dataset.shuffle(seed)
    # Hosts take turns in one order; after the repetition, so that none runs ahead of the others.
    dataset = dataset.repeat() if repeat else dataset[: (length + pad) // whole * whole]
    dataset = dataset[host::hosts].batch(batch, batch_fn=_stack)
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
class _Guarded:
    """Records with their weight, padded to `length`; a `_Failure` where the source raises."""

    source: Source
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record | _Failure:
        real = index < len(self.source)
        try:
            record = self.source[index if real else 0]
        except (ValueError, OSError) as error:
            return _Failure(error)
        except Exception as error:  # of a type that may not survive the way out of a process
            return _Failure(RuntimeError(f"record {index}: {error!r}"))
        return {**record, "weight": np.float32(real)}


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
