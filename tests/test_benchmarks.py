"""Every benchmark runs at its tiniest and writes what its readers expect."""

import json
import os
import pathlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from benchmarks import attention, convolutions, convs5, measure, recurrences
from tests import quick


@pytest.fixture(autouse=True)
def _no_trace_left(monkeypatch):
    """Benchmarks set flags and drop compiled functions; the tests after them need neither."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    monkeypatch.setattr(measure, "copy_bandwidth", lambda: 1e10)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


def results(folder):
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for result in files:
        assert {"question", "backend", "device", "date", "versions", "load_average"} <= set(result)
        assert result["rows"]
    return {result["question"]: result for result in files}


def test_ratios_are_taken_round_by_round():
    times = {"base": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 8.0]}
    rows = measure.summary(times, "base")
    assert rows["other"]["ratio_quartiles"] == [2, 2]
    assert (rows["other"]["ms"], rows["other"]["ratio"], rows["base"]["ms"]) == (4000, 2, 2000)


def test_contenders_take_turns_in_orders_of_their_own():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}
    times = measure.take_turns(contenders, 6)
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6, "c": 6}
    rounds = [tuple(calls[k : k + 3]) for k in range(0, 18, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_an_exponent_is_the_slope_of_the_logarithms():
    sizes = [16, 64, 256]
    assert measure.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert measure.exponent([16], [1.0]) is None


def test_peers_that_compute_something_else_are_refused():
    x = np.ones(3, np.float32)
    functions = {"a": abs, "b": lambda x: 2 * x}
    programs = {name: measure.compiled(function, x) for name, function in functions.items()}
    assert programs["a"].peak_bytes >= 2 * x.nbytes
    with pytest.raises(AssertionError, match=r"^b differs from a"):
        measure.agree(programs, (x,), "a")


def test_recurrences_and_their_table(tmp_path):
    lengths = ["--lengths", "2", "--rounds", "2", "--out", str(tmp_path)]
    recurrences.main(["--operators", "linear_recurrence", *lengths])
    result = results(tmp_path)["recurrences-linear_recurrence"]
    assert len(result["rows"]) == 2 * 4  # shapes, contenders; no kernel on a CPU
    assert all(row["ms"] > 0 and row["compile_s"] > 0 for row in result["rows"])
    chosen = tmp_path / "chosen"
    chosen.write_text('{"elsewhere": {"delta_rule": [[null, "chunked"]]}}')
    recurrences.choose(tmp_path, chosen)
    table = json.loads(chosen.read_text())
    assert table["elsewhere"] == {"delta_rule": [[None, "chunked"]]}
    assert table["cpu"]["linear_recurrence"][-1][0] is None


@pytest.mark.slow
@pytest.mark.parametrize("operator", recurrences.OPERATORS)
def test_all_ways_through_an_operator_agree(operator, tmp_path):
    arguments = ["--lengths", "5", "--rounds", "1", "--out", str(tmp_path)]
    recurrences.main(["--operators", operator, *arguments])
    assert results(tmp_path)


@pytest.mark.slow
def test_convs5_and_the_published_algorithm_have_one_loss(tmp_path):
    arguments = ["--sizes", "tiny", "--lengths", "4", "--rounds", "1", "--out", str(tmp_path)]
    convs5.main(arguments)
    rows = results(tmp_path)["convs5"]["rows"]
    assert [row["contender"] for row in rows] == ["stjax", "published"]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)


def test_the_published_linear_part_is_ours():
    layer = convs5.ConvS5(features=2, state_size=4)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4, 2), np.float32)
    start = lambda: layer.init(jax.random.key(0), x, method="linear")
    variables = quick.jit(start)()
    apply = lambda variables: layer.apply(variables, x, method="linear")
    ours = quick.jit(apply)(variables)
    with nn.intercept_methods(convs5.published):
        theirs = quick.jit(lambda variables: apply(variables))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_convolutions(tmp_path):
    cases = ["--cases", "dense 3x3", "depthwise 3x3"]
    convolutions.main([*cases, "--batch", "1", "--rounds", "1", "--out", str(tmp_path)])
    rows = results(tmp_path)["convolutions"]["rows"]
    assert {row["contender"] for row in rows} == {"xla", "stjax", "shifted", "grouped"}


def test_attention_grows_as_its_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "FRAMES", (4, 8, 16, 32))
    arguments = ["--parts", "growth", "--longest", "1024", "--heads", "1", "--features", "8"]
    attention.main([*arguments, "--rounds", "1", "--out", str(tmp_path)])
    result = results(tmp_path)["attention-growth"]
    fits = {fit["contender"]: fit for fit in result["exponents"]}
    assert fits["full"]["blocks"] == pytest.approx(2)
    assert 1 < fits["radial"]["blocks, last"] < fits["radial"]["blocks"] < 1.7


@pytest.mark.slow
def test_every_method_that_takes_a_mask_agrees(tmp_path):
    arguments = ["--parts", "masks", "--heads", "1", "--features", "8", "--rounds", "1"]
    attention.main([*arguments, "--out", str(tmp_path)])
    rows = results(tmp_path)["attention-masks"]["rows"]
    assert {row["mask"] for row in rows} == set(attention.MASKS)


@pytest.mark.slow
def test_openstl(tmp_path):
    pytest.importorskip("torch")
    from benchmarks import openstl

    path = os.environ.get("STJAX_OPENSTL")
    if not path:
        pytest.skip("STJAX_OPENSTL names no checkout of OpenSTL")
    sizes = ["--sizes", "simvp tiny", "convlstm tiny", "--rounds", "1"]
    openstl.main(["--official", path, *sizes, "--profile", "3", "--out", str(tmp_path)])
    result = results(tmp_path)["openstl"]
    assert len(result["rows"]) == 2 * 2 * 3
    assert all(result["profiles"][size] for size in sizes[1:3])


def test_results_in_the_repository_say_on_what(tmp_path):
    files = sorted(pathlib.Path(measure.RESULTS).glob("*.json"))
    if not files:
        pytest.skip(f"{measure.RESULTS} holds no results yet")
    results(measure.RESULTS)
