"""Explicit SIMD vectors for numba: eight lanes of float32 or float64; arrays of uint16 hold bfloat16.

LLVM vectorises a loop by itself only when it can prove that its arrays do not overlap, which it cannot for rings and
planes inside one scratch array. With a vector *type* nothing needs proving. Eight lanes are one AVX register, half an
AVX-512 one and two NEON ones; sixteen measured no faster on AVX-512 (Zen 4) and waste lanes on 8 and 24 channels.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import numba.core.cgutils
import numba.core.typing.templates
import numba.extending
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.typing.templates import AbstractTemplate
from numba.extending import models

LANES = 8

# numba's annotations are of its internals: the decorated functions below take other arguments in a kernel.
numba_intrinsic: Any = numba.extending.intrinsic
lower_builtin: Any = numba.extending.lower_builtin
register_model: Any = numba.extending.register_model
infer_global: Any = numba.core.typing.templates.infer_global
signature: Any = numba.core.typing.templates.signature
cgutils: Any = numba.core.cgutils

_SINGLES = ir.VectorType(ir.FloatType(), LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)

# Of vectors in memory: bytes to which they are aligned, and their name in LLVM's intrinsics.
_ALIGN = {_SHORTS: 2, _SINGLES: 4, _DOUBLES: 8}
_NAMES = {_SHORTS: "i16", _SINGLES: "f32", _DOUBLES: "f64"}


class Vector(types.Type):
    """Numba type of `LANES` floating-point numbers or truth values."""

    def __init__(self, name: str, lanes: ir.VectorType) -> None:
        super().__init__(name=f"{name}x{LANES}")
        self.lanes = lanes


single, double, mask = Vector("Float32", _SINGLES), Vector("Float64", _DOUBLES), Vector("Bool", _BITS)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, kind.lanes)  # type: ignore[no-untyped-call]


def _operator(op: Any, result: types.Type, *operands: types.Type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a Python operator a meaning for these operand types: the decorated function emits it."""

    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> Any:
            return signature(result, *operands) if args == operands and not kws else None

    def register(emit: Callable[..., Any]) -> Callable[..., Any]:
        lower_builtin(op, *operands)(lambda context, builder, sig, args: emit(builder, *args))
        return emit

    return register


@_operator(operator.add, single, single, single)
@_operator(operator.add, double, double, double)
def _add(builder: Any, a: Any, b: Any) -> Any:
    return builder.fadd(a, b)


@_operator(operator.mul, single, single, single)
@_operator(operator.mul, double, double, double)
def _mul(builder: Any, a: Any, b: Any) -> Any:
    # No fast-math: it would let LLVM assume that there are no infinities, which pad the maxima. Nor "contract": which
    # products become fused multiply-adds differs between code just compiled and the same code out of the cache.
    return builder.fmul(a, b)


@_operator(operator.ge, mask, single, single)
@_operator(operator.ge, mask, double, double)
def _greater_equal(builder: Any, a: Any, b: Any) -> Any:
    return builder.fcmp_ordered(">=", a, b)


def _same(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Put one number into every lane."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _vector_of(array: types.Array) -> Vector:
    """The vectors that an array is computed with."""
    return double if array.dtype == types.float64 else single


def _address(context: Any, builder: Any, kind: types.Array, array: Any, index: Any) -> tuple[Any, ir.VectorType]:
    """Where a vector lies in an array, and its type in memory."""
    memory = _SHORTS if kind.dtype == types.uint16 else _vector_of(kind).lanes
    place = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(place, memory.as_pointer()), memory


def _lanes_below(builder: Any, count: Any) -> Any:
    lanes = ir.Constant(_INTS, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _same(builder, builder.trunc(count, ir.IntType(32)), _INTS))


def _widen(builder: Any, value: Any) -> Any:
    """Bfloat16 bits are the upper half of a float32."""
    if value.type != _SHORTS:
        return value
    return builder.bitcast(builder.shl(builder.zext(value, _INTS), ir.Constant(_INTS, [16] * LANES)), _SINGLES)


def _narrow(builder: Any, value: Any, memory: ir.VectorType) -> Any:
    """Round to bfloat16, ties to even; NaN stays NaN."""
    if memory != _SHORTS:
        return value

    def all_lanes(number: int) -> ir.Constant:
        return ir.Constant(_INTS, [number] * LANES)

    bits = builder.bitcast(value, _INTS)
    odd = builder.and_(builder.lshr(bits, all_lanes(16)), all_lanes(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, all_lanes(0x7FFF))), all_lanes(16))
    nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(nan, all_lanes(0x7FC0), rounded), _SHORTS)


