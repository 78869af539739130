"""Refusing arrays that do not fit."""

from jaxtyping import Array


def expect(shape: tuple[int, ...], **arrays: Array | None) -> None:
    """Raises a ValueError that names the first array given (None is none) not of this shape."""
    for name, array in arrays.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name}: {array.shape} instead of {shape}")
