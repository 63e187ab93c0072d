"""Runs code as if on a CUDA device, without a GPU: shapes, dtypes and devices, but no values.

Inside ``fake_cuda()`` tensors are FakeTensors of PyTorch: they have a shape, a dtype and a device,
but no contents; a CPU build of PyTorch is enough. Dispatch, autograd and autocast run as they
would. A test can thus check devices, dtypes, memory formats, and synchronization of the host with
the GPU, but not values, and no kernel runs.

Usage::

    def test_step() -> None:
        with fake_cuda() as gpu:
            net = AIDN(num_feat=8, num_block=2).to(gpu.device)   # real or fake, built in or before
            optimizer = torch.optim.Adam(net.parameters())
            hr = torch.rand(2, 3, 32, 32, device=gpu.device)
            with gpu.no_sync():                                   # raises HostSync
                with torch.autocast("cuda", torch.bfloat16):      # enabled, though there is no GPU
                    _, restored = net(hr, 2.5)
                (restored - hr).abs().mean().backward()
                optimizer.step()

``gpu.no_sync()`` raises `HostSync` at the line that would synchronize: ``.item()``, ``.cpu()``,
``nonzero``, ``bool(x)``, indexing by a mask, ``bincount``, ``torch.linalg.inv`` (which checks its
result), ``x.new_tensor([..])``, ``torch.tensor(.., device="cuda")``, other copies between host and
device. ``with gpu.allowed():`` permits copies by the test itself, and
``gpu.no_sync(copies_to_device=1)`` a number of copies to the device by the code under test, such as
that of the batch. ``gpu.syncs()`` collects synchronizations instead of raising; an entry has the
operator and the calling line.

A tensor on the wrong device raises RuntimeError at the operator, anywhere inside ``fake_cuda()``.
A device ``"cuda"`` without an index is taken as ``cuda:0``. What reads values (``.item()``, ``if
x``) fails outside of ``gpu.no_sync()`` too, since there are none. Build networks inside of the
context or before, move them with ``.to(gpu.device)``, and keep nothing of it for later. Gradients
come from a backward pass in Python, which calls no hooks.
"""

from __future__ import annotations

import ctypes
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import backward_in_python
import torch
from backward_in_python import backward, grad
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

# Operators whose CUDA kernels bring a result to the host, to know a size or to check a value.
_WAITING = {
    aten._local_scalar_dense,  # .item(), bool(), float(), tolist()
    aten._linalg_check_errors,
    aten.bincount,
    aten.equal,
    aten.histc,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_}
_COPYING = {aten._to_copy, aten.copy_, aten._copy_from}
_OWN_FILES = (__file__, backward_in_python.__file__)


class HostSync(AssertionError):
    """The host would synchronize with the GPU here."""


class Sync(NamedTuple):
    """A synchronization of the host with the GPU."""

    operator: str
    """Such as ``aten.nonzero.default``, or ``copy cpu -> cuda:0``."""
    where: str
    """The call in the code under test: file, line and its text."""


@dataclass
class Memory:
    """Bytes on the device, of tensors made since `FakeGPU.memory` was entered."""

    now: int = 0
    peak: int = 0

    def add(self, count: int) -> None:
        """Counts an allocation, or a release if negative."""
        self.now += count
        self.peak = max(self.peak, self.now)


class FakeGPU:
    """The context that ``fake_cuda()`` yields."""

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self._is_allowed = False

    @contextmanager
    def no_sync(self, copies_to_device: int = 0) -> Iterator[None]:
        """Raises `HostSync` where the host would wait, after so many copies to the device."""
        left = copies_to_device

        def found(sync: Sync) -> None:
            nonlocal left
            if sync.operator.startswith("copy cpu") and left:
                left -= 1
                return
            raise HostSync(f"{sync.operator}, in {sync.where}")

        with _Watch(self, found):
            yield

    @contextmanager
    def syncs(self) -> Iterator[list[Sync]]:
        """Collects what would make the host wait; operators that need a value fail all the same."""
        found: list[Sync] = []
        with _Watch(self, found.append):
            yield found

    @contextmanager
    def memory(self) -> Iterator[Memory]:
        """Counts the bytes of tensors that are made, without the workspace of any kernel."""
        memory = Memory()
        with _Count(memory):
            yield memory

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Permits copies and synchronization inside `no_sync` or `syncs`."""
        before, self._is_allowed = self._is_allowed, True
        try:
            yield
        finally:
            self._is_allowed = before


@contextmanager
def fake_cuda() -> Iterator[FakeGPU]:
    """A CUDA device without values; see the module."""
    # Real tensors that a module made when it was imported become fake ones where they are used.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        for target, replacement in (
            # autocast disables itself without a GPU
            ("torch.cuda.amp.common.amp_definitely_not_available", _false),
            ("torch.cuda.is_bf16_supported", _true),
            ("torch.autograd.backward", backward),
            ("torch.autograd.grad", grad),
        ):
            stack.enter_context(patch(target, replacement))
        stack.enter_context(patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(_device_guard())
        stack.enter_context(mode)
        stack.enter_context(_PythonInterface())
        yield FakeGPU()


class _Watch(TorchDispatchMode):
    """Reports the operators that make the host wait."""

    def __init__(self, gpu: FakeGPU, found: Callable[[Sync], None]) -> None:
        super().__init__()
        self.gpu, self.found = gpu, found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = None if self.gpu._is_allowed else _waits(func, args, kwargs)
        if name is not None:
            self.found(Sync(name, _caller()))
        return func(*args, **kwargs)


class _Count(TorchDispatchMode):
    """Counts what operators allocate, until it is released."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        self.counted: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if _is_fake(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _is_fake(leaf) and leaf.is_cuda:
                storage = leaf.untyped_storage()
                if storage not in given and storage not in self.counted:
                    self.counted.add(storage)
                    self.memory.add(storage.nbytes())
                    weakref.finalize(storage, self.memory.add, -storage.nbytes())
        return result


