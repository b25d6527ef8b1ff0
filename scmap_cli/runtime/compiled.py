"""Functions compiled by numba, kept on disk between runs wherever there is a place for them, and loads of raw bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from scmap_cli.runtime.logs import log


def compiled(function: Callable, **options: Any) -> Any:
    """Compile at the first call; the machine code is cached in ``NUMBA_CACHE_DIR``, beside the source, or at home.

    The kernels let go of Python's lock, so threads may run them side by side. Where no cache folder can be written,
    every run compiles anew. ``options`` are numba's.
    """
    try:
        return numba.njit(function, cache=True, nogil=True, **options)
    except RuntimeError as error:
        log.debug("%s is compiled in every run: %s", function.__name__, error)
        return numba.njit(function, nogil=True, **options)


def _load(width: int) -> Any:
    """Code that loads ``width`` bits, little endian, at any byte offset of a uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        word = ir.IntType(width)
        value = builder.load(builder.bitcast(place, word.as_pointer()))
        value.align = 1
        return builder.zext(value, ir.IntType(64)) if width < 64 else value

    return generate


@intrinsic
def load1(typing: Any, text: Any, place: Any) -> Any:
    """One byte as int64. Nothing is checked: an index of numba costs a test for negative numbers each time."""
    return types.int64(text, types.int64), _load(8)


@intrinsic
def load8(typing: Any, text: Any, place: Any) -> Any:
    """Eight bytes as uint64, the first in the lowest bits. Nothing is checked: they must lie inside the array."""
    return types.uint64(text, types.int64), _load(64)


@intrinsic
def trailing_zeros(typing: Any, value: Any) -> Any:
    """Zero bits below the lowest set bit of a uint64, as int64; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], cgutils.false_bit)

    return types.int64(types.uint64), generate
