"""MMVP, WaST and DMVFN beyond what the golden files hold: sizes, behaviour, training, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert.mmvp import unused_parameters
from stjax.models.prediction.dmvfn import DMVFN
from stjax.models.prediction.mmvp import MMVP, compose, motion_matrices
from stjax.models.prediction.wast import WaST
from stjax.tasks.frame_prediction import FramePrediction
from stjax.tasks.losses import high_focal_frequency, laplacian
from tests import quick

KTH = {"horizon": 20, "hid_S": 16, "hid_T": 96}
# A network, the clips that it reads, the parameters of the official one that are read.
PAPER = {
    "MMVP mmnist": (
        MMVP(), (10, 64, 64, 1), 14_828_581 - unused_parameters({"hid_S": 32, "hid_T": 192})
    ),
    "MMVP kth": (MMVP(**KTH), (10, 128, 128, 1), 4_544_725 - unused_parameters(KTH)),
    "WaST taxibj": (WaST(), (4, 32, 32, 2), 5_132_822),
    "DMVFN, 1 channel": (DMVFN(), (10, 64, 64, 1), 3_522_922),
    "DMVFN, 2 channels": (DMVFN(), (4, 32, 32, 2), 3_541_426),
    "DMVFN, 3 channels": (DMVFN(), (10, 128, 160, 3), 3_559_930),
}
TINY = {
    "mse": MMVP(horizon=5, hid_S=4, hid_T=8, rrdb_encoder_num=1, rrdb_enhance_num=1),
    "mse_and_high_frequencies": WaST(encoder_dim=2, block_list=(1, 1, 1), mlp_ratio=2.0),
    "laplacian": DMVFN(features=(8, 8), scales=(2, 1), routing_features=4),
}


@pytest.mark.parametrize(("model", "clip", "official"), PAPER.values(), ids=PAPER)
def test_parameters_at_paper_scale(model, clip, official):
    video = jax.ShapeDtypeStruct((1, *clip), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == official


@pytest.mark.parametrize(("loss_name", "model"), TINY.items(), ids=TINY)
def test_the_task_trains_and_rolls_out_in_bfloat16(loss_name, model):
    model = model.clone(dtype=jnp.bfloat16)
    task = FramePrediction(model, context=5, horizon=5, test_horizon=6, loss_name=loss_name)
    batch = {"video": jax.ShapeDtypeStruct((2, 11, 16, 16, 2), jnp.float32)}
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    value, aux = jax.eval_shape(task.loss, variables, batch, jax.random.key(0), 0)
    assert value.shape == ()
    assert set(aux.updates) == set(variables) - {"params"}
    prediction = jax.eval_shape(task.predict, variables, batch, jax.random.key(0))
    assert prediction.shape == (2, 6, 16, 16, 2)


def test_features_are_carried_along_every_path():
    rng = np.random.default_rng(0)
    features, matrices = rng.random((2, 3, 2, 3, 4)), rng.random((2, 4, 6, 6))
    flat = features.reshape(2, 3, 6, 4)
    expected = []
    for future in (2, 3):
        paths = [matrices[:, future]]
        for past in (1, 0):
            paths.insert(0, matrices[:, past] @ paths[0])
        paths = np.stack(paths, 1)
        summed = np.einsum("bknm,bknc->bmc", paths, flat)
        expected.append(summed / (paths.sum((1, 2))[..., None] + 1e-6))
    with jax.enable_x64(True):
        carried = compose(jnp.asarray(features), jnp.asarray(matrices))
    np.testing.assert_allclose(carried.reshape(2, 2, 6, 4), np.stack(expected, 1), rtol=1e-12)


@pytest.mark.parametrize("kept", ["time", "width"])
def test_what_is_smooth_across_the_other_axes_goes_on(kept):
    model, noise = WaST(kept=kept), jax.random.uniform(jax.random.key(0), (1, 4, 6, 8, 2))
    axes = {"time": (2, 3), "width": (1, 2)}[kept]
    smooth = jnp.broadcast_to(noise.mean(axes, keepdims=True), noise.shape)
    low, high = model._split(smooth)
    np.testing.assert_allclose(high, 0, atol=1e-6)
    assert np.abs(low[..., 1, :]).max() > 0.01
    np.testing.assert_allclose(model._join(*model._split(noise)), noise, atol=1e-6)


def test_places_without_features_are_like_none_and_have_gradients():
    features = jnp.ones((1, 2, 2, 2, 3)).at[0, 0, 0, 0].set(0)
    matrix = motion_matrices(features)[0, 0]
    np.testing.assert_array_equal(matrix[0], 0)
    np.testing.assert_allclose(matrix[1:], 1, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.square(motion_matrices(x) - 1).sum())(features)
    assert np.isfinite(gradient).all()


@functools.cache
def dmvfn():
    model = TINY["laplacian"]
    video = jax.random.uniform(jax.random.key(0), (2, 4, 16, 24, 1))
    # Small enough for flows within the frame.
    return model, video, jax.tree.map(lambda x: x / 4, quick.variables(model, video))


def test_a_clip_in_parts_is_the_clip():
    model, video, variables = dmvfn()

    @quick.jit
    def run(variables, video):
        whole, _ = model.apply(variables, video)
        first, state = model.apply(variables, video[:, :1])
        rest, _ = model.apply(variables, video[:, 1:], None, state)
        return jnp.concatenate([first, rest], 1), whole

    np.testing.assert_allclose(*run(variables, video), atol=1e-5)


def test_closed_gates_leave_the_mean_of_both_frames():
    model, video, variables = dmvfn()
    closed = jnp.ones((2, 4, 2))
    mean = (video[:, :-1] + video[:, 1:]) / 2

    @quick.jit
    def run(variables, video):
        at_test, _ = model.apply(variables, video, uniform=closed)
        seen = (
            model.clone(refined=refined).apply(variables, video, train=True, uniform=closed)[0]
            for refined in ("gated", "ungated")
        )
        return at_test, *seen

    at_test, gated, ungated = run(variables, video)
    np.testing.assert_allclose(at_test[:, 1:], mean, atol=1e-6)
    # What the first block would have made of them, had it been open, is for the loss to see.
    assert gated.shape == ungated.shape == (2, *video.shape)
    np.testing.assert_allclose(gated[:, :, 1:], jnp.stack([mean, mean]), atol=1e-6)
    np.testing.assert_allclose(ungated[1, :, 1:], mean, atol=1e-6)
    assert np.abs(ungated[0, :, 1:] - mean).max() > 0.01


def test_gates_are_drawn_in_training_and_pass_gradients():
    model, video, variables = dmvfn()

    def loss(params, key):
        options = {"train": True, "rngs": {"sample": key}, "mutable": "intermediates"}
        (frames, _), inner = model.apply({"params": params}, video, **options)
        return laplacian(frames, jnp.roll(video, -1, 1)), inner["intermediates"]["gates"][0]

    run = quick.jit(jax.grad(loss, has_aux=True))
    gradients, gates = zip(*(run(variables["params"], jax.random.key(k)) for k in range(3)))
    assert np.abs(gradients[0]["routing"]["out"]["bias"]).max() > 0
    assert set(np.unique(gates)) == {0, 1}
    assert not np.array_equal(gates[0], gates[1])


def test_right_predictions_cost_nothing():
    frames = jax.random.uniform(jax.random.key(0), (1, 2, 16, 16, 2))
    for loss, predicted in ((high_focal_frequency, frames), (laplacian, frames[None])):
        value, gradient = quick.jit(jax.value_and_grad(loss))(predicted, frames)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)
    assert quick.jit(high_focal_frequency)(frames + 1, frames) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "clip", "message"),
    [
        (MMVP(), (2, 3, 16, 24, 1), r"^video: \(2, 3, 16, 24, 1\)"),
        (MMVP(), (2, 1, 16, 16, 1), r"^video: \(2, 1, 16, 16, 1\)"),
        (WaST(), (2, 4, 16, 15, 1), r"^video: \(2, 4, 16, 15, 1\)"),
        (WaST(kept="height"), (2, 4, 16, 16, 1), "^kept"),
        (DMVFN(), (2, 4, 16, 24, 1), r"^video: \(2, 4, 16, 24, 1\)"),
        (DMVFN(scales=(1, 2)), (2, 4, 16, 16, 1), "^scales"),
        (DMVFN(refined="all"), (2, 4, 16, 16, 1), "^refined"),
    ],
)
def test_bad_input_is_named(model, clip, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(clip))
