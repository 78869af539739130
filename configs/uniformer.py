"""UniFormer (Li et al. 2022, arXiv 2201.04676): recognition of clips; local early, global late.

    python -m experiments.uniformer --scale=paper --workdir=runs/uniformer \\
        --config.data.source=lists:k400/train.csv,k400/val.csv --config.data.root=k400

expects a top-1 error of 0.192 on Kinetics-400 (UniFormer-S, 16 frames, four clips, from an
ImageNet-1K checkpoint; from nothing about six points more).
"""

from ml_collections import ConfigDict

# Depths of the four stages; widths and all else are the same.
SIZES = {"S": (3, 4, 8, 3), "B": (5, 8, 20, 7)}
DATA = {"k400": 400, "k600": 600, "ssv1": 174, "ssv2": 174}
# Size, data, frames -> batch, stochastic depth, epochs, epochs of warm-up, peak learning rate.
# The published run scripts', which override the published configuration files.
RECIPES = {
    ("S", "k400", 8): (128, 0.1, 100, 10, 4e-4),
    ("S", "k400", 16): (32, 0.1, 110, 10, 1e-4),
    ("S", "k400", 32): (32, 0.1, 110, 10, 1e-4),
    ("S", "k600", 16): (96, 0.1, 110, 10, 3e-4),
    ("B", "k400", 8): (64, 0.3, 100, 10, 2e-4),
    ("B", "k400", 16): (40, 0.3, 110, 10, 1.25e-4),
    ("B", "k400", 32): (32, 0.3, 110, 10, 1e-4),
    ("B", "k600", 16): (40, 0.3, 110, 10, 1.25e-4),
    ("B", "k600", 32): (32, 0.3, 110, 10, 1e-4),
    ("S", "ssv1", 16): (32, 0.2, 60, 5, 2e-4),
    ("S", "ssv1", 32): (32, 0.2, 60, 5, 2e-4),
    ("S", "ssv2", 16): (32, 0.3, 50, 5, 2e-4),
    ("S", "ssv2", 32): (32, 0.3, 50, 5, 2e-4),
    ("B", "ssv1", 16): (40, 0.6, 60, 5, 2.5e-4),
    ("B", "ssv1", 32): (32, 0.6, 60, 5, 2e-4),
    ("B", "ssv2", 16): (40, 0.4, 50, 5, 2.5e-4),
    ("B", "ssv2", 32): (32, 0.5, 50, 5, 2e-4),
}
FACTS = {
    "family": "recognition",
    "paper": "Li et al. 2022, arXiv 2201.04676",
    "parameters": 21_400_400,
    "parameters_of": {
        ("S", "k400"): 21_400_400, ("S", "k600"): 21_503_000, ("S", "ssv2"): 21_284_462,
        ("B", "k400"): 49_813_200, ("B", "k600"): 49_915_800, ("B", "ssv2"): 49_697_262,
        "divided": 27_847_504, "XXS": 9_833_896, "XS": 16_099_552,
    },
    # Multiply-adds of one view of 224 x 224, by size and frames, attention counted dense.
    "macs_of": {
        ("S", 8): 17.57e9, ("S", 16): 41.66e9, ("S", 32): 109.4e9,
        ("B", 8): 40.13e9, ("B", 16): 96.55e9, ("B", 32): 258.3e9,
    },
    # Top-1 accuracy of models that start from ImageNet-1K (Kinetics) or Kinetics-400.
    "published": {
        ("S", "k400", 8): 78.4, ("S", "k400", 16): 80.8, ("S", "k400", 32): 82.0,
        ("B", "k400", 8): 79.8, ("B", "k400", 16): 82.0, ("B", "k400", 32): 82.9,
        ("S", "k600", 16): 82.8, ("B", "k600", 16): 84.0, ("B", "k600", 32): 84.8,
        ("S", "ssv1", 16): 57.2, ("S", "ssv1", 32): 58.8, ("S", "ssv2", 16): 67.7,
        ("S", "ssv2", 32): 69.0, ("B", "ssv1", 16): 59.1, ("B", "ssv1", 32): 60.9,
        ("B", "ssv2", 16): 70.4, ("B", "ssv2", 32): 71.1,
    },
    "source": "README of Sense-X/UniFormer@52a0415, video_classification",
}
CLIPS = {"k400": 240_000, "k600": 390_000, "ssv1": 86_017, "ssv2": 168_913}


