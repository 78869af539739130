"""ConvS5 and its baselines: streaming, sizes, options that no golden file shows."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stjax.convert import convs5 as official
from stjax.convert.rules import from_official, to_official
from stjax.layers.actions import UNKNOWN, ActionEmbedding
from stjax.layers.causal_transformer import CausalTransformer
from stjax.layers.conv_lstm import ConvLSTM
from stjax.layers.convs5 import ConvS5
from stjax.layers.s5 import S5
from stjax.layers.sequence import sequence_layers
from stjax.models.prediction.convs5 import (
    MapSequence,
    PixelPredictor,
    TokenPredictor,
    VectorSequence,
    causal_visibility,
)
from stjax.ops.recurrence import naive_linear_recurrence
from stjax.ops.ssm import from_pair, hippo_normal
from stjax.processes.autoregressive import generate
from tests import quick

MAPS, VECTORS = (2, 5, 3, 4, 4), (2, 5, 6)
CONVS5 = functools.partial(ConvS5, 4, 6, groups=2, clip_eigenvalues=True)
TRANSFORMER = functools.partial(CausalTransformer, 4, 2, heads=2, mlp_features=6)
MIXERS = {
    "convs5": (CONVS5(), MAPS),
    "convs5-squeeze-excite": (CONVS5(readout="standard", squeeze_excite=True), MAPS),
    "convs5-diag-resnet": (CONVS5(readout="diag_resnet", method="chunked"), MAPS),
    "s5": (S5(6, 4, method="associative"), VECTORS),
    "stack": (sequence_layers(CONVS5, 3, skips=((0, 2),), remat=True, norm="pre")(), MAPS),
    "conv-lstm": (sequence_layers(functools.partial(ConvLSTM, 4), 2)(), MAPS),
    "transformer": (TRANSFORMER(capacity=9), VECTORS),
    "transformer-past-its-capacity": (TRANSFORMER(capacity=3), VECTORS),
}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(ours, expected, tolerance=1e-5):
    """To `tolerance` of the largest magnitude, or of one."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert np.abs(ours - expected).max() <= tolerance * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", MIXERS)
def test_a_clip_whole_in_chunks_or_frame_by_frame(name):
    module, shape = MIXERS[name]
    x = random(*shape)
    variables = quick.variables(module, x)
    apply = quick.jit(module.apply)
    whole, state = apply(variables, x)
    assert whole.shape[:-1] == x.shape[:-1]
    assert np.abs(whole[:, 1:] - whole[:, :-1]).max() > 1e-2
    for lengths in ((1, 4), (1, 1, 1, 1, 1)):
        pieces, handed_on = [], None
        for piece in np.split(x, np.cumsum(lengths)[:-1], axis=1):
            y, handed_on = apply(variables, piece, handed_on)
            pieces.append(y)
        close(np.concatenate(pieces, axis=1), whole)
        jax.tree.map(close, handed_on, state)


def small(core, **fields):
    return PixelPredictor(core, encoder_depths=(2, 4), decoder_depths=(2, 4), groups=2, **fields)


