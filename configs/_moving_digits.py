"""Moving digits at three scales: the sections of a config that the systems on it share."""

from ml_collections import ConfigDict

SCALES = ("tiny", "small", "paper")


def sections(scale: str, **published) -> ConfigDict:
    """The sections data, test and run.

    Args:
        scale: "tiny": one of scikit-learn's real digits on 16 x 16 pixels, 5 frames in, 5 out;
            "small": two of them on 64 x 64, 10 in, 10 out; "paper": MNIST, as published.
        published: fields of `data` that a paper sets otherwise than OpenSTL, at scale "paper".

    Raises:
        ValueError: an unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is none of {SCALES}")
    data = dict(
        source="moving_digits", size=64, context=10, horizon=10,
        num_digits=2, digits="tfds:mnist", digit_size=28, motion="openstl", seed=0,
    )
    test = dict(count_test=10_000, test_file="", horizon=0)
    if scale == "paper":
        data |= published
    if scale == "small":
        data |= dict(digits="sklearn")
        test |= dict(count_test=1_000)
    if scale == "tiny":
        data |= dict(
            size=16, context=5, horizon=5, num_digits=1, digits="sklearn", digit_size=8
        )
        test |= dict(count_test=500)
    run = dict(
        mesh=dict(data=-1, fsdp=1, tensor=1, sequence=1), parallelism="jit",
        log_every=50, eval_every=0, checkpoint_every=500, eval_batch=100, keep_last=2,
        workers=0, wandb="",
    )
    if scale != "tiny":
        run |= dict(eval_every=5_000, checkpoint_every=1_000, eval_batch=64, workers=4)
    return ConfigDict(dict(data=data, test=test, run=run))
