"""S4 as ViS4mer has it (github.com/md-mohaiminul/ViS4mer), the ground of Selective S5."""

from collections.abc import Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.layers.s4 import S4

# Functions of the length alone.
LEFT_OUT = ("kernel.krylov.nodes", "kernel.krylov.z", "krylov.nodes", "krylov.z")


def s4_module(config: Mapping[str, Any]) -> S4:
    """Our layer of the official S4's arguments."""
    length = config["l_max"]
    return S4(
        features=config["H"],
        length=length,
        state_size=config["d_state"],
        taps=even_taps(length),
        dropout=config["dropout"],
    )


def even_taps(length: int) -> int:
    """Taps of the official kernel: its inverse FFT takes every length for an even one."""
    return 2 * (length // 2)


def s4_rules() -> tuple[Rule, ...]:
    """The table of S4."""
    return (
        Rule("D", "params/feedthrough"),
        *system_rules("kernel.krylov.", "params/system/"),
        Rule("output_linear.weight", "params/out/kernel", "o i -> i o"),
        Rule("output_linear.bias", "params/out/bias", "o 1 -> o"),
    )


def system_rules(official: str = "krylov.", ours: str = "params/") -> tuple[Rule, ...]:
    """The table of HippoSSKernel: [B; P] and [C; Q] are stacked, complex numbers lie last."""
    return (
        Rule(f"{official}log_dt", f"{ours}log_step"),
        Rule(f"{official}w", f"{ours}eigenvalues", "p two -> two p"),
        Rule(f"{official}B", f"{ours}into_state", "c k p two -> two k c p"),
        Rule(f"{official}C", f"{ours}out_of_state", "c k p two -> two k c p"),
    )
