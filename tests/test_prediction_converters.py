"""Converters of prediction models, under options that no golden file has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert import openstl, predformer, simvpv2
from stjax.convert.rules import from_official, to_official
from tests import quick

PREDFORMER = {
    "patch_size": 2,
    "dim": 6,
    "heads": 1,
    "dim_head": 6,
    "dropout": 0.0,
    "attn_dropout": 0.0,
    "drop_path": 0.1,
    "scale_dim": 2,
    "depth": 2,
    "Ndepth": 3,
}
SIMVP = {"in_shape": (2, 1, 8, 8), "hid_S": 4, "hid_T": 8, "N_S": 3, "mlp_ratio": 2.0}
CONVLSTM = {
    "in_shape": (2, 1, 8, 8),
    "num_hidden": (3, 5),
    "patch_size": 4,
    "filter_size": 3,
    "layer_norm": 1,
}
CASES = {
    **{
        f"predformer {variant}": (
            predformer.module,
            predformer.rules,
            {**PREDFORMER, "variant": variant},
        )
        for variant in ("FullAttention", "FacTS", "Triplet_STS")
    },
    "simvp, no layer between": (simvpv2.module, simvpv2.rules, {**SIMVP, "N_T": 2}),
    "simvp, reductions": (simvpv2.module, simvpv2.rules, {**SIMVP, "hid_T": 6, "N_T": 5}),
    "simvp, channels that do not change": (
        simvpv2.module,
        simvpv2.rules,
        {**SIMVP, "hid_S": 8, "hid_T": 16, "N_T": 4, "model_type": "uniformer"},
    ),
    **{
        f"simvp, {name}": (
            simvpv2.module,
            simvpv2.rules,
            {**SIMVP, "hid_T": 16, "N_T": 2, "model_type": name},
        )
        for name in ("incepu", "MogaNet", "hornet", "swin")
    },
    "the first simvp": (
        simvpv2.first_module, simvpv2.first_rules, {**SIMVP, "hid_T": 16, "N_T": 4}
    ),
    "convlstm": (openstl.convlstm_module, openstl.convlstm_rules, CONVLSTM),
}


@pytest.mark.parametrize(("module", "rules", "config"), CASES.values(), ids=CASES)
def test_there_and_back(module, rules, config):
    variables = quick.variables(module(config), jnp.zeros((1, 2, 8, 8, 1)))
    official = to_official(rules(config), variables)
    assert sum(array.size for array in official.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables)
    )
    back = from_official(rules(config), official)
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_stacked_entries_keep_their_official_numbers():
    config = {**SIMVP, "N_T": 5}
    variables = quick.variables(simvpv2.module(config), jnp.zeros((1, 2, 8, 8, 1)))
    official = to_official(simvpv2.rules(config), variables)
    scales = variables["params"]["translator"]["middle"]["block"]["mlp_scale"]
    for i in (1, 2, 3):
        np.testing.assert_array_equal(official[f"hid.enc.{i}.block.layer_scale_2"], scales[i - 1])

    config = {**PREDFORMER, "variant": "Binary_TS"}
    variables = quick.variables(predformer.module(config), jnp.zeros((1, 2, 8, 8, 1)))
    official = to_official(predformer.rules(config), variables)
    biases = variables["params"]["encoder"]["transformer_1"]["blocks"]["feed_forward"]["out"][
        "bias"
    ]
    name = "blocks.2.ts_space_transformer.layers.1.1.fn.fc2.bias"
    np.testing.assert_array_equal(official[name], biases[2, 1])
