"""OpenSTL: recurrent and recurrent-free video predictors side by side.

The benchmark's claim: predictors that map a clip to its future at once are as accurate as recurrent
ones at a fraction of the cost, whatever block translates between. `python -m experiments.openstl`
trains SimVP with gSTA on moving digits; `--config.method=` and `--config.dataset=` name others, and
`python -m experiments.openstl benchmark` puts any of them into one table.
"""

import functools

from configs import openstl
from experiments._prediction import dtype, frame_prediction
from stjax.models.prediction.convlstm import ConvLSTM
from stjax.models.prediction.crevnet import CrevNet
from stjax.models.prediction.dmvfn import DMVFN
from stjax.models.prediction.e3d_lstm import E3DLSTM
from stjax.models.prediction.mau import MAU
from stjax.models.prediction.mim import MIM
from stjax.models.prediction.mmvp import MMVP
from stjax.models.prediction.phydnet import PhyDNet
from stjax.models.prediction.prednet import PredNet
from stjax.models.prediction.predrnn import PredRNN
from stjax.models.prediction.predrnnpp import PredRNNpp
from stjax.models.prediction.simvp import SimVP, translator
from stjax.models.prediction.swinlstm import SwinLSTM
from stjax.models.prediction.wast import WaST
from stjax.processes import scheduled_sampling
from stjax.train.cli import main
from stjax.train.experiment import Experiment

MODELS = {
    "convlstm": ConvLSTM, "prednet": PredNet, "predrnn": PredRNN, "predrnnpp": PredRNNpp,
    "predrnnv2": PredRNN, "e3dlstm": E3DLSTM, "mim": MIM, "crevnet": CrevNet, "phydnet": PhyDNet,
    "mau": MAU, "swinlstm_b": SwinLSTM, "swinlstm_d": SwinLSTM, "mmvp": MMVP, "wast": WaST,
    "dmvfn": DMVFN,
}  # fmt: skip


def sampling(name, **options):
    """When training inputs are the model's own outputs; None: never ("none")."""
    if name == "none":
        return None
    if name not in scheduled_sampling.RATES:
        known = ["none", *scheduled_sampling.RATES]
        raise ValueError(f"sampling.name: {name!r} is none of {known}")
    rates = functools.partial(scheduled_sampling.RATES[name], **options)
    together = name == "teacher_forcing"
    return functools.partial(scheduled_sampling.mask, rates=rates, together=together)


def model(config):
    """The method's network; SimVP wherever there is a translator."""
    fields = dict(config.model, dtype=dtype(config))
    if config.method == "mmvp":
        fields["horizon"] = config.data.horizon
    if config.method == "e3dlstm":
        fields["recalled"] = config.data.context + config.data.horizon - 1
    if "translator" in fields:
        return SimVP(**{**fields, "translator": translator(**fields["translator"])})
    return MODELS[config.method](**fields)


def experiment(config) -> Experiment:
    return frame_prediction(config, model(config), sampling(**config.sampling))


if __name__ == "__main__":
    main(experiment, openstl)
