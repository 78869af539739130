"""Deconstructing recurrence, attention, gating (Heidenreich et al. 2024, arXiv 2410.02654).

    python -m experiments.deconstructing --scale=paper --workdir=runs/deconstructing

trains what the paper finds best, a recurrent highway network with neural gating and attention, on
three-tier Lorenz-96 of which the slow variables are seen. There is no published code, and no table
of the paper was to be had: sizes and recipe are a reading of its abstract and of the group's
earlier code (RNN-RC-Chaos). `ARMS` are its parts in their combinations; `python -m
benchmarks.chaos` trains all of them at equal size.
"""

from ml_collections import ConfigDict

SCALES = ("tiny", "small", "paper")
FACTS = {
    "family": "series",
    "paper": "Heidenreich, Vlachas & Koumoutsakos 2024, arXiv 2410.02654",
    # No count was published: this is ours, of the sizes below.
    "parameters": 3_031_560,
    # What the abstract claims, in words.
    "published": {
        "gating and attention": "improve recurrent networks in most tasks",
        "recurrence": "is detrimental to transformers",
        "best on high-dimensional spatiotemporal systems": "RHN with gating and attention",
    },
    "source": "abstract; recipe after pvlachas/RNN-RC-Chaos@a403e0e",
}

_BARE = {"model.joint": "none", "model.window": 0}
_GATED = {"model.joint": "coupled", "model.window": 0}
_BOTH = {"model.joint": "coupled", "model.window": 32}
_TRANSFORMER = {"model.mixer": "attention", "model.window": 0}
# The paper's combinations of parts, as overrides.
ARMS = {
    f"{mixer.upper()}{name}": {"model.mixer": mixer, **parts}
    for mixer in ("gru", "lstm", "rhn")
    for name, parts in {"": _BARE, "+NG": _GATED, "+NG+att": _BOTH}.items()
} | {
    "Transformer": {**_TRANSFORMER, "model.joint": "additive"},
    "Transformer+NG": {**_TRANSFORMER, "model.joint": "coupled"},
    "Transformer+segments": {
        **_TRANSFORMER, "model.joint": "additive", "model.mixer": "segments"
    },
    "Transformer+tokens": {**_TRANSFORMER, "model.joint": "additive", "model.mixer": "tokens"},
}
# What differs from three-tier Lorenz-96 on other systems: the ring of 22 is the group's (LED), and
# 0.043 its largest exponent (Edson et al. 2019, arXiv 1902.09651).
SYSTEMS = {
    "three_tier": {},
    "kuramoto_sivashinsky": {
        "data.system": "kuramoto_sivashinsky", "task.lyapunov": 0.043,
    },
}


def get_config(scale: str = "tiny") -> ConfigDict:
    """RHN with gating and attention on three-tier Lorenz-96.

    Args:
        scale: "tiny": 97,000 parameters, minutes on two cores; "small": 760,000; "paper":
            the size that we take the paper's to have.

    Raises:
        ValueError: an unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {SCALES}")
    config = ConfigDict()
    config.data = dict(
        system="three_tier", options=ConfigDict(), window=64, context=64, horizon=400,
        trajectories=64, steps=2_000, transient=1_000, every=1, count_test=100, seed=0,
        path="", split=(8_640, 2_880, 2_880), stride=1,
    )
    config.test = dict()
    config.model = dict(
        features=256, layers=2, mixer="rhn", joint="coupled", window=32, gate="", depth=3,
        heads=4, context=64, tokens=8, mlp_ratio=2.0, dropout=0.0, remat=False,
    )
    # 4.5: Thornes et al. 2017, as cited by Chattopadhyay et al. 2020 (arXiv 1906.08829).
    config.task = dict(
        lyapunov=4.5, threshold=0.5, target="increment", noise=1e-2, lags=(1, 4, 16), period=0
    )
    config.optimizer = dict(
        name="adamw", peak=1e-3, schedule="warmup_cosine", schedule_args=dict(warmup=200),
        weight_decay=1e-4, clip=1.0,
    )
    config.train = dict(
        batch=32, steps=50_000, seed=0, accumulate=1, ema=0.0, precision="float32"
    )
    config.run = dict(
        mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit",
        log_every=50, eval_every=0, checkpoint_every=1_000, eval_batch=64, keep_last=2,
        workers=0, wandb="",
    )
    if scale == "small":
        config.model.update(features=128)
        config.train.update(steps=10_000)
    if scale == "tiny":
        config.data.update(trajectories=32, steps=1_000, count_test=50)
        config.model.update(features=64, layers=1)
        config.optimizer.update(peak=3e-3, schedule_args=dict(warmup=50))
        config.train.update(steps=1_000)
    return config


def ablations():
    """The paper's parts in their combinations, at one width."""
    return ARMS
