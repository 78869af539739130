"""wangrui2025/GDKVM: the network with its losses, and its parts."""

import einops
import jax
import jax.numpy as jnp
from flax import traverse_util

from stjax.convert import gdkvm as convert
from stjax.layers.object_transformer import (
    ObjectSummarizer,
    ObjectTransformer,
    foreground_background,
)
from stjax.models.dense.gdkvm import GatedDeltaRule, KeyPixelFeatureFusion
from stjax.ops.objects import aggregate, area_mean
from stjax.ops.points import uncertain_points
from stjax.tasks.losses import point_losses
from tests.parity import Case

GATES = ("code", "paper")
SHARE = 0.75  # of the points that are taken where the mask is uncertain


def losses(golden, logits, auxiliary, truth, draws):
    """The official loss, term by term: maps are (b, frame, h, w, class), draws those of torch."""
    points, batch = golden.config["P"], golden.config["batch"]
    uncertain = int(SHARE * points)
    flip = lambda x: x[..., ::-1]  # theirs are (x, y)
    total, found = 0.0, {}
    heads = {"": logits, "sensory": auxiliary["sensory"], **auxiliary}
    for k, (name, maps) in enumerate(heads.items()):
        # Calls go sample by sample, through all heads each.
        drawn = [flip(x.reshape(batch, -1, *x.shape[1:])[:, k]) for x in draws]
        ce, dice = point_losses(maps, truth, *drawn, uncertain)
        weight = 0.01 if name else 1.0
        official = {"": "loss_{}", "sensory": "aux_sensory_{}"}.get(
            name, f"aux_query_{{}}_l{name.rpartition('_')[2]}"
        )
        found |= {official.format("ce"): weight * ce, official.format("dice"): weight * dice}
        total += weight * (ce + dice)
    return total, {**found, "total_loss": total}


def network(golden):
    table = convert.rules(golden.config)
    last = golden.config["T"] - 1
    frames = lambda x, pattern: einops.rearrange(x, f"b t n h w c -> {pattern}")

    def forward(variables, inputs):
        video = einops.rearrange(inputs["rgb"], "b t c h w -> b t h w c")
        truth = einops.rearrange(inputs["cls_gt"], "t b 1 h w -> b t h w")
        draws = inputs["noise_over"], inputs["noise_rest"]

        def run(params, gate):
            module = convert.module(golden.config, gate=gate)
            (logits, auxiliary), inner = module.apply(
                {**variables, "params": params}, 2 * video - 1, mutable="intermediates"
            )
            inner = inner["intermediates"]
            step = {name: x[0] for name, x in inner["frame"].items() if isinstance(x, tuple)}
            ends = lambda x: x[:, jnp.array([0, last])]
            total, terms = losses(
                golden, ends(logits), jax.tree.map(ends, auxiliary), truth, draws
            )
            levels = [auxiliary[f"query_{k}"] for k in range(len(auxiliary) - 1)]
            own = {
                "value": frames(step["value"][..., ::16], "t b n c h w"),
                "readout": frames(step["readout"][..., ::16], "t b n c h w"),
                "mask_logits": frames(step["mask_logits"], "t b n (c h) w"),
                "q_logits": einops.rearrange(jnp.stack(levels), "l b t h w n -> t b n l h w"),
                "logits_last": jnp.moveaxis(logits[:1, last, ..., 1:], -1, 1),
                **{name: terms[name] for name in ("loss_ce", "loss_dice", "total_loss")},
            }
            maps = lambda x: jnp.moveaxis(x[0][0], -1, 1)
            key, pixels = maps(inner["key"])[:, ::4], maps(inner["pixels"])[:, ::16]
            return total, (own, {"key": key, "pixfeat": pixels})

        outputs = {}
        for gate in GATES:
            grads, (own, shared) = jax.grad(run, has_aux=True)(variables["params"], gate)
            own |= gradients(golden, gate, table, grads)
            outputs |= {f"{gate}:{name}": x for name, x in own.items()} | shared
        return None, outputs

    return Case(forward, table, convert.LEFT_OUT)


def gradients(golden, gate, table, grads):
    """Those that the file holds of one gate; the harness knows one scalar a file."""
    ours = traverse_util.flatten_dict({"params": grads}, sep="/")
    found = {rule.official: rule for rule in table}
    wanted = [name for name in golden.outputs if name.startswith(f"{gate}:grad:")]
    names = [name.rpartition(":")[2] for name in wanted]
    return {f"grad:{name}": found[name].backward([ours[found[name].ours]]) for name in names}


