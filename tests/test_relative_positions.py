"""Biases by relative position, against their definitions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from stjax.ops.relative_positions import (
    alibi_bias,
    alibi_slopes,
    bucket_bias,
    log_buckets,
    log_spaced,
    swin_v2_offsets,
)


def t5_bucket(distance, buckets, longest, bidirectional):
    """One distance at a time, as the paper's code has it."""
    first = 0
    if bidirectional:
        buckets //= 2
        first = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(longest / exact)
    return first + min(exact + int(share * (buckets - exact)), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (8, 20), (4, 300)])
def test_buckets(buckets, longest, bidirectional):
    distance = np.arange(-500, 501)
    ours = log_buckets(distance, buckets, longest, bidirectional=bidirectional)
    theirs = [t5_bucket(int(d), buckets, longest, bidirectional) for d in distance]
    np.testing.assert_array_equal(ours, theirs)
    assert set(theirs) <= set(range(buckets))


def test_bucket_bias_is_the_tables_entry():
    table = np.random.default_rng(0).standard_normal((8, 3))
    queries, keys = np.arange(5), np.arange(2, 9)
    bias = bucket_bias(jnp.asarray(table), queries, keys, 16)
    assert bias.shape == (3, 5, 7)
    for i, j in np.ndindex(5, 7):
        entry = table[t5_bucket(int(keys[j] - queries[i]), 8, 16, True)]
        np.testing.assert_allclose(bias[:, i, j], entry, 1e-6)
    batched = bucket_bias(jnp.asarray(table), np.stack([queries, queries + 1]), keys[None], 16)
    np.testing.assert_allclose(batched[0], bias, 1e-6)
    assert batched.shape == (2, 3, 5, 7)


def test_alibi_slopes():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-k for k in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(4), [2**-2, 2**-4, 2**-6, 2**-8])
    np.testing.assert_allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    assert alibi_slopes(1) == 2**-8


def test_alibi_bias():
    bias = alibi_bias(np.arange(3), np.arange(4), 2)
    assert bias.shape == (2, 3, 4)
    np.testing.assert_allclose(bias[0], -(2.0**-4) * np.abs(np.subtract.outer(range(3), range(4))))


def test_log_spaced_is_odd_and_logarithmic():
    np.testing.assert_allclose(
        log_spaced(jnp.array([-7.0, 0, 1])), [-np.log(8), 0, np.log(2)], 1e-6
    )


def test_swin_v2_offsets():
    offsets = swin_v2_offsets((3, 5))
    assert offsets.shape == (5, 9, 2)
    np.testing.assert_allclose(offsets[0, 0], -np.log2(9) / 3)
    np.testing.assert_allclose(offsets[2, 4], 0, atol=1e-12)
    np.testing.assert_allclose(offsets[3, 5], [np.log2(5) / 3, np.log2(3) / 3])
    larger = swin_v2_offsets((5, 9), trained=(3, 5))
    np.testing.assert_allclose(larger[2:-2, 4:-4], offsets)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: log_buckets(np.arange(3), 7), "buckets"),
        (lambda: log_buckets(np.arange(3), 2), "buckets"),
        (lambda: log_buckets(np.arange(3), 1, bidirectional=False), "buckets"),
        (lambda: log_buckets(np.arange(3), 32, 8), "longest"),
        (lambda: alibi_slopes(0), "heads"),
    ],
)
def test_what_does_not_fit_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
