"""CPU tensors that are labelled cuda:0, so that code for a GPU runs, and is watched, on a machine without one.

    with LabelledDevice() as device:
        model = CLIPAdapter(text, device="cuda").fit(X, y)
    assert device.reads == 0

Tensors are real and on the CPU; which of them stand for tensors on the GPU is written down by their memory. Inside the
context

- ``torch.cuda`` says that one device is there, and a tensor that is made or moved there is labelled, a copy of its own;
- an operation on labelled and unlabelled tensors is refused, as CUDA refuses it (numbers of no dimensions are let pass,
  and copies);
- NumPy cannot have a labelled tensor;
- ``reads`` counts what makes the host wait for a device: reading a number, copying to the host, and operations whose
  result has a size that only the device knows. ``read_at`` says where, as "file:line" of the project's code;
- ``uploads`` counts copies to the device, which wait too where the memory is not pinned;
- streams and events are there, and a CUDA graph that replays what it captured: while it captures nothing is computed
  and whatever CUDA refuses then is refused; a replay does the same operations on the same memory, and no Python runs.
  ``graphs`` has all that were captured.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

LABEL = torch.device("cuda:0")
CPU = torch.device("cpu")
aten = torch.ops.aten
# Their results' sizes are known to the device alone, so that the host waits.
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten._unique2.default,
    aten.unique_dim.default, aten.bincount.default, aten.equal.default,
}  # fmt: skip
COPIES = {aten.copy_.default, aten._to_copy.default}
MAKING_NUMPY = {"numpy", "__array__"}


def made_again(func, args, kwargs):
    """Return the new tensors of an operation, in order."""
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    before = {value.untyped_storage()._cdata for value in given if value.layout == torch.strided}
    out = [value for value in tree_leaves(func(*args, **kwargs)) if isinstance(value, torch.Tensor)]
    return [value for value in out if value.untyped_storage()._cdata not in before]


def written(func, args, kwargs):
    """Return what an operation that writes to its arguments would return: these."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    writes = [
        argument.name
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    written_values = [given[name] for name in writes if name in given]
    returns = len(func._schema.returns)
    if returns != len(written_values) and returns:
        raise NotImplementedError(f"{func} while a graph is captured")
    return None if not returns else written_values[0] if returns == 1 else tuple(written_values)


class Stream:
    """A queue of the device, here without one: every operation is done when it returns."""

    def __init__(self, device=LABEL):
        self.device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)

    def wait_stream(self, other):
        """Let this one go on when the other is done, as it is."""

    def synchronize(self):
        """Wait for nothing."""


class Event:
    """A mark in a queue."""

    def __init__(self):
        self.recorded = 0

    def record(self, stream=None):
        """Put it behind what is done."""
        self.recorded += 1

    def synchronize(self):
        """Wait for nothing."""


class Graph:
    """Captures the operations on labelled tensors, and does them again on the same memory."""

    device: LabelledDevice  # of a class made for each

    def __init__(self):
        self.operations, self.stream, self.replays = [], None, 0

    def capture_begin(self, pool=None, capture_error_mode="global"):
        """Begin; CUDA cannot on the default stream."""
        self.device.refuse_while_capturing("another capture")
        if self.device.stream is self.device.default_stream:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.device.capturing, self.stream = self.operations, self.device.stream
        self.device.graphs.append(self)

    def capture_end(self):
        """End."""
        self.device.capturing = None

    def replay(self):
        """Do again what was captured."""
        self.replays += 1
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            for operation in self.operations:
                operation()


