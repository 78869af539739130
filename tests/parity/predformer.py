"""PredFormer: nine encoders, by the variant that the manifest names."""

import einops
import jax.numpy as jnp

from stjax.convert import predformer as convert
from stjax.models.prediction.predformer import SEQUENCES
from tests.parity import Case


def model(golden):
    module = convert.module(golden.config)
    order, names = convert.VARIANTS[golden.config["variant"]]
    letters = "F" if order == "full" else order.replace("-", "")
    layered = golden.config["variant"].partition("_")[2]

    def forward(variables, inputs):
        video = einops.rearrange(inputs["x"], "b t c h w -> b t h w c")
        y, inner = module.apply(variables, video, mutable="intermediates")
        y = einops.rearrange(y, "b t h w c -> b t c h w")
        loss = jnp.mean(jnp.square(y - inputs["target"]))
        outputs = {"y": y, "loss": loss}
        inner = inner["intermediates"]
        embedded, encoder = inner["embedded"][0], inner["encoder"]
        stages = [encoder[f"transformer_{i}"]["out"][0] for i in range(len(letters))]
        if layered:
            outputs["embedding"] = embedded
            for i in range(golden.config["Ndepth"]):
                outputs[f"layer_{i}"] = encoder["out"][0][i]
                outputs |= {f"layer_{i}.{name}": stage[i] for name, stage in zip(names, stages)}
        else:
            outputs["embedding"] = einops.rearrange(embedded, f"b t n d -> {SEQUENCES[letters[0]]}")
            outputs |= dict(zip(("first_stack", "second_stack"), stages))
            outputs["encoder"] = stages[-1]
            blocks = encoder["transformer_0"]["blocks"]
            outputs |= {f"attention_{j}": out for j, out in enumerate(blocks["attended"][0])}
        return loss, outputs

    return Case(forward, convert.rules(golden.config))


DRIVERS = {"PredFormer::PredFormer_Model": model}
