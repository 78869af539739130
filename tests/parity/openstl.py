"""OpenSTL: recurrent models and their scheduled sampling."""

import jax.numpy as jnp

from stjax.convert import openstl as convert
from stjax.ops.patches import patchify, unpatchify
from stjax.processes import scheduled_sampling
from tests.parity import Case

RELEASES = {"0a0f36c0": "v0.3.0", "c74deb5d": "v1.0.0"}


def convlstm(golden):
    config = golden.config
    model = convert.convlstm_module(config, RELEASES[golden.commit[:8]])
    states = [key.removeprefix("cell") for key in golden.outputs if key.startswith("cell")]

    def forward(variables, inputs):
        frames, patch = inputs["frames"], config["patch_size"]
        truth = _truth(config, inputs["mask"][:, :, 0, 0, 0])
        video = unpatchify(frames[:, :-1], patch)
        call = lambda end: model.apply(variables, video[:, :end], truth=truth[:, :end])
        y = patchify(call(None)[0], patch)
        loss = jnp.mean(jnp.square(y - frames[:, 1:]))
        outputs = {"y": y, "loss": loss}
        for name in states:
            layer, _, what = name.partition(".")
            what, _, time = what.partition("_")
            _, (layers, _) = call(int(time) + 1)
            state = layers[int(layer)]["ch".index(what)]
            outputs[f"cell{name}"] = jnp.moveaxis(state, -1, 1)
        return loss, outputs

    return Case(forward, convert.convlstm_rules(config), convert.CONVLSTM_LEFT_OUT)


def _truth(config, mask):
    """The official mask leaves out the inputs that are always true."""
    always = 1 if config["reverse_scheduled_sampling"] else config["pre_seq_length"]
    return jnp.pad(mask, ((0, 0), (always, 0)), constant_values=1)


def sampling(golden):
    config, args = golden.config, golden.config["args"]
    context = args["pre_seq_length"]

    def forward(variables, inputs):
        patch = args["patch_size"]
        draws = jnp.concatenate([inputs["r_flip"], inputs["flip"]], axis=1)
        outputs = {"folded": patchify(inputs["video"], patch)}
        outputs["unfolded"] = unpatchify(outputs["folded"], patch)
        for step in config["iterations"]:
            reverse = scheduled_sampling.reverse_scheduled(
                step,
                hold=args["r_sampling_step_1"],
                stop=args["r_sampling_step_2"],
                alpha=args["r_exp_alpha"],
            )
            change = args["sampling_changing_rate"]
            # The official function takes the rate after one step from the rate before it.
            forwards = scheduled_sampling.scheduled(
                step,
                start=config["eta"] + change * step,
                change=change,
                stop=args["sampling_stop_iter"] if args["scheduled_sampling"] else 0,
            )
            mask = lambda rates: scheduled_sampling.mask_from_draws(draws, context, *rates)
            outputs[f"reverse_{step}"] = mask(reverse)[:, 1:]
            outputs[f"scheduled_{step}"] = mask(forwards)[:, context:]
            outputs[f"eta_{step}"] = forwards[1]
        return None, outputs

    return Case(forward)


DRIVERS = {
    "OpenSTL::ConvLSTM_Model": convlstm,
    "OpenSTL::reserve_schedule_sampling_exp": sampling,
}
