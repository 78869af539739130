"""GDKVM beyond what the golden files hold: sizes, memories, prompts, training mode, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import gdkvm as configs
from stjax.layers.resnet import ResNet
from stjax.models.dense.gdkvm import GDKVM, GatedDeltaRule
from stjax.train import flops
from tests import quick

ENCODER = functools.partial(ResNet, (1, 1, 1), 4)
TINY = {
    "image_encoder": ENCODER, "mask_encoder": ENCODER, "width": 8, "key_width": 4,
    "decoder": (8, 8, 4), "queries": 2, "blocks": 1, "heads": 2, "hidden": 8,
}
VIDEO = jnp.sin(jnp.arange(2 * 2 * 16 * 32 * 1.0)).reshape(2, 2, 16, 32, 1)


@pytest.mark.parametrize("sizes", configs.FACTS["parameters_of"], ids="-".join)
def test_parameters_at_published_sizes(sizes):
    config = configs.get_config("paper", decoder=sizes[0], image_encoder=sizes[1]).model
    encoder = lambda name: functools.partial(ResNet, **config[name])
    encoders = {name: encoder(name) for name in ("image_encoder", "mask_encoder")}
    model = GDKVM(**{**config, **encoders})
    video = jax.ShapeDtypeStruct((1, 2, 32, 32, 1), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), video)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == configs.FACTS["parameters_of"][sizes]


def test_multiply_adds_of_ten_frames():
    model, video = GDKVM(), jax.ShapeDtypeStruct((1, 10, 128, 128, 1), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    count = flops.count(lambda *args: model.apply(*args)[0], variables, video) / 2
    assert count == pytest.approx(configs.FACTS["macs_of_128"], rel=0.01)


def written(frames=40, **options):
    """A memory after each of many frames of alike keys, each of them of a value of its own."""
    rng = np.random.default_rng(0)
    keys = jax.nn.softmax(jnp.asarray(rng.normal(size=(frames, 1, 1, 6, 4)), jnp.float32))
    values = jnp.asarray(rng.normal(size=(frames, 1, 1, 6, 8)), jnp.float32)
    rule = GatedDeltaRule(heads=2, **options)
    start = jnp.zeros((1, 1, 4, 8))
    params = rule.init(jax.random.key(0), start, keys[0], values[0], jnp.asarray(False))

    def step(carry, frame):
        state, started = carry
        state = rule.apply(params, state, *frame, started)
        return (state, jnp.asarray(True)), state

    _, states = jax.lax.scan(step, (start, jnp.asarray(False)), (keys, values))
    return keys, values, states


@pytest.mark.parametrize("memory", ["gated_delta", "delta", "additive", "none"])
def test_what_the_first_frame_writes_and_what_is_kept_of_it(memory):
    keys, values, states = written(memory=memory)
    products = keys.mT @ values
    np.testing.assert_allclose(states[0], products[0], rtol=1e-5)
    sums = {"additive": jnp.cumsum(products, 0), "none": products}
    if memory in sums:
        np.testing.assert_allclose(states, sums[memory], rtol=1e-4, atol=1e-5)
    else:
        assert not np.allclose(states[-1], products[-1], atol=1e-2)
        assert np.abs(states).max() < np.abs(sums["additive"]).max() + 1
    assert states.dtype == jnp.float32


def test_the_gate_of_the_code_is_the_logarithm_of_the_papers():
    paper, code = (written(frames=2, gate=gate)[2] for gate in ("paper", "code"))
    np.testing.assert_array_equal(paper[0], code[0])
    assert not np.allclose(paper[1], code[1], atol=1e-3)


def drawn(model):
    """Small weights of both signs, so that no mask is certain; drawn without compiling."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), VIDEO)
    draw = lambda leaf: jnp.asarray(rng.normal(scale=0.2, size=leaf.shape), leaf.dtype)
    drawn = jax.tree.map(draw, shapes)
    return {**drawn, "batch_stats": jax.tree.map(jnp.ones_like, shapes["batch_stats"])}


def test_training_moves_statistics_and_reaches_the_gates():
    model = GDKVM(**TINY, remat=True)
    variables = drawn(GDKVM(**TINY))

    @quick.jit
    def run(variables):
        def loss(params):
            (logits, _), changed = model.apply(
                {**variables, "params": params}, VIDEO, train=True, mutable="batch_stats"
            )
            return logits[:, -1].std(), changed

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, changed = run(variables)
    moved = jax.tree.map(
        lambda a, b: not np.allclose(a, b), variables["batch_stats"], changed["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))
    assert all(np.abs(grads["frame"]["rule"][name]).max() > 0 for name in ("log_rate", "step_bias"))


def test_frames_see_the_past_alone_and_a_prompt_tells_objects_apart():
    model = GDKVM(**TINY)
    variables = drawn(model)
    prompt = jnp.zeros((2, 16, 32, 2)).at[:, :8, :, 0].set(1).at[:, 8:, :16, 1].set(1)

    @quick.jit
    def run(video):
        return model.apply(variables, video)[0], model.apply(variables, video, prompt)[0]

    alone, prompted = run(VIDEO)
    assert alone.shape == (2, 2, 16, 32, 2)
    assert prompted.shape == (2, 2, 16, 32, 3)
    np.testing.assert_allclose(alone[..., 0], -alone[..., 1], rtol=1e-3, atol=1e-4)
    assert not np.allclose(prompted[..., 1], prompted[..., 2], atol=1e-6)
    changed, _ = run(VIDEO.at[:, 1].set(0.5))
    np.testing.assert_array_equal(alone[:, 0], changed[:, 0])
    assert not np.allclose(alone[:, 1], changed[:, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "video", "prompt", "message"),
    [
        ({}, VIDEO[:, :, :, :24], None, r"^video: \(2, 2, 16, 24, 1\); 16 does not divide"),
        ({}, VIDEO, VIDEO[:, 0, :8], r"^prompt: \(2, 8, 32, 1\) instead of \(2, 16, 32, 'n'\)"),
        ({"memory": "lstm"}, VIDEO, None, "^memory: 'lstm' is none of"),
        ({"gate": "own"}, VIDEO, None, "^gate: 'own' is neither"),
        ({"heads": 3}, VIDEO, None, "^heads: 3 do not divide 8"),
    ],
)
def test_errors(options, video, prompt, message):
    model = GDKVM(**{**TINY, **options})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), video, prompt)
