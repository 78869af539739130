"""Lumos-1 (Yuan et al. 2025, arXiv 2507.08801): one language model for text and video codes.

    python -m experiments.lumos1 --scale=paper --config.data.source=tokens:pre_tokenize/data/video

trains on clips that NVIDIA's Cosmos-Tokenizer-DV4x8x8 has turned into codes before, as the
published recipe does (stage 2: 448 x 256, 25 frames at 12 a second, seven latent frames of 32 x 56
codes). The 3.6 B model reaches 0.791 on GenEval, 84.72 on VBench-I2V and 78.3 on VBench-T2V with
60 M images and 10 M videos, none of them public. Smaller scales train a tokenizer of their own, on
moving digits, in the first steps of the same run.
"""

from configs import _moving_digits

VARIANTS = {
    "1B": dict(dim=2048, depth=16, heads=32, kv_heads=8, hidden=8192),
    "3B": dict(dim=3072, depth=28, heads=24, kv_heads=8, hidden=8192),
}
# Learning rates of stage 2 are alike; of stage 1, images alone, 5e-5 and 1e-4.
FACTS = {
    "family": "generation",
    "paper": "Yuan et al. 2025, arXiv 2507.08801",
    "parameters": 1_503_729_664,
    "parameters_of": {"1B": 1_503_729_664, "3B": 3_614_630_912},
    "parameters_of_tokenizer": 112_472_182,
    "published": {
        "3B": {"geneval": 0.791, "vbench_i2v": 84.72, "vbench_t2v": 78.32},
    },
    "source": "alibaba-damo-academy/Lumos@f7c9cd2 lumos-1, exps/*.sh; shapes as Llama-3.2's, which "
              "give the published counts",
}


def get_config(scale="tiny"):
    """The 1.5 B model; on moving digits but at scale "paper"."""
    config = _moving_digits.sections(scale)
    del config.test.horizon
    config.model = dict(
        **VARIANTS["1B"], base=10_000.0, strides=(4, 8, 8), remat=True,
    )
    config.vocabulary = dict(text=65_536, codes=64_000)
    config.tokenizer = dict(
        features=128, multipliers=(2, 4, 4), blocks=2, attention_levels=(), patch=4, time=4,
        space=8, latents=16, scalars=(8, 8, 8, 5, 5, 5),
    )
    config.tokenizing = dict(loss_name="mse", value_range=(-1.0, 1.0))
    config.task = dict(
        rate=12, mask="tube", least_rate=0.7, drop_text=0.1, history=0.7,
        hide_given=True, steps=50, temperature=1.0, compounded=False, sharpness=1.0,
        guidance=15.0, chunk=200,
    )
    config.optimizer = dict(
        tokenizer=dict(
            name="adam", peak=1e-3, schedule="warmup_cosine",
            schedule_args=dict(warmup=100, decay_steps=1_000),
        ),
        model=dict(
            name="adamw", peak=2.5e-5, schedule="warmup_cosine", b1=0.9, b2=0.95,
            weight_decay=0.1, clip=4.0, schedule_args=dict(warmup=0),
        ),
    )
    config.train = dict(
        batch=64, steps=100_000, seed=42, accumulate=1, ema=0.0, precision="bfloat16"
    )
    if scale == "paper":
        # 672 x 384 pixels, 25 frames: stage 2 at 384p.
        config.data = dict(
            source="tokens:pre_tokenize/data/test_video", context=1, horizon=6, height=48, width=84,
            text=256,
        )
        del config.test
        config.train.update(batch=48)
    if scale == "small":
        config.data.update(context=9, horizon=16)
        config.model.update(dim=512, depth=8, heads=8, kv_heads=4, hidden=1408, strides=(4, 8, 8))
        config.vocabulary.update(text=9_100, codes=1_000)
        config.tokenizer.update(features=64, multipliers=(1, 2), blocks=1, scalars=(8, 5, 5, 5))
        config.task.update(rate=1, steps=12, guidance=1.0)
        config.optimizer.tokenizer.update(peak=3e-4)
        config.optimizer.tokenizer.schedule_args.decay_steps = 4_000
        config.optimizer.model.update(peak=5e-4)
        config.optimizer.model.schedule_args.warmup = 2_000
        config.train.update(batch=32, steps=12_000)
    if scale == "tiny":
        config.data.update(context=5, horizon=4, digit_size=6)
        config.vocabulary = dict(
            text=64, codes=256, frame_start=1, frame_end=2, line_end=3, mask=4, video_start=5,
            numbers=8, unit=4,
        )
        config.model.update(
            dim=64, depth=2, heads=2, kv_heads=1, hidden=128, strides=(2, 4, 4), remat=False
        )
        config.tokenizer.update(
            features=16, multipliers=(1, 1), blocks=0, patch=2, time=2, space=4, latents=8,
            scalars=(4, 4, 4, 4),
        )
        # Small dark frames between -1 and 1 hardly differ beside the convolutions' biases, and all
        # become the mean frame; so the digits are bright.
        config.tokenizing.value_range = (-1.0, 9.0)
        config.task.update(
            rate=1, least_rate=0.3, history=0.3, steps=6, guidance=1.0,
            hide_given=False, sharpness=float("inf"), temperature=0.0,
        )
        config.optimizer.tokenizer.update(
            peak=8e-3, schedule_args=dict(warmup=30, decay_steps=450)
        )
        config.optimizer.model.update(peak=3e-3, clip=1.0, schedule_args=dict(warmup=150))
        config.train.update(batch=16, steps=750, precision="float32")
        config.test.count_test = config.run.eval_batch = 250
    return config


def ablations():
    """Masks of training, what is hidden of the history, positions."""
    return {
        "random masks": {"task.mask": "random"},
        "history 0.7": {"task.history": 0.7},
        "whole history": {"task.history": 0.0},
        "given frames hidden": {"task.hide_given": True},
        "unscaled positions": {"model.strides": (1, 1, 1)},
    }
