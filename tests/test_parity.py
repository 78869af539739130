"""Every golden file of a system that stands here, computed with ours and compared."""

import contextlib
import dataclasses
import importlib
import pkgutil

import jax
import numpy as np
import pytest

from stjax.convert.rules import from_official, to_official
from tests import golden_files, parity, quick

DRIVERS = {
    name: driver
    for module in pkgutil.iter_modules(parity.__path__)
    for name, driver in importlib.import_module(f"tests.parity.{module.name}").DRIVERS.items()
}


def driver_of(golden):
    found = [DRIVERS[key] for key in golden.names if key in DRIVERS]
    if not found:
        pytest.skip(f"{golden.name}: none of {golden.names} stands here yet")
    return found[0]


def compute(golden, case, dtype):
    """The file's outputs, gradients included, from one jitted call; official names and layouts."""
    cast = lambda x: x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x
    variables = from_official(case.rules, golden.state, case.left_out) if case.rules else {}
    variables, inputs = jax.tree.map(cast, (variables, golden.inputs))
    wanted = [key.removeprefix("grad:") for key in golden.outputs if key.startswith("grad:")]
    params = {"params": variables.pop("params")} if "params" in variables else {}
    of_inputs = {key: inputs[key] for key in wanted if key in inputs}

    def loss(params, of_inputs):
        scalar, outputs = case.forward({**variables, **params}, {**inputs, **of_inputs})
        return (0.0 if scalar is None else scalar), outputs

    if wanted:
        run = jax.grad(loss, argnums=(0, 1), has_aux=True)
    else:
        run = lambda params, of_inputs: (({}, {}), loss(params, of_inputs)[1])
    with quick.products() if case.products else contextlib.nullcontext():
        (by_params, by_inputs), outputs = jax.device_get(quick.jit(run)(params, of_inputs))
    grads = {**to_official(case.rules, by_params), **by_inputs}
    return {**outputs, **{f"grad:{key}": grads[key] for key in wanted if key in grads}}


def check(golden, case, dtype, tolerance):
    ours = {**compute(golden, case, dtype), **case.texts}
    assert set(golden.outputs) <= set(ours), f"not computed: {set(golden.outputs) - set(ours)}"
    wrong = {}
    for key, theirs in golden.outputs.items():
        mine = np.asarray(ours[key])
        assert mine.shape == theirs.shape, f"{key}: {mine.shape} instead of {theirs.shape}"
        if key in case.texts:
            np.testing.assert_array_equal(mine, theirs, key)
            continue
        error = np.abs(mine.astype(np.float64) - theirs).max() / max(np.abs(theirs).max(), 1e-12)
        if not error <= max(tolerance, case.tolerances.get(key, 0)):
            wrong[key] = float(error)
    assert not wrong, f"relative to the largest magnitude: {wrong}"


@pytest.mark.parametrize("path", golden_files.files(), ids=lambda path: path.stem)
def test_parity(path):
    golden = golden_files.Golden.load(path)
    case = driver_of(golden)(golden)
    reference_is_float32 = golden.manifest.get("precision") == "float32"
    with jax.enable_x64(True):
        check(golden, case, np.float64, 5e-6 if reference_is_float32 else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_files.files(), ids=lambda path: path.stem)
def test_parity_in_float32(path):
    golden = golden_files.Golden.load(path)
    case = driver_of(golden)(golden)
    case = dataclasses.replace(case, tolerances={**case.tolerances, **case.in_float32})
    check(golden, case, np.float32, max(5e-6, 20 * (golden.manifest["float32_error"] or 5e-6)))
