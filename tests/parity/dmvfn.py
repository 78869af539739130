"""DMVFN."""

import jax.numpy as jnp

from stjax.convert import dmvfn as convert
from stjax.tasks.losses import laplacian
from tests.parity import Case

first = lambda frames: jnp.moveaxis(frames, -1, 1)


def model(golden):
    config = golden.config
    module = convert.module(config)

    def forward(variables, inputs):
        video, target = (jnp.moveaxis(inputs[key], 2, -1) for key in ("x", "target"))
        uniform = inputs["uniform"][:, None]
        call = lambda train, **options: module.apply(
            variables, video[:, 1:], None, video[:, 0], train=train, uniform=uniform, **options
        )
        (frames, _), inner = call(True, mutable="intermediates")
        inner = inner["intermediates"]
        distance = lambda frames: laplacian(frames, target, config["gamma"], config["lap_levels"])
        loss = distance(frames)
        return loss, {
            "y": first(frames[-1, :, 0]),
            "merged_0": first(frames[0, :, 0]),
            "routing_probability": inner["probability"][0],
            "ref": inner["gates"][0],
            "flow_delta_0": first(inner["change_0"][0][..., :4]),
            "mask_delta_0": first(inner["change_0"][0][..., 4:]),
            "y_eval": first(call(False)[0][:, 0]),
            "lap_per_block": jnp.stack([distance(frame[None]) for frame in frames]),
            "loss_l1": loss,
        }

    return Case(forward, convert.rules(config))


DRIVERS = {"OpenSTL::DMVFN_Model": model}
