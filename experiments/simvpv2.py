"""SimVPv2: frames encoded one by one, time folded into channels, gated attention by convolution.

The paper's claim: a plain stack of gated spatiotemporal attention (gSTA) predicts better than
SimVP's Inception U-Net at lower cost. `python -m experiments.simvpv2` trains it on moving digits.
"""

from configs import simvpv2
from experiments._prediction import dtype, frame_prediction
from stjax.models.prediction.simvp import SimVP, translator
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    model = SimVP(
        **config.model, translator=translator(**config.translator), dtype=dtype(config)
    )
    return frame_prediction(config, model)


if __name__ == "__main__":
    main(experiment, simvpv2)
