"""How loops are compiled."""

from stjax.ops.backend import backend

# Longer loops would take too long to compile one trip after another.
_LONGEST_UNROLLED = 32


def trips_at_once(length: int) -> int:
    """Trips of a loop that convolves which are compiled one after another (`unroll`).

    All of a short loop's on a CPU, where XLA's convolutions run up to twenty times slower within a
    loop than outside it; else one.
    """
    unrolled = backend() == "cpu" and length <= _LONGEST_UNROLLED
    return length if unrolled else 1
