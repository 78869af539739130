"""STORM: its variants, motion, colours; the task it is trained by."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from configs import storm as config
from stjax.data import scenes
from stjax.metrics import video
from stjax.metrics.scene_flow import scene_flow_metrics
from stjax.models.world.storm import STORM, Cameras, Scene
from stjax.ops.splatting import Gaussians
from stjax.tasks.scene_reconstruction import DEPTH, FLOW, IMAGE, PART, SceneReconstruction
from stjax.train import optim
from tests import quick

TINY = STORM(
    size=(8, 16), patch=4, dim=16, depth=1, heads=2, cameras=2, motion_tokens=3,
    features=(8, 8), sky_features=8, tile=8, capacity=64,
)


def shapes(model, t=2, s=1, size=None):
    """Arguments by their shapes."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    of = lambda n: Cameras(
        *(array(1, n, model.cameras, *rest) for rest in ((3, 3), (4, 4), ()))
    )
    return array(1, t, model.cameras, *(size or model.size), 3), of(t), of(s)


def traced(model, **options):
    given = shapes(model, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), *given)
    return variables, jax.eval_shape(model.apply, variables, *given)


@functools.cache
def base_variables():
    return jax.eval_shape(TINY.init, jax.random.key(0), *shapes(TINY))


@pytest.mark.parametrize("name", ["L/8", "B/8 latent"])
def test_published_sizes_have_their_parameters(name):
    variant, _, latent = name.partition(" ")
    model = STORM(**config.VARIANTS[variant], latent=32 if latent else 0)
    variables = jax.eval_shape(model.init, jax.random.key(0), *shapes(model, t=1))
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == config.FACTS["parameters_of"][name]


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"motion_tokens": 0}, {"motion_tokens"}),
        ({"sky": False}, {"sky_tokens", "sky_head"}),
        ({"affine": "none"}, {"affine_tokens", "affine"}),
        ({"latent": 4, "patch": 2, "decoder": (32, 32), "remat": True}, set()),
    ],
)
def test_options_leave_parts_out(options, missing):
    base = base_variables()
    model = dataclasses.replace(TINY, **options)
    variables, rendered = traced(model, size=(16, 16))  # another grid than the table's
    assert missing == set(base["params"]) - set(variables["params"])
    assert rendered.image.shape == (1, 1, 2, 16, 16, 3)
    assert (rendered.parts is None) == (model.motion_tokens == 0)
    assert (rendered.decoded_depth is None) == (not model.latent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": "bias"}, "^affine: 'bias' is none of matrix, gain, none"),
        ({"features": (8,)}, "^features: .* patches are of 4 pixels"),
        ({"latent": 4}, "^decoder: .* patches are of 4 pixels"),
        ({"cameras": 3}, "^video: .* of 2 cameras, not 3"),
        ({"heads": 3}, "^heads: 3 do not divide 16"),
    ],
)
def test_fields_that_do_not_fit_are_named(options, message):
    model = dataclasses.replace(TINY, **options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), *shapes(TINY))