def _emitted(typed: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic: `typed` gives its signature by operand types, the decorated function emits it for operands."""

    def register(emit: Callable[..., Any]) -> Any:
        @functools.wraps(emit)
        def intrinsic(typing: Any, *kinds: Any) -> Any:
            return typed(*kinds), lambda context, builder, sig, args: emit(context, builder, sig.args[0], *args)

        # What numba takes for the operands' names: all parameters but the first.
        vars(intrinsic)["__signature__"] = inspect.Signature(list(inspect.signature(emit).parameters.values())[2:])
        return numba_intrinsic(intrinsic)

    return register


@_emitted(lambda array, index: _vector_of(array)(array, types.intp))
def load(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Read the `LANES` numbers from array[index]."""
    place, memory = _address(context, builder, kind, array, index)
    return _widen(builder, builder.load(place, align=_ALIGN[memory]))


@_emitted(lambda array, index, value: types.void(array, types.intp, _vector_of(array)))
def store(context: Any, builder: Any, kind: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to array[index] and behind."""
    place, memory = _address(context, builder, kind, array, index)
    builder.store(_narrow(builder, value, memory), place, align=_ALIGN[memory])
    return context.get_dummy_value()


def _masked(builder: Any, name: str, memory: ir.VectorType, result: ir.Type, arguments: list[Any]) -> Any:
    suffix = f"v{LANES}{_NAMES[memory]}.p0"
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.{suffix}")
    return builder.call(function, arguments)


@_emitted(lambda array, index, count: _vector_of(array)(array, types.intp, types.intp))
def load_part(context: Any, builder: Any, kind: Any, array: Any, index: Any, count: Any) -> Any:
    """Read the first `count` lanes from array[index]; the others are 0."""
    place, memory = _address(context, builder, kind, array, index)
    align = ir.Constant(ir.IntType(32), _ALIGN[memory])
    arguments = [place, align, _lanes_below(builder, count), ir.Constant(memory, [0] * LANES)]
    return _widen(builder, _masked(builder, "load", memory, memory, arguments))


@_emitted(lambda array, index, count, value: types.void(array, types.intp, types.intp, _vector_of(array)))
def store_part(context: Any, builder: Any, kind: Any, array: Any, index: Any, count: Any, value: Any) -> Any:
    """Write the first `count` lanes to array[index] and behind."""
    place, memory = _address(context, builder, kind, array, index)
    align = ir.Constant(ir.IntType(32), _ALIGN[memory])
    arguments = [_narrow(builder, value, memory), place, align, _lanes_below(builder, count)]
    _masked(builder, "store", memory, ir.VoidType(), arguments)
    return context.get_dummy_value()


@_emitted(
    lambda array, value: _vector_of(array)(array, types.float64 if _vector_of(array) is double else types.float32)
)
def splat(context: Any, builder: Any, kind: Any, array: Any, value: Any) -> Any:
    """Put one number into every lane of a vector such as the array is computed with."""
    return _same(builder, value, _vector_of(kind).lanes)


@_emitted(lambda a, b: a(a, a))
def maximum(context: Any, builder: Any, kind: Any, a: Any, b: Any) -> Any:
    """Lane-wise maximum; where either is NaN, b."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_emitted(lambda where, value: value(mask, value))
def drop(context: Any, builder: Any, kind: Any, where: Any, value: Any) -> Any:
    """0 in the lanes of the mask, `value` elsewhere."""
    return builder.select(where, ir.Constant(value.type, [0.0] * LANES), value)


@_emitted(lambda where, total, value: value(mask, value, value))
def add_where(context: Any, builder: Any, kind: Any, where: Any, total: Any, value: Any) -> Any:
    """`total + value` in the lanes of the mask, `total` elsewhere."""
    return builder.select(where, builder.fadd(total, value), total)


@_emitted(lambda value: types.float64(value))
def lane_sum(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Sum of the lanes, in double precision."""
    total = ir.Constant(ir.DoubleType(), 0.0)
    for lane in range(LANES):
        number = builder.extract_element(value, ir.Constant(ir.IntType(32), lane))
        total = builder.fadd(total, number if kind is double else builder.fpext(number, ir.DoubleType()))
    return total


@_emitted(lambda array, index: types.void(array, types.intp))
def prefetch(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], which may lie outside of the array."""
    place, _ = _address(context, builder, kind, array, index)
    number = ir.IntType(32)
    signature = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    # To read it, soon and often, as data.
    builder.call(function, [place, number(0), number(3), number(1)])
    return context.get_dummy_value()


@_emitted(lambda array, index, amount: types.int64(array, types.intp, types.int64))
def fetch_add(context: Any, builder: Any, kind: Any, array: Any, index: Any, amount: Any) -> Any:
    """Add to array[index] atomically and return what was there before."""
    place = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.atomic_rmw("add", place, amount, "monotonic")


@_emitted(lambda address: types.voidptr(types.int64))
def pointer(context: Any, builder: Any, kind: Any, address: Any) -> Any:
    """An address held in an integer, as a pointer for `numba.carray`."""
    return builder.inttoptr(address, cgutils.voidptr_t)
