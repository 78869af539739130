"""CT-D2GAN: transcriptions of its parts, and the evaluation code of Liu et al. 2018."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stjax.convert import ct_d2gan as convert
from stjax.metrics import anomaly
from stjax.models.prediction.ct_d2gan import (
    ConvolutionalTransformer,
    ImageDiscriminator,
    TemporalSelfAttention,
    VideoDiscriminator,
)
from stjax.tasks.anomaly import AnomalyDetection
from tests.parity import Case

LAST = "... c h w -> ... h w c"
FIRST = "... h w c -> ... c h w"


def attention(golden):
    config = golden.config
    module = TemporalSelfAttention(config["heads"], config["pe"], config["tau"])

    def forward(variables, inputs):
        x = einops.rearrange(inputs["x"], LAST)
        (out, weights), inner = module.apply(variables, x, mutable="intermediates")
        outputs = {"out": out, "attended": inner["intermediates"]["attended"][0]}
        outputs = {name: einops.rearrange(value, FIRST) for name, value in outputs.items()}
        loss = jnp.sum(outputs["out"] * inputs["target"])
        return loss, {**outputs, "weights": weights, "loss": loss}

    return Case(forward, convert.attention())


def generator(golden):
    config = golden.config
    module = ConvolutionalTransformer(config["w"], config["K"], config["pe"], config["tau"])

    def forward(variables, inputs):
        past = einops.rearrange(inputs["frames"], LAST)
        out, inner = module.apply(variables, past, mutable="intermediates")
        inner = inner["intermediates"]
        maps = {"out": out, "features": inner["features"][0], "mixed": inner["mixed"][0]}
        outputs = {name: einops.rearrange(value, FIRST) for name, value in maps.items()}
        return None, {**outputs, "weights": inner["attention"]["weights"][0]}

    return Case(forward, convert.generator(), convert.LEFT_OUT)


def losses(golden):
    config = golden.config
    critics = {
        "image": ImageDiscriminator(config["image"]),
        "video": VideoDiscriminator(config["video"], config["time_strides"]),
    }
    weights = {name: config[f"lambda_{name}"] for name in critics}
    task = AnomalyDetection(
        nn.Module(), critics, config["frames"], penalty=config["gp"], adversarial=weights
    )
    least_squares = AnomalyDetection(
        nn.Module(), critics, config["frames"], "least_squares", adversarial=weights
    )

    def forward(variables, inputs):
        past, frame, predicted = (
            einops.rearrange(inputs[name], LAST) for name in ("past", "target", "pred")
        )

        def total(predicted):
            losses = task.generator_losses(variables, past, frame, predicted)
            return (
                losses["intensity"] + losses["gradient"]
                + sum(weights[name] * losses[name] for name in critics), losses
            )

        (whole, made), slope = jax.value_and_grad(total, has_aux=True)(predicted)
        judged = task.critic_losses(variables, past, frame, predicted, inputs["mix"])
        other = (
            least_squares.generator_losses(variables, past, frame, predicted),
            least_squares.critic_losses(variables, past, frame, predicted, inputs["mix"]),
        )
        outputs = {
            "int": made["intensity"], "gd": made["gradient"], "generator": whole,
            "grad_pred": einops.rearrange(slope, FIRST),
            "psnr": anomaly.psnr((predicted + 1) / 2, (frame + 1) / 2),
            "ls_adv_image": other[0]["image"], "ls_critic_image": other[1]["image"],
        }
        for name in critics:
            outputs |= {
                f"adv_{name}": made[name], f"critic_{name}": judged[name],
                f"penalty_{name}": judged[f"penalty_{name}"],
            }
        loss = sum(judged[n] + task.penalty * judged[f"penalty_{n}"] for n in critics)
        return loss, outputs

    depths = {name: len(config[name]) + 1 for name in critics}
    return Case(forward, convert.critics(depths))


def score(golden):
    lengths, decidable = golden.config["lengths"], golden.config["decidable"]
    clip = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])

    def forward(variables, inputs):
        # The metrics are numpy, and so the file's inputs are taken as they lie.
        del variables, inputs
        psnr, labels = (np.float64(golden.inputs[name]) for name in ("psnr", "labels"))
        scores, kept = anomaly.regularity(psnr, clip), frame >= decidable
        scores, labels = scores[kept], labels[kept]
        rates = anomaly.auc(scores, labels), anomaly.equal_error_rate(scores, labels)
        return None, dict(zip(("scores", "kept_labels", "auc", "eer"), (scores, labels, *rates)))

    return Case(forward)


DRIVERS = {
    "ct_d2gan::attention": attention,
    "ct_d2gan::generator": generator,
    "ct_d2gan::losses": losses,
    "ct_d2gan::score": score,
}
