"""Metrics against their definitions written out, and means that no padding can bend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.metrics import baselines, video


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    true = rng.random((2, 3, 16, 14, 2), np.float32)
    pred = np.clip(true + 0.2 * rng.standard_normal(true.shape, np.float32), 0, 1)
    return pred, true


def test_every_metric_gives_one_number_a_frame(pair):
    for name, metric in video.METRICS.items():
        values = jax.jit(metric)(*pair)
        assert values.shape == (2, 3), name
        one = metric(pair[0][1, 2], pair[1][1, 2])
        np.testing.assert_allclose(values[1, 2], one, rtol=1e-5, err_msg=name)


def test_simple_metrics_by_their_definitions(pair):
    pred, true = pair
    error = (pred - true).reshape(2, 3, -1)
    expected = {
        "mse": (error**2).mean(-1),
        "mae": np.abs(error).mean(-1),
        "mse_sum": (error**2).sum(-1),
        "mae_sum": np.abs(error).sum(-1),
        "rmse": np.sqrt((error**2).mean(-1)),
        "psnr": -10 * np.log10((error**2).mean(-1)),
        "snr": 10 * np.log10((true.reshape(2, 3, -1) ** 2).mean(-1) / (error**2).mean(-1)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(video.METRICS[name](pred, true), values, rtol=1e-5, err_msg=name)


def naive_ssim(pred, true, window, peak, bessel):
    """Window by window, channel by channel, in float64."""
    pred, true = pred.astype(np.float64), true.astype(np.float64)
    side, c1, c2 = len(window), (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for top in range(pred.shape[0] - side + 1):
        for left in range(pred.shape[1] - side + 1):
            cut = np.s_[top : top + side, left : left + side]
            for p, t in zip(pred[cut].reshape(-1, 2).T, true[cut].reshape(-1, 2).T):
                w = window.ravel()
                mp, mt = w @ p, w @ t
                vp, vt, cov = (bessel * (w @ v) for v in ((p - mp) ** 2, (t - mt) ** 2,
                                                           (p - mp) * (t - mt)))  # fmt: skip
                values.append(
                    (2 * mp * mt + c1) * (2 * cov + c2) / ((mp**2 + mt**2 + c1) * (vp + vt + c2))
                )
    return np.mean(values)


def test_ssims_window_by_window(pair):
    pred, true = pair[0][0, 0], pair[1][0, 0]
    side = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    gauss = np.outer(side, side) / side.sum() ** 2
    expected = naive_ssim(pred, true, gauss, 1.0, 1.0)
    np.testing.assert_allclose(video.ssim(pred, true), expected, rtol=1e-5)
    expected = naive_ssim(pred, true, np.full((7, 7), 1 / 49), 2.0, 49 / 48)
    np.testing.assert_allclose(video.ssim_openstl(pred, true), expected, rtol=1e-5)


def test_equal_frames(pair):
    _, true = pair
    for name in ("mse", "mae", "mse_sum", "mae_sum", "rmse"):
        assert (video.METRICS[name](true, true) == 0).all()
    for name in ("ssim", "ssim_openstl"):
        np.testing.assert_allclose(video.METRICS[name](true, true), 1, rtol=1e-5)
    assert np.isposinf(video.psnr(true, true)).all()


def test_half_precision_is_measured_in_single(pair):
    half = [x.astype(jnp.bfloat16) for x in pair]
    single = [x.astype(jnp.float32) for x in half]
    for name, metric in video.METRICS.items():
        assert metric(*half).dtype == jnp.float32
        np.testing.assert_array_equal(metric(*half), metric(*single), err_msg=name)


@pytest.mark.parametrize(("metric", "side"), [(video.ssim, 11), (video.ssim_openstl, 7)])
def test_frames_smaller_than_the_window(metric, side):
    metric(jnp.zeros((side, side, 1)), jnp.zeros((side, side, 1)))
    small = jnp.zeros((2, side - 1, 20, 1))
    with pytest.raises(ValueError, match=f"{side - 1} x 20 are smaller than the {side} x {side}"):
        metric(small, small)


def test_what_cannot_be_compared(pair):
    pred, true = pair
    with pytest.raises(ValueError, match="differ in shape"):
        video.mse(pred[:, :1], true)
    with pytest.raises(ValueError, match="truth are uint8"):
        video.psnr(pred, np.uint8(true))


def test_padding_leaves_no_trace(pair):
    pred, true = pair
    padded = [np.concatenate([x, x[:1]]) for x in pair]
    padded[0][2] = true[0]  # a perfect copy: PSNR is infinite there
    weight = jnp.array([1.0, 1.0, 0.0])
    for name, metric in video.METRICS.items():
        whole, ragged = metric(pred, true), metric(*padded)
        np.testing.assert_allclose(
            video.over_time(ragged, weight), whole.mean(0), rtol=1e-5, err_msg=name
        )
        np.testing.assert_allclose(video.mean(ragged, weight), whole.mean(), rtol=1e-5)
    assert video.mean(video.psnr(*padded), jnp.zeros(3)) == 0


def test_root_of_the_mean_is_not_the_mean_of_roots():
    squares = jnp.array([[1.0, 9.0], [16.0, 0.0]])
    np.testing.assert_allclose(video.root_mean(squares), np.sqrt(6.5))
    np.testing.assert_allclose(video.root_mean(squares, jnp.array([1.0, 0.0])), np.sqrt(5))


def test_variables():
    frames = jnp.arange(4.0).reshape(1, 1, 4)
    parts = video.by_variable(frames, ["r", "t"])
    assert parts["r"].ravel().tolist() == [0, 1]
    assert parts["t"].ravel().tolist() == [2, 3]
    with pytest.raises(ValueError, match="4 channels do not divide into 3 variables"):
        video.by_variable(frames, "rtu")
    mean, std = jnp.array([1.0, 2, 3, 4]), jnp.array([2.0, 2, 2, 0])
    assert video.denormalise(frames, mean, std).ravel().tolist() == [1, 4, 7, 4]


def test_baselines(pair):
    context = jnp.asarray(pair[1])
    frame = baselines.mean_frame(np.asarray(clip) for clip in pair[1])
    np.testing.assert_allclose(frame, pair[1].mean((0, 1)), rtol=1e-6)
    named = baselines.predictions(context, 4, frame)
    assert {p.shape for p in named.values()} == {(2, 4, 16, 14, 2)}
    expected = {
        "copy_last": context[:, -1],
        "blank": 0 * context[:, 0],
        "context_mean": context.mean(1),
        "training_mean": jnp.stack([frame, frame]),
    }
    assert named.keys() == expected.keys()
    for name, still in expected.items():
        for step in range(4):
            np.testing.assert_allclose(named[name][:, step], still, rtol=1e-6, err_msg=name)
    assert "training_mean" not in baselines.predictions(context, 4)
    with pytest.raises(ValueError, match="no videos"):
        baselines.mean_frame([])
