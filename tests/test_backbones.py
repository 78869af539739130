"""CLIP, decoders of the LLaMA kind, SlowFast, LoRA: sizes, streams, padding, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.convert import clip as clip_convert
from stjax.convert import llama as llama_convert
from stjax.layers.lora import Lora
from stjax.models.backbones.clip import Clip, ClipText, ClipVision
from stjax.models.backbones.llama import PAD, TEXT, Decoder, Llama
from stjax.models.backbones.slowfast import SlowFast, slow_frames
from stjax.processes.autoregressive import greedy
from tests import quick

IDS = np.array([[3, 1, 4, 1, 5, 2], [2, 6, 5, 3, 5, 4]])


def small(capacity=8, **options):
    return Llama(Decoder(2, 4, 2, 12, capacity, **options), vocabulary=7, width=16)


def parameters(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ((32, 32, 8, 14_336, 4096, 128_256, False), 8_030_261_248),
        ((32, 32, 32, 11_008, 4096, 32_000, False), 6_738_415_616),
        ((28, 28, 4, 18_944, 3584, 152_064, True), 7_615_616_512),
    ],
    ids=("Llama 3 8B", "Llama 2 7B", "Qwen2 7B"),
)
def test_parameters_of_published_decoders(sizes, published):
    *sizes, width, vocabulary, qkv_bias = sizes
    decoder = Decoder(*sizes, capacity=16, qkv_bias=qkv_bias)
    assert parameters(Llama(decoder, vocabulary, width), IDS) == published


def test_parameters_of_published_towers():
    sizes = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
    vision = ClipVision(**sizes)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    assert parameters(vision, images) == 303_179_776
    text = ClipText(width=768, depth=12, heads=12, hidden=3072)
    whole = Clip(vision, text, features=768, end_token=49_407)
    assert parameters(whole, images, IDS) == 427_616_513
    clip = jax.ShapeDtypeStruct((1, 32, 32, 32, 3), jnp.float32)
    assert parameters(SlowFast(classes=400), clip) == 34_566_488


def test_a_text_fed_in_pieces_gives_the_same_as_whole():
    model = small()
    variables = quick.variables(model, IDS)

    @quick.jit
    def run(ids):
        whole, _ = model.apply(variables, ids)
        first, state = model.apply(variables, ids[:, :3])
        parts = [first]
        for k in range(3, 6):
            logits, state = model.apply(variables, ids[:, k : k + 1], state)
            parts.append(logits)
        return whole, jnp.concatenate(parts, 1)

    np.testing.assert_allclose(*run(IDS), rtol=1e-5, atol=1e-5)


def test_padding_in_front_changes_nothing():
    model = small()
    variables = quick.variables(model, IDS)
    padded = np.pad(IDS, ((0, 0), (2, 0)))
    kinds = np.where(np.arange(8) < 2, PAD, TEXT) * np.ones((2, 1), int)

    @quick.jit
    def run(ids, padded, kinds):
        plain, _ = model.apply(variables, ids)
        logits, state = model.apply(variables, padded[:, :6], None, kinds[:, :6])
        after, _ = model.apply(variables, padded[:, 6:], state, kinds[:, 6:])
        return plain, jnp.concatenate([logits, after], 1)[:, 2:]

    np.testing.assert_allclose(*run(IDS, padded, kinds), rtol=1e-4, atol=1e-5)


def test_greedy_decoding_is_one_token_after_another_up_to_the_end():
    table = np.eye(5)[[3, 4, 0, 1, 4]]  # after 0 comes 3, after 3 comes 1, after 1 the end
    step = lambda token, state: (jnp.asarray(table)[token], state + 1)
    first = jnp.asarray(np.eye(5)[[0, 4]])
    said = quick.jit(lambda x: greedy(step, x, jnp.int32(0), 6, 4))(first)
    np.testing.assert_array_equal(said, [[0, 3, 1, 4, 4, 4], [4] * 6])


def test_slow_frames_include_both_ends():
    np.testing.assert_array_equal(slow_frames(32, 4), [0, 4, 8, 13, 17, 22, 26, 31])


def test_adapters_change_nothing_at_first_and_are_of_their_rank():
    model = small(qkv_bias=True)
    params = quick.variables(model, IDS)["params"]
    lora = Lora(2, 4.0, {"attention/(query|key)/kernel": (1, 1), "out/kernel": (1, 1)})

    @quick.jit
    def run(params):
        adapters = lora.init(jax.random.key(0), params)
        filled = jax.tree.map(jnp.ones_like, adapters)
        return adapters, lora.merged(params, adapters), lora.merged(params, filled)

    adapters, same, changed = run(params)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert {path.rsplit("/", 2)[1] for path in adapters} == {"query", "key", "out"}
    old, new = (tree["decoder"]["blocks"]["layers"]["feed_forward"] for tree in (params, changed))
    np.testing.assert_allclose(new["out"]["kernel"] - old["out"]["kernel"], 4.0, rtol=1e-5)
    np.testing.assert_array_equal(new["in"]["kernel"], old["in"]["kernel"])
    with pytest.raises(ValueError, match=r"^lora.targets: 'nothing' names none of"):
        Lora(2, 4.0, {"nothing": (1, 1)}).init(jax.random.key(0), params)


CLIP = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4, "hidden_act": "gelu",
}


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (small(capacity=5), IDS, r"^x: \(2, 6, 16\), more tokens than the context of 5"),
        (ClipVision(8, 1, 2, 8, size=8, patch=4), np.zeros((1, 4, 8, 3)), "^images: .*8, 8, c"),
        (ClipVision(8, 1, 2, 8, size=8, patch=3), np.zeros((1, 8, 8, 3)), "patches of 3"),
        (ClipText(8, 1, 2, 8, context=5), IDS, r"^ids: \(2, 6\), 5 tokens at most"),
        (SlowFast(), np.zeros((1, 6, 8, 8, 3)), "^clip: .*4 does not divide its frames"),
    ],
)
def test_errors(module, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), shape)


def test_configurations_of_other_networks_are_refused():
    with pytest.raises(ValueError, match=r"^hidden_act: 'gelu'"):
        clip_convert.vision(CLIP)
    plain = {
        "vocab_size": 7, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 8,
    }
    found = llama_convert.decoder(plain)
    assert (found.kv_heads, found.base, found.qkv_bias) == (4, 10_000.0, False)