class LabelledDevice(TorchFunctionMode):
    """See the module's docstring; arguments are what the card says of itself."""

    def __init__(self, shared_memory: int = 227 * 1024, multiprocessors: int = 132, memory: int = 80 * 2**30) -> None:
        super().__init__()
        # By address of the memory; the weak reference keeps the address from being given to another.
        self.labelled: dict[int, StorageWeakRef] = {}
        self.read_at: Counter[str] = Counter()
        self.operations = self.uploads = 0
        self.pinned: dict[int, StorageWeakRef] = {}
        self.making = False  # a tensor on the device, by an operation that is given none
        self.capturing: list | None = None
        self.graphs: list[Graph] = []
        self.registered: list[tuple[int, int]] = []  # address and bytes of arrays that CUDA was told of
        self.stream = self.default_stream = Stream(LABEL)
        self.properties = SimpleNamespace(
            name="labelled CPU", major=9, minor=0, total_memory=memory, multi_processor_count=multiprocessors,
            shared_memory_per_block_optin=shared_memory, shared_memory_per_block=48 * 1024,
        )  # fmt: skip
        self.stack = ExitStack()

    @property
    def reads(self) -> int:
        """How often the host waited."""
        return sum(self.read_at.values())

    # ------------------------------------------------------------------ labels

    def is_labelled(self, tensor: torch.Tensor) -> bool:
        """Return whether a tensor stands for one on the device."""
        with torch._C.DisableTorchFunction():
            return tensor.layout == torch.strided and tensor.untyped_storage()._cdata in self.labelled

    def label(self, tree, on_device: bool):
        """Label every tensor of a tree, or take its label away."""
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                with torch._C.DisableTorchFunction():
                    storage = tensor.untyped_storage()
                    if on_device:
                        self.labelled[storage._cdata] = StorageWeakRef(storage)
                    else:
                        self.labelled.pop(storage._cdata, None)
        return tree

    def pin(self, tensor):
        """Let copies from and to a tensor on the host be those of pinned memory."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            self.pinned[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def refuse_while_capturing(self, what: str) -> None:
        """Do as CUDA does."""
        if self.capturing is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")

    def wait(self) -> None:
        """Count that the host waits here."""
        self.refuse_while_capturing("the host would wait")
        for frame in reversed(traceback.extract_stack()):
            if "labelled_device" not in frame.filename and "/torch/" not in frame.filename:
                name = "/".join(frame.filename.split("/")[-2:])
                self.read_at[f"{name}:{frame.lineno}"] += 1
                return

    # ------------------------------------------------------------------ functions: devices that are named

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        first = args[0] if args else None
        tensor = isinstance(first, torch.Tensor)
        if name == "__get__" and tensor:
            own = self.is_labelled(first)
            attribute = getattr(owner, "__name__", "")
            if attribute in ("device", "is_cuda", "is_cpu"):
                return {"device": LABEL if own else CPU, "is_cuda": own, "is_cpu": not own}[attribute]
            return func(*args, **kwargs)
        if tensor and self.is_labelled(first):
            if name in MAKING_NUMPY:
                raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it to the host first")
            if name == "tolist":
                self.wait()
        if tensor and name in ("to", "cpu", "cuda"):
            return self.move(first, name, args[1:], kwargs)
        device = kwargs.get("device")
        if kwargs.pop("pin_memory", False):
            return self.pin(func(*args, **kwargs))
        if device is not None and name not in ("device", "_parse_to") and torch.device(device).type != "meta":
            on_device = torch.device(device).type == "cuda"
            kwargs["device"] = CPU
            if name in ("as_tensor", "asarray", "tensor"):
                made = func(*args, **kwargs)
                if self.is_labelled(made) != on_device:
                    made = self.moved(made, on_device)
                return made
            self.making = on_device
            try:
                return self.label(func(*args, **kwargs), on_device)
            finally:
                self.making = False
        return func(*args, **kwargs)

    def move(self, tensor, name, args, kwargs):
        """Do ``to``, ``cpu`` and ``cuda``: a copy where the label changes."""
        own = self.is_labelled(tensor)
        on_device, left = {"cpu": False, "cuda": True}.get(name, own), []
        for value in args:
            if isinstance(value, torch.Tensor):
                on_device = self.is_labelled(value)
                left.append(value.dtype)
            elif isinstance(value, (str, torch.device)):
                on_device = torch.device(value).type == "cuda"
            else:
                left.append(value)
        if (device := kwargs.pop("device", None)) is not None:
            on_device = torch.device(device).type == "cuda"
        kwargs.pop("non_blocking", None)
        changed = tensor.to(*[v for v in left if isinstance(v, torch.dtype)], **kwargs) if name == "to" else tensor
        return changed if on_device == own else self.moved(changed, on_device)

    def moved(self, tensor, on_device: bool):
        """Return a copy on the other side."""
        if on_device:
            self.refuse_while_capturing("a copy from the host")
            self.uploads += 1
        else:
            self.wait()
        with torch._C.DisableTorchFunction():
            copy = tensor.clone()
        return self.label(copy, on_device)

    # ------------------------------------------------------------------ operations: mixtures and waits

    def operation(self, func, args, kwargs):
        """Run one operation: refuse a mixture, count a wait, label what comes out."""
        self.operations += 1
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        sides = {self.is_labelled(value) for value in given if value.ndim or self.is_labelled(value)}
        if len(sides) > 1 and func not in COPIES:
            # CUDA takes indices from the host too; that is a copy that waits, and a mistake in a fit.
            places = [(self.is_labelled(v), tuple(v.shape)) for v in given]
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} of (on cuda:0, shape) {places}")
        on_device = True in sides or (self.making and not given)
        if func is aten.copy_.default:
            on_device = self.is_labelled(given[0])
            if len(sides) > 1:
                self._copy_between(given, kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
        elif on_device and (func in WAITS or self._by_mask(func, args)):
            self.wait()
        before = {value.untyped_storage()._cdata for value in given if value.layout == torch.strided}
        capture = self.capturing is not None and on_device
        if capture and func._schema.is_mutable:  # nothing is computed yet
            self.capturing.append(lambda: func(*args, **kwargs))
            return written(func, args, kwargs)
        out = func(*args, **kwargs)
        fresh = [
            value
            for value in tree_leaves(out)
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in before
        ]
        self.label(fresh, on_device)
        if capture and fresh:
            self.capturing.append(
                lambda: [a.copy_(b) for a, b in zip(fresh, made_again(func, args, kwargs), strict=True)]
            )
            for value in fresh:
                if value.is_floating_point():
                    value.fill_(float("nan"))  # whoever reads it before a replay
        if func is aten.lift_fresh.default:
            self.label(out, False)
        return out

    def _copy_between(self, given, non_blocking) -> None:
        """Count a copy between host and device."""
        host = given[0] if self.is_labelled(given[-1]) else given[-1]
        with torch._C.DisableTorchFunction():
            pinned = host.untyped_storage()._cdata in self.pinned
        if host is given[0]:
            if not (non_blocking and pinned):
                self.wait()
        elif not pinned:
            self.refuse_while_capturing("a copy from memory that is not pinned")

    @staticmethod
    def _by_mask(func, args) -> bool:
        """Return whether an index is a mask, whose count the host has to know."""
        if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            return False
        return any(value is not None and value.dtype == torch.bool for value in args[1])

    # ------------------------------------------------------------------ the context

    def __enter__(self):
        watcher = self

        class Operations(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                return watcher.operation(func, args, kwargs or {})

        cuda = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_properties": lambda device=None: self.properties,
            "get_device_name": lambda device=None: self.properties.name,
            "get_device_capability": lambda device=None: (9, 0),
            "mem_get_info": lambda device=None: (self.properties.total_memory, self.properties.total_memory),
            "synchronize": lambda device=None: self.refuse_while_capturing("synchronize"),
            "device": lambda device=None: contextlib.nullcontext(),
            "is_current_stream_capturing": lambda: self.capturing is not None,
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": type("CUDAGraph", (Graph,), {"device": self}),
            "current_stream": lambda device=None: self.stream,
            "stream": self.on_stream,
            "cudart": lambda: SimpleNamespace(cudaHostRegister=self.register, cudaHostUnregister=lambda place: 0),
        }
        from cafe import compute
        from cafe.kernels import choose
        from cafe.training import recordings

        for name, value in cuda.items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, value))
        if hasattr(torch, "accelerator"):
            for name, value in {"current_device_index": lambda: 0, "is_available": lambda: False}.items():
                self.stack.enter_context(mock.patch.object(torch.accelerator, name, value))
        # No kernel of a GPU runs on a CPU; the rest is what a GPU would do.
        self.stack.enter_context(mock.patch.object(choose, "has_triton", lambda: choose.interpreting()))
        # Batches are drawn in a thread of their own, which does not see this context.
        pin = lambda tensor, device=None: self.pin(tensor)  # noqa: E731
        self.stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", pin))
        self.stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None))
        for forget in (compute.capture_stream.cache_clear, recordings.kept_recordings.clear):
            forget()
            self.stack.callback(forget)
        if choose.interpreting():
            self._let_kernels_pass()
        self.stack.enter_context(Operations())
        return super().__enter__()

    @contextlib.contextmanager
    def on_stream(self, stream):
        """Be on a stream; nothing here runs beside anything else."""
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def register(self, place, size, flags):
        """Register an array's memory, which copies then take as pinned: 0 for no error."""
        self.registered.append((place, size))
        return 0

    def _let_kernels_pass(self) -> None:
        """Run Triton's interpreter on the tensors' memory, as a GPU does, past all labels."""
        from triton.runtime.interpreter import GridExecutor

        launch = GridExecutor.__call__

        def launched(executor, *arguments, **options):
            def run():
                with torch._C.DisableTorchFunction(), _disable_current_modes():
                    return launch(executor, *arguments, **options)

            return run() if self.capturing is None else self.capturing.append(run)

        self.stack.enter_context(mock.patch.object(GridExecutor, "__call__", launched))

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()
        self.labelled.clear()
        self.pinned.clear()
