"""UniFormer beyond what the golden files hold: sizes, options, inflation, training mode, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import uniformer as configs
from stjax.convert import uniformer as convert
from stjax.convert.rules import to_official
from stjax.models.recognition.uniformer import (
    DividedBlock,
    LocalBlock,
    PrunedBlock,
    UniFormer,
    UniFormerLight,
)
from stjax.ops.attention import entry
from stjax.train import flops
from tests import quick

TINY = {"classes": 3, "depths": (1, 1, 1, 1), "dims": (4, 4, 8, 8), "head_dim": 4}
TINY_LIGHT = TINY | {"keep": ((1,), (0.5,)), "trade_off": ((1,), (0.5,))}
VIDEO = jnp.sin(jnp.arange(2 * 4 * 32 * 32 * 3.0)).reshape(2, 4, 32, 32, 3)

XS = {"depths": (3, 5, 9, 3), "dims": (64, 128, 256, 512), "head_dim": 32}
XS |= dict.fromkeys(("keep", "trade_off"), ((1, *(0.5,) * 8), (0.5,) * 3))


def sized(name):
    if name in ("XXS", "XS"):
        return UniFormerLight(**(XS if name == "XS" else {}))
    if name == "divided":
        return UniFormer(pattern="LLDD")
    size, data = name
    return UniFormer(configs.DATA[data], depths=configs.SIZES[size])


@pytest.mark.parametrize("name", configs.FACTS["parameters_of"], ids=str)
def test_parameters_at_paper_scale(name):
    video = jax.ShapeDtypeStruct((1, 4, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(sized(name).init, jax.random.key(0), video)["params"]
    official = configs.FACTS["parameters_of"][name]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == official


@pytest.mark.parametrize("sizes", [("S", 8), ("S", 16), ("B", 32)], ids=str)
def test_multiply_adds_at_paper_scale(sizes, monkeypatch):
    # Blocks of attention may reach past the end: what is published counts none of that.
    monkeypatch.setattr(entry, "_fastest", lambda *shapes: "dense")
    (size, frames), published = sizes, configs.FACTS["macs_of"][sizes]
    model = UniFormer(depths=configs.SIZES[size])
    video = jax.ShapeDtypeStruct((1, frames, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), video)
    assert flops.count(model.apply, variables, video) / 2 == pytest.approx(published, rel=1e-3)


def test_every_published_recipe_is_a_config():
    for size, data, frames in configs.RECIPES:
        config = configs.get_config("paper", size, data, frames)
        assert config.data.classes == configs.DATA[data]
        assert config.optimizer.schedule_args["warmup"] < config.train.steps
        assert (size, data, frames) in configs.FACTS["published"]
    with pytest.raises(ValueError, match="no recipe"):
        configs.get_config("paper", "L")


@pytest.mark.parametrize("network", [UniFormer, UniFormerLight])
def test_training_drops_paths_and_moves_the_running_statistics(network):
    sizes = TINY | {"tube": 1} if network is UniFormer else TINY_LIGHT
    model = network(drop_path=0.8, layer_scale=0.5, **sizes)
    variables = quick.variables(model, VIDEO)

    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, VIDEO, train=True, rngs=rngs, mutable="batch_stats")

    run = quick.jit(train)
    (first, changed), (second, _), (again, _) = run(0), run(1), run(0)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    logits = first if network is UniFormer else first[0]
    assert not np.allclose(logits, second if network is UniFormer else second[0])
    assert logits.shape == (2, 3)
    moved = jax.tree.map(
        lambda a, b: not np.allclose(a, b), variables["batch_stats"], changed["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


def test_remat_changes_nothing_but_memory():
    def gradient(remat):
        model = UniFormer(
            3, "LG", (1, 2), (4, 8), head_dim=4, tube=1, dpe=False, stride=1, remat=remat
        )
        loss = lambda variables: jnp.sum(jnp.square(model.apply(variables, VIDEO)))
        return quick.jit(jax.grad(loss))(quick.variables(model, VIDEO))

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, gradient(True), gradient(False))


def test_attention_over_time_starts_as_nothing():
    """Divided blocks begin as blocks of space alone, so that frames do not see each other."""
    block = DividedBlock(head_dim=4, dpe=False)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 2, 8))
    variables = quick.jit(lambda: block.init(jax.random.key(1), x, None, False))()
    run = quick.jit(lambda x: block.apply(variables, x, None, False)[0])
    np.testing.assert_allclose(run(x[:, ::-1]), run(x)[:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(run(x[:, :1]), run(x)[:, :1], rtol=1e-5)


def test_a_local_block_sees_its_tube_alone():
    block = LocalBlock(tube=3)
    x = jax.random.normal(jax.random.key(0), (1, 9, 5, 5, 4))
    variables = quick.jit(lambda: block.init(jax.random.key(1), x, None, False))()
    run = quick.jit(lambda x: block.apply(variables, x, None, False)[0])
    moved = np.any(np.asarray(run(x) != run(x.at[0, 4].add(1))), (0, 2, 3, 4))
    # One frame either side for the position embedding, and one for the affinity.
    np.testing.assert_array_equal(np.flatnonzero(moved), [2, 3, 4, 5, 6])


def test_pruned_tokens_are_all_changed_alike():
    block = PrunedBlock(head_dim=4, dpe=False, keep=0.5, trade_off=0.25)
    keys = jax.random.split(jax.random.key(0), 4)
    cls, x = jax.random.normal(keys[0], (1, 1, 8)), jax.random.normal(keys[1], (1, 2, 2, 3, 8))
    score = jax.random.uniform(keys[2], (1, 12))
    run = lambda variables: block.apply(variables, cls, x, score, None, False)
    variables = quick.jit(lambda: block.init(keys[3], cls, x, score, None, False))()
    _, out, later = quick.jit(run)(variables)
    added = np.asarray(out - x).reshape(12, 8)
    order = np.argsort(-np.asarray(score[0]))
    kept, dropped = order[:6], order[6:]
    assert np.ptp(added[dropped], axis=0).max() < 1e-6 < 1e-3 < np.ptp(added[kept], axis=0).max()
    np.testing.assert_array_equal(later[0, dropped], score[0, dropped])
    # What the class token sees of those that take part, and of their representative, sums to
    # less than one, with what it sees of itself.
    seen = (later[0, kept] - 0.75 * score[0, kept]) / 0.25
    assert np.all(seen > 0)
    assert 0.5 < seen.sum() < 1


def image_checkpoint(video):
    """As an image network's: no time axis, another number of classes."""
    image = {
        name: array.sum(2) if array.ndim == 5 else array for name, array in video.items()
    }
    return image | {"head.weight": np.zeros((7, 8)), "head.bias": np.zeros(7)}