MODELS = {
    "maps": small(functools.partial(MapSequence, 4, sequence_layers(CONVS5, 2)), actions=3),
    "vectors": small(
        functools.partial(VectorSequence, 6, 4, sequence_layers(functools.partial(S5, 6, 4), 2))
    ),
    "transformer": small(
        functools.partial(
            VectorSequence, 4, 4, functools.partial(TRANSFORMER, capacity=9), start=True
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_generation_is_the_whole_clip_fed_its_own_frames(name):
    module, context, length = MODELS[name], 2, 3
    video = np.tanh(random(2, context, 4, 4, 1))
    variables = quick.variables(module, video)

    @quick.jit
    def run(variables, video):
        def step(frame, state):
            frames, state = module.apply(variables, frame[:, None], state=state)
            return frames[:, 0], state

        _, state = module.apply(variables, video[:, :-1])
        frames, _ = generate(step, state, video[:, -1], length)
        whole, _ = module.apply(variables, jnp.concatenate([video, frames], axis=1))
        return frames, whole[:, context - 1 : -1]

    frames, expected = run(variables, video)
    assert frames.shape == (2, length, 4, 4, 1)
    close(frames, expected)


def test_only_chosen_frames_are_decoded():
    module = MODELS["maps"]
    video, actions = random(1, 4, 4, 4, 1), np.array([[0, 1, 2, UNKNOWN]])
    variables = quick.variables(module, video, actions)
    frames = np.array([2, 0, 2])
    apply = quick.jit(lambda *arguments, **how: module.apply(*arguments, **how)[0])
    chosen = apply(variables, video, actions, frames=frames)
    close(chosen, apply(variables, video, actions)[:, frames])


def test_masked_frames_are_not_seen_and_dropped_actions_not_told():
    core = functools.partial(MapSequence, 4, sequence_layers(CONVS5, 1))
    module = TokenPredictor(core, (4,), (4,), groups=2, actions=3, codes=5, code_features=2)
    rng = np.random.default_rng(0)
    tokens, actions = rng.integers(0, 5, (2, 4, 3, 3)), rng.integers(0, 3, (2, 4))
    # Sample 0 sees all frames and no action, sample 1 all actions and two frames.
    dropped = np.array([True, False])
    visible = causal_visibility(dropped, 4, context=2)
    variables = quick.variables(module, tokens, actions)
    logits = quick.jit(
        lambda tokens, actions: module.apply(
            variables, tokens, actions, dropped=dropped, visible=visible
        )[0]
    )
    late = tokens.copy()
    late[:, 2:] = 0
    before, other_frames, other_actions = (
        logits(tokens, actions), logits(late, actions), logits(tokens, 2 - actions)
    )
    assert np.abs(other_frames[0] - before[0]).max() > 1e-3
    close(other_frames[1], before[1], 0)
    close(other_actions[0], before[0], 0)
    assert np.abs(other_actions[1] - before[1]).max() > 1e-3


def test_actions_are_dropped_by_whole_samples_in_training_alone():
    module = ActionEmbedding(actions=3, features=2, dropout=0.5)
    actions = np.ones((64, 4), int)
    variables = quick.variables(module, actions)
    table = variables["params"]["table"]["embedding"]
    apply = quick.jit(module.apply, static_argnames="train")
    close(apply(variables, actions), np.broadcast_to(table[1], (64, 4, 2)), 0)
    trained = apply(variables, actions, train=True, rngs={"dropout": jax.random.key(1)})
    unknown = np.all(trained == table[3], axis=(1, 2))
    close(trained, np.where(unknown[:, None, None], table[3], table[1]), 0)
    assert 16 < unknown.sum() < 48


def test_real_maps_side_by_side_equal_the_complex_state_space():
    """As published: complex convolutions around a complex recurrence, and 2 Re of it."""
    model, x = CONVS5(), random(*MAPS)

    def complex_form(variables, x):
        def run(model):
            decay, into_state = model.discretised()
            convolve = lambda frames, kernel: lax.conv_general_dilated(
                frames.reshape(-1, *frames.shape[2:]).astype(complex), kernel.astype(complex),
                (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ).reshape(*frames.shape[:-1], -1)
            states, state = naive_linear_recurrence(decay, convolve(x, into_state))
            return 2 * convolve(states, from_pair(model.out_of_state)).real, state

        return nn.apply(run, model)(variables)

    def both(variables, x):
        ours = lambda variables, x: model.apply(variables, x, method="linear")
        loss = lambda run: lambda *args: jnp.sum(jnp.sin(run(*args)[0]))
        return [
            (run(variables, x), jax.grad(loss(run), (0, 1))(variables, x))
            for run in (ours, complex_form)
        ]

    with jax.enable_x64(True):
        variables = jax.tree.map(np.float64, quick.variables(model, x))
        ours, published = quick.jit(both)(variables, np.float64(x))
    jax.tree.map(lambda a, b: close(a, b, 1e-12), ours, published)


def test_hippo_blocks():
    # The frequencies that the paper's code gives for one block of eight.
    close(hippo_normal(8).eigenvalues.imag, [-19.857, -5.354, -1.958, -0.427], 1e-3)
    assert hippo_normal(12, 3).basis.shape == (12, 6)
    with pytest.raises(ValueError, match="blocks"):
        hippo_normal(8, 3)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (CONVS5(readout="resnext"), MAPS, "readout: 'resnext'"),
        (sequence_layers(CONVS5, 1, norm="batch")(), MAPS, "norm: 'batch'"),
        (CausalTransformer(8, 1, 3, mlp_features=8, capacity=4), VECTORS, "heads: 3"),
    ],
)
def test_wrong_options_are_named(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape))


PIXELS = {
    "encoder": {"depths": [64, 128, 256], "blocks": 1},
    "decoder": {"depths": [64, 128, 256], "blocks": 1},
    "channels": 1,
    "action_dim": 1,
    "action_embed_dim": 1,
    "dropout_actions": False,
}
LAYERS = {
    "n_layers": 8,
    "dropout": 0.0,
    "use_norm": True,
    "prenorm": False,
    "per_layer_skip": True,
    "skip_connections": False,
}


def paper(model, width=256):
    """The official config of a Moving MNIST network."""
    kernels = {f"{name}_kernel_size": 3 for name in "BCD"}
    own = {
        "convS5_noVQ": {
            "ssm": {
                **kernels,
                "ssm_size": width,
                "blocks": 1,
                "clip_eigs": True,
                "dt_min": 0.001,
                "dt_max": 0.1,
                "C_D_config": "resnet",
            },
            "seq_model": {
                **LAYERS,
                "layer_activation": "gelu",
                "num_groups": 32,
                "squeeze_excite": False,
            },
        },
        "convLSTM_noVQ": {"ssm": {"ssm_size": width, "kernel_size": 3}, "seq_model": LAYERS},
        "transformer_noVQ": {
            "z_tfm_kwargs": {
                "embed_dim": 1024,
                "mlp_dim": 4096,
                "num_heads": 16,
                "num_layers": 8,
                "dropout": 0.0,
                "attention_dropout": 0.0,
            },
            "embedding_dim": 256,
            "seq_len": 300,
        },
    }[model]
    return {**PIXELS, "model": model, "d_model": width, **own}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (paper("convS5_noVQ", 256), 21_681_411),
        (paper("convS5_noVQ", 128), 7_409_155),
        (paper("convLSTM_noVQ", 256), 40_540_419),
        (paper("convLSTM_noVQ", 128), 12_120_067),
        (paper("transformer_noVQ"), 240_073_475),
    ],
    ids=lambda value: f"{value['model']}-{value['d_model']}" if isinstance(value, dict) else "",
)
def test_parameters_at_paper_scale(config, count):
    module = official.module(config)
    video = jax.ShapeDtypeStruct((1, 2, 64, 64, 1), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), video)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


