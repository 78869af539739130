"""The metrics that OpenSTL and ConvSSM report."""

import functools

import jax.numpy as jnp

from stjax.metrics import lpips, video
from tests.parity import Case


def openstl(golden):
    names = golden.config["channel_names"]

    def scores(pred, true):
        frames = {name: video.METRICS[name](pred, true) for name in ("mse", "mae")}
        return {key: video.mean(v) for key, v in frames.items()} | {
            "rmse": video.root_mean(frames["mse"])
        }

    def forward(variables, inputs):
        to_ours = functools.partial(jnp.moveaxis, source=2, destination=-1)
        pred, true = to_ours(inputs["pred"]), to_ours(inputs["true"])
        units = (inputs["mean"].reshape(-1), inputs["std"].reshape(-1))
        pred_units, true_units = (video.denormalise(x, *units) for x in (pred, true))
        sums = {key: getattr(video, f"{key}_sum")(pred, true) for key in ("mse", "mae")}
        outputs = {key: video.mean(values) for key, values in sums.items()}
        outputs["rmse"] = video.root_mean(sums["mse"])
        outputs |= {key: video.mean(video.METRICS[key](pred, true)) for key in ("psnr", "snr")}
        outputs["ssim"] = video.mean(video.ssim_openstl(pred, true))

        groups = [video.by_variable(x, names) for x in (pred_units, true_units)]
        by_name = {name: scores(*(group[name] for group in groups)) for name in names}
        for key in ("mse", "mae", "rmse"):
            outputs |= {f"weather_{key}_{name}": by_name[name][key] for name in names}
            outputs[f"weather_{key}"] = sum(s[key] for s in by_name.values()) / len(names)

        whole = scores(pred_units, true_units)
        whole["ssim"] = video.mean(video.ssim_openstl(pred_units, true_units))
        whole["psnr"] = video.mean(video.psnr(pred_units, true_units))
        return None, outputs | {f"denorm_{key}": value for key, value in whole.items()}

    return Case(forward)


def convssm(golden):
    def forward(variables, inputs):
        outputs = {}
        for key, metric in (("ssim", video.ssim), ("psnr", video.psnr)):
            outputs[key] = metric(inputs["a"], inputs["b"])
            outputs[f"{key}_video"] = metric(inputs["a5"], inputs["b5"]).mean(axis=1)
        return None, outputs

    return Case(forward)


def perceptual(golden):
    def forward(variables, inputs):
        frames = {name: jnp.moveaxis(x, -3, -1) for name, x in inputs.items()}
        score = lambda *names: lpips.lpips(*(frames[name] for name in names), golden.state)
        return None, {"lpips": score("pred", "true"), "grey": score("grey_pred", "grey_true")}

    return Case(forward)


DRIVERS = {"OpenSTL::metric": openstl, "ConvSSM::ssim": convssm,
           "PerceptualSimilarity::LPIPS": perceptual}
