"""Lumos-1: its network, its positions, and its masked discrete diffusion."""

import jax
import jax.numpy as jnp
import numpy as np

from stjax.convert import lumos1 as convert
from stjax.layers.llama_block import LlamaBlock
from stjax.layers.norm import QKNorm
from stjax.models.generation.lumos1 import AXES, Layout, Vocabulary, mm_spectrum
from stjax.ops.cross_entropy import chunked_cross_entropy
from stjax.ops.rotary import rotary_angles, rotate
from stjax.processes import masked_tokens as masked
from tests.parity import Case

WORDS, STRIDES = Vocabulary(), (4, 8, 8)


def layout_of(tokens):
    """Told from the first frame: its place, its sides, and how often it starts."""
    starts = np.flatnonzero(tokens == WORDS.frame_start)
    sides = (tokens[starts[0] + 1 : starts[0] + 3] - WORDS.numbers) * WORDS.unit
    return Layout(starts[0], len(starts), *(sides // STRIDES[1]))


def positions(tokens):
    layout = layout_of(tokens)
    at, inside = layout.positions(jnp.arange(len(tokens)), STRIDES)
    return {
        "position_text": jnp.arange(len(tokens)),
        **dict(zip(("position_t", "position_h", "position_w"), at.T)),
        "position_flag": inside.astype(int),
    }


def each_sample(function, tokens, *arrays):
    """Samples have layouts of their own: one at a time, stacked."""
    outputs = [function(*sample) for sample in zip(tokens, *arrays)]
    return {name: jnp.stack([output[name] for output in outputs]) for name in outputs[0]}


def mm_rope(golden):
    tokens = golden.inputs["input_ids"]
    width = golden.inputs["query"].shape[-1]
    spectrum = mm_spectrum(width, golden.config["model"]["rope_theta"])
    at, _ = layout_of(tokens[0]).positions(jnp.arange(tokens.shape[1]), STRIDES)
    angles = rotary_angles(np.asarray(at), spectrum)

    def forward(variables, inputs):
        query = jnp.swapaxes(inputs["query"], 1, 2)
        return None, each_sample(positions, tokens) | {
            "cos": np.cos(angles)[None],
            "sin": np.sin(angles)[None],
            "query_rotated": jnp.swapaxes(rotate(query, angles), 1, 2),
            "channel_axis": np.tile(AXES, width // len(AXES)),
            "inverse_frequencies": spectrum.frequencies[: width // 2],
        }

    return Case(forward)


def block(golden):
    config, tokens = golden.config["model"], golden.inputs["input_ids"]
    network = convert.module(config, 9100)

    def layer(sample):
        layout = layout_of(sample)
        return LlamaBlock(
            network.heads, network.hidden, len(sample), network.kv_heads, layout.mask,
            network._rotary(layout), QKNorm(center=True, epsilon=1e-5),
        )

    def forward(variables, inputs):
        variables, outputs = jax.tree.map(lambda stacked: stacked[0], variables), []
        for sample, hidden in zip(tokens, inputs["hidden"]):
            (y, _), inner = layer(sample).apply(
                variables, hidden[None], mutable="intermediates"
            )
            outputs.append((y, inner["intermediates"]["attended"][0]))
        y = jnp.concatenate([y for y, _ in outputs])
        loss = jnp.sum(y * inputs["cotangent"])
        return loss, {"y": y, "loss": loss, "attention_first_sample": outputs[0][1]}

    # The sum cancels; y itself is 1e-7 off, as official frequencies are powers taken in float32.
    return Case(forward, convert.block_rules(config, "params"), tolerances={"loss": 1e-5})


def network(golden):
    config, tokens, labels = (
        golden.config["model"], golden.inputs["input_ids"], golden.inputs["labels"]
    )
    model = convert.module(config, golden.config["vis_tok_start"])
    text = model.vocabulary.text

    def forward(variables, inputs):
        features, layers = [], []
        for sample in tokens:
            (x, head, _), inner = model.apply(
                variables, sample[None], layout_of(sample), mutable="intermediates"
            )
            features.append(x[0])
            layers.append(inner["intermediates"]["stack"]["layers"]["output"][0])
        features, asked = jnp.stack(features), labels >= text
        losses = chunked_cross_entropy(features[asked], head, labels[asked] - text, chunk=17)
        return losses.mean(), {
            **each_sample(positions, tokens),
            "layer_0_first_sample": layers[0][0],
            "visual_logits": features @ head,
            "logits_ids_0_to_15_first_sample": features[:1] @ variables["params"]["head"][:, :16],
            "loss": losses.mean(),
        }

    return Case(forward, convert.rules(config), convert.LEFT_OUT)


def masks(golden):
    tokens, least = golden.inputs["input_ids"], golden.config["min_masking_rate"]
    layouts = [layout_of(sample) for sample in tokens]
    content = layouts[0].content

    def hide(layout, sample, hidden, other):
        """`other` in the hidden places of the frames' rows."""
        start, end = layout.prefix, layout.length
        frames = sample[start:end].reshape(layout.frames, layout.frame)
        rows = jnp.where(hidden, other, frames[:, 3 : 3 + content])
        return sample.at[start:end].set(frames.at[:, 3 : 3 + content].set(rows).reshape(-1))

    def forward(variables, inputs):
        rate = masked.masking_rate(inputs["timesteps"], least)
        hidden = masked.tube_mask(rate, inputs["order_draws"])
        place = np.arange(tokens.shape[1])
        patterns = {
            f"history_pattern_{length}_{ratio}": np.flatnonzero(
                masked.history_pattern(length, ratio)
            )
            for length, ratio in golden.config["history"]
        }
        allowed = [layout.mask.visible(place[:, None], place) for layout in layouts]
        samples = [jnp.asarray(sample) for sample in tokens]
        seen = lambda sample: jnp.where(sample < 0, -100, sample)
        frame = Layout(0, 1, layouts[0].height, layouts[0].width)
        pattern = masked.history_pattern(content, 0.7)
        return None, {
            **patterns,
            "attention_allowed": jnp.stack(allowed),
            "mask_rate": rate,
            "masked_input_ids": jnp.stack(
                [hide(*now, WORDS.mask) for now in zip(layouts, samples, hidden)]
            ),
            "masked_labels": jnp.stack(
                [seen(hide(*now, -100)) for now in zip(layouts, samples, ~hidden)]
            ),
            "frame_remasked": hide(
                frame, jnp.asarray(golden.inputs["frame_ids"][0]), pattern, WORDS.mask
            )[None],
        }

    return Case(forward)


def sampling(golden):
    config = golden.config

    def forward(variables, inputs):
        count = inputs["mask_length"][:, 0].astype(int)
        again = {
            f"masking_T{temperature}": masked.hide_again(
                inputs["probabilities"], inputs["uniform"], count, temperature
            )
            for temperature in config["temperatures"]
        }
        stored = lambda logits: jnp.where(jnp.isinf(logits), -1e9, logits)
        return None, {
            **again,
            "cosine": masked.cosine_schedule(inputs["t"]),
            "linear": masked.linear_schedule(inputs["t"]),
            "filtered_top_k": stored(masked.keep_top_k(inputs["logits"], config["top_k"])),
            "filtered_top_p": stored(masked.keep_top_p(inputs["logits"], config["top_p"])),
        }

    return Case(forward)


DRIVERS = {
    "Lumos::generate_mm_position_ids": mm_rope,
    "Lumos::ChameleonDecoderLayer": block,
    "Lumos::ChameleonXLLMXForConditionalGeneration": network,
    "Lumos::create_attention_mask_t2v": masks,
    "Lumos::mask_by_random_topk": sampling,
}
