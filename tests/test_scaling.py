"""The arithmetic behind docs/scaling.md, by cases small enough for a head."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import scaling
from benchmarks.scaling import Cluster, System, Traffic
from configs import convs5, predformer
from stjax.train import flops
from stjax.train.topology import Chip

# 40 FLOP/s are reached; groups of 4 in rows of 2, with 5 bytes a second along a row.
CHIP = Chip("tpu", memory=1, flops=100, bandwidth=1, links=10, sides=2)
CLUSTER = Cluster("toy", CHIP, group=4, network=1, sources=())
SYSTEM = System("toy", parameters=8, flops=400, batch=16, summed=3)


def test_gathering_sends_all_but_a_chips_own_part():
    assert scaling.gather(16, 1, 4) == Traffic()
    assert scaling.gather(16, 4, 4) == Traffic(links=12)
    # Two groups: each of four chips brings its quarter across, half of which is here already.
    assert scaling.gather(16, 8, 4) == Traffic(links=12, network=2)


def test_data_sums_gradients_and_fsdp_gathers_parameters_twice_besides():
    assert scaling.data(SYSTEM, 4, 4) == Traffic(links=2 * 0.75 * 32)
    assert scaling.fsdp(SYSTEM, 4, 4) == Traffic(links=3 * 0.75 * 32)


def test_tensor_sums_activations_along_a_side():
    # Two samples of 3 numbers of 2 bytes: summed over 2 chips, 2 (2 - 1) / 2 x 12 each way.
    assert scaling.tensor(SYSTEM, 2, 4, ways=2) == Traffic(side=24)
    # Halves of the gradients, 16 bytes, are summed over the two pairs.
    assert scaling.tensor(SYSTEM, 4, 4, ways=2) == Traffic(side=24, links=2 * 0.5 * 16)


def test_keys_and_values_go_round_and_their_gradients_come_home():
    # 5 tokens of 7 numbers, keys and values: 2 bytes forward; 2 and 4 backward; 4 home.
    assert scaling.ring_attention(1, 5, 7, ways=3) == 2 * 35 * (2 * (2 + 2 + 4) + 4)
    assert scaling.ring_attention(6, 5, 7, ways=3) == 6 * scaling.ring_attention(1, 5, 7, ways=3)


def test_states_are_exchanged_in_rounds_that_do_not_depend_on_length():
    # Four stretches: 2 rounds, 1 to the next, 2 x 3/4 for the last; of 4 samples; there and back.
    assert scaling.recurrence(1, 10, ways=4) == 2 * 4.5 * 4 * 10


def test_sequence_is_left_out_where_time_does_not_divide():
    assert scaling.sequence(SYSTEM, 8, 4) is None
    system = dataclasses.replace(SYSTEM, passed=lambda ways: 100 * ways)
    assert scaling.sequence(system, 4, 4, ways=2) == Traffic(side=200, links=48)


def test_seconds_and_what_hides_them():
    traffic = Traffic(links=20, side=10, network=30)
    assert traffic.bytes == 60
    assert traffic.seconds(CLUSTER) == 2 + 2 + 30
    assert scaling.compute(SYSTEM, CLUSTER) == 10
    assert scaling.smallest_batch(SYSTEM, CLUSTER, traffic) == 3.4


def test_data_parallelism_ends_where_a_chips_share_is_computed_before_it_is_sent():
    # 2 chips: 80 s beside 3.2; 4: 40 beside 4.8; 8: 20 beside 4.8 + 8; 16: 10 beside 4.8 + 12.
    assert scaling.furthest(SYSTEM, CLUSTER) == 8
    assert scaling.furthest(dataclasses.replace(SYSTEM, batch=4), CLUSTER) == 4


def test_a_sample_is_cut_no_further_than_a_row_nor_than_it_pays():
    assert scaling.most_ways(SYSTEM, CLUSTER, scaling.tensor) == 2  # 24 / 5 s beside 10; a row is 2
    longer = dataclasses.replace(CLUSTER, group=64)
    assert scaling.most_ways(SYSTEM, longer, scaling.tensor) == 2  # 72 / 5 s over four
    assert scaling.most_ways(SYSTEM, longer, scaling.sequence) == 1


def test_a_transformers_size_is_that_of_its_blocks():
    width, tokens = 8, 5

    def block(x, condition, w):
        shift = condition @ w["modulation"]
        q, k, v = jnp.split((x + shift[:width]) @ w["qkv"], 3, axis=-1)
        x = x + (q @ k.T) @ v @ w["out"]
        return x + (x @ w["up"]) @ w["down"]

    shapes = {"modulation": (8, 48), "qkv": (8, 24), "out": (8, 8), "up": (8, 32), "down": (32, 8)}
    weights = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    x, condition = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((tokens, 8), (8,)))
    parameters = sum(math.prod(shape) for shape in shapes.values())
    assert 3 * parameters == scaling.transformer_parameters(width, 3)
    forward = flops.count(block, x, condition, weights)
    assert 3 * 3 * forward == scaling.transformer_flops(width, 3, tokens)


def test_counted_systems_are_the_published_ones():
    first, second, _ = scaling.systems()
    assert first.parameters == convs5.FACTS["parameters"]
    assert second.parameters == predformer.FACTS["parameters"]
    assert second.flops == pytest.approx(3 * 2 * predformer.FACTS["macs"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["convs5", "predformer"])
def test_flops_are_still_what_was_counted(slug):
    system = next(one for one in scaling.systems() if one.name.lower() == slug)
    assert scaling.count(slug) == {"parameters": system.parameters, "flops": system.flops}


def test_the_tables_in_the_documents_are_those_of_today():
    document = scaling.DOCUMENT.read_text()
    assert scaling.written(document) == document, "python -m benchmarks.scaling --write"
