"""STORM: moving scenes of Gaussians from posed frames, in one pass.

The paper's claim: one pass that gives every Gaussian a velocity, with no label of motion, renders
moving things better than a fit per scene and than passes for static scenes, and its velocities are
those of the things. `python -m experiments.storm` learns it on a made street;

    --config.data.source=storm:folder

is Waymo as NVlabs/GaussianSTORM prepares it.
"""

from ml_collections import ConfigDict

from configs import storm
from experiments._prediction import dtype
from stjax.data import scenes
from stjax.models.world.storm import STORM
from stjax.tasks.scene_reconstruction import SceneReconstruction
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config: ConfigDict) -> Experiment:
    model = STORM(
        size=config.data.size, cameras=config.data.cameras, **config.model, dtype=dtype(config)
    )
    task = SceneReconstruction(model, **config.task)
    return Experiment.from_config(config, task, scenes.load(**config.data))


if __name__ == "__main__":
    main(experiment, storm)