def get_config(scale="tiny", size="S", data="k400", frames=16):
    """UniFormer on moving digits ("tiny", "small"), or as published ("paper").

    Args:
        size, data, frames: at scale "paper", a key of `RECIPES`.

    Raises:
        ValueError: an unknown scale, or a recipe that was not published.
    """
    if scale not in ("tiny", "small", "paper"):
        raise ValueError(f"scale {scale!r} is none of ('tiny', 'small', 'paper')")
    if (size, data, frames) not in RECIPES:
        raise ValueError(f"no recipe {(size, data, frames)}; there are {list(RECIPES)}")
    batch, drop_path, epochs, warmup, peak = RECIPES[size, data, frames]
    kinetics = data.startswith("k")
    config = ConfigDict(dict(
        data=dict(
            source=f"lists:{data}/train.csv,{data}/val.csv", root=data, classes=DATA[data],
            frames=frames, stride=4 if kinetics else 0, size=224, repeats=2,
            augment="rand-m7-n4-mstd0.5-inc1", flip=kinetics, digits="sklearn",
            count_train=0, seed=0,
        ),
        # Kinetics: four clips, one crop; Something-Something: one clip, three crops.
        test=dict(views=4 if kinetics else 1, crops=1 if kinetics else 3, count_test=0),
        model=dict(
            pattern="LLGG", depths=SIZES[size], dims=(64, 128, 320, 512), head_dim=64,
            mlp_ratio=4.0, tube=5, dpe=True, layer_scale=0.0, patch=4, stride=2, overlap=False,
            drop_path=drop_path, remat=False,
        ),
        task=dict(
            smoothing=0.1, mixup=0.8, cutmix=1.0, erase=0.25, average="probabilities",
            mean=0.45, std=0.225,
        ),
        optimizer=dict(
            name="adamw", peak=peak, schedule="warmup_cosine", weight_decay=0.05,
            decayed="kernels", clip=20.0,
            schedule_args=dict(warmup=warmup * CLIPS[data] // batch),
        ),
        train=dict(
            batch=batch, steps=epochs * CLIPS[data] // batch, seed=0, accumulate=1, ema=0.0,
            precision="bfloat16",
        ),
        run=dict(
            mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit",
            log_every=50, eval_every=0, checkpoint_every=1_000, eval_batch=32, keep_last=2,
            workers=8, wandb="",
        ),
    ))
    if scale == "paper":
        return config
    config.data.update(
        source="motions", root="", classes=8, stride=1, repeats=1, augment="", flip=False
    )
    config.test.update(views=1, crops=1, count_test=1_000)
    config.task.update(smoothing=0.0, mixup=0.0, cutmix=0.0, erase=0.0)
    config.run.update(eval_batch=250, workers=0)
    if scale == "small":
        config.data.update(frames=16, size=64)
        config.model.update(dims=(32, 64, 160, 256), head_dim=32)
        config.optimizer.update(peak=1e-3, clip=1.0, schedule_args=dict(warmup=200))
        config.train.update(batch=128, steps=4_000)
        config.run.update(workers=8)
    if scale == "tiny":
        config.data.update(frames=8, size=32)
        config.model.update(
            depths=(1, 1, 2, 1), dims=(32, 48, 64, 96), head_dim=16, patch=4, stride=1,
            drop_path=0.0,
        )
        config.optimizer.update(peak=2e-3, clip=1.0, schedule_args=dict(warmup=50))
        config.train.update(batch=32, steps=400, precision="float32")
    return config


def ablations():
    """The stages' patterns, the position embedding, the tube, divided attention."""
    arms = {pattern: {"model.pattern": pattern} for pattern in ("LLLL", "LLLG", "LGGG", "GGGG")}
    arms["divided"] = {"model.pattern": "LLDD"}
    arms["no position embedding"] = {"model.dpe": False}
    arms |= {f"tube {side}": {"model.tube": side} for side in (3, 7, 9)}
    return arms
