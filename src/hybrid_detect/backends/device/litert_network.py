"""LiteRT runs a network: through its C library where that was tried, else its Python binding.

Both have the same attributes and compute the same numbers in the same memory; what they differ in
is what they take: see `litert_library`. Nothing here imports NumPy unless the binding is used, so
that a process which runs a network alone needs none.
"""

from __future__ import annotations

import math
import mmap
from typing import Any, Protocol

from hybrid_detect.backends.device.litert_library import (
    LibraryNetwork,
    library_reason,
    library_version,
    room_for,
    tensor_layout,
)
from hybrid_detect.errors import BackendUnavailableError, ModelError
from hybrid_detect.extras import require
from hybrid_detect.types import BackendKind

__all__ = ["BindingNetwork", "Network", "open_network"]


class Network(Protocol):
    """A network of one input and some outputs, all of float32. Not for several threads at once."""

    runs_on: str
    """What runs it, for a person."""
    memory: mmap.mmap
    """Where the tensors lie, the input first, as `litert_library.tensor_layout` has it."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the tensors, the input first."""

    def run(self) -> None:
        """Compute the outputs from the input."""

    def close(self) -> None:
        """Give everything back; may be called more than once."""


def open_network(model: bytes, *, memory: mmap.mmap | None = None) -> Network:
    """The network of a model file.

    Args:
        model: The model file's bytes, verified by the caller.
        memory: Writable memory for the tensors; `None` to allocate some.

    Raises:
        MissingExtraError: If LiteRT is not installed.
        ModelError: If LiteRT does not accept the model.
    """
    if reason := library_reason():
        return BindingNetwork(model, memory=memory, because=reason)
    return LibraryNetwork(model, memory=memory)


class BindingNetwork:
    """A network that LiteRT's Python binding runs.

    Args:
        model: The model file's bytes, verified by the caller.
        memory: As `open_network` has it.
        because: Why the binding is used.

    Raises:
        MissingExtraError: If LiteRT is not installed.
        ModelError: If LiteRT does not accept the model.
    """

    def __init__(
        self, model: bytes, *, memory: mmap.mmap | None = None, because: str = "it was asked for"
    ) -> None:
        litert = require(
            "ai_edge_litert.interpreter", extra="device-lite", purpose="on-device detection"
        )
        self.runs_on = f"LiteRT {library_version()} (Python binding: {because})"
        try:
            # A second thread gains nothing on pictures this small and would keep a core awake.
            interpreter: Any = litert.Interpreter(model_content=model, num_threads=1)
            interpreter.allocate_tensors()
            (given,) = interpreter.get_input_details()
            details = (given, *interpreter.get_output_details())
        except (ValueError, RuntimeError) as exc:
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
            msg = f"LiteRT does not accept the model of {len(model)} bytes: {reason}"
            raise ModelError(msg) from exc
        self.shapes = tuple(tuple(map(int, tensor["shape"])) for tensor in details)
        offsets, size = tensor_layout(self.shapes)
        self.memory = room_for(size, memory)
        self._interpreter = interpreter
        self._tensors = [
            (tensor["index"], shape, offset)
            for tensor, shape, offset in zip(details, self.shapes, offsets, strict=True)
        ]

    def run(self) -> None:
        """Compute the outputs from the input, in `memory`.

        Raises:
            BackendUnavailableError: If LiteRT fails.
        """
        import numpy as np

        def tensor(shape: tuple[int, ...], offset: int) -> Any:
            count = math.prod(shape)
            return np.frombuffer(self.memory, np.float32, count, offset).reshape(shape)

        (index, shape, offset), *outputs = self._tensors
        try:
            self._interpreter.set_tensor(index, tensor(shape, offset))
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as exc:
            reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
            msg = f"LiteRT failed: {reason}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True) from exc
        for index, shape, offset in outputs:
            tensor(shape, offset)[:] = self._interpreter.get_tensor(index)

    def close(self) -> None:
        """Give everything back. May be called more than once; `run` must not be called after."""
        self._interpreter = None