def test_gaussians_move_with_their_velocity_and_slow_ones_are_shown_still():
    """One at 4 m, driving right at 2 m/s, another beneath it at half a metre a second."""
    gaussians = Gaussians(
        jnp.asarray([[[0, -0.5, 4], [0, 0.5, 4]]]), jnp.ones((1, 2, 4)), jnp.full((1, 2, 3), 0.05),
        jnp.ones((1, 2)), jnp.ones((1, 2, 3)),
    )
    velocities = jnp.asarray([[[2.0, 0, 0], [0.5, 0, 0]]])
    scene = Scene(gaussians, jnp.ones((1, 2)), velocities, jnp.asarray([[[1.0, 0], [0, 1]]]))
    intrinsics = jnp.asarray([[16.0, 0, 12], [0, 16, 8], [0, 0, 1]])
    at = jnp.asarray([1.0, 2.0])
    targets = Cameras(*(jnp.broadcast_to(x, (1, 2, 1, *x.shape)) for x in (intrinsics, jnp.eye(4))),
                      at.reshape(1, 2, 1))
    splat = lambda train: TINY._splat(scene, targets, (16, 24), train)
    trained, shown = quick.jit(lambda: (splat(True), splat(False)))()
    columns = jnp.arange(24) + 0.5
    mass = trained[4][0, :, 0]
    upper, lower = mass[:, :8].sum(1), mass[:, 8:].sum(1)
    middle = lambda mass: (mass * columns).sum(-1) / mass.sum(-1)
    np.testing.assert_allclose(middle(upper), [12, 12 + 16 * 2 / 4], atol=1e-2)
    np.testing.assert_allclose(middle(lower), [12, 12 + 16 * 0.5 / 4], atol=1e-2)
    assert trained[2] is None
    np.testing.assert_array_equal(trained[1][0, 0, 0, :8], shown[1][0, 0, 0, :8])
    assert trained[1][0, 0, 0, 8:].any()
    assert not shown[1][0, 0, 0, 8:].any()


@pytest.fixture(scope="module")
def batch():
    splits = scenes.load("street", size=(8, 16), length=8, context=2, count_test=2)
    records = [splits.test[k] for k in range(2)]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def exact(batch):
    parts = np.zeros(batch["target_depth"].shape)
    return np.concatenate(
        [batch["target_video"] / 255, batch["target_depth"][..., None], batch["target_flow"],
         parts[..., None]], -1,
    ).astype(np.float32)


@quick.jit
def measured(predictions, batch):
    return SceneReconstruction(TINY).metrics(predictions, batch)


def scored(predictions, batch):
    samples = {name: np.asarray(x) for name, (x, _) in measured(predictions, batch).items()}
    return SceneReconstruction(TINY).summarise(samples)


def test_metrics_are_means_over_the_images_they_are_of(batch):
    truth = exact(batch)
    scores = scored(truth, batch)
    assert scores["mse"] < 1e-12
    assert scores["psnr"] == pytest.approx(100)
    assert scores["ssim"] == pytest.approx(1)
    assert scores["epe3d"] == scores["depth_rmse"] == 0
    assert scores["acc5"] == 1
    # Frames 0 and 4 are the context: what is wrong there counts for flow alone, and the other way.
    given = np.isin(np.arange(8), (0, 4))[:, None, None, None]
    wrong = truth.copy()
    wrong[..., IMAGE][:, given[:, 0, 0, 0]] = 0
    wrong[..., FLOW][:, ~given[:, 0, 0, 0]] = 9
    assert scored(wrong, batch) == pytest.approx(scores)
    off = truth.copy()
    off[..., FLOW][..., 0] += 2
    off[..., DEPTH] += 3 * batch["target_dynamic"]
    scores = scored(off, batch)
    assert scores["epe3d"] == pytest.approx(2)
    assert scores["depth_rmse_dynamic"] == pytest.approx(3)
    assert 0 < scores["depth_rmse"] < 3


def test_trivial_predictors(batch):
    task = SceneReconstruction(TINY)
    summary = jax.tree.map(np.asarray, task.summary(batch))
    trivial = task.trivial(summary, batch)
    clips = batch["context_video"] / 255
    images = {name: np.asarray(x[..., IMAGE]) for name, x in trivial.items()}
    np.testing.assert_allclose(images["nearest_frame"][:, 3], clips[:, 1], atol=1e-6)
    np.testing.assert_allclose(
        images["linear_blend"][:, 1], 0.75 * clips[:, 0] + 0.25 * clips[:, 1], atol=1e-6
    )
    np.testing.assert_allclose(images["linear_blend"][:, 7], clips[:, 1], atol=1e-6)
    np.testing.assert_allclose(images["context_mean"][:, 0], clips.mean(1), atol=1e-6)
    assert not trivial["linear_blend"][..., FLOW].any()
    moves = batch["target_flow"][np.linalg.norm(batch["target_flow"], axis=-1) > 1]
    np.testing.assert_allclose(
        trivial["training_mean"][0, 0, 0, 0, 0, FLOW], moves.mean(0), rtol=1e-4
    )