def _is_fake(leaf: Any) -> bool:
    return isinstance(leaf, FakeTensor)


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> str | None:
    """The synchronization that a call of an operator causes, if any."""
    packet = func.overloadpacket
    if packet in _COPYING:
        if packet is aten._to_copy:
            target, source = torch.device(kwargs.get("device") or args[0].device), args[0].device
        else:
            target, source = args[0].device, args[1].device
        goes_on = kwargs.get("non_blocking", False)
        if packet is aten.copy_ and len(args) > 2:
            goes_on = args[2]
        # Only copies to the device are asynchronous: a result on the host has to be awaited.
        if {target.type, source.type} != {"cuda", "cpu"} or (goes_on and target.type == "cuda"):
            return None
        return f"copy {source.type} -> {target.type}"
    if packet in _INDEXING:
        waits = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        # One value fills what a mask selects without knowing how much that is.
        waits = waits and (packet is aten.index or args[2].numel() > 1)
    else:
        waits = packet in _WAITING
    tensors = tree_leaves((args, kwargs)) if waits else ()
    return str(func) if any(_is_fake(tensor) and tensor.is_cuda for tensor in tensors) else None


def _caller() -> str:
    """The innermost call outside of PyTorch and of what stands in for its parts."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and frame.filename not in _OWN_FILES:
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "?"


@contextmanager
def _device_guard() -> Iterator[None]:
    """Registers a device guard for CUDA, which autograd asks for the current stream.

    A CPU build has none, and that of a CUDA build fails without a GPU. That of the CPU does
    nothing, which suits tensors without values.
    """
    # not torch.cuda.is_available(), which tests replace
    if torch.backends.cuda.is_built() and torch._C._cuda_getDeviceCount() > 0:
        yield
        return
    folder = Path(torch.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libc10.*"))))
    # std::atomic<const DeviceGuardImplInterface*> [by device type]; 0 is the CPU, 1 is CUDA
    registry = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, registry[1] = registry[1], registry[0]
    try:
        yield
    finally:
        registry[1] = before


class _PythonInterface(TorchFunctionMode):
    """Replacements in PyTorch's Python interface for FakeTensors.

    CUDA devices get their index, which a CPU build of PyTorch cannot look up; attention takes a
    fused kernel; and ``deepcopy`` does not copy the FakeTensorMode along with a tensor, which frees
    what both copies point to twice.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cuda:
            return args[0].to(FakeGPU.device)
        if func is F.scaled_dot_product_attention and args[0].is_cuda:
            return _attention(*args)
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            with torch.no_grad():
                copy = tensor.clone()
            if isinstance(tensor, nn.Parameter):
                copy = nn.Parameter(copy, tensor.requires_grad)
            return memo.setdefault(id(tensor), copy)
        kwargs = {name: _indexed(value) for name, value in (kwargs or {}).items()}
        return func(*map(_indexed, args), **kwargs)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The fused kernel that takes the most; a CPU build would form the attention matrices."""
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    if q.shape[-1] > 2**16:
        raise RuntimeError("cutlassF: no kernel found to launch!")
    attended: Tensor = aten._scaled_dot_product_efficient_attention(
        q, k, v, None, compute_log_sumexp=q.requires_grad
    )[0]
    return attended


def _indexed(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda" and value.index is None:
        return FakeGPU.device
    return FakeGPU.device if isinstance(value, str) and value == "cuda" else value


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``Module._apply`` with new parameters; the original cannot change fake ones in place."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(fn(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return module


def _true(*_: Any, **__: Any) -> bool:
    return True


def _false(*_: Any, **__: Any) -> bool:
    return False
