"""ConvS5 (Smith et al. 2023, arXiv 2310.19694) on long Moving MNIST, 300 frames.

    python -m experiments.convs5 --scale=paper --workdir=runs/convs5

trains on 300 frames (8 layers of 256, 21.7 M parameters, 300,000 steps) and rolls out 400 after
100; `--config.test.horizon=800` or 1200 for the longer evaluations. `ablations()` names the
paper's baselines (ConvLSTM, transformer, S5) and its own arms.
"""

from configs import _moving_digits

FACTS = {
    "family": "prediction",
    "paper": "Smith et al. 2023, arXiv 2310.19694",
    "parameters": 21_681_411,
    "parameters_of": {
        "convs5 600": 7_409_155,
        "convlstm": 40_540_419,
        "convlstm 600": 12_120_067,
        "transformer": 240_073_475,
    },
    # The paper's tables were not to be had in text; its abstract claims these.
    "published": {"training_speed_over_convlstm": 3, "sampling_speed_over_transformer": 400},
    "source": "abstract; parameters computed from NVlabs/ConvSSM@cb08bb3",
}


def get_config(scale="tiny"):
    """Moving MNIST, training length 300; every option of the official code is a field."""
    config = _moving_digits.sections(scale, context=100, horizon=200, motion="convssm")
    config.model = dict(
        mixer="convs5",
        features=256,
        layers=8,
        encoder_depths=(64, 128, 256),
        decoder_depths=(64, 128, 256),
        groups=32,
        norm="post",
        skip=True,
        dropout=0.0,
        activation="gelu",
        remat=False,
    )
    config.convs5 = dict(
        state_size=256, blocks=1, clip_eigenvalues=True, shortest_step=1e-3, longest_step=0.1,
        input_kernel=3, output_kernel=3, readout_kernel=3, readout="resnet",
        squeeze_excite=False, method="auto",
    )
    config.s5 = dict(
        state_size=256, blocks=1, clip_eigenvalues=True, shortest_step=1e-3, longest_step=0.1
    )
    config.convlstm = dict(kernel_size=3)
    config.transformer = dict(
        features=1024, heads=16, mlp_features=4096, capacity=1_500, dropout=0.0
    )
    config.task = dict(
        loss_name="half_mse_half_l1", value_range=(-1.0, 1.0), drop_loss_rate=0.0
    )
    # The published cosine ends 5,000 steps early: optax counts the warm-up into decay_steps.
    config.optimizer = dict(
        name="adamw", peak=1e-3, b2=0.95, weight_decay=1e-5, schedule="warmup_cosine",
        schedule_args=dict(warmup=5_000, decay_steps=295_000),
    )
    config.train = dict(
        batch=8, steps=300_000, seed=1, accumulate=1, ema=0.0, precision="float32"
    )
    if scale == "paper":
        config.test.update(horizon=400, count_test=1_024)
        config.run.update(eval_batch=8)
    if scale == "small":
        config.model.update(features=64, layers=4, encoder_depths=(32, 64), decoder_depths=(32, 64))
        config.convs5.state_size = config.s5.state_size = 64
        config.transformer.update(features=256, heads=8, mlp_features=1024, capacity=150)
        config.data.update(size=32, digit_size=14, context=50, horizon=100, motion="convssm")
        config.optimizer.schedule_args.update(warmup=200, decay_steps=4_000)
        config.train.update(batch=16, steps=4_000)
    if scale == "tiny":
        config.model.update(
            features=32, layers=2, encoder_depths=(16, 32), decoder_depths=(16, 32), groups=8
        )
        config.convs5.state_size = config.s5.state_size = 64
        config.transformer.update(features=128, heads=4, mlp_features=256, capacity=32)
        config.optimizer.peak = 2e-3
        config.optimizer.schedule_args.update(warmup=50, decay_steps=800)
        config.train.update(batch=16, steps=800)
    return config


def ablations():
    """The paper's baselines, and what it takes away from ConvS5."""
    return {
        "ConvLSTM": {"model.mixer": "convlstm", "optimizer.peak": 5e-4},
        "S5": {"model.mixer": "s5"},
        "transformer": {"model.mixer": "transformer"},
        "1x1 kernels": {"convs5.input_kernel": 1, "convs5.output_kernel": 1},
        "plain readout": {"convs5.readout": "standard"},
        "half GLU": {"convs5.readout": "half_glu"},
    }
