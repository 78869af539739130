"""Rows for PyTorch's layers: official name and our path of a layer -> the rules of its arrays."""

from stjax.convert.rules import Rule


def linear(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.Linear to nn.Dense."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", "o i -> i o"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def conv2d(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.Conv2d to nn.Conv."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", "o i h w -> h w i o"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def transposed_conv2d(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.ConvTranspose2d to ConvTranspose."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", "i o h w -> h w i o"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def pointwise(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.Conv2d of one pixel to nn.Dense."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", "o i 1 1 -> i o"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def norm(official: str, ours: str) -> tuple[Rule, ...]:
    """A normalisation's weight and bias to scale and bias."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/scale"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def batch_norm(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.BatchNorm2d, its running statistics included."""
    return (
        *norm(official, ours),
        Rule(f"{official}.running_mean", f"batch_stats/{ours}/mean"),
        Rule(f"{official}.running_var", f"batch_stats/{ours}/var"),
    )


def depthwise(official: str, ours: str) -> tuple[Rule, ...]:
    """nn.Conv2d of a channel each to DepthwiseConv."""
    return (
        Rule(f"{official}.weight", f"params/{ours}/kernel", "c 1 h w -> h w c"),
        Rule(f"{official}.bias", f"params/{ours}/bias"),
    )


def self_attention(official: str, ours: str, heads: int) -> tuple[Rule, ...]:
    """timm's Attention, one nn.Linear for queries, keys and values, to SelfAttention."""
    qkv, out, sizes = f"params/{ours}/qkv", f"params/{ours}/out", {"s": 3, "h": heads}
    return (
        Rule(f"{official}.qkv.weight", f"{qkv}/kernel", "(s h d) i -> i s h d", sizes),
        Rule(f"{official}.qkv.bias", f"{qkv}/bias", "(s h d) -> s h d", sizes),
        Rule(f"{official}.proj.weight", f"{out}/kernel", "o (h d) -> h d o", {"h": heads}),
        Rule(f"{official}.proj.bias", f"{out}/bias"),
    )
