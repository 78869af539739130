"""CT-D2GAN: names of a transcription in PyTorch to ours. There is no official code."""

from stjax.convert.rules import Rule

LEFT_OUT = tuple(
    f"{part}.{{i}}.{k}.num_batches_tracked" for part in ("enc", "dec") for k in (1, 4)
)
_CONV, _CLIP = "o i h w -> h w i o", "o i t h w -> t h w i o"


def attention(official: str = "", ours: str = "params") -> tuple[Rule, ...]:
    return tuple(
        rule for name in ("head", "fuse") for rule in _conv(f"{official}{name}", f"{ours}/{name}")
    )


def generator(ours: str = "") -> tuple[Rule, ...]:
    """Args: ours: what lies between the collection and the generator's own entries, "name/"."""
    rules = []
    for part, level in (("enc", "encoder"), ("dec", "decoder")):
        for k in range(2):
            official, block = f"{part}.{{i}}.{3 * k}", f"{ours}{level}_{{i}}"
            norm = f"{part}.{{i}}.{3 * k + 1}"
            rules += [
                *_conv(official, f"params/{block}/conv_{k}"),
                Rule(f"{norm}.weight", f"params/{block}/norm_{k}/scale"),
                Rule(f"{norm}.bias", f"params/{block}/norm_{k}/bias"),
                Rule(f"{norm}.running_mean", f"batch_stats/{block}/norm_{k}/mean"),
                Rule(f"{norm}.running_var", f"batch_stats/{block}/norm_{k}/var"),
            ]
    return (
        *rules,
        *attention("attention.", f"params/{ours}attention"),
        Rule("up.{i}.weight", f"params/{ours}up_{{i}}/pixels/kernel", "i o r s -> i (r s o)",
             {"r": 2, "s": 2}),
        Rule("up.{i}.bias", f"params/{ours}up_{{i}}/bias"),
        *_conv("out", f"params/{ours}out"),
    )


def critics(depths: dict[str, int]) -> tuple[Rule, ...]:
    """Of the critics "image" and "video", by their number of convolutions."""
    patterns = {"image": _CONV, "video": _CLIP}
    return tuple(
        rule
        for name, depth in depths.items()
        for k in range(depth)
        for rule in _conv(f"{name}_critic.{2 * k}", f"params/{name}/conv_{k}", patterns[name])
    )


def _conv(official: str, ours: str, pattern: str = _CONV) -> tuple[Rule, Rule]:
    return (
        Rule(f"{official}.weight", f"{ours}/kernel", pattern),
        Rule(f"{official}.bias", f"{ours}/bias"),
    )
