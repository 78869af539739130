"""Cells, solvers and metrics that "Deconstructing" builds on; its own networks have no code."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from stjax.convert import recurrent as convert
from stjax.data import chaos as systems
from stjax.layers.recurrent import GRU, LSTM, RHN
from stjax.metrics import chaos
from tests.parity import Case


def kuramoto_sivashinsky(golden):
    options = golden.config
    system = systems.kuramoto_sivashinsky(
        options["dt"], options["length"], options["N"], jnp.fft
    )
    waves = 2 * np.pi / options["length"] * np.arange(options["N"] // 2 + 1)
    waves[-1] = 0
    names = ("E", "E2", "Q", "f1", "f2", "f3")
    # The file has them in the order of a complex transform: the upper half mirrors the lower.
    mirrored = lambda x: np.concatenate([x, x[-2:0:-1]])
    coefficients = {
        f"coef_{name}": jnp.asarray(mirrored(x))
        for name, x in zip(names, systems.etdrk4(waves**2 - waves**4, options["dt"]))
    }

    def forward(variables, inputs):
        del variables
        u, _ = _steps(system, (inputs["u0"],), options["steps"], options["every"])
        return None, {"u": u, **coefficients}

    return Case(forward)


def lorenz96(golden):
    options = golden.config
    single = systems.lorenz96(options["dt"], 40, options["F"])
    tiers = systems.SYSTEMS["three_tier"](options["dt3"])

    def forward(variables, inputs):
        del variables
        # Theirs: Y (j, k), Z (j, k, i).
        nested = inputs["X0"], inputs["Y0"].T, jnp.swapaxes(inputs["Z0"], 0, 1)
        slow, last = _steps(tiers, nested, options["steps3"])
        rates = [slope.swapaxes(0, 1) if slope.ndim > 1 else slope for slope in tiers.rate(*nested)]
        return None, {
            "x": _steps(single, (inputs["x0"],), options["steps"], options["every"])[0],
            "dxdt_0": single.rate(inputs["x0"])[0],
            **dict(zip(("dX_0", "dY_0", "dZ_0"), rates)),
            "X": slow,
            "Y_last": last[1].T,
            "Z_last": last[2].swapaxes(0, 1),
        }

    return Case(forward)


def metrics(golden):
    options = golden.config

    def forward(variables, inputs):
        del variables
        pred, true = inputs["prediction"], inputs["target"]
        error = chaos.nrmse(pred, true, inputs["std"])
        return None, {
            "rmse": chaos.rmse(pred, true),
            "nrmse": error,
            "accurate_005": chaos.accurate_steps(error, 0.05),
            "accurate_050": chaos.accurate_steps(error, 0.5),
            "abserror": jnp.abs(pred - true).mean(-1),
            "vpt": chaos.valid_time(error, options["dt"], options["lyapunov"]),
            "nrmse_mean": error.mean(0),
        }

    return Case(forward)


def cells(golden):
    features, layers = golden.config["size"], range(golden.config["layers"])
    golden.state.update(merged := convert.merged(golden.state))
    for name in set(golden.state) - set(merged):
        del golden.state[name]
    rules = [
        convert.cell_rules(f"{name}.", f"{name}_{layer}", layer, gru=name == "gru")
        for name in ("lstm", "gru")
        for layer in layers
    ]

    def stack(cell, name, variables, x, *states):
        last = []
        for layer in layers:
            params = {"params": variables["params"][f"{name}_{layer}"]}
            state = tuple(state[layer] for state in states)
            x, state = cell.apply(params, x, state if len(state) > 1 else state[0])
            last.append(state)
        return x, last

    def forward(variables, inputs):
        x, hidden, cell = (inputs[name] for name in ("x", "h0", "c0"))
        lstm, lstm_last = stack(LSTM(features), "lstm", variables, x, cell, hidden)
        gru, gru_last = stack(GRU(features), "gru", variables, x, hidden)
        return None, {
            "lstm": lstm,
            "lstm_c_last": jnp.stack([cell for cell, _ in lstm_last]),
            "gru": gru,
            "gru_h_last": jnp.stack(gru_last),
        }

    return Case(forward, sum(rules, ()))


def highway(golden):
    cell = RHN(golden.config["size"], depth=golden.config["depth"])

    def forward(variables, inputs):
        x = inputs["x"] * inputs["noise_i"][:, None]
        (y, _), inner = cell.apply(
            variables, x, inputs["s0"], mask=inputs["noise_h"], mutable="intermediates"
        )
        first = inner["intermediates"]["first"][0]
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "after_depth_0": first}

    return Case(forward, convert.highway_rules())


def _steps(system, state, steps, every=1):
    """The first part of the state, at the start and every so many steps; and the last state."""
    advance = lambda state, _: (system.step(state), state[0])
    last, seen = lax.scan(advance, state, None, steps)
    return jnp.concatenate([seen, last[0][None]])[::every], last


DRIVERS = {
    "deconstructing::cells": cells,
    "deconstructing::rhn": highway,
    "deconstructing::ks": kuramoto_sivashinsky,
    "deconstructing::lorenz96": lorenz96,
    "deconstructing::metrics": metrics,
}