TOKENS = {
    **PIXELS,
    "encoder": {"depths": [4], "blocks": 1},
    "decoder": {"depths": [6], "blocks": 2},
    "n_codes": 5,
    "code_dim": 3,
    "d_model": 6,
    "embedding_dim": 6,
    "seq_len": 4,
}
STATE = {"ssm_size": 4, "blocks": 1, "clip_eigs": False, "dt_min": 0.001, "dt_max": 0.1}


@pytest.mark.parametrize(
    "config",
    [
        {**TOKENS, "model": "S5", "ssm": STATE, "seq_model": {**LAYERS, "n_layers": 2}},
        {
            **TOKENS,
            "model": "transformer",
            "z_tfm_kwargs": {
                "embed_dim": 8,
                "mlp_dim": 12,
                "num_heads": 2,
                "num_layers": 2,
                "dropout": 0.0,
                "attention_dropout": 0.0,
            },
        },
    ],
    ids=lambda config: config["model"],
)
def test_official_checkpoints_of_token_baselines_there_and_back(config):
    module = official.module(config).clone(groups=2)
    variables = quick.variables(module, np.zeros((1, 2, 3, 3), int))
    state = to_official(official.rules(config), variables)
    back = from_official(official.rules(config), state)
    # The table of codes is the VQ-GAN's.
    expected = {name: tree for name, tree in variables["params"].items() if name != "table"}
    jax.tree.map(np.testing.assert_array_equal, back["params"], expected)
