"""SimVPv2: frames encoded one by one, time folded into channels, gated attention by convolution.

The paper's claim: a plain stack of gated spatiotemporal attention (gSTA) predicts better than
SimVP's Inception U-Net at lower cost. `python -m experiments.simvpv2` trains it on moving digits.
"""

import functools

from configs import simvpv2
from experiments._prediction import dtype, frame_prediction
from stjax.models.prediction.simvp import GSTABlock, SimVP, Translator
from stjax.train.cli import main
from stjax.train.experiment import Experiment

BLOCKS = {"gsta": GSTABlock}


def translator(name, hid_T, N_T, drop_path, remat, **block):
    """Factory of the translator of that name."""
    if name not in BLOCKS:
        raise ValueError(f"translator.name: {name!r} is none of {sorted(BLOCKS)}")
    return functools.partial(
        Translator, hid_T=hid_T, N_T=N_T, drop_path=drop_path, remat=remat,
        block=functools.partial(BLOCKS[name], **block),
    )


def experiment(config) -> Experiment:
    model = SimVP(
        **config.model, translator=translator(**config.translator), dtype=dtype(config)
    )
    return frame_prediction(config, model)


if __name__ == "__main__":
    main(experiment, simvpv2)
