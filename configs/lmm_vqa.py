"""LMM-VQA (Ge et al. 2024, arXiv 2408.14008): video quality told by a language model.

    python -m experiments.lmm_vqa --scale=paper --workdir=runs/lmm_vqa --config.data.root=LSVQ \\
        --config.data.source=tables:LSVQ_whole_train.csv,LSVQ_whole_test.csv \\
        --config.data.tokenizer=file:Meta-Llama-3-8B-Instruct/tokenizer.json

The paper's tables could not be had: it says that it is the best on five sets, and generalises some
5 % better than those before it. Sizes and recipe are those of the published code.
"""

from ml_collections import ConfigDict

_CLIP, _SLOWFAST, _HEAD = 303_179_776, 34_566_488 - 922_000, 128_259 * 4_096
FACTS = {
    "family": "language",
    "paper": "Ge et al. 2024, arXiv 2408.14008",
    # CLIP, SlowFast without its classifier, both projectors, the trained table of embeddings and
    # Llama-3-8B with 128,259 rows; its own table, which the published code keeps and never reads,
    # is not there.
    "parameters": _CLIP + _SLOWFAST + 16_802_816 + 2_362_368 + 8_030_285_824,
    "parameters_of": {
        "clip": _CLIP, "slowfast": _SLOWFAST, "projector": 16_802_816,
        "motion_projector": 2_362_368, "embedding": _HEAD, "head": _HEAD,
        "language": 8_030_285_824 - 2 * _HEAD,
    },
    "source": "Zhanghahah/ds-vqa-yuyu@a915f52; the parts measured",
}
# 95 % of the 28,013 videos, each with both questions: 128 pairs a step, six epochs.
_VIDEOS, _EPOCHS, _BATCH = 26_612, 6, 64


def get_config(scale="tiny"):
    """Made videos ("tiny", "small"), or LSVQ as published ("paper")."""
    if scale not in ("tiny", "small", "paper"):
        raise ValueError(f"scale {scale!r} is none of ('tiny', 'small', 'paper')")
    steps = _EPOCHS * _VIDEOS // _BATCH
    config = ConfigDict(dict(
        data=dict(
            source="tables:LSVQ_whole_train.csv,LSVQ_whole_test.csv", root="LSVQ", scale=1.0,
            size=224, seconds=8, frames=32, channels=3, tokenizer="file:tokenizer.json",
            ends="<|eot_id|>", described=False, cuts=(55.5, 65.0), count_train=0, count_test=0,
            seed=0,
        ),
        clip=dict(width=1024, depth=24, heads=16, hidden=4096, patch=14, remat=False),
        slowfast=dict(depths=(3, 4, 6, 3), width=64, ratio=8, alpha=4, remat=False),
        # The published code's rotary base is 10,000, which is not that of Llama 3.
        language=dict(
            depth=32, heads=32, kv_heads=8, hidden=14_336, capacity=4_096, base=500_000.0,
            epsilon=1e-5, remat=True,
        ),
        # The published code's attention leaks.
        model=dict(
            vocabulary=128_259, width=4_096, branches=("spatial", "motion"), aggregate="mean",
            align=False, regresses=False, mmca=True, leak=False,
            frozen=("clip", "slowfast", "language", "head"),
        ),
        lora=dict(rank=0, alpha=16.0),
        optimizer=dict(
            name="adamw", peak=1e-3, b1=0.9, b2=0.95, schedule="warmup_cosine", weight_decay=0.0,
            clip=1.0, schedule_args=dict(warmup=steps // 10),
        ),
        train=dict(
            batch=_BATCH, steps=steps, seed=0, accumulate=1, ema=0.0, precision="bfloat16"
        ),
        run=dict(
            mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit", log_every=20,
            eval_every=0, checkpoint_every=500, eval_batch=32, keep_last=2, workers=8, wandb="",
        ),
    ))
    if scale == "paper":
        return config
    # Nothing is trained before: all of it is, together, with a vocabulary of the words that occur.
    # A number that is regressed besides teaches the encoders.
    config.data.update(source="made", root="", channels=1, tokenizer="words", cuts=())
    config.model.update(vocabulary=0, frozen=(), regresses=True)
    config.run.update(workers=0)
    if scale == "small":
        config.data.update(size=112, frames=8, count_train=20_000, count_test=300)
        config.clip.update(width=384, depth=12, heads=6, hidden=1536, patch=16)
        config.slowfast.update(width=32, ratio=4)
        config.language.update(depth=8, heads=8, kv_heads=4, hidden=1408, capacity=256, remat=False)
        config.model.update(width=512)
        config.optimizer.update(peak=5e-4, schedule_args=dict(warmup=200))
        config.train.update(batch=64, steps=3_000)
        config.run.update(workers=8)
    if scale == "tiny":
        config.data.update(size=24, seconds=2, frames=8, count_test=300)
        config.clip.update(width=64, depth=2, heads=4, hidden=128, patch=8)
        config.slowfast.update(depths=(1, 1), width=16, ratio=2)
        config.language.update(
            depth=2, heads=4, kv_heads=2, hidden=192, capacity=96, base=10_000.0, remat=False
        )
        config.model.update(width=64)
        config.optimizer.update(peak=3e-3, schedule_args=dict(warmup=50))
        config.train.update(batch=32, steps=400, precision="float32")
        config.run.update(eval_batch=100)
    return config


def ablations():
    """The miniature claim's arms, the attention, the figure's tokens, what is trained."""
    towers = ("clip", "slowfast", "language", "head")
    return {
        "spatial alone": {"model.branches": ("spatial",)},
        "motion alone": {"model.branches": ("motion",)},
        "interleaved": {"model.aggregate": "interleave"},
        "aligned motion": {"model.align": True},
        "causal attention": {"model.mmca": False},
        "leaking attention": {"model.leak": True},
        "answers alone": {"model.regresses": False},
        "projectors and embeddings": {"model.frozen": towers},
        "projectors alone": {"model.frozen": (*towers, "embedding")},
        "LoRA": {"model.frozen": towers, "lora.rank": 8},
    }
