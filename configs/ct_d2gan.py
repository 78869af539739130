"""CT-D2GAN (Feng et al. 2021, arXiv 2107.13720): anomalies in UCSD Ped2, by the next frame's error.

    python -m experiments.ct_d2gan --scale=paper --config.data.source=ucsd:path/to/UCSDped2

expects a frame-level AUC of 97.2 (Avenue 85.9, ShanghaiTech 77.7). The paper's text could not be
had: sizes and recipe are a reconstruction, after its abstract, its figure and the code of Liu et
al. 2018 (StevenLiuWen/ano_pred_cvpr2018@9e0f161), and their results need not be the published ones.
"""

from ml_collections import ConfigDict

FACTS = {
    "family": "prediction",
    "paper": "Feng et al. 2021, arXiv 2107.13720",
    # Of the reconstruction: generator, image and video discriminator.
    "parameters": 12_686_403 + 2_764_737 + 8_284_097,
    "macs": 96.6e9,
    "published": {
        "ped2": {"auc": 0.972}, "avenue": {"auc": 0.859}, "shanghaitech": {"auc": 0.777}
    },
    "source": "tables of later papers, alike in three of them",
}


def get_config(scale="tiny"):
    """Both discriminators, WGAN-GP; on made street scenes but at scale "paper"."""
    if scale not in ("tiny", "small", "paper"):
        raise ValueError(f"scale {scale!r} is none of ('tiny', 'small', 'paper')")
    paper = scale == "paper"
    adam = dict(
        name="adam", b1=0.5, b2=0.999, schedule="piecewise" if paper else "constant",
        schedule_args=dict(boundaries=(7_000,), factor=0.1) if paper else dict(),
    )
    config = ConfigDict(
        dict(
            data=dict(
                source="ucsd:UCSDped2", context=5, size=256, channels=3, seed=0,
                count_train=100, length_train=60, count_test=40, length_test=40,
            ),
            model=dict(
                features=(64, 128, 256, 512), heads=4, code_features=16, temperature=1.0,
                mixing="attention", skips="last", remat=False,
            ),
            critics=dict(
                names=("image", "video"), features=(64, 128, 256, 512), time_strides=(1, 2, 2, 1)
            ),
            task=dict(
                form="wgan_gp", penalty=10.0, intensity=1.0, gradient=1.0,
                adversarial=dict(image=0.05, video=0.05), decidable=0,
            ),
            # Liu et al.'s rates for grey videos; 2e-4 and 2e-5 for those in colour.
            optimizer=dict(generator=dict(peak=1e-4, **adam), critics=dict(peak=1e-5, **adam)),
            train=dict(
                batch=8, steps=20_000, seed=0, accumulate=1, ema=0.0, precision="float32"
            ),
            run=dict(
                mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit",
                log_every=50, eval_every=2_000, checkpoint_every=1_000, eval_batch=16, keep_last=2,
                workers=4, wandb="",
            ),
        )
    )
    if scale == "small":
        config.data.update(
            source="surveillance", size=128, channels=1, count_train=1_000, length_train=120
        )
        config.optimizer.generator.update(peak=2e-4)
        config.train.update(batch=16, steps=6_000, precision="bfloat16")
        config.run.update(eval_batch=35)
    if scale == "tiny":
        config.data.update(source="surveillance", context=4, size=32, channels=1)
        config.model.update(features=(8, 16, 32))
        config.critics.update(features=(8, 16, 32), time_strides=(1, 2, 2))
        config.optimizer.generator.update(peak=2e-3)
        config.optimizer.critics.update(peak=2e-4)
        config.train.update(batch=8, steps=600)
        config.run.update(eval_every=0, checkpoint_every=250, eval_batch=144, workers=0)
    return config


def ablations():
    """The miniature claim's arms, and the other form of the game."""
    alone = {"critics.names": ()}
    return {
        "stacked frames": {"model.mixing": "stack", **alone},
        "mean over time": {"model.mixing": "mean", **alone},
        "attention": alone,
        "attention, image": {"critics.names": ("image",)},
        "attention, video": {"critics.names": ("video",)},
        "least squares": {"task.form": "least_squares"},
        "weighted skips": {"model.skips": "weighted"},
    }
