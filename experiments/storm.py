"""STORM: moving scenes of Gaussians from posed frames, in one pass.

The paper's claim: one pass that gives every Gaussian a velocity, with no label of motion, renders
moving things better than a fit per scene and than passes for static scenes, and its velocities are
those of the things. `python -m experiments.storm` learns it on a made street;

    --config.data.source=storm:folder

is Waymo as NVlabs/GaussianSTORM prepares it.
"""

import dataclasses

import jax
import optax
from ml_collections import ConfigDict

from configs import storm
from experiments._prediction import dtype
from stjax.data import scenes
from stjax.models.world.storm import STORM
from stjax.tasks.scene_reconstruction import SceneReconstruction
from stjax.train.cli import main
from stjax.train.experiment import Experiment
from stjax.train.optim import SCHEDULES


def adamw(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW whose decay spares scales and biases, as the published code has it."""
    section = config.optimizer
    rate = SCHEDULES[section.schedule](section.peak, config.train.steps, **section.schedule_args)

    def decayed(params):
        spared = {"bias", "scale", "mask_token"}
        names = lambda path: {getattr(key, "key", None) for key in path}
        return jax.tree_util.tree_map_with_path(lambda path, _: not names(path) & spared, params)

    make = optax.inject_hyperparams(optax.adamw, static_args=("eps", "mask"))
    adam = make(
        rate, b1=section.b1, b2=section.b2, eps=1e-8, weight_decay=section.weight_decay,
        mask=decayed,
    )
    return optax.chain(optax.clip_by_global_norm(section.clip), adam)


def experiment(config: ConfigDict) -> Experiment:
    model = STORM(
        size=config.data.size, cameras=config.data.cameras, **config.model, dtype=dtype(config)
    )
    task = SceneReconstruction(model, **config.task)
    built = Experiment.from_config(config, task, scenes.load(**config.data))
    return dataclasses.replace(built, optimizer=adamw(config))


if __name__ == "__main__":
    main(experiment, storm)
