"""PredFormer: a plain gated transformer predicts video as well as anything.

The paper's claim: attention that alternates over time and space ("TSST") beats full attention,
and all of convolution and recurrence. `python -m experiments.predformer` trains it on moving
digits; `--config.model.order` chooses among the nine encoders.
"""

from configs import predformer
from experiments._prediction import dtype, frame_prediction
from stjax.models.prediction.predformer import PredFormer
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    return frame_prediction(config, PredFormer(**config.model, dtype=dtype(config)))


if __name__ == "__main__":
    main(experiment, predformer)
