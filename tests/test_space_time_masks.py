"""Masks of clips: what each family gives, beyond what golden files hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.processes.space_time_masks import FAMILIES, SpaceTimeMasks, block_mask, uniforms
from tests import quick

SHAPE = (10, 6, 8)


def draw_many(make, count=200):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(quick.jit(jax.vmap(lambda key: make(uniforms(key))[0]))(keys))


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("predict", [0, 1, 2]),
        ("backward", [7, 8, 9]),
        ("interpolate", [0, 4, 8]),
        ("unconditional", []),
    ],
)
def test_given_frames(family, given):
    mask, used = SpaceTimeMasks(context=3).of(family, uniforms(jax.random.key(0)), SHAPE)
    assert mask.shape == SHAPE
    assert used == 0
    assert np.nonzero(~mask.any((1, 2)))[0].tolist() == given
    assert set(np.unique(mask.mean((1, 2)))) <= {0, 1}


def test_half_of_the_frames_are_given_by_default():
    mask, _ = SpaceTimeMasks().of("predict", uniforms(jax.random.key(0)), (16, 2, 2))
    assert mask[8:].all()
    assert not mask[:8].any()


def test_one_frame_or_any_frames():
    masks = SpaceTimeMasks(arbitrary=0.7)
    animate = draw_many(lambda draw: masks.of("animate", draw, SHAPE))[:, :, 0, 0]
    assert (animate.sum(1) == 9).all()
    assert set(np.argmin(animate, 1)) == set(range(10))
    arbitrary = draw_many(lambda draw: masks.of("arbitrary", draw, SHAPE))[:, :, 0, 0]
    assert abs(arbitrary.mean() - 0.7) < 0.03


@pytest.mark.parametrize("empty", [False, True])
def test_a_block_within_a_span_of_frames(empty):
    masks = draw_many(lambda draw: SpaceTimeMasks(empty=empty).of("complete", draw, SHAPE))
    touched = masks.any((2, 3))
    for mask, frames in zip(masks, touched):
        inside = np.nonzero(frames)[0]
        if not len(inside):
            continue
        assert inside[0] <= 3 <= 6 <= inside[-1]
        assert np.all(np.diff(inside) == 1)
        assert (mask[inside] == mask[inside[0]]).all()
        assert mask[inside[0]].sum() <= 24
    # As published, a span that would reach the end is no span at all.
    assert (~touched.any(1)).any() == empty
    assert touched[:, -1].any() != empty


def test_families_are_drawn_in_their_shares():
    masks = SpaceTimeMasks(families=("predict", "unconditional"), complete=0.5)
    drawn = draw_many(lambda draw: masks.sample(draw, SHAPE), 400)
    share = np.mean(drawn.all((1, 2, 3)))
    assert abs(share - 0.25) < 0.07
    predicted = drawn[:, 5:].all((1, 2, 3)) & ~drawn[:, :5].any((1, 2, 3))
    assert abs(predicted.mean() - 0.25) < 0.07


def test_a_block_covers_its_target_or_a_little_less():
    masks = draw_many(lambda draw: block_mask(draw, 8, 8, 32))
    covered = masks.sum((1, 2))
    assert covered.max() == 32
    assert np.mean(covered >= 30) > 0.9
    assert len(np.unique(masks, axis=0)) > 190


def test_numbers_that_run_in_vain_end_it():
    """A stream that always asks for a rectangle as wide as the map: ten attempts, no mask."""
    mask, used = block_mask(lambda k: jnp.float32(0.0), 3, 3, 9.0)
    assert not mask.any()
    assert used == 20


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match=r"^families: .*'sideways'"):
        SpaceTimeMasks(families=("predict", "sideways"))
    assert len(FAMILIES) == 7
