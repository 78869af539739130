"""SimVP beyond what the golden files hold: sizes, training mode, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.models.prediction.simvp import GSTABlock, SimVP, Translator
from tests import quick

# Data, (hid_S, hid_T, N_S, N_T), and the parameters of the official network.
PAPER = {
    "mmnist": ((10, 64, 64, 1), (64, 512, 4, 8), 46_769_665),
    "mmnist-L": ((10, 64, 64, 1), (128, 1024, 4, 24), 524_004_353),
    "taxibj": ((4, 32, 32, 2), (32, 256, 2, 8), 9_961_058),
    "weather": ((12, 32, 64, 1), (32, 256, 2, 8), 12_758_305),
    "kth": ((10, 128, 128, 1), (64, 256, 2, 6), 15_632_961),
    "kitticaltech": ((10, 128, 160, 3), (64, 256, 2, 6), 15_634_243),
    "human": ((4, 256, 256, 3), (64, 256, 4, 8), 11_327_235),
}


def simvp(hid_S, hid_T, N_S, N_T, **block):
    block = functools.partial(GSTABlock, **block)
    translator = functools.partial(Translator, block=block, hid_T=hid_T, N_T=N_T)
    return SimVP(hid_S, N_S, translator)


@pytest.mark.parametrize(("frame", "widths", "official"), PAPER.values(), ids=PAPER)
def test_parameters_at_paper_scale(frame, widths, official):
    video = jax.ShapeDtypeStruct((1, *frame), jnp.float32)
    variables = jax.eval_shape(simvp(*widths).init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == official


def test_training_moves_the_running_statistics_and_drops_paths():
    model = simvp(2, 4, 2, 3, mlp_ratio=1, kernel_size=9)
    video = jax.random.uniform(jax.random.key(0), (2, 2, 4, 6, 1))
    variables = quick.variables(model, video)
    variables["batch_stats"] = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    rngs = {"dropout": jax.random.key(2)}
    train = quick.jit(lambda v: model.apply(v, video, train=True, rngs=rngs, mutable="batch_stats"))
    frames, updates = train(variables)
    assert frames.shape == video.shape
    first = updates["batch_stats"]["translator"]["first"]["block"]["attention_norm"]
    assert np.all(np.asarray(first["mean"]) != 0)
    # Running statistics are a moving average that keeps 0.9 of the old.
    again = train({**variables, **updates})[1]["batch_stats"]["translator"]["first"]["block"]
    mean = again["attention_norm"]["mean"]
    np.testing.assert_allclose(mean, 1.9 * first["mean"], rtol=1e-5)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((2, 4, 4, 2), "4 x 6 pixels do not divide by 4"),
        ((2, 4, 1, 2), "not N_S=1"),
        ((2, 4, 2, 1), "not N_T=1"),
    ],
)
def test_errors(widths, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(simvp(*widths).init, jax.random.key(0), jnp.zeros((1, 2, 4, 6, 1)))
