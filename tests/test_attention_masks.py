"""Masks against their definitions, told once more in loops, and their blocks against both."""

import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops import attention as ops
from tests import golden_files

TABLE = np.random.default_rng(0).random((15, 15)) < 0.3


def places(position, shape):
    return np.unravel_index(position, shape)


def swin(mask, query, key):
    """As Swin's code has it: the map rolled back, cut in windows, its regions told apart."""
    places_of = []
    for position in (query, key):
        window, region = [], []
        lengths = zip(mask.shape, mask.window, mask.shift)
        for (n, w, s), place in zip(lengths, places(position, mask.shape)):
            rolled = (int(place) - s) % n
            window.append(rolled // w)
            cut = s and not mask.cyclic
            region.append((rolled >= n - w) + (rolled >= n - s) if cut else 0)
        places_of.append((window, region))
    return places_of[0] == places_of[1]


def natten(mask, query, key):
    """The window along each axis, built from the places that the query may see at all."""
    for axis, (at, other) in enumerate(
        zip(places(query, mask.shape), places(key, mask.shape), strict=True)
    ):
        dilation, window = mask.dilation[axis], mask.window[axis]
        comrades = list(range(at % dilation, mask.shape[axis], dilation))
        middle = comrades.index(at)
        if mask.causal[axis]:
            seen = comrades[max(middle - window + 1, 0) : middle + 1]
        else:
            first = min(max(middle - window // 2, 0), len(comrades) - window)
            seen = comrades[first : first + window]
        if other not in seen:
            return False
    return True


def radial(mask, query, key):
    """Eq. 4 of the paper."""
    (i, k), (j, l) = divmod(query, mask.tokens), divmod(key, mask.tokens)  # noqa: E741
    power = 2 ** math.floor(math.log2(max(abs(i - j), 1)))
    near = power <= mask.tokens and abs(k - l) + 1 <= mask.tokens / power
    thin = abs(i - j) % math.ceil(power / mask.tokens) == 0 and k == l
    return near or thin or (mask.sink and j == 0)


def longnet(mask, query, key):
    takes_part = all(p % mask.segment in range(mask.offset, mask.segment, mask.rate)
                     for p in (query, key))  # fmt: skip
    return takes_part and query // mask.segment == key // mask.segment


# Mask, its definition, and how many tokens its sequence has.
CASES = {
    "full": (ops.Full(), lambda m, q, k: True, 61),
    "causal": (ops.Causal(), lambda m, q, k: k <= q, 61),
    "frame causal": (ops.FrameCausal(7), lambda m, q, k: k // 7 <= q // 7, 61),
    "same frame": (
        ops.SameFrame(5, 7, 4),
        lambda m, q, k: (q - 5) // 7 == (k - 5) // 7 and 5 <= q < 33,
        61,
    ),
    "sliding": (ops.SlidingWindow(9, 4), lambda m, q, k: -4 <= q - k <= 9, 61),
    "sliding, causal": (ops.SlidingWindow(9), lambda m, q, k: 0 <= q - k <= 9, 61),
    "global": (
        ops.GlobalLocal(5, 6, 2),
        lambda m, q, k: q < 5 or k < 5 or -2 <= q - k <= 6,
        61,
    ),
    "dilated": (ops.Dilated(10, 3, 1), longnet, 61),
    "windows": (ops.Windows((4, 6, 5), (2, 3, 5), (1, 2, 0)), swin, 120),
    "windows, 1-D": (ops.Windows((60,), (12,), (5,)), swin, 60),
    "windows, cyclic": (ops.Windows((4, 6), (2, 3), (1, 2), cyclic=True), swin, 24),
    "windows, still": (ops.Windows((8, 9), (4, 3)), swin, 72),
    "neighbourhood": (ops.Neighbourhood((5, 11), (3, 4)), natten, 55),
    "neighbourhood, dilated": (ops.Neighbourhood((9, 8), (3, 2), (3, 2)), natten, 72),
    "neighbourhood, causal": (
        ops.Neighbourhood((4, 5, 4), (3, 3, 2), (1, 1, 2), (True, False, False)),
        natten,
        80,
    ),
    "table": (ops.BlockSparse(TABLE, 8), lambda m, q, k: TABLE[q // 8, k // 8], 120),
    "radial": (ops.Radial(8), radial, 120),
    "radial, thin": (ops.Radial(2, sink=False), radial, 80),
    "both": (
        ops.Causal() & ops.Windows((12, 10), (4, 5), (2, 1)),
        lambda m, q, k: k <= q and swin(m.second, q, k),
        120,
    ),
    "either": (
        ops.SlidingWindow(4, 4) | ops.Dilated(8, 2),
        lambda m, q, k: abs(q - k) <= 4 or longnet(m.second, q, k),
        61,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mask_is_its_definition(case):
    mask, definition, n = CASES[case]
    mask.check(n, n)
    wanted = [[bool(definition(mask, q, k)) for k in range(n)] for q in range(n)]
    position = np.arange(n)
    np.testing.assert_array_equal(mask.visible(position[:, None], position), wanted)
    position = jnp.arange(n)
    traced = jax.jit(mask.visible)(position[:, None], position)
    np.testing.assert_array_equal(traced, wanted)


@pytest.mark.parametrize("starts", [(0, 0), (3, -9), (8, 2)])
@pytest.mark.parametrize("case", [*CASES, "wan", "hunyuan"])
def test_blocks_hold_what_the_pairs_say(case, starts):
    blocks = {
        "wan": (ops.RadialBlocks(12, 10, 8, 0.5), None, 120),
        "hunyuan": (ops.RadialBlocks(130, 2, 32, 1.0, "hunyuan"), None, 260),
    }
    mask, _, n = (CASES | blocks)[case]
    query_start, key_start = starts
    queries, keys = n - query_start, n - 3 - max(key_start, 0)
    at = query_start + np.arange(queries), key_start + np.arange(keys)
    seen = mask.visible(at[0][:, None], at[1])
    assert not seen[:, at[1] < 0].any()
    for block_q, block_k in ((16, 16), (8, 24), (7, 13), (500, 1)):
        ours = mask.blocks(
            queries, keys, block_q, block_k, query_start=query_start, key_start=key_start
        )
        cut = [
            [seen[i : i + block_q, j : j + block_k] for j in range(0, keys, block_k)]
            for i in range(0, queries, block_q)
        ]
        theirs = [[int(part.any()) + int(part.all()) for part in row] for row in cut]
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours, theirs)


def test_long_sequences_are_cut_in_blocks_from_their_structure():
    windows = ops.Windows((16, 64, 64), (4, 8, 8)).blocks(65536, 65536, 128, 128)
    # Two rows of a frame to a block: it meets the four of its rows of windows in four frames.
    np.testing.assert_array_equal((windows != ops.EMPTY).sum(1), 16)
    causal = ops.Causal().blocks(65536, 65536, 128, 128)
    assert [(causal == kind).sum() for kind in (0, 1, 2)] == [130816, 512, 130816]


def test_masks_are_values():
    assert len({ops.Causal(), ops.Causal(), ops.Full(), ops.FrameCausal(2)}) == 3
    table = [[True, False], [True, True]]
    masks = {ops.BlockSparse(table, 4), ops.BlockSparse(np.array(table), 4)}
    assert len(masks) == 1
    assert ops.BlockSparse(table, 2) not in masks
    assert ops.Windows((4,), (2,)) == ops.Windows((4,), (2,), (0,))


def test_radial_blocks_at_the_scale_of_the_paper():
    golden = golden_files.Golden.load(golden_files.FOLDER / "radial_attention.npz")
    published = golden.manifest["paper_scale"].values()
    for facts in sorted(published, key=lambda facts: facts["blocks"])[:3]:
        mask = ops.RadialBlocks(
            facts["s"], facts["f"], facts["block"], facts["decay"], facts["type"]
        )
        count, total = facts["blocks"], facts["s"] * facts["f"]
        seen = mask.blocks(total, total, facts["block"], facts["block"])[:count, :count] > 0
        assert seen.sum() == facts["kept_blocks"]
        assert f"{zlib.crc32(np.packbits(seen)):08x}" == facts["crc32_packbits"]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: ops.FrameCausal(0), "tokens"),
        (lambda: ops.SameFrame(-1, 7, 4), "start"),
        (lambda: ops.SlidingWindow(-1, 0), "before"),
        (lambda: ops.SlidingWindow(1, -1), "after"),
        (lambda: ops.GlobalLocal(-1, 0, 0), "globals"),
        (lambda: ops.Dilated(0, 1), "segment"),
        (lambda: ops.Dilated(4, 0), "rate"),
        (lambda: ops.Dilated(4, 2, 2), "offset"),
        (lambda: ops.Windows((4, 4, 4, 4), (2, 2, 2, 2)), "shape"),
        (lambda: ops.Windows((4, 4), (2,)), "window"),
        (lambda: ops.Windows((4, 4), (2, 5)), "window"),
        (lambda: ops.Windows((4, 4), (2, 3)), "window"),
        (lambda: ops.Windows((4, 4), (2, 2), (1, 2)), "shift"),
        (lambda: ops.Windows((4, 4), (2, 2), (1,)), "shift"),
        (lambda: ops.Neighbourhood((4,), (5,)), "window"),
        (lambda: ops.Neighbourhood((4,), (3,), 2), "window"),
        (lambda: ops.Neighbourhood((4,), (3,), 0), "dilation"),
        (lambda: ops.Neighbourhood((4,), (3,), causal=(True, False)), "causal"),
        (lambda: ops.BlockSparse([True], 4), "table"),
        (lambda: ops.BlockSparse([[True]], 0), "block"),
        (lambda: ops.Radial(0), "tokens"),
        (lambda: ops.RadialBlocks(4, 0), "frames"),
        (lambda: ops.RadialBlocks(4, 4, model="mochi"), "model"),
        (lambda: ops.Windows((4, 4), (2, 2)).check(16, 15), "shape"),
        (lambda: ops.Neighbourhood((5,), (3,)).check(6, 6), "shape"),
        (lambda: ops.BlockSparse([[True, False]], 4).check(4, 9), "table"),
        (lambda: ops.RadialBlocks(64, 4, 16).check(200, 256), "table"),
        (lambda: (ops.Causal() | ops.Windows((4,), (2,))).check(5, 5), "shape"),
    ],
)
def test_what_does_not_fit_is_named(build, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        build()
