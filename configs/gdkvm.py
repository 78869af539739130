"""GDKVM (Wang et al. 2025, arXiv 2512.10252): the left ventricle in echocardiograms.

    python -m experiments.gdkvm --scale=paper --config.data.source=camus:folder

expects a Dice error of about 0.05 (mDice up to 95.11). The published encoders start from ImageNet,
these from nothing.
"""

from ml_collections import ConfigDict

# Height and width, and degrees that training clips are turned by.
DATA = {"camus": (256, 10.0), "echonet": (128, 0.0)}
DECODERS = {"base": (256, 128, 128), "small": (256, 128, 64)}
ENCODERS = {
    "resnet18": dict(depths=(2, 2, 2), features=64, bottleneck=False),
    "resnet50": dict(depths=(3, 4, 6), features=64, bottleneck=True),
}
FACTS = {
    "family": "dense",
    "paper": "Wang et al. 2025, arXiv 2512.10252",
    "parameters": 35_078_282,
    # By decoder and image encoder; the mask encoder is a ResNet-18.
    "parameters_of": {
        ("base", "resnet50"): 35_078_282,
        ("small", "resnet50"): 34_885_642,
        ("small", "resnet18"): 28_609_034,
    },
    # Multiply-adds of ten frames of 128 x 128.
    "macs_of_128": 32.2e9,
    "published": {"dice": 0.9511, "frames_per_second": 37},
    "source": "secondary summaries of the paper; recipe of wangrui2025/GDKVM@545eed3",
}


def get_config(scale="tiny", data="camus", decoder="base", image_encoder="resnet50"):
    """The gate of the paper; `model.gate` "code" is what the published code computes.

    Args:
        scale: "tiny" and "small": made hearts; "paper": as published.
        data: at scale "paper", a key of `DATA`.
        decoder, image_encoder: keys of `DECODERS` and `ENCODERS`.

    Raises:
        ValueError: an unknown scale.
    """
    if scale not in ("tiny", "small", "paper"):
        raise ValueError(f"scale {scale!r} is none of ('tiny', 'small', 'paper')")
    size, turn = DATA[data]
    config = ConfigDict(dict(
        data=dict(
            source=f"{data}:{data}_png{size}_10f", length=10, size=size, turn=turn, seed=0,
            count_train=1_000_000, count_test=200,
        ),
        test=dict(split="test"),
        model=dict(
            image_encoder=ENCODERS[image_encoder], mask_encoder=ENCODERS["resnet18"], width=256,
            key_width=64, decoder=DECODERS[decoder], queries=16, blocks=3, heads=8, hidden=2048,
            memory="gated_delta", gate="paper", kpff=True, remat=False,
        ),
        task=dict(
            classes=2, supervised=(0, -1), evaluated=(0, -1), prompted=False, points=12_544,
            oversampling=3, certain_share=0.25, auxiliary=0.01,
        ),
        optimizer=dict(
            name="adamw", peak=1e-4, schedule="piecewise", weight_decay=1e-3, clip=3.0, eps=1e-6,
            schedule_args=dict(boundaries=(1_000, 2_000), factor=0.1),
        ),
        train=dict(
            batch=16, steps=3_000, seed=42, accumulate=1, ema=0.0, precision="bfloat16"
        ),
        run=dict(
            mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit",
            log_every=50, eval_every=500, checkpoint_every=500, eval_batch=16, keep_last=2,
            workers=4, wandb="",
        ),
    ))
    if scale == "paper":
        return config
    config.data.update(source="heart", size=128, turn=0.0)
    config.task.evaluated = ()
    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.schedule_args = dict(warmup=100)
    if scale == "small":
        config.optimizer.peak = 3e-4
    if scale == "tiny":
        config.data.update(size=64, length=5, count_test=60)
        config.model.update(
            image_encoder=dict(depths=(1, 1, 1), features=16, bottleneck=False),
            mask_encoder=dict(depths=(1, 1, 1), features=8, bottleneck=False),
            width=32, key_width=16, decoder=(32, 32, 16), queries=4, blocks=1, heads=4, hidden=64,
        )
        config.task.points = 1_024
        config.optimizer.update(peak=3e-3, clip=1.0, eps=1e-8, schedule_args=dict(warmup=40))
        config.train.update(batch=8, steps=250, seed=0, precision="float32")
        config.run.update(eval_every=0, eval_batch=30, workers=0)
    return config


def ablations():
    """The memory's parts, as the paper takes them away, and the gate of the published code."""
    arms = {
        memory.replace("_", " "): {"model.memory": memory}
        for memory in ("delta", "additive", "none")
    }
    arms["no fusion of keys"] = {"model.kpff": False}
    arms["gate of the code"] = {"model.gate": "code"}
    arms["shown the first mask"] = {"task.prompted": True}
    return arms
