"""LiteRT's C library: a network that runs on tensors in memory of the caller's choice.

The wheel of LiteRT holds two builds of the same runtime. Its Python binding takes 7 MB and needs
NumPy; this speaks to the other one, ``libLiteRt.so``, through ctypes, which takes 2 MB and needs
neither. The interface of that library is declared in C headers that are not in the wheel and has
changed between releases, so it is used with the releases it was tried with and no others;
`library_reason` says why not, and `litert_binding` is the alternative.

Source: google-ai-edge/LiteRT, ``litert/c/litert_environment.h``, ``litert_model.h``,
``litert_compiled_model.h``, ``litert_tensor_buffer.h`` and ``litert_layout.h``; that
``LiteRtCreateModelFromBuffer`` takes the environment first was read from the library itself.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
from ctypes import POINTER, byref, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from importlib.util import find_spec
from typing import Any

from hybrid_detect.errors import BackendUnavailableError, ModelError
from hybrid_detect.types import BackendKind

__all__ = ["LibraryNetwork", "library_reason", "library_version", "room_for", "tensor_layout"]

TRIED_RELEASES = ("2.2.", "2.3.")
"""How the versions begin whose C library was tried: all answers of `test_litert.py` are its."""

ALIGNMENT = 64
"""Bytes that a tensor's address is a multiple of: ``LITERT_HOST_MEMORY_BUFFER_ALIGNMENT``."""

FLOAT32 = 1
"""``kLiteRtElementTypeFloat32``, of which a number has four bytes."""

CPU = 1
"""``kLiteRtHwAcceleratorCpu``."""

AUTO_REGISTER_ACCELERATORS = 24
"""``kLiteRtEnvOptionTagAutoRegisterAccelerators``: without it, each environment looks for the
libraries of four kinds of GPU."""

ANY_INT = 2
"""``kLiteRtAnyTypeInt``."""

MAX_RANK = 8
"""``LITERT_TENSOR_MAX_RANK``."""


class _Any(ctypes.Structure):
    _fields_ = (("type", c_int), ("value", c_int64))


class _EnvironmentOption(ctypes.Structure):
    _fields_ = (("tag", c_int), ("value", _Any))


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", c_uint32, 7),
        ("has_strides", c_uint32, 1),
        ("dimensions", c_int32 * MAX_RANK),
        ("strides", c_uint32 * MAX_RANK),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", c_int), ("layout", _Layout))


_OUT = POINTER(c_void_p)

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "LiteRtCreateEnvironment": (c_int, POINTER(_EnvironmentOption), _OUT),
    "LiteRtCreateModelFromBuffer": (c_void_p, c_void_p, c_size_t, _OUT),
    "LiteRtGetModelSignature": (c_void_p, c_size_t, _OUT),
    "LiteRtGetNumSignatureInputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetNumSignatureOutputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetSignatureInputTensorByIndex": (c_void_p, c_size_t, _OUT),
    "LiteRtGetSignatureOutputTensorByIndex": (c_void_p, c_size_t, _OUT),
    "LiteRtGetRankedTensorType": (c_void_p, POINTER(_TensorType)),
    "LiteRtCreateOptions": (_OUT,),
    "LiteRtSetOptionsHardwareAccelerators": (c_void_p, c_int),
    "LiteRtCreateCompiledModel": (c_void_p, c_void_p, c_void_p, _OUT),
    "LiteRtCreateTensorBufferFromHostMemory": (
        *(POINTER(_TensorType), c_void_p, c_size_t, c_void_p, _OUT),
    ),
    "LiteRtRunCompiledModel": (c_void_p, c_size_t, c_size_t, _OUT, c_size_t, _OUT),
}
"""The functions that return a status, and their arguments."""

_DESTROYERS = (
    "LiteRtDestroyTensorBuffer",
    "LiteRtDestroyCompiledModel",
    "LiteRtDestroyOptions",
    "LiteRtDestroyModel",
    "LiteRtDestroyEnvironment",
)
"""The functions that end a handle, and return nothing."""


