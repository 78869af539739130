"""WaST, its wavelets and its loss."""

import einops
import jax.numpy as jnp

from stjax.convert import wast as convert
from stjax.ops.wavelets import haar, inverse_haar
from stjax.tasks.losses import high_focal_frequency, mse
from tests.parity import Case

last = lambda frames: jnp.moveaxis(frames, 2, -1)


def model(golden):
    config = golden.config
    module = convert.module(config)

    def forward(variables, inputs):
        video, target = last(inputs["x"]), last(inputs["target"])
        y, inner = module.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]
        clip = lambda key: jnp.moveaxis(inner[key][0], -1, 1)
        # The first of the stacked blocks.
        first = lambda key: jnp.moveaxis(inner["blocks_0"][key][0][0], -1, 1)
        error = mse(y, target)
        high = config["loss_weight"] * high_focal_frequency(y, target)
        return error + high, {
            "y": jnp.moveaxis(y, -1, 2),
            "conv_in": clip("encoded"),
            "fa_low_0": first("attended"),
            "block1_0": first("out"),
            "embed": clip("embedded"),
            "recon": clip("reconstructed"),
            "mse": error,
            "hffl": high,
            "loss": error + high,
        }

    return Case(forward, convert.rules(config), convert.LEFT_OUT)


def wavelets(golden):
    config = golden.config

    def forward(variables, inputs):
        bands = {
            name: haar(jnp.moveaxis(inputs[name], 1, -1), 1, orthonormal=True)
            for name in ("x3", "x2")
        }
        inverse = inverse_haar(bands["x3"], 1, orthonormal=True)
        pred, target = last(inputs["pred"]), last(inputs["target"])
        loss = config["loss_weight"] * high_focal_frequency(pred, target, config["tau"])
        # The official names of the bands of frames put the width first.
        return loss, {
            "bands3": einops.rearrange(bands["x3"], "b t h w (k c) -> b k c t h w", k=8),
            "inverse3": jnp.moveaxis(inverse, -1, 1),
            "bands2": einops.rearrange(bands["x2"], "b h w (j i c) -> b (i j) c h w", i=2, j=2),
            "hffl": loss,
        }

    return Case(forward)


DRIVERS = {"OpenSTL::WaST_level1": model, "openstl::wast-wavelet": wavelets}
