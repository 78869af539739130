"""UniFormer: convolution where neighbours say enough, attention where they do not.

The paper's claim: local aggregation in the shallow stages and global in the deep ones (LLGG) is
better than either alone, at less cost. `python -m experiments.uniformer` learns eight ways of
moving, which no single frame tells apart; `--config.model.pattern` chooses the stages.
"""

from configs import uniformer
from experiments._prediction import dtype
from experiments._recognition import recognise
from stjax.models.recognition.uniformer import UniFormer
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    model = UniFormer(config.data.classes, **config.model, dtype=dtype(config))
    return recognise(config, model)


if __name__ == "__main__":
    main(experiment, uniformer)