@functools.cache
def official():
    config = {"SPLIT": False, "STD": False, "HEAD_DIM": 4, "EMBED_DIM": TINY["dims"]}
    rules = convert.rules(config)
    return rules, to_official(rules, quick.variables(UniFormer(**TINY), VIDEO))


def test_inflated_kernels_see_a_still_clip_as_the_image():
    _, video = official()
    image = image_checkpoint(video)
    image["norm.num_batches_tracked"] = np.array(3)
    for centre in (False, True):
        inflated = convert.inflate(image, video, centre)
        assert inflated.keys() == video.keys()
        for name in ("patch_embed1.proj.weight", "blocks1.0.attn.weight", "blocks3.0.mlp.fc1.bias"):
            mine = inflated[name].sum(2) if inflated[name].ndim == 5 else inflated[name]
            np.testing.assert_allclose(mine, image[name], rtol=1e-5)
        np.testing.assert_array_equal(inflated["head.weight"], video["head.weight"])
    assert np.count_nonzero(inflated["blocks1.0.attn.weight"].sum((0, 1, 3, 4))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": np.zeros((1, 4))}, "image: pos_embed is no parameter"),
        ({"blocks1.0.conv1.weight": np.zeros((4, 5, 1, 1))}, "image: blocks1.0.conv1.weight is"),
    ],
)
def test_checkpoints_that_cannot_be_inflated(change, message):
    _, video = official()
    with pytest.raises(ValueError, match=message):
        convert.inflate(image_checkpoint(video) | change, video)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (UniFormer, {"pattern": "LLG"}, "^pattern: 'LLG'"),
        (UniFormer, {"pattern": "LLGX"}, "^pattern: 'LLGX'"),
        (UniFormer, {"dims": (4, 4, 8, 6)}, r"^head_dim: 4 does not divide the widths \[6\]"),
        (UniFormer, {"patch": 3}, "^video: .* 3 does not divide"),
        (UniFormerLight, {"keep": ((1, 1), (0.5,))}, "^keep: .*a number for each"),
        (UniFormerLight, {"trade_off": ((0.5,), (0.5,))}, "^trade_off: .*the first of them 1"),
    ],
)
def test_errors(network, options, message):
    sizes = TINY if network is UniFormer else TINY_LIGHT
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network(**{**sizes, **options}).init, jax.random.key(0), VIDEO)
