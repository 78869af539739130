"""PredNet, its loss, and its forecast as published."""

import einops
import jax.numpy as jnp

from stjax.convert import prednet as convert
from stjax.tasks.losses import LOSSES
from tests.parity import Case


def prednet(golden):
    config = golden.config
    model = convert.module(config)

    def forward(variables, inputs):
        channels_last = "b t c h w -> b t h w c"
        x, target = (einops.rearrange(inputs[name], channels_last) for name in ("x", "target"))
        video = jnp.concatenate([x, target], 1)
        (frames, _), inner = model.apply(variables, video, mutable="intermediates")
        inner = inner["intermediates"]["rollout"]["cell"]
        loss = LOSSES["half_l1"](frames[:, :-1], video[:, 1:])
        first = lambda maps: jnp.moveaxis(maps, -1, 1)
        # Step k of the official code predicts frame k before it sees it: our step k, counted from
        # that before the clip, has its representations, and step k + 1 its errors.
        state = lambda level, time: [first(x[time]) for x in inner[f"state_{level}"][0]]
        errors = inner["errors"][0]
        outputs = {
            "errors": jnp.stack([e[1:].mean((2, 3, 4)).T for e in errors], -1),
            "E1_0": first(errors[1][1]),
            "loss": loss,
            "y": _published_forecast(model, variables, x, target.shape[1]),
        }
        outputs["R1_0"], _ = state(1, 0)
        outputs["R0_1"], outputs["C0_1"] = state(0, 1)
        return loss, outputs

    return Case(forward, convert.rules(config), products=True)


def _published_forecast(model, variables, context, horizon):
    """What stands in for frame T + k is the prediction of frame T + k - 1, made a step before."""
    frames, state = model.apply(variables, context)
    predicted = [frames[:, -2:-1], frames[:, -1:]]
    while len(predicted) <= horizon:
        frames, state = model.apply(variables, predicted[-2], state=state)
        predicted.append(frames)
    return einops.rearrange(jnp.concatenate(predicted[1:], 1), "b t h w c -> b t c h w")


DRIVERS = {"OpenSTL::PredNet_Model": prednet}