def tensor_layout(shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], int]:
    """Where tensors of float32 lie, one after the other: their offsets and the size of all."""
    offsets, end = [], 0
    for shape in shapes:
        offsets.append(end)
        end += -(-4 * math.prod(shape) // ALIGNMENT) * ALIGNMENT
    return tuple(offsets), end


def room_for(size: int, memory: mmap.mmap | None) -> mmap.mmap:
    """`memory`, if it has room for `size` bytes of tensors; some of its own for `None`.

    Raises:
        ModelError: If it has not.
    """
    if memory is None:
        return mmap.mmap(-1, size)
    if len(memory) < size:
        msg = f"LiteRT: the model's tensors take {size} bytes, more than there is room for"
        raise ModelError(msg)
    return memory


def library_reason() -> str:
    """Why the C library is not used here; empty if it is."""
    try:
        _library()
    except _UnusableError as error:
        return str(error)
    return ""


def library_version() -> str:
    """The version of the LiteRT that is installed; empty if it does not say."""
    # Not by importlib.metadata, which would take a megabyte of the process's memory.
    try:
        folder, name = os.path.split(_package_folder())
        entries = os.listdir(folder)
    except (_UnusableError, OSError):
        return ""
    for entry in entries:
        if entry.startswith(f"{name}-") and entry.endswith(".dist-info"):
            return entry[len(name) + 1 : -len(".dist-info")]
    return ""


class LibraryNetwork:
    """A network of one input and some outputs, all of float32. Not for several threads at once.

    Args:
        model: The model file's bytes, verified by the caller. They are kept.
        memory: Writable memory at an address that is a multiple of `ALIGNMENT`, for the tensors;
            `None` to allocate some. `tensor_layout` says where they lie, the input first.

    Raises:
        BackendUnavailableError: If the library is not used here, see `library_reason`.
        ModelError: If LiteRT does not accept the model.
    """

    def __init__(self, model: bytes, *, memory: mmap.mmap | None = None) -> None:
        self.runs_on = f"LiteRT {library_version()} (C library)"
        self._handles: list[tuple[str, c_void_p]] = []
        self._model = model
        try:
            self._library = _library()
        except _UnusableError as error:
            raise BackendUnavailableError(str(error), backend=BackendKind.DEVICE) from error
        try:
            self._build(memory)
        except BaseException:
            self.close()
            raise

    def _build(self, memory: mmap.mmap | None) -> None:
        option = _EnvironmentOption(AUTO_REGISTER_ACCELERATORS, _Any(ANY_INT, CPU))
        environment = self._made("Environment", 1, byref(option))
        model = self._made(
            "Model", environment, self._model, len(self._model), function="CreateModelFromBuffer"
        )
        options = self._made("Options")
        self._call("SetOptionsHardwareAccelerators", options, CPU)
        self._compiled = self._made("CompiledModel", environment, model, options)
        types = self._tensor_types(model)
        self.shapes = tuple(_shape(of) for of in types)
        """Of the tensors, the input first."""
        offsets, size = tensor_layout(self.shapes)
        self.memory = memory = room_for(size, memory)
        """Where the tensors lie."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        buffers = [
            self._made(
                *("TensorBuffer", byref(of), start + offset, 4 * math.prod(shape), None),
                function="CreateTensorBufferFromHostMemory",
            )
            for of, shape, offset in zip(types, self.shapes, offsets, strict=True)
        ]
        self._inputs = (c_void_p * 1)(buffers[0])
        self._outputs = (c_void_p * (len(buffers) - 1))(*(buffer.value for buffer in buffers[1:]))

    def _tensor_types(self, model: c_void_p) -> list[_TensorType]:
        signature = c_void_p()
        self._call("GetModelSignature", model, 0, byref(signature))
        types = []
        for kind in ("Input", "Output"):
            count = c_size_t()
            self._call(f"GetNumSignature{kind}s", signature, byref(count))
            if kind == "Input" and count.value != 1:
                msg = f"LiteRT: expected a model with one input, got {count.value}"
                raise ModelError(msg)
            for index in range(count.value):
                tensor, of = c_void_p(), _TensorType()
                self._call(f"GetSignature{kind}TensorByIndex", signature, index, byref(tensor))
                self._call("GetRankedTensorType", tensor, byref(of))
                if of.element != FLOAT32:
                    msg = f"LiteRT: expected tensors of float32, got the element type {of.element}"
                    raise ModelError(msg)
                types.append(of)
        return types

    def run(self) -> None:
        """Compute the outputs from the input, in `memory`.

        Raises:
            BackendUnavailableError: If LiteRT fails.
        """
        status = self._library.LiteRtRunCompiledModel(
            self._compiled, 0, 1, self._inputs, len(self._outputs), self._outputs
        )
        if status:
            msg = f"LiteRT failed with status {status}"
            raise BackendUnavailableError(msg, backend=BackendKind.DEVICE, retryable=True)

    def close(self) -> None:
        """Give everything back. May be called more than once; `run` must not be called after."""
        while self._handles:
            kind, handle = self._handles.pop()
            getattr(self._library, f"LiteRtDestroy{kind}")(handle)

    def _made(self, kind: str, *arguments: Any, function: str = "") -> c_void_p:
        """The handle that a function makes; `close` ends it."""
        handle = c_void_p()
        self._call(function or f"Create{kind}", *arguments, byref(handle))
        self._handles.append((kind, handle))
        return handle

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, f"LiteRt{name}")(*arguments):
            msg = (
                f"LiteRT does not accept the model of {len(self._model)} bytes: "
                f"status {status} of LiteRt{name}"
            )
            raise ModelError(msg)


class _UnusableError(Exception):
    """The C library is not used here."""


@functools.cache
def _library() -> ctypes.CDLL:
    if sys.platform != "linux":
        msg = "LiteRT's C library was not tried on this system"
        raise _UnusableError(msg)
    version = library_version()
    if not version.startswith(TRIED_RELEASES):
        tried = ", ".join(f"{release}x" for release in TRIED_RELEASES)
        msg = f"LiteRT's C library was tried with {tried}, and this is {version or 'unknown'}"
        raise _UnusableError(msg)
    path = os.path.join(_package_folder(), "libLiteRt.so")
    try:
        library = ctypes.CDLL(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        for name in _DESTROYERS:
            function = getattr(library, name)
            function.argtypes, function.restype = (c_void_p,), None
    except (OSError, AttributeError) as error:  # it is not there, or lacks a function
        msg = f"LiteRT's C library cannot be used: {error}"
        raise _UnusableError(msg) from error
    return library


def _package_folder() -> str:
    spec = find_spec("ai_edge_litert")
    if spec is None or not spec.submodule_search_locations:
        msg = "LiteRT is not installed"
        raise _UnusableError(msg)
    return spec.submodule_search_locations[0]


def _shape(of: _TensorType) -> tuple[int, ...]:
    return tuple(of.layout.dimensions[: of.layout.rank])