def gated_delta_rule(golden):
    """Frames of pixels written into a memory whose gates are read from it."""
    table = tuple(convert.rule_rules())

    def run(params, inputs, gate):
        rule = GatedDeltaRule(gate=gate)
        keys = jax.nn.softmax(inputs["key"], axis=2)
        keys = einops.rearrange(keys, "b t k h w -> t b 1 (h w) k")
        values = einops.rearrange(inputs["value"], "b t n v h w -> t b n (h w) v")

        def step(carry, frame):
            state, started = carry
            state = rule.apply({"params": params}, state, *frame, started)
            return (state, True), (state, frame[0] @ state)

        empty = jnp.zeros_like(keys[0].mT @ values[0])
        _, (states, reads) = jax.lax.scan(step, (empty, False), (keys, values))
        reads = einops.rearrange(
            reads[..., ::4], "t b n (h w) v -> b t n v h w", h=golden.config["h"]
        )
        states = jnp.moveaxis(states[1:], 0, 1)[..., ::8, ::8]
        return jnp.sum(reads * inputs["cotangent"]), {"state": states, "readout": reads}

    def forward(variables, inputs):
        outputs = {}
        for gate in GATES:
            grads, own = jax.grad(run, has_aux=True)(variables["params"], inputs, gate)
            own |= gradients(golden, gate, table, grads)
            outputs |= {f"{gate}:{name}": array for name, array in own.items()}
        return None, outputs

    return Case(forward, table)


def kpff(golden):
    theirs = lambda x: einops.rearrange(x, "d h w c -> d c h w")

    def forward(variables, inputs):
        maps = [einops.rearrange(inputs[name], "d c h w -> d h w c") for name in ("key", "pixfeat")]
        y, inner = KeyPixelFeatureFusion().apply(variables, *maps, mutable="intermediates")
        inner = {name: theirs(x[0]) for name, x in inner["intermediates"].items()}
        parts = {"pix_processed": inner["pixels"], "gate_logits": inner["gate_logits"]}
        return None, {"y": theirs(y), **parts}

    return Case(forward, tuple(convert.kpff_rules()))


def objects(golden):
    config = golden.config
    sizes = config["num_queries"], config["num_blocks"], config["num_heads"], config["ff_dim"]
    table = (
        *convert.summarizer_rules("object_summarizer.", "summarizer/"),
        *convert.transformer_rules(config["num_heads"], "object_transformer.", "transformer/"),
    )

    def forward(variables, inputs):
        of = lambda part: {"params": variables["params"][part]}
        maps = lambda name: einops.rearrange(inputs[name], "b n c h w -> b n h w c")
        masks = area_mean(jnp.moveaxis(inputs["masks"], 1, -1), 4)
        summarizer = ObjectSummarizer(config["num_queries"], config["dim"])
        memory = summarizer.apply(of("summarizer"), masks, maps("value"))
        pixel, levels = ObjectTransformer(*sizes).apply(
            of("transformer"), maps("pixel_in"), memory + inputs["memory2"]
        )
        hidden = foreground_background(levels[-1], config["num_queries"])
        likely = jax.nn.sigmoid(aggregate(jax.nn.sigmoid(levels)))
        best = jax.lax.top_k(likely, 2)[0]
        return None, {
            "memory": memory,
            "pixel": einops.rearrange(pixel, "b n h w c -> b n c h w"),
            "q_logits": einops.rearrange(levels, "l b h w n -> l b n h w"),
            "attn_mask": hidden.reshape(config["batch"], -1, hidden.shape[1], *masks.shape[1:3]),
            "margin": (best[..., 0] - best[..., 1]).min(),
        }

    return Case(forward, table, convert.LEFT_OUT)


def point_supervision(golden):
    maps = lambda x: einops.rearrange(x, "f b n h w -> b f h w n")

    def forward(variables, inputs):
        levels = einops.rearrange(inputs["q_logits"], "f b n l h w -> l b f h w n")
        auxiliary = {"sensory": maps(inputs["sensory_logits"])}
        auxiliary |= {f"query_{k}": level for k, level in enumerate(levels)}
        truth = einops.rearrange(inputs["cls_gt"], "f b 1 h w -> b f h w")
        draws = inputs["noise_over"], inputs["noise_rest"]
        logits = maps(inputs["logits"])
        total, terms = losses(golden, logits, auxiliary, truth, draws)
        uncertain = int(SHARE * golden.config["P"])
        chosen = uncertain_points(logits[0], draws[0][0, ..., ::-1], uncertain)
        first = jnp.concatenate([chosen[..., ::-1], draws[1][0]], 1)
        return total, {**terms, "first_coords": first}

    return Case(forward)


def driver(golden):
    """One class of the official code runs the whole system; the part says what a file is of."""
    parts = {"": network, "gdr": gated_delta_rule}
    return parts[golden.manifest["part"]](golden)


DRIVERS = {
    "GDKVM::GDKVM": driver,
    "GDKVM::KPFF": kpff,
    "GDKVM::LossComputer": point_supervision,
    "BanditPM::QueryTransformer": objects,
}
