"""CT-D2GAN beyond what the golden files hold: sizes, attention, critics, the task, its picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.models.prediction.ct_d2gan import (
    ConvolutionalTransformer,
    ImageDiscriminator,
    TemporalSelfAttention,
    VideoDiscriminator,
)
from stjax.tasks.adversarial import gradient_difference, gradient_penalty
from stjax.tasks.anomaly import AnomalyDetection
from tests import quick

TINY = {"features": (4, 8), "heads": 2, "code_features": 4}
PAST = jax.random.uniform(jax.random.key(0), (2, 3, 8, 8, 1), minval=-1)
WEIGHTS = {"image": 0.05, "video": 0.05}


def batch(count=6, length=4):
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 256, (count, length, 8, 8, 1), np.uint8),
        "label": np.arange(count, dtype=np.int32) % 2,
        "clip": np.arange(count, dtype=np.int32) // 3,
        "frame": np.arange(count, dtype=np.int32) % 3 + 3,
    }


def task(**options):
    critics = {"image": ImageDiscriminator((4,)), "video": VideoDiscriminator((4,), (1,))}
    options = {"critics": critics, "adversarial": WEIGHTS, "context": 3, **options}
    return AnomalyDetection(ConvolutionalTransformer(**TINY), **options)


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (ConvolutionalTransformer(), (1, 5, 256, 256, 3), 12_686_403),
        (ConvolutionalTransformer((16, 32, 64, 128)), (1, 5, 64, 64, 3), 795_411),
        (ImageDiscriminator(), (1, 256, 256, 3), 2_764_737),
        (VideoDiscriminator(), (1, 6, 256, 256, 3), 8_284_097),
    ],
)
def test_parameters_of_the_parts(module, shape, parameters):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, "float32"))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters


def test_attention_is_uniform_up_to_the_code_and_sharp_when_cold():
    frame = jnp.linspace(1, 2, 4 * 4 * 8).reshape(1, 1, 4, 4, 8)
    same = jnp.repeat(frame, 4, axis=1)
    other = same.at[:, :3].multiply(-3.0)

    def weights(x, **options):
        module = TemporalSelfAttention(heads=2, **options)
        return quick.jit(module.apply)(quick.variables(module, x), x)[1]

    # Codes are most alike for neighbours in time, but count little beside large maps.
    found = weights(100 * same, code_features=4)
    np.testing.assert_allclose(found, 0.25, atol=1e-3)
    cold = weights(other, temperature=1e-3, code_features=4)
    np.testing.assert_allclose(cold[:, -1], 1, atol=1e-5)
    assert cold.shape == (1, 4, 2)
    np.testing.assert_allclose(weights(other, uniform=True), 0.25)
    with pytest.raises(ValueError, match=r"^heads: 3 do not divide 8"):
        TemporalSelfAttention(heads=3).init(jax.random.key(0), same)


@pytest.mark.parametrize(
    "options", [{"mixing": "mean"}, {"mixing": "stack"}, {"skips": "weighted"}, {"remat": True}]
)
def test_options_of_the_generator(options):
    model = ConvolutionalTransformer(**TINY, **options)
    variables = quick.jit(model.init)(jax.random.key(0), PAST)
    run = lambda model, past=PAST: quick.jit(model.apply)(variables, past)
    frame = run(model)
    assert frame.shape == (2, 8, 8, 1)
    assert not np.allclose(frame, run(model, PAST[:, ::-1]))
    if "remat" in options:
        np.testing.assert_allclose(frame, run(model.clone(remat=False)), rtol=1e-5)
    elif "stack" not in options.values():
        assert not np.allclose(frame, run(ConvolutionalTransformer(**TINY)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing": "max"}, "^mixing: 'max' is none of attention, mean, stack"),
        ({"features": (4, 4, 4, 4, 4)}, r"^past: \(2, 3, 8, 8, 1\); 5 levels .* multiples of 16"),
    ],
)
def test_errors_of_the_generator(options, message):
    with pytest.raises(ValueError, match=message):
        ConvolutionalTransformer(**{**TINY, **options}).init(jax.random.key(0), PAST)


def test_gradient_penalty_is_nothing_for_a_slope_of_one():
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    unit = jax.random.normal(jax.random.key(1), (4 * 4 * 2, 1))
    unit /= jnp.linalg.norm(unit)
    linear = lambda x, slope: slope * x.reshape(3, -1) @ unit
    penalty = quick.jit(
        jax.value_and_grad(lambda slope: gradient_penalty(lambda x: linear(x, slope), x))
    )
    for slope, value, by_slope in ((1.0, 0, 0), (3.0, 4, 4), (0.0, 1, 0)):  # and never NaN
        np.testing.assert_allclose(penalty(slope), (value, by_slope), atol=1e-5)


def test_gradient_difference_is_blind_to_brightness_within_and_has_no_slope_where_flat():
    x = jax.random.uniform(jax.random.key(0), (2, 6, 6, 1)).at[:, -1].set(0).at[:, :, -1].set(0)
    assert gradient_difference(x, x) == 0
    # Inside it sees steps alone; at the last row and column the step is to zero.
    assert gradient_difference(x + 0.5, x) == pytest.approx(2 * 0.5 / 6, rel=1e-5)
    slopes = quick.jit(jax.grad(gradient_difference))(jnp.zeros((1, 6, 6, 1)), x[:1])
    np.testing.assert_array_equal(slopes, 0)


@pytest.mark.parametrize("form", ["wgan_gp", "least_squares"])
def test_critics_and_generator_pull_against_each_other(form):
    ours, data = task(form=form), batch()
    variables = quick.jit(ours.init)(jax.random.key(0), data)
    assert {phase.name: phase.trains for phase in ours.phases} == {
        "critics": ("image", "video"), "generator": ("generator",)
    }

    @quick.jit
    def slopes(variables, data):
        loss = lambda phase: lambda params: phase.loss(
            {**variables, "params": params}, data, jax.random.key(0), 0
        )
        return {
            phase.name: jax.grad(loss(phase), has_aux=True)(variables["params"])
            for phase in ours.phases
        }

    found = slopes(variables, data)
    (by_critics, aux), (by_generator, made) = found["critics"], found["generator"]
    assert set(made.metrics) == {"intensity", "gradient", "image", "video"}
    assert ("penalty_video" in aux.metrics) == (form == "wgan_gp")
    # The running statistics are those of the generator's own update.
    assert not aux.updates
    assert set(made.updates) == {"batch_stats"}
    for name in ("image", "video"):
        ours, theirs = (grads[name]["conv_1"]["kernel"] for grads in (by_critics, by_generator))
        assert float(jnp.vdot(ours, theirs)) < 0


def test_without_critics_there_is_one_phase():
    (phase,) = task(critics={}, adversarial={}).phases
    assert phase.trains == ("generator",)
    with pytest.raises(ValueError, match=r"task.adversarial: no weight for \['video'\]"):
        task(adversarial={"image": 1.0})
    with pytest.raises(ValueError, match=r"task.form: 'hinge' is none of"):
        task(form="hinge")


def test_the_set_is_summed_up_by_the_order_of_scores():
    ours = task()
    data = batch()
    truth = np.float32(data["video"][:, -1]) / 255
    # Clip 0: errors .1, .4, .2 with labels 0 1 0; clip 1: .3, .1, .2 with labels 1 0 1.
    errors = np.array([0.1, 0.4, 0.2, 0.3, 0.1, 0.2], np.float32)
    found = ours.metrics(truth + errors[:, None, None, None], data)
    samples = {name: np.asarray(values) for name, (values, _) in found.items()}
    np.testing.assert_allclose(samples["psnr"], -20 * np.log10(errors), rtol=1e-4)
    report = ours.summarise(samples)
    # Normal scores 1, .5 and 1; abnormal ones 0, 0 and .37.
    assert report["auc"] == 1
    assert report["psnr_normal"] == pytest.approx(np.mean(-20 * np.log10([0.1, 0.2, 0.1])), 1e-4)
    late = task(decidable=4).summarise(samples)
    assert late["psnr_abnormal"] == pytest.approx(np.mean(-20 * np.log10([0.4, 0.2])), 1e-4)


def test_trivial_predictors_and_pictures():
    ours, data = task(), batch()
    trivial = ours.trivial(ours.summary(data), data)
    assert set(trivial) == {
        "copy_last", "blank", "context_mean", "training_mean", "linear_extrapolation"
    }
    assert all(frame.shape == (6, 8, 8, 1) for frame in trivial.values())
    pictures = ours.render(np.asarray(trivial["copy_last"]), data)
    assert set(pictures) == {"sheet", "scores"}
    assert pictures["scores"].shape == (2 * 360, 640, 3)
    shade = (pictures["scores"] == (250, 228, 214)).all(-1)
    assert shade[:360].any()
    assert shade[360:].any()


def test_clips_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"batch\['video'\] \(6, 5, 8, 8, 1\): wanted \(batch, 4"):
        task().init(jax.random.key(0), batch(length=5))
