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
