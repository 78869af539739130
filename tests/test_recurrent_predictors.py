"""OpenSTL's recurrent predictors: what they remember, their options, and their sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert import crevnet, mau, openstl, phydnet, prednet, swinlstm
from stjax.models.prediction.crevnet import CrevNet, ReversibleEncoder
from stjax.models.prediction.e3d_lstm import E3DLSTM
from stjax.models.prediction.mau import MAU
from stjax.models.prediction.mim import MIM
from stjax.models.prediction.phydnet import PhyDNet, moment_loss, moments
from stjax.models.prediction.prednet import PredNet
from stjax.models.prediction.predrnn import PredRNN
from stjax.models.prediction.predrnnpp import PredRNNpp
from stjax.models.prediction.swinlstm import SwinLSTM
from tests import quick

TINY = {"hidden": (4, 4), "patch": 2, "kernel_size": 3, "param_dtype": jnp.float64}
MODELS = {
    "predrnn": PredRNN(decoupling=0.1, **TINY),
    "predrnnpp": PredRNNpp(layer_norm=True, **TINY),
    "mim": MIM(layer_norm=True, **TINY),
    "e3dlstm": E3DLSTM(recalled=4, layer_norm=True, **TINY),
    "phydnet": PhyDNet(2, 4, (3,), 3, 2, param_dtype=jnp.float64),
    "mau": MAU(4, 2, 3, 1, 3, residual=True, recall=True, param_dtype=jnp.float64),
    "swinlstm": SwinLSTM((3,), (2,), 4, 2, param_dtype=jnp.float64),
    "prednet": PredNet((3,), param_dtype=jnp.float64),
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


def test_crevnet_forgets_nothing_and_its_encoder_is_inverted():
    with jax.enable_x64(True):
        video = jax.random.normal(jax.random.key(0), (2, 5, 4, 8, 1))
        model = CrevNet(layers=1, blocks=(1, 1), param_dtype=jnp.float64)
        variables = quick.variables(model, video)
        encoder = ReversibleEncoder(model.blocks, param_dtype=jnp.float64)
        of_encoder = {name: tree["encoder"] for name, tree in variables.items()}

        def both(variables, video):
            whole, last = model.apply(variables, video)
            first, state = model.apply(variables, video[:, :3])
            rest, state = model.apply(variables, video[:, 3:], state=state)
            halves, _ = encoder.apply(of_encoder, video, train=True, mutable="batch_stats")
            back, _ = encoder.apply(
                of_encoder, halves, train=True, mutable="batch_stats", method="inverse"
            )
            return (whole, last, video), (jnp.concatenate([first, rest], 1), state, back), halves

        expected, found, halves = quick.jit(both)(variables, video)
        assert_close(found, expected)
        np.testing.assert_array_equal(expected[0][:, :2], video[:, :2])
        assert [half.shape for half in halves] == [(2, 5, 1, 2, 8)] * 2
        with pytest.raises(ValueError, match=r"^video: \(2, 2"):
            model.apply(variables, video[:, :2])


def test_moments_of_derivatives():
    """Kernels with a moment each, 1: nothing is lost; and the central difference's moments."""
    side = 3
    matrix = moments(np.eye(side * side).reshape(side, side, 1, -1)).reshape(side * side, -1)
    pure = np.linalg.inv(matrix).reshape(side, side, 1, -1)
    np.testing.assert_allclose(moment_loss(jnp.asarray(pure, jnp.float32)), 0, atol=1e-12)
    difference = np.zeros((side, side, 1, 1))
    difference[1, :, 0, 0] = -0.5, 0, 0.5
    expected = np.zeros((side, side))
    expected[0, 1] = 1
    np.testing.assert_allclose(moments(difference)[..., 0, 0], expected, atol=1e-6)


def test_prednet_counts_no_errors_before_its_first_prediction():
    video, model = jnp.full((1, 2, 4, 4, 1), 0.3), PredNet((2,))
    variables = {"params": quick.variables(model, video)["params"]}
    _, inner = model.apply(variables, video, mutable="intermediates")
    for errors in inner["intermediates"]["rollout"]["cell"]["errors"][0]:
        assert not errors[0].any()
        assert errors[1].any()


@pytest.mark.parametrize(
    ("build", "field"),
    [(lambda: PhyDNet(patch=3), "patch"), (lambda: SwinLSTM((2, 2), (4,)), "heads")],
)
def test_refuses_fields_that_do_not_fit(build, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        build()


MMNIST = {"in_shape": (10, 1, 64, 64), "patch_size": 4}
CODED = {
    "phydnet": (phydnet, MMNIST, 3_091_732),
    "mau": (
        mau,
        {
            **MMNIST, "patch_size": 1, "num_hidden": [64] * 4, "filter_size": 5, "stride": 1,
            "sr_size": 4, "tau": 5, "cell_mode": "normal", "model_mode": "normal",
        },
        4_483_588,
    ),
    "swinlstm-d": (
        swinlstm,
        {
            **MMNIST, "patch_size": 2, "window_size": 4, "embed_dim": 128,
            "depths_downsample": (2, 6), "depths_upsample": (6, 2), "num_heads": (4, 8),
        },
        20_191_969,
    ),
    "swinlstm-b": (
        swinlstm,
        {
            "in_shape": (4, 3, 128, 128), "patch_size": 2, "window_size": 4, "embed_dim": 128,
            "depths": 12, "num_heads": 4,
        },
        2_781_747,
    ),
    "prednet": (
        prednet,
        {
            **MMNIST, "stack_sizes": (1, 32, 64, 128, 256), "R_stack_sizes": (1, 32, 64, 128, 256),
            "A_filt_sizes": (3,) * 4, "Ahat_filt_sizes": (3,) * 5, "R_filt_sizes": (3,) * 5,
            "pixel_max": 1.0, **prednet.PUBLISHED,
        },
        12_510_842,
    ),
    "crevnet": (crevnet, {**MMNIST, "rnn_size": 32, "predictor_rnn_layers": 8}, 4_997_444),
}


@pytest.mark.parametrize(("convert", "config", "official"), CODED.values(), ids=CODED)
def test_parameters_of_coded_predictors_at_paper_scale(convert, config, official):
    _, channels, *size = config["in_shape"]
    video = jnp.zeros((1, 3, *size, channels))
    variables = jax.eval_shape(convert.module(config).init, jax.random.key(0), video)
    ours = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    unused = getattr(convert, "unused_parameters", lambda config: 0)
    assert ours + unused(config) == official
