"""ConvLSTM (Shi et al. 2015, arXiv 1506.04214) as OpenSTL benchmarks it, on Moving MNIST.

    python -m experiments.convlstm --scale=paper --workdir=runs/convlstm

expects MSE 29.80, MAE 90.64, SSIM 0.9288 after 200 epochs and MSE 22.41 after 2,000 (ConvLSTM-S,
15.1 M parameters, OpenSTL v0.3.0), with `--config.model.output=candidate` as published.
"""

from configs import _moving_digits

FACTS = {
    "family": "prediction",
    "paper": "Shi et al. 2015, arXiv 1506.04214; Tan et al. 2023, arXiv 2306.11249",
    # OpenSTL's count includes two convolutions a layer (5x5 and 1x1, 2h -> h) that it never runs.
    "parameters": 11_675_648,
    "official_parameters": 15_083_520,
    "macs": 56.8e9,
    "published": {
        "moving_mnist_200_epochs": {"mse_sum": 29.80, "mae_sum": 90.64, "ssim_openstl": 0.9288},
        "moving_mnist_2000_epochs": {"mse_sum": 22.41, "mae_sum": 73.07, "ssim_openstl": 0.9480},
    },
    "source": "OpenSTL docs, Moving MNIST benchmark, v0.3.0",
}


def get_config(scale="tiny"):
    """OpenSTL's ConvLSTM-S: four layers of 128, 5x5 kernels, patches of 4, scheduled sampling."""
    config = _moving_digits.sections(scale)
    config.model = dict(
        hidden=(128, 128, 128, 128), patch=4, kernel_size=5, output="tanh_cell", layer_norm=False
    )
    config.task = dict(loss_name="mse")
    config.sampling = dict(name="scheduled", start=1.0, change=2e-5, stop=50_000)
    config.optimizer = dict(name="adam", peak=5e-4, schedule="one_cycle")
    # 625 steps an epoch: 10,000 generated sequences in batches of 16.
    config.train = dict(
        batch=16, steps=200 * 625, seed=42, accumulate=1, ema=0.0, precision="float32"
    )
    if scale == "small":
        config.train.steps = 6_000
        config.sampling.update(change=1 / 3_000, stop=3_000)
    if scale == "tiny":
        config.model.update(hidden=(32, 32), patch=2, kernel_size=5)
        config.sampling.update(change=1 / 400, stop=400)
        config.optimizer.peak = 3e-3
        config.train.update(batch=16, steps=1_000)
    return config


def ablations():
    """The published cell, and training without scheduled sampling."""
    return {
        "published cell": {"model.output": "candidate"},
        "teacher forcing": {"sampling.name": "none"},
        "large (192)": {"model.hidden": (192, 192, 192, 192)},
    }
