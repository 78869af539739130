"""The task that completes clips: what it reads, what it counts, what it draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from stjax.metrics import baselines
from stjax.models.generation.vdt import VDT
from stjax.processes.gaussian_diffusion import GaussianDiffusion, cosine_betas
from stjax.processes.space_time_masks import SpaceTimeMasks
from stjax.tasks.masked_diffusion import MaskedDiffusion, masked_losses
from stjax.viz import frames
from tests import quick

RNG = np.random.default_rng(0)
BATCH = {
    "video": RNG.integers(0, 256, (3, 6, 8, 8, 1)).astype(np.uint8),
    "weight": np.array([1, 1, 0], np.float32),
}
TRUTH = np.float32(BATCH["video"]) / 255
PROCESS = GaussianDiffusion(cosine_betas(20))
TESTS = ("predict", "interpolate", "complete", "unconditional", "animate")


class Smooth(nn.Module):
    """A network of three numbers that mixes frames, and tells the time from the values."""

    conditioning: str = "token"

    @nn.compact
    def __call__(self, x, times, condition=None, *, train=False):
        mean = x.mean(1, keepdims=True) if condition is None else condition.mean(1, keepdims=True)
        level = times.astype(jnp.float32)[:, None, None, None, None] / 20
        out = self.param("k", nn.initializers.normal(1.0), (3,)) * jnp.stack(
            [x, jnp.broadcast_to(mean, x.shape), level + 0 * x], -1
        )
        return jnp.concatenate([out.sum(-1), 0 * x], -1)


def task(**options):
    options = {"model": Smooth(), "tests": TESTS, "spacing": "5", **options}
    return MaskedDiffusion(context=2, horizon=4, process=PROCESS, **options)


VARIABLES = {"params": {"k": jnp.array([0.5, -1.0, 0.3])}}


def predictor(task):
    run = quick.jit(task.predict)
    return lambda batch=BATCH: np.asarray(run(VARIABLES, batch, jax.random.key(1)))


@pytest.mark.parametrize(("sampler", "fold"), [("ddpm", 2), ("ddim", 1)])
def test_what_is_given_is_kept_and_what_is_not_is_not_read(sampler, fold):
    its = task(sampler=sampler, fold=fold, samples=2)
    predict = predictor(its)
    out = predict()
    assert out.shape == (3, 5, 2, 6, 8, 8, 1)
    for k, mask in enumerate(its._pixel_masks((6, 8, 8)).values()):
        mask = np.asarray(mask)[..., None]
        for sample in range(2):
            kept = np.where(mask, TRUTH, out[:, k, sample])
            np.testing.assert_allclose(kept, TRUTH, atol=1e-6)
        hidden = np.where(mask, 77, BATCH["video"]).astype(np.uint8)
        np.testing.assert_array_equal(predict({"video": hidden})[:, k], out[:, k])
    # Samples differ, and so do clips of which nothing is given.
    assert not np.allclose(out[:, :, 0], out[:, :, 1])
    assert not np.allclose(out[0, 3], out[1, 3])


def test_the_loss_counts_what_is_generated_over_all_values():
    x0 = jnp.asarray(RNG.uniform(-1, 1, (2, 4, 2, 2, 1)))
    noise = jnp.asarray(RNG.standard_normal(x0.shape))
    step, mask = jnp.array([4, 15]), jnp.arange(4)[:, None, None, None] >= 3
    zero = lambda x, times: jnp.zeros((*x.shape[:-1], 2))
    losses = quick.jit(lambda: masked_losses(PROCESS, zero, x0, mask[None], step, noise))()
    wanted = np.square(noise[:, 3]).sum((1, 2, 3)) / 16
    np.testing.assert_allclose(losses["mse"], wanted, rtol=1e-5)
    np.testing.assert_allclose(losses["loss"], losses["mse"] + losses["vb"], rtol=1e-6)
    plain = dataclasses.replace(PROCESS, variance="fixed_large")
    one = lambda x, times: jnp.zeros(x.shape)
    losses = jax.eval_shape(lambda: masked_losses(plain, one, x0, mask[None], step, noise))
    assert set(losses) == {"mse", "loss"}


def test_the_variance_alone_learns_from_the_bound():
    x0 = jnp.asarray(RNG.uniform(-1, 1, (2, 4, 2, 2, 1)), jnp.float32)

    def bound(scale):
        network = lambda x, times: jnp.concatenate([scale[0] * x, scale[1] + 0 * x], -1)
        mask = jnp.ones((1, 4, 2, 2, 1), bool)
        return masked_losses(PROCESS, network, x0, mask, jnp.array([3, 9]), -x0)["vb"].sum()

    by_mean, by_variance = quick.jit(jax.grad(bound))(jnp.array([0.5, 0.2]))
    assert by_mean == 0
    assert by_variance != 0


@pytest.mark.parametrize("masks_per", ["batch", "sample"])
def test_training_is_a_function_of_its_key(masks_per):
    its = task(masks_per=masks_per)
    loss = quick.jit(lambda key: its.loss(VARIABLES, BATCH, jax.random.key(key), 0))
    (a, aux), (b, _), (c, _) = loss(0), loss(0), loss(1)
    assert a == b != c
    assert np.isfinite(a)
    assert set(aux.metrics) == {"mse", "vb"}


def test_a_model_that_is_told_frames_beside_the_clip():
    only = {"masks": SpaceTimeMasks(families=("predict",), complete=0, context=2)}
    its = task(model=Smooth("cross"), tests=("predict",), **only)
    init = jax.eval_shape(its.init, jax.random.key(0), BATCH)
    assert jax.tree.map(jnp.shape, init) == jax.tree.map(jnp.shape, VARIABLES)
    loss, _ = quick.jit(its.loss)(VARIABLES, BATCH, jax.random.key(0), 0)
    out = predictor(its)()
    assert np.isfinite(loss)
    assert out.shape == (3, 1, 1, 6, 8, 8, 1)
    np.testing.assert_allclose(out[:, 0, 0, :2], TRUTH[:, :2], atol=1e-6)


def test_metrics():
    its = task(tests=("predict", "complete"), masks=SpaceTimeMasks(context=2))
    error = RNG.uniform(-0.2, 0.2, (3, 2, 2, 6, 8, 8, 1)).astype(np.float32)
    drawn = TRUTH[:, None, None] + error
    mask = np.asarray(its._pixel_masks((6, 8, 8))["complete"])
    score = quick.jit(its.metrics)
    values = {name: np.asarray(v) for name, (v, _) in score(drawn, BATCH).items()}
    assert its.headline == "mse_sum_predict"
    whole = np.square(error[:, 0, :, 2:]).sum((-3, -2, -1))
    np.testing.assert_allclose(values["mse_sum_predict"], whole.mean((1, 2)), rtol=1e-5)
    mean = np.square(error[:, 0, :, 2:].mean(1)).sum((-3, -2, -1)).mean(1)
    np.testing.assert_allclose(values["mean_mse_sum_predict"], mean, rtol=1e-5)
    masked = np.square(error[:, 1] * mask[..., None]).sum((2, 3, 4, 5)).mean(1)
    masked = masked / mask.any((1, 2)).sum()
    np.testing.assert_allclose(values["mse_sum_complete"], masked, rtol=1e-5)
    assert "ssim_openstl_predict" in values
    assert "ssim_predict" not in values
    # Given frames, which are without error, do not make it infinite.
    given = np.arange(6)[:, None, None, None] < 2
    perfect = score(np.where(given, TRUTH, error[:, 0, 0])[:, None, None].repeat(2, 1), BATCH)
    assert np.isfinite(perfect["psnr_predict"][0]).all()


def test_trivial_completions():
    its = task()
    trivial = quick.jit(lambda: its.trivial(its.summary(BATCH), BATCH))()
    assert all(values.shape == (3, 5, 1, 6, 8, 8, 1) for values in trivial.values())
    np.testing.assert_allclose(trivial["nearest_given"][:, 0, 0, 3], TRUTH[:, 1], atol=1e-6)


def test_lines_between_given_pixels():
    video, frame = np.float32(RNG.random((2, 7, 4, 5, 1))), np.float32(RNG.random((4, 5, 1)))
    mask = RNG.random((7, 4, 5)) < 0.6
    mask[:, 0, 0], mask[:, 0, 1] = True, np.arange(7) != 4
    ours = jax.tree.map(np.asarray, quick.jit(baselines.completions)(video, mask, frame))
    at = np.arange(7)
    for b, y, x in np.ndindex(2, 4, 5):
        given, line = np.nonzero(~mask[:, y, x])[0], video[b, :, y, x, 0]
        wanted = {"training_mean": np.full(7, frame[y, x, 0]), "blank": np.zeros(7)}
        for name in ("interpolated", "nearest_given", "given_mean"):
            wanted[name] = wanted["training_mean"]
        if len(given):
            wanted["interpolated"] = np.interp(at, given, line[given])
            wanted["given_mean"] = np.full(7, line[given].mean())
            last = np.maximum(np.searchsorted(given, at, "right") - 1, 0)
            wanted["nearest_given"] = line[given[last]]
        for name, values in wanted.items():
            values = np.where(mask[:, y, x], values, line)
            np.testing.assert_allclose(ours[name][b, :, y, x, 0], values, atol=1e-6, err_msg=name)


def test_pictures():
    its = task(samples=2)
    pictures = its.render(np.tile(TRUTH[:, None, None], (1, 5, 2, 1, 1, 1, 1)), BATCH)
    assert pictures["sheet"].dtype == np.uint8
    assert pictures["sheet"].ndim == 3
    assert pictures["clip"].shape[0] == 6
    mask = np.arange(6)[:, None, None] >= 2
    shaded = frames.shaded(TRUTH[0], np.broadcast_to(mask, (6, 8, 8)))
    assert shaded.shape == (6, 8, 8, 3)
    assert len(np.unique(shaded[2:])) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "task.sampler: 'euler' is none of ddpm, ddim"),
        ({"masks_per": "frame"}, "task.masks_per"),
        ({"tests": ()}, "task.tests"),
        ({"tests": ("predict", "guess")}, "task.tests"),
        ({"model": VDT(conditioning="cross")}, "model.conditioning: 'cross' only predicts"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_clips_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"batch\['video'\] \(3, 5, 8, 8, 1\).* 6 frames"):
        task().init(jax.random.key(0), {"video": BATCH["video"][:, :5]})
