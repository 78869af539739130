"""The task of video prediction, with networks simple enough to know the answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.special import softmax

from stjax.processes import scheduled_sampling
from stjax.tasks import losses
from stjax.tasks.frame_prediction import FramePrediction


class Drift(nn.Module):
    """Adds a learned constant to every frame and remembers how many it saw."""

    predicts = "next"

    @nn.compact
    def __call__(self, video, actions=None, state=None, *, train=False, frames=None, truth=None):
        drift = self.param("drift", nn.initializers.constant(0.125), ())
        self.sow("intermediates", "truth", truth)
        seen = (0 if state is None else state) + video.shape[1]
        chosen = video if frames is None else video[:, frames]
        return chosen + drift, seen


class Hold(nn.Module):
    """Repeats the clip's last frame, a little brighter, as many times as the clip is long."""

    predicts = "clip"

    @nn.compact
    def __call__(self, video, *, train=False):
        gain = self.param("gain", nn.initializers.constant(1.5), ())
        last = self.variable("batch_stats", "last", jnp.zeros, ())
        if train:
            last.value = video[0, -1].mean()
        return gain * jnp.repeat(video[:, -1:], video.shape[1], axis=1)


def batch(frames=7, size=4, value=None):
    rng = np.random.default_rng(0)
    video = rng.random((3, frames, size, size, 1), np.float32) / 4
    return {"video": video if value is None else np.full_like(video, value)}


def test_next_frames_are_rolled_out_from_the_context():
    task = FramePrediction(Drift(), context=3, horizon=4)
    data = batch()
    variables = task.init(jax.random.key(0), data)
    predictions = task.predict(variables, data, jax.random.key(1))
    expected = data["video"][:, 2:3] + 0.125 * np.arange(1, 5)[:, None, None, None]
    np.testing.assert_allclose(predictions, expected, rtol=1e-6)


class Ruled(Drift):
    """Has losses of its own, one of a value a frame."""

    @nn.compact
    def __call__(self, video, *args, **options):
        self.sow("losses", "each", jnp.full(video.shape[1], 0.25))
        self.sow("losses", "whole", 0.5)
        return super().__call__(video, *args, **options)


def test_losses_of_the_models_own_are_added_and_logged():
    data, key = batch(), jax.random.key(0)
    plain, ruled = (FramePrediction(model, context=3, horizon=4) for model in (Drift(), Ruled()))
    variables = ruled.init(key, data)
    assert set(variables) == {"params"}
    value, aux = ruled.loss(variables, data, key, jnp.int32(0))
    assert aux.metrics == {"each": 0.25, "whole": 0.5}
    assert aux.updates == {}
    np.testing.assert_allclose(value, plain.loss(variables, data, key, jnp.int32(0))[0] + 0.75)


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_clips_are_fed_back_until_the_horizon(horizon):
    task = FramePrediction(Hold(), context=2, horizon=horizon)
    data = batch()
    variables = task.init(jax.random.key(0), data)
    predictions = task.predict(variables, data, jax.random.key(1))
    passes = np.arange(horizon) // 2 + 1
    gains = 1.5 ** passes[:, None, None, None]
    np.testing.assert_allclose(predictions, data["video"][:, 1:2] * gains, rtol=1e-6)


class Mean(nn.Module):
    """A clip of `length` frames, all of them the mean of those that it reads, and one more."""

    length: int
    predicts = "clip"

    @nn.compact
    def __call__(self, video, *, train=False):
        drift = self.param("drift", nn.initializers.ones, ())
        return jnp.repeat(video.mean(1, keepdims=True) + drift, self.length, axis=1)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_clips_of_any_length_are_made_of_the_last_frames_seen(length):
    task = FramePrediction(Mean(length), context=3, horizon=4)
    frames = list(np.arange(3.0))
    while len(frames) < 7:
        frames += [np.mean(frames[-3:]) + 1] * length
    video = jnp.zeros((1, 7, 4, 4, 1)) + jnp.arange(7.0)[:, None, None, None]
    variables = task.init(jax.random.key(0), {"video": video})
    prediction = task.predict(variables, {"video": video}, jax.random.key(1))
    np.testing.assert_allclose(prediction[0, :, 0, 0, 0], frames[3:7], rtol=1e-6)
    loss, _ = task.loss(variables, {"video": video}, jax.random.key(1), 0)
    assert loss == pytest.approx(np.square(np.array(frames[3:7]) - np.arange(3, 7)).mean())


def test_test_horizon_differs_from_the_training_one():
    task = FramePrediction(Drift(), context=2, horizon=2, test_horizon=5)
    data = batch()
    variables = task.init(jax.random.key(0), data)
    predictions = task.predict(variables, data, jax.random.key(1))
    assert predictions.shape[1] == 5
    values, weights = task.metrics(predictions, data)["mse_by_frame"]
    assert values.shape == (3, 5)
    assert weights.shape == (3,)


