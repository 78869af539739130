"""Spatially-Aware Transformers: what was seen where is found where it was, and kept if it matters.

The paper's claims: a memory of places, read place by place, answers what one of time does not where
the agent never stays long; and an allocator that learns by its answers what to forget is as good in
each task as the best heuristic. `python -m experiments.spatially_aware_transformer` walks through
nine rooms of dancers and is asked who danced what;

    --config.task.name=multi_task --config.model.variant=cams
    --config.task.name=imagination --config.model.variant=space_model

train the allocator, and the imagination of views of photographs.
"""

from ml_collections import ConfigDict

from configs import spatially_aware_transformer
from experiments._prediction import dtype
from stjax.data import ballet, image_walks
from stjax.envs.grid_walk import GridWalk
from stjax.envs.room_ballet import DANCES, BalletTour, RoomBallet
from stjax.models.language.spatially_aware_transformer import (
    AdaptiveMemoryAllocator,
    FrameEncoder,
    MemoryTransformer,
    SpatiallyAwareTransformer,
    ViewDecoder,
    ViewImagination,
    variant,
)
from stjax.tasks.episode_questions import AllocatedQuestions, EpisodeQuestions
from stjax.tasks.imagination import Imagination
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def short_stay(config: ConfigDict) -> tuple[EpisodeQuestions, ballet.Splits]:
    section = config.short_stay.to_dict()
    files = {name: section.pop(name) for name in ("source", "walks")}
    world = RoomBallet(**section)
    reader = _reader(config, world, places=world.rooms, steps=world.steps)
    splits = ballet.short_stay(
        **files, rooms=world.rooms, dance=world.dance, **config.data, **config.test
    )
    return EpisodeQuestions(reader, world), splits


def multi_task(config: ConfigDict) -> tuple[AllocatedQuestions, ballet.Splits]:
    section = config.multi_task
    world = BalletTour(section.dance, section.delay, section.cell)
    # Nine places where there are eight rooms, as published.
    reader = _reader(
        config, world, places=world.rooms + 1, steps=world.capacity * world.period, masked=False
    )
    task = AllocatedQuestions(
        reader, world, AdaptiveMemoryAllocator(dtype=dtype(config)), section.heuristic,
        section.weight, tuple(section.epsilon),
    )
    return task, ballet.multi_task(
        section.source, dance=world.dance, **config.data, **config.test
    )


def imagination(config: ConfigDict) -> tuple[Imagination, image_walks.Splits]:
    section, world = config.imagination, GridWalk(config.imagination.grid)
    model = ViewImagination(
        FrameEncoder(
            config.model.dim, (64, 64, 32), (2, 2, 2), (2, 2, 2), config.model.gain,
            dtype=dtype(config),
        ),
        _memory(config, section.chunk, section.plain_layers), ViewDecoder(dtype=dtype(config)),
        world.side, section.clusters, dtype=dtype(config),
    )
    task = Imagination(
        model, world, image_walks.clusters(world.side, section.clusters, section.clustering),
        section.memorize, section.imagine, section.size, section.stride,
    )
    return task, image_walks.load(
        section.source, walks=tuple(section.walks), grid=world.side, size=task.image_size,
        length=section.memorize + section.imagine + 1, **config.data, **config.test,
    )


TASKS = {"short_stay": short_stay, "multi_task": multi_task, "imagination": imagination}


def experiment(config: ConfigDict) -> Experiment:
    if config.task.name not in TASKS:
        raise ValueError(f"task.name: {config.task.name!r} is none of {', '.join(TASKS)}")
    task, splits = TASKS[config.task.name](config)
    return Experiment.from_config(config, task, splits)


def _reader(config, world, **tables):
    encoder = FrameEncoder(
        config.model.dim, windows=(world.cell, 3), strides=(world.cell, 1), gain=config.model.gain,
        dtype=dtype(config),
    )
    return SpatiallyAwareTransformer(
        encoder, _memory(config, world.period, config.model.layers), len(DANCES),
        period=world.period, time_index=config.model.time_index, dtype=dtype(config), **tables,
    )


def _memory(config, chunk, plain_layers):
    """The memory's layers; of an ordinary transformer another number."""
    model = config.model.to_dict()
    for name in ("dim", "time_index", "gain"):
        del model[name]
    if variant(model["variant"]).plain:
        model["layers"] = plain_layers
    return MemoryTransformer(**model, chunk=chunk, dtype=dtype(config))


if __name__ == "__main__":
    main(experiment, spatially_aware_transformer)
