"""PhyDNet's checkpoints (OpenSTL::PhyDNet_Model) and constructor arguments."""

from collections.abc import Iterator, Mapping
from typing import Any

from stjax.convert.rules import Rule
from stjax.convert.torch import conv2d, norm, transposed_conv2d
from stjax.models.prediction.phydnet import PhyDNet

# Fixed tables.
LEFT_OUT = ("k2m._M0", "k2m._invM0", "k2m._M1", "k2m._invM1")
_CELL = "rollout/cell"
_BLOCKS = {
    "encoder_E.c1": "encoder_0",
    "encoder_E.c2": "encoder_1",
    "encoder_E.c3": "encoder_2",
    "encoder_Ep.c2": "physical_encoder",
    "encoder_Er.c2": "residual_encoder",
}
_UP_BLOCKS = {
    "decoder_Dp.upc1": "physical_decoder_0",
    "decoder_Dp.upc2": "physical_decoder_1",
    "decoder_Dr.upc1": "residual_decoder_0",
    "decoder_Dr.upc2": "residual_decoder_1",
    "decoder_D.upc1": "decoder_0",
    "decoder_D.upc2": "decoder_1",
}
_FIRST_OF_BRANCHES = "encoder.encoder_Ep.c1.main.", "encoder.encoder_Er.c1.main."


def module(config: Mapping[str, Any]) -> PhyDNet:
    """Our PhyDNet from the official arguments; as there, a patch is of 4 pixels if not of 2."""
    return PhyDNet(patch=2 if config["patch_size"] == 2 else 4)


def rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The table of PhyDNet_Model, where both branches have two names; the last one counts."""
    return (*_branches(""), *_branches("encoder."), *_encoder_and_decoder())


def _branches(official: str) -> Iterator[Rule]:
    physical = f"{official}phycell.cell_list.0"
    yield from conv2d(f"{physical}.F.conv1", f"{_CELL}/physical/derivatives")
    yield from norm(f"{physical}.F.bn1", f"{_CELL}/physical/derivatives_norm")
    yield from conv2d(f"{physical}.F.conv2", f"{_CELL}/physical/sum")
    yield from conv2d(f"{physical}.convgate", f"{_CELL}/physical/gain")
    yield from conv2d(f"{official}convcell.cell_list.{{i}}.conv", f"{_CELL}/residual_{{i}}")


def _encoder_and_decoder() -> Iterator[Rule]:
    for convolution, blocks in ((conv2d, _BLOCKS), (transposed_conv2d, _UP_BLOCKS)):
        for official, ours in blocks.items():
            yield from convolution(f"encoder.{official}.main.0", f"{_CELL}/{ours}/conv")
            yield from norm(f"encoder.{official}.main.1", f"{_CELL}/{ours}/norm")
    yield from transposed_conv2d("encoder.decoder_D.upc3", f"{_CELL}/decoder_2")
    entries = (
        ("0.weight", "conv/kernel", "o i h w -> h w i o"),
        ("0.bias", "conv/bias", None),
        ("1.weight", "norm/scale", None),
        ("1.bias", "norm/bias", None),
    )
    for official, ours, pattern in entries:
        names = tuple(f"{branch}{official}" for branch in _FIRST_OF_BRANCHES)
        path = f"params/{_CELL}/encoder_3/{ours}"
        yield Rule(names, path, pattern, axis=-1, sections=(64, 64))
