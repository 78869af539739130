"""OpenSTL: recurrent models and their scheduled sampling."""

import re

import einops
import jax
import jax.numpy as jnp

from stjax.convert import openstl as convert
from stjax.ops.patches import patchify, unpatchify
from stjax.processes import scheduled_sampling
from stjax.tasks.losses import LOSSES
from tests.parity import Case

RELEASES = {"0a0f36c0": "v0.3.0", "c74deb5d": "v1.0.0"}


def recurrent(method):
    def driver(golden):
        config, patch = golden.config, golden.config["patch_size"]
        model = convert.module(method, config, RELEASES[golden.commit[:8]])
        loss_of = LOSSES["mse_plus_l1" if method == "e3dlstm" else "mse"]

        def forward(variables, inputs):
            frames = inputs["frames"]
            truth = _truth(config, inputs["mask"][:, :, 0, 0, 0])
            video = unpatchify(frames[:, :-1], patch)
            call = lambda state: model.apply(
                variables, video, state=state, train=True, truth=truth,
                mutable=["intermediates", "losses"],
            )
            (y, state), left = call(None)
            y = patchify(y, patch)
            loss = loss_of(y, frames[:, 1:])
            loss += sum(jnp.mean(leaf) for leaf in jax.tree.leaves(left.get("losses", {})))
            outputs = {"y": y, "loss": loss}
            after = left["intermediates"]["rollout"]["cell"]
            for name in golden.outputs:
                if match := STATE.fullmatch(name):
                    outputs[name] = _state(method, after, *match.groups())
            if "y_second_call" in golden.outputs:
                (second, _), _ = call(_stationary_alone(state))
                outputs["y_second_call"] = patchify(second, patch)
            return loss, outputs

        rules, left_out = convert.rules(method, config), convert.LEFT_OUT[method]
        return Case(forward, rules, left_out, products=True)

    return driver


# "cell2.delta_c_5", "mimn0.h_5", "ghu_5"
STATE = re.compile(r"(cell|mimn|ghu)(\d*)\.?(\w*)_(\d+)")


def _state(method, after, kind, layer, what, step):
    """A state of that layer after that step, as the official code has it."""
    if kind == "ghu":
        value = after["after_highway"][0]["state"]
    else:
        number = int(layer) + (kind == "mimn")
        left = after[f"after_layer_{number}"][0]
        state = left["state"]
        if isinstance(state, dict):
            state = state["nonstationary" if kind == "mimn" else "layer"]
        if what == "m":
            value = left["memory"]
        elif what.startswith("delta"):
            value = left["added"][number]["cm".index(what[-1])]
        else:
            value = state[("ch" if method == "convlstm" else "hc").index(what)]
    pattern = "b h w (t c) -> b c t h w" if method == "e3dlstm" else "b h w c -> b c h w"
    sizes = {"t": 2} if method == "e3dlstm" else {}
    return einops.rearrange(value[int(step)], pattern, **sizes)


def _stationary_alone(state):
    """What the official MIM starts its next clip from: MIM-S's states of the last one."""
    (states, _), _ = state
    start = jax.tree.map(jnp.zeros_like, state)
    for name, layer in states.items():
        if isinstance(layer, dict):
            start[0][0][name]["stationary"] = layer["stationary"]
    return start


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
    "OpenSTL::ConvLSTM_Model": recurrent("convlstm"),
    "OpenSTL::PredRNN_Model": recurrent("predrnn"),
    "OpenSTL::PredRNNpp_Model": recurrent("predrnnpp"),
    "OpenSTL::PredRNNv2_Model": recurrent("predrnnv2"),
    "OpenSTL::MIM_Model": recurrent("mim"),
    "OpenSTL::E3DLSTM_Model": recurrent("e3dlstm"),
    "OpenSTL::reserve_schedule_sampling_exp": sampling,
}