def test_taus_loss_compares_how_changes_are_spread():
    rng = np.random.default_rng(0)
    predicted, frames = rng.standard_normal((2, 2, 4, 3, 2, 1))
    spread = lambda video: softmax(np.diff(video, axis=1).reshape(2, 3, -1) / 0.5, -1)
    p, q = spread(predicted), spread(frames)
    divergence = np.mean(p * np.log(p / q))
    with jax.enable_x64(True):
        ours = losses.mse_and_divergence(*map(jnp.asarray, (predicted, frames)), 2.0, 0.5)
        assert ours == pytest.approx(np.mean((predicted - frames) ** 2) + 2 * divergence, rel=1e-9)
    # Of one change there is nothing to tell; changes that are far apart leave gradients finite.
    assert losses.differential_divergence(predicted[:, :2], frames[:, :2]) == 0
    gradient = jax.grad(losses.differential_divergence)(1e4 * predicted, -1e4 * frames)
    assert np.isfinite(gradient).all()


def test_losses_are_those_of_the_papers():
    data = batch()
    video = 2 * data["video"][:, :5] - 1
    variables = {"params": {"drift": jnp.asarray(0.125)}}
    task = FramePrediction(
        Drift(), context=2, horizon=3, value_range=(-1.0, 1.0), loss_name="half_mse_half_l1"
    )
    loss, aux = task.loss(variables, data, jax.random.key(0), 0)
    error = video[:, :-1] + 0.125 - video[:, 1:]
    expected = (0.5 * error**2 + 0.5 * np.abs(error)).sum((-2, -1)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert aux.updates == {}

    data = batch(value=0.25)
    task = FramePrediction(Hold(), context=2, horizon=2)
    variables = task.init(jax.random.key(0), data)
    loss, aux = task.loss(variables, data, jax.random.key(0), 0)
    assert loss == pytest.approx((1.5 * 0.25 - 0.25) ** 2, rel=1e-5)
    assert aux.updates["batch_stats"]["last"] == pytest.approx(0.25)


def test_scheduled_sampling_tells_the_model_which_frames_are_true():
    rates = functools.partial(scheduled_sampling.scheduled, start=0.0, change=0.0)
    seen = []

    class Spy(Drift):
        @nn.compact
        def __call__(self, video, *args, truth=None, **kwargs):
            seen.append(truth)
            return super().__call__(video, *args, truth=truth, **kwargs)

    task = FramePrediction(
        Spy(), context=2, horizon=3,
        sampling=functools.partial(scheduled_sampling.mask, rates=rates),
    )
    task.loss({"params": {"drift": jnp.zeros(())}}, batch(), jax.random.key(0), 0)
    np.testing.assert_array_equal(seen[-1], [[True, True, False, False]] * 3)


def test_dropped_steps_are_not_decoded():
    task = FramePrediction(Drift(), context=2, horizon=5, drop_loss_rate=0.5)
    variables = {"params": {"drift": jnp.asarray(0.125)}}
    losses = {
        float(task.loss(variables, batch(), jax.random.key(key), 0)[0]) for key in range(8)
    }
    assert len(losses) > 1  # another draw, other frames


def test_uint8_and_unit_frames_are_the_same_video():
    task = FramePrediction(Drift(), context=3, horizon=4)
    bytes_ = np.random.default_rng(0).integers(0, 256, (2, 7, 4, 4, 1), np.uint8)
    variables = {"params": {"drift": jnp.asarray(0.125)}}
    for name, data in {"uint8": bytes_, "unit": np.float32(bytes_) / 255}.items():
        prediction = task.predict(variables, {"video": data}, jax.random.key(0))
        np.testing.assert_allclose(prediction[:, 0], bytes_[:, 2] / 255 + 0.125, err_msg=name,
                                   rtol=1e-5)


def test_trivial_predictors_and_their_summary():
    task = FramePrediction(Drift(), context=2, horizon=3)
    data = batch()
    summary = task.summary(data)
    np.testing.assert_allclose(summary, data["video"].mean((0, 1)), rtol=1e-6)
    trivial = task.trivial(summary, data)
    assert set(trivial) == {"copy_last", "blank", "context_mean", "training_mean"}
    assert all(frames.shape == (3, 3, 4, 4, 1) for frames in trivial.values())


def test_pictures_and_metrics_of_small_frames():
    task = FramePrediction(Drift(), context=2, horizon=3)
    data = batch(size=8)
    predictions = np.zeros((3, 3, 8, 8, 1), np.float32)
    names = set(task.metrics(predictions, data))
    assert "ssim_openstl" in names  # a window of 7 fits into 8 pixels
    assert "ssim" not in names  # one of 11 does not
    pictures = task.render(predictions, data)
    assert pictures["sheet"].ndim == 3
    assert pictures["clip"].ndim == 4
    assert all(picture.dtype == np.uint8 for picture in pictures.values())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"'l3' is none of"):
        FramePrediction(Drift(), context=2, horizon=3, loss_name="l3")
    with pytest.raises(ValueError, match="one at least"):
        FramePrediction(Drift(), context=0, horizon=3)
    task = FramePrediction(Drift(), context=5, horizon=5)
    with pytest.raises(ValueError, match=r"\(3, 7, 4, 4, 1\): wanted .* at least 10 frames"):
        task.loss({}, batch(), jax.random.key(0), 0)
