"""Selective S5: the S4 on which it stands, as ViS4mer and as state-spaces/s4 have it."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat

from stjax.convert import selective_s5 as convert
from stjax.convert.rules import Rule
from stjax.layers.s4 import S4System
from stjax.ops.s4 import (
    NPLR,
    diagonal_kernel,
    fft_convolution,
    hippo_legs,
    hippo_nplr,
    s4_kernel,
    truncated,
)
from stjax.ops.ssm import from_pair, to_pair, zero_order_hold
from tests.parity import Case


def hippo(golden):
    size = golden.config["N"]

    def forward(variables, inputs):
        (A, B), (eigenvalues, P, from_B) = hippo_legs(size), hippo_nplr(size)
        # Ours come fastest first.
        eigenvalues, P, from_B = eigenvalues[::-1], P[::-1], from_B[::-1]
        outputs = {
            "A": A,
            "B": B,
            "p": B / np.sqrt(2),
            "w_real": eigenvalues.real,
            "w_imag": np.abs(eigenvalues.imag),
            "abs_B": np.abs(from_B),
            "abs_p": np.abs(P),
            "B_conj_p_real": (from_B * P.conj()).real,
        }
        return None, jax.tree.map(jnp.asarray, outputs)

    return Case(forward)


def kernel(golden):
    size, channels, length = (golden.config[name] for name in "NHL")
    module = S4System(channels, size)

    def forward(variables, inputs):
        kernel = s4_kernel(*module.apply(variables), length, convert.even_taps(length))
        return jnp.sum(kernel * inputs["cotangent"]), {"kernel": kernel}

    return Case(forward, convert.system_rules(), convert.LEFT_OUT)


def layer(golden):
    module = convert.s4_module(golden.config)
    axes = "b c t" if golden.config["transposed"] else "b t c"

    def forward(variables, inputs):
        u = rearrange(inputs["u"], f"{axes} -> b t c")
        (y, _), inner = module.apply(variables, u, mutable="intermediates")
        y = rearrange(y, f"b t c -> {axes}")
        kernel = inner["intermediates"]["kernel"][0]
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "kernel": kernel}

    return Case(forward, convert.s4_rules(), convert.LEFT_OUT)


# The newer library's layers differ from ViS4mer's in what surrounds the kernel; what is held to
# them is the kernel.


def block(golden):
    config = golden.config
    length, copies = golden.config["L"], golden.config["n_ssm"]
    pair = "1 t p two -> two t p"
    rules = (
        Rule("layer.D", "params/D", "1 c -> c"),
        Rule("layer.kernel.inv_dt", "params/log_step", "c 1 -> c"),
        Rule("layer.kernel.C", "params/C", pair),
        Rule("layer.kernel.B", "params/B", pair),
        Rule("layer.kernel.P", "params/P", pair),
        Rule("layer.kernel.A_real", "params/A_real"),
        Rule("layer.kernel.A_imag", "params/A_imag"),
        *_glu_rules("o i -> i o"),
    )

    def forward(variables, inputs):
        params = variables["params"]
        tile = lambda array: repeat(array, "t p -> (v t) p", v=config["d_model"] // copies)
        L = tile(jax.lax.complex(-jnp.exp(params["A_real"]), -params["A_imag"]))
        B, P = tile(from_pair(params["B"])), tile(from_pair(params["P"]))
        step = jnp.exp(params["log_step"])
        system = truncated(NPLR(L, P, P, B, from_pair(params["C"])), step, length)
        kernel = s4_kernel(system, step, length)
        y = _around(kernel, params, inputs["u"])
        return jnp.sum(y * inputs["cotangent"]), {
            "y": y,
            "kernel": kernel[None],
            "C_tilde": rearrange(to_pair(system.C), "two c p -> 1 c p two"),
        }

    return Case(forward, rules, ("layer.kernel.l_kernel",))


def diagonal(golden):
    rules = (
        Rule("D", "params/D"),
        Rule("kernel.log_dt", "params/log_step"),
        Rule("kernel.C", "params/C", "c p two -> two c p"),
        Rule("kernel.log_A_real", "params/log_A_real"),
        Rule("kernel.A_imag", "params/A_imag"),
        *_glu_rules("o i 1 -> i o"),
    )

    def forward(variables, inputs):
        params = variables["params"]
        L = jax.lax.complex(-jnp.exp(params["log_A_real"]), params["A_imag"])
        step = jnp.exp(params["log_step"])[:, None]
        _, gain = zero_order_hold(L, step)
        kernel = diagonal_kernel(L * step, gain * from_pair(params["C"]), inputs["u"].shape[-1])
        y = _around(kernel, params, inputs["u"])
        return jnp.sum(y * inputs["cotangent"]), {"y": y, "kernel": kernel}

    return Case(forward, rules)


def _glu_rules(pattern):
    return (
        Rule("output_linear.0.weight", "params/out", pattern),
        Rule("output_linear.0.bias", "params/bias"),
    )


def _around(kernel, params, u):
    """glu(linear(gelu(convolution + D u)))."""
    u = rearrange(u, "b c t -> b t c")
    y = jax.nn.gelu(fft_convolution(u, kernel) + params["D"] * u, approximate=False)
    return rearrange(jax.nn.glu(y @ params["out"] + params["bias"]), "b t c -> b c t")


DRIVERS = {
    "ViS4mer::transition": hippo,
    "ViS4mer::HippoSSKernel": kernel,
    "ViS4mer::S4": layer,
    "s4::S4Block": block,
    "s4::S4D": diagonal,
}
