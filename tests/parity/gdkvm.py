"""wangrui2025/GDKVM: its parts."""

import einops
import jax
import jax.numpy as jnp
import pytest

from stjax.convert.rules import Rule
from stjax.ops.delta_rule import delta_step
from tests.parity import Case


def gated_delta_rule(golden):
    """Frames of pixels written into a memory whose gates are read from it."""
    names = golden.manifest["params"]

    def gates(params, state, gate):
        """Erasing and writing, and keeping: one for each row of the memory and head of values."""
        project = lambda name: jnp.einsum("...v,hv->...h", state, params[f"{name}.weight"])
        expand = lambda gate: jnp.repeat(gate, state.shape[-1] // gate.shape[-1], -1)
        rate = -jnp.exp(params["A_log"]) * jax.nn.softplus(project("a_proj") + params["dt_bias"])
        # The released code takes for the decay what its paper takes for the logarithm of it.
        return expand(jax.nn.sigmoid(project("b_proj"))), expand(
            jnp.exp(rate) if gate == "paper" else rate
        )

    def run(params, inputs, gate):
        keys = jax.nn.softmax(inputs["key"], axis=2)
        keys = einops.rearrange(keys, "b t k h w -> t b 1 (h w) k")
        values = einops.rearrange(inputs["value"], "b t n v h w -> t b n (h w) v")

        def step(state, frame):
            k, v = frame
            state = delta_step(state, k, v, *gates(params, state, gate))
            return state, (state, k @ state)

        first = keys[0].mT @ values[0]
        _, (states, reads) = jax.lax.scan(step, first, (keys[1:], values[1:]))
        reads = jnp.concatenate([(keys[0] @ first)[None], reads])
        reads = einops.rearrange(
            reads[..., ::4], "t b n (h w) v -> b t n v h w", h=golden.config["h"]
        )
        outputs = {"state": jnp.moveaxis(states, 0, 1)[..., ::8, ::8], "readout": reads}
        return jnp.sum(reads * inputs["cotangent"]), outputs

    def forward(variables, inputs):
        outputs = {}
        for gate in ("code", "paper"):
            grads, results = jax.grad(run, has_aux=True)(variables["params"], inputs, gate)
            results |= {f"grad:{name}": grad for name, grad in grads.items()}
            outputs |= {f"{gate}:{name}": array for name, array in results.items()}
        return None, outputs

    return Case(forward, tuple(Rule(name, f"params/{name}") for name in names))


def driver(golden):
    """One class of the official code runs the whole system; the part says what a file is of."""
    if golden.manifest["part"] != "gdr":
        pytest.skip(f"{golden.name}: does not stand here yet")
    return gated_delta_rule(golden)


DRIVERS = {"GDKVM::GDKVM": driver}
