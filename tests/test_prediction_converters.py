"""Converters of prediction models, under options that no golden file has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert import mau, openstl, predformer, prednet, simvpv2
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
RECURRENT = {
    "in_shape": (2, 1, 8, 8),
    "num_hidden": (3, 3),
    "patch_size": 4,
    "filter_size": 3,
    "layer_norm": 1,
}
MAU = {
    "num_hidden": (3, 3), "patch_size": 1, "filter_size": 3, "stride": 1, "sr_size": 2, "tau": 2,
    "cell_mode": "residual", "model_mode": "recall",
}
PREDNET = {
    **prednet.PUBLISHED, "stack_sizes": (1, 2, 3), "R_stack_sizes": (1, 2, 3),
    "A_filt_sizes": (3, 3), "Ahat_filt_sizes": (3,) * 3, "R_filt_sizes": (3,) * 3,
    "pixel_max": 1.0,
}
CASES = {
    "mau": (mau.module, mau.rules, MAU),
    "prednet": (prednet.module, prednet.rules, PREDNET),
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
    **{
        f"{method}, norms": (
            functools.partial(openstl.module, method),
            functools.partial(openstl.rules, method),
            RECURRENT,
        )
        for method in ("convlstm", "predrnn", "mim")
    },
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
