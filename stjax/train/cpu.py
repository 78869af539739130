"""What makes XLA faster on a CPU, to be set before JAX starts."""

import os

import jaxlib

_CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


def quicken() -> None:
    """Asks XLA for the CPU convolutions that are twice as fast; no other backend reads the flag.

    Only where the user has not set it, and only where it is known: XLA ends the process at a flag
    that it does not know. (Vectors of 512 bits, `--xla_cpu_prefer_vector_width=512`, were tried on
    a CPU that has them: training steps of SimVP and ConvLSTM took 5 to 8 % longer.)
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith("0.10.") and "ynn_fusion_type" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CONVOLUTIONS}".strip()