def test_losses_know_what_is_known(batch):
    """One step's losses and gradients; depths that are unknown, and a perceptual term, in it."""
    seen = []
    task = SceneReconstruction(
        TINY, perceptual=lambda a, b: seen.append((a.shape, b.shape)) or jnp.mean(a - b),
        perceptual_weight=0.5, perceptual_start=3,
    )
    batch = {name: array[:, [1, 2]] if name.startswith("target") else array
             for name, array in batch.items()}
    variables = quick.variables(TINY, *task._inputs(batch))

    def losses(variables, step):
        value, aux = task.loss(variables, batch, jax.random.key(0), step)
        return value, aux.metrics

    run = quick.jit(jax.value_and_grad(losses, has_aux=True))
    (_, early), slopes = run(variables, 2)
    (_, late), _ = run(variables, 3)
    assert early["perceptual"] == 0 != late["perceptual"]
    assert seen[0][0] == seen[0][1] == batch["target_video"].shape
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert np.abs(slopes["params"]["motion_tokens"]).max() > 0
    with pytest.raises(ValueError, match=r"task.perceptual_weight: 0.1, and no perceptual network"):
        SceneReconstruction(TINY, perceptual_weight=0.1)


def test_pictures(batch):
    predictions = exact(batch)
    predictions[..., PART] = -1
    drawn = SceneReconstruction(TINY).render(predictions, batch)
    assert drawn["sheet"].ndim == 3
    assert drawn["scene"].shape[0] == 8
    predictions[..., PART] = 2
    more = SceneReconstruction(TINY).render(predictions, batch)
    assert more["sheet"].shape[0] > drawn["sheet"].shape[0]


def structural_similarity(x, y):
    """scikit-image's map, of its documentation: one channel, its defaults, data range 1."""
    mean = lambda x: uniform_filter(np.float64(x), 7)
    mx, my = mean(x), mean(y)
    sample = 49 / 48
    vx, vy = sample * (mean(x * x) - mx * mx), sample * (mean(y * y) - my * my)
    cov = sample * (mean(x * y) - mx * my)
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_ssim_of_an_area_is_scikit_images():
    rng = np.random.default_rng(0)
    true = rng.uniform(size=(2, 15, 20, 3)).astype(np.float32)
    pred = np.clip(true + rng.normal(0, 0.2, true.shape), 0, 1).astype(np.float32)
    area = rng.random((2, 15, 20)) < 0.3
    both = quick.jit(lambda *a: (video.area_ssim(*a[:2]), video.area_ssim(*a)))
    whole, within = both(pred, true, area)
    for k in range(2):
        full = np.stack(
            [structural_similarity(pred[k, ..., c], true[k, ..., c]) for c in range(3)], -1
        )
        np.testing.assert_allclose(whole[k], full[3:-3, 3:-3].mean(), rtol=1e-4)
        np.testing.assert_allclose(within[k], full[area[k]].mean(), rtol=1e-4)
    error = np.mean((pred - true)[0][area[0]] ** 2)
    np.testing.assert_allclose(
        video.area_psnr(pred, true, area)[0], -10 * np.log10(error), rtol=1e-4
    )


def test_flow_of_no_points_is_no_error():
    found = scene_flow_metrics(jnp.ones((2, 5, 3)), jnp.zeros((2, 5, 3)), jnp.zeros((2, 5), bool))
    assert all((x == 0).all() for x in found.values())


def test_decay_spares_biases_and_norms():
    section = {**config.get_config("tiny").optimizer, "schedule": "constant", "schedule_args": {}}
    optimizer = optim.optimizer(**section, steps=1)
    params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "positions": jnp.ones(2)}
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    assert updates["dense"]["kernel"][0] < 0 > updates["positions"][0]
    assert updates["dense"]["bias"][0] == 0
