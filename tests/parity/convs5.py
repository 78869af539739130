"""NVlabs/ConvSSM: ConvS5, its baselines and their parts."""

import functools

import jax
import jax.numpy as jnp

from stjax.convert import convs5
from stjax.layers.codebook import Codebook
from stjax.models.prediction.convs5 import causal_visibility
from stjax.ops.ssm import hippo_normal, zero_order_hold
from stjax.processes.autoregressive import generate
from stjax.tasks.losses import causal_token_loss, pixel_loss, token_loss
from tests.parity import Case


def pixels(model, inner_outputs):
    """A pixel model; `inner_outputs(inner values, last state)` are those of its own kind."""

    def driver(golden):
        config = {**golden.config["config"], "model": model}
        module = convs5.module(config)
        # Of the transformer, n_cond leaves predictions out; of the others, labels alone.
        ahead = config["n_cond"] - 1 if model == "transformer_noVQ" else 0

        def forward(variables, inputs):
            video, (actions, dropped) = jnp.asarray(inputs["video"]), told(config, inputs)
            apply = functools.partial(
                module.apply, variables, video[:, :-1], actions[:, 1:], dropped=dropped
            )
            (predicted, state), inner = apply(mutable="intermediates")
            inner = inner["intermediates"]
            chosen, steps = decoded(inputs, predicted, apply, ahead)
            labels = video[:, config["n_cond"] :][:, steps]
            loss, parts = pixel_loss(chosen, labels, config["loss_weight"])
            return loss, {
                "loss": loss,
                "mse_loss": parts["mse"],
                "l1_loss": parts["l1"],
                "encoded_0": inner["encoded"][0][:, 0],
                "deter": inner["mixed"][0],
                "recon": predicted,
                "generated": generated(golden, module, variables, video, actions),
                **inner_outputs(inner, state),
            }

        return Case(forward, convs5.rules(config), convs5.LEFT_OUT)

    return driver


def told(config, inputs):
    """Actions, and the samples whose actions are dropped, as the config has them."""
    actions, dropped = jnp.asarray(inputs["actions"]), None
    if not config["use_actions"]:
        actions = jnp.zeros_like(actions)
    if config["dropout_actions"] and "minecraft" not in config.get("data_path", ""):
        dropped = inputs["drop"].astype(bool)
    return actions, dropped


def decoded(inputs, predicted, apply, ahead=0):
    """The predictions that enter the loss, and their steps: all, or those drawn in the file."""
    drawn = [jnp.asarray(inputs[name]) for name in ("idxs", "indices", "frames") if name in inputs]
    if drawn:
        return apply(frames=ahead + drawn[0])[0], drawn[0]
    return predicted[:, ahead:], jnp.arange(predicted.shape[1] - ahead)


def generated(golden, module, variables, video, actions):
    """The context's frames at once, then frame by frame, each prediction fed back."""
    context, extra = golden.config["context"], golden.config.get("extra", 0)
    actions = jnp.pad(actions, ((0, 0), (0, extra)))
    predicted, state = module.apply(variables, video[:, :context], actions[:, 1 : context + 1])

    def step(frame, state, action):
        frames, state = module.apply(variables, frame[:, None], action[:, None], state)
        return frames[:, 0], state

    later = actions[:, context + 1 :].T
    frames, _ = generate(step, state, predicted[:, -1], len(later), (later,))
    return jnp.concatenate([predicted[:, -1:], frames], axis=1)


def of_convs5(inner, state):
    return {"x_last_0_re": state[0].real, "x_last_0_im": state[0].imag}


def of_convlstm(inner, state):
    cell, hidden = state
    return {"c_last_0": cell[0], "h_last_0": hidden[0]}


def of_transformer(inner, state):
    inner = inner["mixing"]
    return {
        "layer_0": inner["sequence"]["stack"]["layers"]["output"][0][0],
        "z_tfm": inner["vectors"][0][:, :, None, None],
    }


