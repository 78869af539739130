"""SimVPv2 (Tan et al. 2022, arXiv 2211.12509): SimVP with gSTA on Moving MNIST, 10 in, 10 out.

    python -m experiments.simvpv2 --scale=paper --workdir=runs/simvpv2

expects MSE 26.69, MAE 77.19, SSIM 0.9402 after 200 epochs; `--config.train.steps=1250000` (2,000
epochs) 15.05, 49.80, 0.9675. 46.8 M parameters.
"""

from configs import _moving_digits

FACTS = {
    "family": "prediction",
    "paper": "Tan et al. 2022, arXiv 2211.12509",
    "parameters": 46_769_665,
    "macs": 16.468e9,
    "published": {
        "moving_mnist_200_epochs": {"mse_sum": 26.69, "mae_sum": 77.19, "ssim_openstl": 0.9402},
        "moving_mnist_2000_epochs": {"mse_sum": 15.05, "mae_sum": 49.80, "ssim_openstl": 0.9675},
    },
    "source": "OpenSTL docs, Moving MNIST benchmark, v0.3.0",
}


def get_config(scale="tiny"):
    """The S size of the repository's Moving MNIST config."""
    config = _moving_digits.sections(scale)
    config.model = dict(hid_S=64, N_S=4)
    config.translator = dict(
        name="gsta", hid_T=512, N_T=8, mlp_ratio=8.0, drop=0.0, drop_path=0.0, kernel_size=21,
        remat=False,
    )
    config.task = dict(loss_name="mse")
    config.optimizer = dict(name="adam", peak=1e-3, schedule="one_cycle")
    # 625 steps an epoch: 10,000 generated sequences in batches of 16.
    config.train = dict(
        batch=16, steps=200 * 625, seed=42, accumulate=1, ema=0.0, precision="float32"
    )
    if scale == "small":
        config.train.update(batch=64, steps=10_000, precision="bfloat16")
    if scale == "tiny":
        config.model.update(hid_S=16, N_S=2)
        config.translator.update(hid_T=64, N_T=4, mlp_ratio=4.0)
        config.optimizer.peak = 5e-3
        config.train.update(batch=16, steps=1_000)
    return config


def ablations():
    """The large model, and a smaller attention kernel."""
    return {
        "large": {"model.hid_S": 128, "translator.hid_T": 1024, "translator.N_T": 24},
        "kernel 9": {"translator.kernel_size": 9},
    }
