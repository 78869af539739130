"""PyTorch's nn.LSTM and nn.GRU, and the recurrent highway cell, a cell a layer."""

from collections.abc import Mapping

import numpy as np

from stjax.convert.rules import Rule


def merged(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of nn.LSTM or nn.GRU with one bias where PyTorch adds up two.

    A GRU's reset gate lies between those of its candidate, so that `bias_hh` keeps that one.
    """
    merged = dict(state)
    for name in (name for name in state if "bias_ih" in name):
        hidden = name.replace("bias_ih", "bias_hh")
        rows, features = state[name.replace("bias_ih", "weight_hh")].shape
        gru = rows == 3 * features
        both = 2 * features if gru else rows
        added = state[name][:both] + state[hidden][:both]
        merged[name] = np.concatenate([added, state[name][both:]])
        if gru:
            merged[hidden] = state[hidden][both:]
        else:
            del merged[hidden]
    return merged


def cell_rules(official: str, ours: str, layer: int, *, gru: bool = False) -> tuple[Rule, ...]:
    """Layer `layer` of nn.LSTM, or of nn.GRU, merged, to `stjax.layers.recurrent`'s."""
    rows = {"weight_ih": ("input", "o i -> i o"), "weight_hh": ("hidden", "o i -> i o")}
    rows |= {"bias_ih": ("bias", None)} | ({"bias_hh": ("hidden_bias", None)} if gru else {})
    return tuple(
        Rule(f"{official}{name}_l{layer}", f"params/{ours}/{path}", pattern)
        for name, (path, pattern) in rows.items()
    )


def highway_rules() -> tuple[Rule, ...]:
    """h.<l>, t.<l> (candidate and transform gate), columns [input | state] at l = 0."""
    return tuple(
        rule
        for official, ours in {"h": "candidate", "t": "gate"}.items()
        for rule in (
            Rule(f"{official}.0.weight", f"params/{ours}", "o i -> i o"),
            Rule(f"{official}.{{l}}.weight", f"params/{ours}_deeper", "o i -> i o",
                 starts={"l": 1}),
            Rule(f"{official}.{{l}}.bias", f"params/{ours}_bias"),
        )
    )
