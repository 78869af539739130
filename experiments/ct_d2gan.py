"""CT-D2GAN: a frame that a generator of normal video cannot predict is abnormal.

The paper's claim: temporal attention and two discriminators, of frames and of clips, find more
anomalies than a convolutional predictor alone. `python -m experiments.ct_d2gan` trains on made
street scenes; `--config.critics.names=()` leaves the discriminators out.
"""

from configs import ct_d2gan
from experiments._prediction import dtype
from stjax.data import anomaly
from stjax.models.prediction.ct_d2gan import (
    ConvolutionalTransformer,
    ImageDiscriminator,
    VideoDiscriminator,
)
from stjax.tasks.anomaly import AnomalyDetection
from stjax.train.cli import main
from stjax.train.experiment import Experiment


def experiment(config) -> Experiment:
    options = {"features": config.critics.features, "dtype": dtype(config)}
    critics = {
        "image": ImageDiscriminator(**options),
        "video": VideoDiscriminator(time_strides=config.critics.time_strides, **options),
    }
    if unknown := set(config.critics.names) - set(critics):
        raise ValueError(f"critics.names: {sorted(unknown)} are none of {sorted(critics)}")
    task = AnomalyDetection(
        generator=ConvolutionalTransformer(**config.model, dtype=dtype(config)),
        critics={name: critics[name] for name in config.critics.names},
        context=config.data.context,
        **config.task,
    )
    return Experiment.from_config(config, task, anomaly.load(**config.data))


if __name__ == "__main__":
    main(experiment, ct_d2gan)
