"""Video Swin's checkpoints (github.com/SwinTransformer/Video-Swin-Transformer) and arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import linear, norm
from stjax.layers.window_attention import SwinBlock, WindowAttention

# A fixed table.
LEFT_OUT = ("relative_position_index", "attn.relative_position_index")


def attention_module(config: Mapping[str, Any], shift: tuple[int, ...]) -> WindowAttention:
    """Our WindowAttention from the arguments of WindowAttention3D and a shift."""
    return WindowAttention(config["num_heads"], tuple(config["window_size"]), shift)


def block_module(config: Mapping[str, Any]) -> SwinBlock:
    """Our shifted SwinBlock from the arguments of SwinTransformerBlock3D."""
    window = tuple(config["window_size"])
    return SwinBlock(config["num_heads"], window, shifted=True, mlp_ratio=config["mlp_ratio"])


def attention_rules(heads: int, official: str = "", ours: str = "params") -> Iterator[Rule]:
    """The table of WindowAttention3D; `official` and `ours` are what comes before its names."""
    split = {"s": 3, "h": heads}
    yield Rule(f"{official}relative_position_bias_table", f"{ours}/position_bias")
    yield Rule(f"{official}qkv.weight", f"{ours}/qkv/kernel", "(s h d) i -> i s h d", split)
    yield Rule(f"{official}qkv.bias", f"{ours}/qkv/bias", "(s h d) -> s h d", split)
    yield Rule(f"{official}proj.weight", f"{ours}/out/kernel", "o (h d) -> h d o", {"h": heads})
    yield Rule(f"{official}proj.bias", f"{ours}/out/bias")


def block_rules(heads: int) -> Iterator[Rule]:
    """The table of SwinTransformerBlock3D."""
    yield from attention_rules(heads, "attn.", "params/attention")
    yield from norm("norm1", "attention_norm")
    yield from norm("norm2", "feed_forward_norm")
    yield from linear("mlp.fc1", "feed_forward/in")
    yield from linear("mlp.fc2", "feed_forward/out")
