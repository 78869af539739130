"""VDT (Lu et al. 2023, arXiv 2305.13311): one diffusion transformer completes clips of any kind.

    python -m experiments.vdt --scale=paper --workdir=runs/vdt

The paper trains on latents of Stable Diffusion's frozen autoencoder, 16 frames of 16 x 16 x 4, and
reports FVD, for which the network of features is not here: 225.7 without conditions on UCF101 at
64 pixels, 142.3 from 2 frames to 28 on Cityscapes. The autoencoder is not here either. Latents
encoded elsewhere come in by `data.source=folder:<path>`, scaled to [0, 1]; the default folds moving
digits of 32 pixels into 16 x 16 x 4.
"""

from configs import _moving_digits

# Depth, width and heads of the published sizes.
VARIANTS = {
    "S/2": dict(depth=12, dim=384, heads=6),
    "L/2": dict(depth=28, dim=1152, heads=16),
}
FACTS = {
    "family": "generation",
    "paper": "Lu et al. 2023, arXiv 2305.13311",
    "parameters": 859_704_224,
    # Of the official class, without its fixed tables.
    "parameters_of": {"S/2": 41_361_056, "L/2": 859_704_224},
    "published": {
        "UCF101, unconditional": {"fvd": 225.7},
        "Cityscapes, 2 to 28 frames": {"fvd": 142.3, "ssim": 0.880},
        "Physion, token concatenation": {"fvd": 129.1, "ssim": 0.8718},
        "Physion, cross-attention": {"fvd": 134.9, "ssim": 0.8523},
        "Physion, adaptive layer norm": {"fvd": 270.8, "ssim": 0.6247},
    },
    "source": "RERV/VDT@cdbad2b models.py, diffusion/, mask_generator.py; results as reviews quote",
}


def get_config(scale="tiny"):
    """VDT-L/2. The code of training was not published: the optimizer is DiT's."""
    config = _moving_digits.sections(scale, size=32, digit_size=14)
    config.data.update(context=8, horizon=8)
    del config.test.horizon
    config.model = dict(
        **VARIANTS["L/2"], patch=2, mlp_ratio=4.0, learn_sigma=True, temporal=True,
        classes=1, label_dropout=0.1, conditioning="token", remat=True,
    )
    config.diffusion = dict(schedule="linear", steps=1000, predicts="epsilon")
    config.masks = dict(
        stride=4, arbitrary=0.8, area=0.5, complete=0.2, empty=False,
        families=("predict", "backward", "interpolate", "unconditional", "animate", "arbitrary"),
    )
    config.task = dict(
        spacing="500", sampler="ddpm", eta=0.0, clip=False, masks_per="batch", samples=1,
        tests=("predict", "interpolate", "complete", "unconditional"),
        value_range=(-1.0, 1.0), fold=2,
    )
    config.optimizer = dict(
        name="adamw", peak=1e-4, schedule="constant", schedule_args=dict(), weight_decay=0.0,
        clip=0.0,
    )
    config.train = dict(
        batch=256, steps=400_000, seed=42, accumulate=1, ema=0.9999, precision="bfloat16"
    )
    config.run.eval_batch = 4
    if scale == "small":
        config.data.update(size=32, digit_size=14)
        config.model.update(VARIANTS["S/2"])
        config.optimizer.peak = 3e-4
        config.train.update(batch=64, steps=6_000, ema=0.999)
        config.task.spacing = "100"
        config.test.count_test = 64
    if scale == "tiny":
        config.data.update(size=16, digit_size=8, context=5, horizon=3)
        # The error of clean values is a tenth of the bound that teaches the variance, which drowns
        # it: with a learned variance the samples stay worse than the mean frame.
        config.model.update(depth=4, dim=64, heads=4, patch=4, learn_sigma=False)
        config.diffusion.predicts = "x0"
        config.masks.families = ("predict", "predict", "interpolate", "unconditional")
        config.task.update(
            spacing="10", sampler="ddim", masks_per="sample", fold=1, clip=True, samples=4
        )
        config.optimizer.update(
            peak=2e-3, schedule="warmup_cosine", schedule_args=dict(warmup=100), clip=1.0
        )
        config.train.update(batch=16, steps=1_600, ema=0.99, precision="float32")
        config.test.count_test = 100
        config.run.eval_batch = 50
    return config


def ablations():
    """The claim's arms, the ways to condition, and what a network may predict."""
    only = {"masks.families": ("predict",), "masks.complete": 0.0, "task.tests": ("predict",)}
    return {
        "only prediction": only | {"task.tests": ("predict", "interpolate", "complete")},
        "no temporal attention": {"model.temporal": False},
        "token concatenation": only,
        "cross-attention": only | {"model.conditioning": "cross"},
        "adaptive layer norm": only | {"model.conditioning": "adaln"},
        **{f"predicts {name}": {"diffusion.predicts": name} for name in ("epsilon", "x0", "v")},
        "learned variance": {"model.learn_sigma": True},
    }
