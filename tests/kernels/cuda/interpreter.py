"""What Triton's interpreter lacks: bfloat16 and tf32 as a GPU has them, and a count of launches and bytes."""

import contextlib
import inspect
from collections import Counter
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

BUILDER = interpreter.interpreter_builder


def widened(handle):
    """Return an operand's data; bfloat16, which the interpreter keeps as bits, is turned into float32."""
    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.astype(np.uint32) << 16).view(np.float32)
    return handle.data


def rounded_to_tf32(values):
    """Round float32 values to the nearest with ten bits behind the point, as matrix units take them."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def dot(a, b, d, input_precision, max_num_imprecise_acc):
    """Return a b + d with operands rounded as a GPU rounds them; takes the place of ``create_dot``."""
    left, right = widened(a), widened(b)
    if left.dtype == np.float32 and a.dtype.scalar == tl.float32 and input_precision == ir.INPUT_PRECISION.TF32:
        left, right = rounded_to_tf32(left), rounded_to_tf32(right)
    return TensorHandle(np.matmul(left, right, dtype=np.float32) + d.data, d.dtype.scalar)


def cast(src, dst_type):
    """Convert between float32 and bfloat16 as a GPU does, and anything else as the interpreter does."""
    source, target = src.dtype.scalar, dst_type.scalar
    if source == tl.bfloat16 and target == tl.float32:
        return TensorHandle(widened(src), target)
    if source == tl.float32 and target == tl.bfloat16:
        narrow = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16)
        return TensorHandle(narrow.view(torch.uint16).numpy(), target)
    return own_cast(src, dst_type)


own_cast = BUILDER.cast_impl


class Watch(contextlib.ExitStack):
    """Records what kernels do inside the context.

    ``launches`` has the names of the kernels in order; ``tiles`` and ``bytes`` have, by name, the rows and columns of a
    kernel's tile, and the bytes that it loads and stores.
    """

    def __enter__(self):
        super().__enter__()
        self.launches, self.tiles, self.bytes, self.now = [], {}, Counter(), ""
        call, load, store = interpreter.GridExecutor.__call__, BUILDER.create_masked_load, BUILDER.create_masked_store

        def launch(executor, *arguments, **options):
            self.now = executor.fn.__name__
            self.launches.append(self.now)
            self.tiles[self.now] = tuple(options[name] for name in ("BM", "BN") if name in options)
            call(executor, *arguments, **options)

        def count(pointers, mask):
            # An address for which many lanes ask counts once.
            asked = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
            width = pointers.get_element_ty().primitive_bitwidth // 8
            self.bytes[self.now] += width * len(np.unique(asked))

        def masked_load(pointers, mask, *rest, **options):
            count(pointers, mask)
            return load(pointers, mask, *rest, **options)

        def masked_store(pointers, value, mask, *rest, **options):
            count(pointers, mask)
            return store(pointers, value, mask, *rest, **options)

        self.enter_context(mock.patch.object(interpreter.GridExecutor, "__call__", launch))
        self.enter_context(mock.patch.object(BUILDER, "create_masked_load", masked_load))
        self.enter_context(mock.patch.object(BUILDER, "create_masked_store", masked_store))
        return self


def as_a_gpu_rounds():
    """Make the interpreter's products and casts round as a GPU's, for the rest of the process."""
    assert inspect.signature(BUILDER.create_dot).parameters.keys() == inspect.signature(dot).parameters.keys()
    BUILDER.create_dot = dot
    for name in ("create_fp_ext", "create_fp_trunc"):
        setattr(BUILDER, name, cast)
