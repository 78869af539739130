"""OpenSTL's recurrent predictors: what they remember, their options, and their sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert import openstl
from stjax.models.prediction.e3d_lstm import E3DLSTM
from stjax.models.prediction.mim import MIM
from stjax.models.prediction.predrnn import PredRNN
from stjax.models.prediction.predrnnpp import PredRNNpp
from tests import quick

TINY = {"hidden": (4, 4), "patch": 2, "kernel_size": 3, "param_dtype": jnp.float64}
MODELS = {
    "predrnn": PredRNN(decoupling=0.1, **TINY),
    "predrnnpp": PredRNNpp(layer_norm=True, **TINY),
    "mim": MIM(layer_norm=True, **TINY),
    "e3dlstm": E3DLSTM(recalled=4, layer_norm=True, **TINY),
}


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9), a, b)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_whole_in_chunks_and_on_own_outputs(model):
    with jax.enable_x64(True):
        video = jax.random.normal(jax.random.key(0), (2, 4, 4, 6, 1))
        variables = {"params": quick.variables(model, video)["params"]}
        truth = jnp.ones((2, 4)).at[:, 2:].set(0)

        def both(variables, video):
            whole, last = model.apply(variables, video, truth=truth)
            start, state = model.apply(variables, video[:, :2])
            outputs = [start]
            for _ in range(2):
                output, state = model.apply(variables, outputs[-1][:, -1:], state=state)
                outputs.append(output)
            return (whole, last), (jnp.concatenate(outputs, 1), state)

        assert_close(*quick.jit(both)(variables, video))


def test_decoupling_loss_is_sown_in_training_alone():
    model, video = PredRNN(decoupling=0.1, hidden=(4, 4), patch=2), jnp.ones((2, 3, 4, 6, 1))
    variables = {"params": quick.variables(model, video)["params"]}
    assert "decoupling" in variables["params"]["rollout"]["cell"]
    run = lambda mutable: jax.eval_shape(
        lambda: model.apply(variables, video, train=True, mutable=mutable)[1]
    )
    (losses,) = jax.tree.leaves(run(["losses"]))
    assert losses.shape == (3,)
    assert not run([])


def test_recalls_the_latest_cells():
    """Three remembered cells make no difference before there are four."""
    video = jax.random.normal(jax.random.key(0), (1, 5, 2, 4, 1))
    options = {"hidden": (3,), "patch": 2, "kernel_size": 3}
    variables = quick.variables(E3DLSTM(**options), video)
    run = lambda n: quick.jit(E3DLSTM(recalled=n, **options).apply)(variables, video)[0]
    some, all_of_them = run(3), run(5)
    np.testing.assert_allclose(some[:, :3], all_of_them[:, :3], rtol=1e-5)
    assert np.all(np.abs(some - all_of_them)[:, 3:].max((2, 3, 4)) > 1e-6)


@pytest.mark.parametrize(
    ("model", "field"),
    [(PredRNNpp(gated_by="hidden", **TINY), "gated_by"), (E3DLSTM(recall="all", **TINY), "recall")],
)
def test_refuses_what_it_does_not_know(model, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        model.init(jax.random.key(0), jnp.zeros((1, 2, 4, 6, 1)))


def test_refuses_a_memory_of_several_widths():
    with pytest.raises(ValueError, match=r"^hidden"):
        PredRNN(hidden=(3, 4), patch=2).init(jax.random.key(0), jnp.zeros((1, 2, 4, 6, 1)))


@pytest.mark.parametrize(
    ("method", "width", "official"),
    [
        ("convlstm", 128, 15_083_520),
        ("convlstm", 192, 33_782_784),
        ("predrnn", 128, 23_838_720),
        ("predrnnpp", 128, 38_584_320),
        ("predrnnv2", 128, 23_855_104),
        ("mim", 128, 38_043_648),
        ("e3dlstm", 128, 51_347_456),
    ],
)
def test_parameters_at_paper_scale(method, width, official):
    config = {
        "num_hidden": [width] * 4, "patch_size": 4, "filter_size": 5, "layer_norm": 0,
        "in_shape": (10, 1, 64, 64), "total_length": 20, "decouple_beta": 0.1,
    }
    model, video = openstl.module(method, config), jnp.zeros((1, 1, 64, 64, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert ours + openstl.unused_parameters(method, config) == official
