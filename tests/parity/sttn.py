"""STTN: the authors' code, LibCity's, and what both compute around their networks."""

import einops
import jax.numpy as jnp

from stjax.convert import sttn as convert
from stjax.metrics.series import ERRORS, ZERO, masked_error, observed
from stjax.models.series.sttn import weight_penalty
from stjax.ops import graph
from tests.parity import Case


def libcity(golden):
    # In the file's network the layers' tables of sensors were one storage (PyTorch makes no copy of
    # an adjacency that is float32 already), so that all held what the last layer's was filled with.
    tables = [name for name in golden.state if name.endswith("D_S")]
    golden.state.update(dict.fromkeys(tables, golden.state[tables[-1]]))
    adjacency = golden.inputs["adjacency"]
    module = convert.module(golden.config, adjacency)

    def forward(variables, inputs):
        y, inner = module.apply(variables, inputs["x"], mutable="intermediates")
        inner = inner["intermediates"]
        layout = lambda x: einops.rearrange(x, "b t n c -> b n t c")
        of_block = lambda name, i=0: inner["blocks"][name][0][i]
        pred, true = 12 * y + 50, 12 * inputs["y"] + 50
        loss, _ = masked_error("mae", pred, true, observed(true, null=0.0))
        return loss, {
            "output": y,
            "loss": loss,
            "conv1": einops.rearrange(inner["embedded"][0], "b t n c -> b c n t"),
            "normalised_adjacency": jnp.asarray(graph.standardised(adjacency)),
            "block0_gcn_step0": of_block("graph")[:, 0],
            "block0_spatial": layout(of_block("gated")),
            "block0_temporal": layout(of_block("temporal")),
            "block0": layout(of_block("out")),
            "encoder": layout(of_block("out", -1)),
        }

    return Case(forward, convert.rules(golden.config))


def official(golden):
    module = convert.official_module(golden.config, golden.inputs["graph_kernel"])
    steps, stats = golden.config["n_his"], golden.config["x_stats"]

    def forward(variables, inputs):
        x, label = inputs["x"][:, :steps], inputs["x"][:, steps:]
        y, inner = module.apply(variables, x, mutable="intermediates")
        block = inner["intermediates"]["first"]
        pred, true = (stats["std"] * z + stats["mean"] for z in (y, label))
        loss, _ = masked_error("mae", pred, true, observed(true))
        bias = variables["params"]["first"]["graph_convolution"]["bias"]
        flat = lambda x: einops.rearrange(x, "b t n c -> (b t) n c")
        return loss, {
            "prediction": y[:, 0],
            "loss": loss,
            "weight_decay": 0.001 * weight_penalty(variables["params"]),
            "copy_loss": jnp.abs(x[:, -1:] - label).mean(),
            "block0": block["out"][0],
            "block0_spatial": block["spatial"][0],
            "block0_temporal": block["rectified"][0],
            "block0_chebyshev": flat(block["graph"][0] - bias),
            "block0_spatial_attention": flat(block["dynamic"][0]),
        }

    return Case(forward, convert.official_rules(golden.config))


def graphs(golden):
    def forward(variables, inputs):
        # Of NumPy by design, and a golden case is traced: the distances come from the file.
        distances = golden.inputs["distances"]
        order, options = golden.config["Ks"], golden.config
        weights = graph.gaussian_weights(
            distances, variance=options["sigma2"], threshold=options["epsilon"]
        )
        laplacian = graph.scaled_laplacian(weights)
        outputs = {
            "weight_matrix": weights,
            "scaled_laplacian": laplacian,
            "chebyshev": einops.rearrange(graph.chebyshev(laplacian, order), "k n m -> n (k m)"),
            "first_order": graph.first_order(weights),
        }
        return None, {name: jnp.asarray(value) for name, value in outputs.items()}

    return Case(forward)


def metrics(golden):
    def forward(variables, inputs):
        del variables
        pred = inputs["pred"]
        target = jnp.where(jnp.abs(inputs["target"]) < ZERO, 0, inputs["target"])
        missing = jnp.where(inputs["nan_mask"] == 1, jnp.nan, target)
        cases = {
            "null0": (target, observed(target, null=0.0)),
            "nan": (missing, observed(missing)),
            "null0_min5": (target, observed(target, null=0.0, least=5.0)),
        }
        def scores(true, known):
            names = ("mae", "mse", "mape")
            values = {name: masked_error(name, pred, true, known)[0] for name in names}
            return {**values, "rmse": jnp.sqrt(values["mse"])}

        outputs = {}
        for case, (true, known) in cases.items():
            named = scores(true, known).items()
            outputs |= {f"masked_{name}_{case}": value for name, value in named}
        zeros = jnp.zeros_like(target)
        outputs["masked_mae_all_null"], _ = masked_error(
            "mae", pred, zeros, observed(zeros, null=0.0)
        )
        whole = jnp.where(inputs["target"] < ZERO, 1.25, inputs["target"])
        named = scores(whole, observed(whole)).items()
        outputs |= {f"sttn_{name}": value for name, value in named if name != "mse"}
        for name in ("huber", "quantile"):
            outputs[name] = ERRORS[name](pred, inputs["target"]).mean()
        return None, outputs

    return Case(forward)


DRIVERS = {
    "Bigscity-LibCity::STTN": libcity,
    "STTN::build_model": official,
    "STTN::weight_matrix": graphs,
    "Bigscity-LibCity::masked_mae_torch": metrics,
}
