"""PredFormer (Tang et al. 2024, arXiv 2410.04733) on Moving MNIST, 10 frames in, 10 out.

    python -m experiments.predformer --scale=paper --workdir=runs/predformer

expects MSE 12.4, MAE 44.6, SSIM 0.973 (Quadruplet-TSST, 25.3 M parameters, 2,000 epochs).
"""

from configs import _moving_digits

ORDERS = ("full", "S-T", "T-S", "TS", "ST", "TST", "STS", "TSST", "STTS")
# Layers that make 24 gated transformer blocks of each encoder on Moving MNIST.
LAYERS = {"full": 24, "S-T": 12, "T-S": 12, "TS": 12, "ST": 12, "TST": 8, "STS": 8,
          "TSST": 6, "STTS": 6}
FACTS = {
    "family": "prediction",
    "paper": "Tang et al. 2024, arXiv 2410.04733",
    "parameters": 25_297_728,
    "macs": 16.42e9,
    "published": {
        "full": {"mse_sum": 17.3, "mae_sum": 56.0, "ssim_openstl": 0.962},
        "S-T": {"mse_sum": 20.6, "mae_sum": 63.5, "ssim_openstl": 0.955},
        "T-S": {"mse_sum": 16.9, "mae_sum": 55.8, "ssim_openstl": 0.963},
        "TS": {"mse_sum": 12.8, "mae_sum": 46.1, "ssim_openstl": 0.972},
        "ST": {"mse_sum": 13.4, "mae_sum": 47.1, "ssim_openstl": 0.971},
        "TST": {"mse_sum": 13.4, "mae_sum": 47.2, "ssim_openstl": 0.971},
        "STS": {"mse_sum": 13.1, "mae_sum": 46.7, "ssim_openstl": 0.972},
        "TSST": {"mse_sum": 12.4, "mae_sum": 44.6, "ssim_openstl": 0.973},
        "STTS": {"mse_sum": 12.4, "mae_sum": 44.9, "ssim_openstl": 0.973},
    },
    "source": "README of yyyujintang/PredFormer@b73c7ae, Moving MNIST",
}


def get_config(scale="tiny"):
    """Quadruplet-TSST, the paper's best on Moving MNIST."""
    config = _moving_digits.sections(scale)
    config.model = dict(
        order="TSST", layers=6, patch=8, dim=256, heads=8, head_dim=32, mlp_ratio=4.0,
        gate="swiglu", dropout=0.0, attn_dropout=0.0, drop_path=0.0, drop_path_rule="uniform",
        position="fixed", skip=False, scramble=False, remat=False,
    )
    config.task = dict(loss_name="mse")
    config.optimizer = dict(name="adamw", peak=1e-3, schedule="one_cycle", weight_decay=1e-2)
    # 625 steps an epoch: 10,000 generated sequences in batches of 16.
    config.train = dict(
        batch=16, steps=2000 * 625, seed=42, accumulate=1, ema=0.0, precision="float32"
    )
    if scale == "small":
        config.train.update(batch=64, steps=6_000, precision="bfloat16")
    if scale == "tiny":
        config.model.update(layers=1, patch=4, dim=64, heads=4, head_dim=16)
        config.optimizer.peak = 3e-3
        config.train.update(batch=16, steps=2_400)
    return config


def ablations():
    """The nine encoders at 24 blocks each, the gate, the position code."""
    arms = {order: {"model.order": order, "model.layers": LAYERS[order]} for order in ORDERS}
    arms["MLP"] = {"model.gate": "mlp"}
    arms["learned positions"] = {"model.position": "learned"}
    arms["linear stochastic depth"] = {"model.drop_path": 0.25, "model.drop_path_rule": "linear"}
    return arms
