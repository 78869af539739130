"""VDT: video diffusion transformers by mask modelling.

The paper's claim: one network, trained with random masks, predicts, interpolates, animates,
completes and generates clips as well as one trained for each. `python -m experiments.vdt` trains it
on moving digits, in pixel space.
"""

from configs import vdt
from experiments._prediction import dtype
from stjax import data
from stjax.models.generation.vdt import VDT
from stjax.processes.gaussian_diffusion import BETAS, GaussianDiffusion
from stjax.processes.space_time_masks import SpaceTimeMasks
from stjax.tasks.masked_diffusion import MaskedDiffusion
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def process(schedule, steps, predicts, learn_sigma) -> GaussianDiffusion:
    """The process of the config's section `diffusion`; a variance that is not learned is beta's."""
    if schedule not in BETAS:
        raise ValueError(f"diffusion.schedule: {schedule!r} is none of {', '.join(BETAS)}")
    variance = "learned_range" if learn_sigma else "fixed_large"
    return GaussianDiffusion(BETAS[schedule](steps), predicts=predicts, variance=variance)


def experiment(config) -> Experiment:
    splits = data.load(
        **config.data, count_test=config.test.count_test, test_file=config.test.test_file or None
    )
    task = MaskedDiffusion(
        model=VDT(**config.model, dtype=dtype(config)),
        context=config.data.context,
        horizon=config.data.horizon,
        process=process(**config.diffusion, learn_sigma=config.model.learn_sigma),
        masks=SpaceTimeMasks(**config.masks),
        **config.task,
    )
    return Experiment.from_config(config, task, splits)


if __name__ == "__main__":
    main(experiment, vdt)