def tokens(model):
    """A token model."""

    def driver(golden):
        sizes = {name: golden.config[name] for name in ("n_codes", "code_dim")}
        config = {**golden.config["config"], **sizes, "model": model}
        module = convs5.module(config)

        def forward(variables, inputs):
            # The stand-in for the VQ-GAN is an input, not a weight.
            table = {"table": {"embedding": inputs["code_table"]}}
            variables = {"params": {**variables["params"], **table}}
            tokens, (actions, dropped) = jnp.asarray(inputs["tokens"]), told(config, inputs)
            visible, context = None, config.get("open_loop_ctx_1")
            if config["causal_masking"]:
                visible = causal_visibility(dropped, tokens.shape[1] - 1, context)
            apply = functools.partial(
                module.apply,
                variables,
                tokens[:, :-1],
                actions[:, 1:],
                dropped=dropped,
                visible=visible,
            )
            (logits, _), inner = apply(mutable="intermediates")
            labels = tokens[:, config["n_cond"] :]
            if config["causal_masking"]:
                loss = causal_token_loss(logits, labels, dropped, context)
            else:
                chosen, steps = decoded(inputs, logits, apply)
                loss = token_loss(chosen, labels[:, steps])
            return loss, {
                "loss": loss,
                "deter": inner["intermediates"]["mixed"][0],
                "logits": logits,
                "argmax": logits.argmax(-1),
            }

        return Case(forward, convs5.rules(config), convs5.LEFT_OUT)

    return driver


def ssm(golden):
    module = convs5.ssm(golden.config)

    def forward(variables, inputs):
        u = jnp.moveaxis(inputs["u"], 0, 1)
        start = jax.lax.complex(inputs["x0_re"], inputs["x0_im"])
        apply = lambda method, call: module.clone(method=method).apply(
            variables, u, start, method=call
        )
        parallel, state = apply("associative", None)
        sequential, sequential_state = apply("sequential", None)
        linear, _ = apply("associative", "linear")
        decay, kernel = module.apply(variables, method="discretised")
        steps_first = lambda y: jnp.moveaxis(y, 1, 0)
        outputs = {
            "y": steps_first(parallel),
            "y_sequential": steps_first(sequential),
            "y_linear": steps_first(linear),
            **parts("x_last", state),
            **parts("x_last_sequential", sequential_state),
            **parts("A_bar", decay),
            **parts("B_bar", kernel),
        }
        return jnp.sum(outputs["y"] * inputs["cotangent"]), outputs

    return Case(forward, convs5.ssm_rules(golden.config))


def hippo(golden):
    def forward(variables, inputs):
        outputs = {}
        for size, blocks in golden.config["sizes"]:
            eigenvalues, basis = modes = hippo_normal(size, blocks)
            outputs |= {
                f"Lambda_re_{size}_{blocks}": eigenvalues.real,
                f"Lambda_im_{size}_{blocks}": eigenvalues.imag,
                f"S_{size}_{blocks}": 2 * (basis * eigenvalues @ modes.inverse).real,
                f"projection_{size}_{blocks}": 2 * (basis @ modes.inverse).real,
            }
        eigenvalues = jax.lax.complex(inputs["Lambda_re"], inputs["Lambda_im"])
        decay, gain = zero_order_hold(eigenvalues, inputs["Delta"])
        into_state = gain[:, None] * jax.lax.complex(inputs["B_re"], inputs["B_im"])
        return None, {**outputs, **parts("A_bar", decay), **parts("B_bar", into_state)}

    return Case(forward)


def codebook(golden):
    config = golden.config
    module = Codebook(config["n_codes"], config["proj_dim"], config["embedding_dim"])

    def forward(variables, inputs):
        out = module.apply(variables, inputs["z"])
        loss = jnp.sum(out.embeddings * inputs["cotangent"])
        return loss + out.commitment_loss + out.codebook_loss, {
            **out._asdict(),
            "encodings": out.codes,
            "lookup": module.apply(variables, out.codes, method="lookup"),
        }

    return Case(forward, convs5.CODEBOOK_RULES)


def parts(name, array):
    return {f"{name}_re": array.real, f"{name}_im": array.imag}


DRIVERS = {
    "ConvSSM::CONVS5_NOVQ": pixels("convS5_noVQ", of_convs5),
    "ConvSSM::CONVLSTM_NOVQ": pixels("convLSTM_noVQ", of_convlstm),
    "ConvSSM::TRANSFORMER_NOVQ": pixels("transformer_noVQ", of_transformer),
    "ConvSSM::CONVS5": tokens("convS5"),
    "ConvSSM::TRANSFORMER": tokens("transformer"),
    "ConvSSM::ConvS5SSM": ssm,
    "ConvSSM::hippo_initializer": hippo,
    "ConvSSM::Codebook": codebook,
}
