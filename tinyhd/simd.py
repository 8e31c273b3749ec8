"""Vectors of eight float32 for Numba: loops written with them are vector code on any processor that LLVM knows.

Numba's own loops are vectorised only where LLVM can prove or check at run time that arrays do not overlap; kernels
that keep many sums in registers are beyond that. Indices are in elements and are not checked.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.caching import NullCache
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

LANES = 8


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function of plain numbers and arrays; kept on disk where there is a place for it. It releases the GIL.

    Divisions by zero give what they do in NumPy. Numba compiles anew when the function's own file has changed, but not
    when this one has: then delete `__pycache__/*.nb?`.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        dispatcher = numba.njit(**options)(function)
    _dispatchers.append(dispatcher)
    return dispatcher


_dispatchers: list[Any] = []


def give_up_cache() -> None:
    """Neither read compiled code from disk nor keep it there, from now on: for damaged files and full disks."""
    for dispatcher in _dispatchers:
        dispatcher._cache = NullCache()


class VectorType(types.Type):
    """Eight float32."""

    def __init__(self) -> None:
        super().__init__(name="Vector8f")


_vector = VectorType()
_ir_vector = ir.VectorType(ir.FloatType(), LANES)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _ir_vector)


def _checked(array: Any) -> Any:
    """Numba's type of an array, if vectors can be read from its memory."""
    if not (isinstance(array, types.Array) and (array.dtype, array.ndim, array.layout) == (types.float32, 1, "C")):
        raise TypingError(f"vectors are of one-dimensional, contiguous float32 arrays, not {array}")
    return array


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    pointer = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(pointer, [index]), _ir_vector.as_pointer())


@intrinsic
def load(context, array, index):
    """Elements index to index + 7 of a one-dimensional, contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=4)

    return _vector(_checked(array), types.intp), generate


@intrinsic
def store(context, array, index, vector):
    """Write a vector to elements index to index + 7."""

    def generate(context, builder, signature, arguments):
        array, index, vector = arguments
        builder.store(vector, _place(context, builder, signature.args[0], array, index), align=4)
        return context.get_dummy_value()

    return types.void(_checked(array), types.intp, _vector), generate


def _spread(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_ir_vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


@intrinsic
def spread(context, value):
    """A vector of eight times the same float32."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0])

    return _vector(types.float32), generate


@intrinsic
def load_one(context, array, index):
    """A vector of eight times the same element of a one-dimensional, contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        array, index = arguments
        pointer = context.make_array(signature.args[0])(context, builder, array).data
        return _spread(builder, builder.load(builder.gep(pointer, [index])))

    return _vector(_checked(array), types.intp), generate


def _every_second(first: int) -> Any:
    """Code for elements first, first + 2, ... of two vectors that follow each other."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(range(first, 2 * LANES, 2)))
        return builder.shuffle_vector(*arguments, places)

    return generate


@intrinsic
def evens(context, a, b):
    """Elements 0, 2, 4 and 6 of a, then of b."""
    return _vector(_vector, _vector), _every_second(0)


@intrinsic
def odds(context, a, b):
    """Elements 1, 3, 5 and 7 of a, then of b."""
    return _vector(_vector, _vector), _every_second(1)


@intrinsic
def fma(context, a, b, c):
    """a * b + c."""

    def generate(context, builder, signature, arguments):
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_ir_vector, [_ir_vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        return builder.call(function, arguments)

    return _vector(_vector, _vector, _vector), generate


@intrinsic
def clamp(context, x, low, high):
    """Each element at least low and at most high."""

    def generate(context, builder, signature, arguments):
        x, low, high = arguments
        x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
        return builder.select(builder.fcmp_ordered("<", x, high), x, high)

    return _vector(_vector, _vector, _vector), generate


@intrinsic
def _round(context, x):
    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(_ir_vector, [_ir_vector])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.v{LANES}f32")
        return builder.call(function, arguments)

    return _vector(_vector), generate


@intrinsic
def _power_of_two(context, x):
    """2 to the power of whole numbers in -126 to 127."""

    def generate(context, builder, signature, arguments):
        integers = ir.VectorType(ir.IntType(32), LANES)
        exponent = builder.fptosi(arguments[0], integers)
        exponent = builder.add(exponent, ir.Constant(integers, [127] * LANES))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integers, [23] * LANES)), _ir_vector)

    return _vector(_vector), generate


@intrinsic
def divide(context, a, b):
    """a / b."""

    def generate(context, builder, signature, arguments):
        return builder.fdiv(*arguments)

    return _vector(_vector, _vector), generate


@compiled
def exp(x):
    """e to the power of x, to about two units in the last place; x is taken as -87 to 88.

    Cody and Waite's reduction and the polynomial of Cephes (expf, S. L. Moshier).
    """
    x = clamp(x, spread(np.float32(-87)), spread(np.float32(88)))
    zero = spread(np.float32(0))
    n = _round(fma(x, spread(np.float32(1.4426950408889634)), zero))
    r = fma(n, spread(np.float32(2.12194440e-4)), fma(n, spread(np.float32(-0.693359375)), x))
    y = spread(np.float32(1.9875691500e-4))
    y = fma(y, r, spread(np.float32(1.3981999507e-3)))
    y = fma(y, r, spread(np.float32(8.3334519073e-3)))
    y = fma(y, r, spread(np.float32(4.1665795894e-2)))
    y = fma(y, r, spread(np.float32(1.6666665459e-1)))
    y = fma(y, r, spread(np.float32(5.0000001201e-1)))
    one = spread(np.float32(1))
    y = fma(fma(y, r, zero), r, fma(r, one, one))
    return fma(y, _power_of_two(n), zero)
