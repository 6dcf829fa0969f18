"""A pretended CUDA device: code for a GPU runs on a machine without one, and is checked as it runs.

Tensors on 'cuda' are `FakeTensor`s: they have a shape, a dtype and a device, but no values. Tensors on the CPU are
real, so files, tokenizers, batches and checkpoints work as always. An operation on a fake tensor goes through PyTorch's
own shape functions and its autocast rules for CUDA. An operand on another device raises an error.

A copy from the GPU, or a value that Python reads, makes the CPU wait for the GPU. `PretendedGpu` counts these
synchronisations, and copies to the GPU from memory that is not pinned. Within `strict()` each of them is an error.

PyTorch's autograd engine needs a CUDA driver for tensors on 'cuda', even if they have no values. So `backward` is a
short engine in Python here. It calls the same nodes of the graph, with the same formulas.
"""

import functools
import itertools
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Sequence
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
_COPIES = (aten._to_copy.default, aten.copy_.default)
_READS = {
    aten._local_scalar_dense.default: "item, int, float or bool of a tensor",
    aten.nonzero.default: "nonzero",
    aten.equal.default: "equal",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.masked_select.default: "masked_select",
}


class GpuFault(AssertionError):
    "A tensor of another device, a synchronisation, or a copy from memory that is not pinned, where none may be."


class PretendedGpu(TorchDispatchMode):
    "`with PretendedGpu() as gpu:` runs operations on 'cuda' without values, and checks them."

    fake = FakeTensorMode(allow_non_fake_inputs=True)  # one for all, so that a model serves several tests

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and importing the compiler takes seconds

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()  # what was counted, in or outside `strict`
        self.is_strict = False
        self.free_memory = 0  # of the GPU, in bytes
        self.pinned: dict[int, Tensor] = {}  # address → tensor, kept so that the address is not reused
        self._stack = ExitStack()

    def __enter__(self) -> "PretendedGpu":
        torch._C._ensureCUDADeviceGuardSet()
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device='cuda') is a copy from the CPU
        self._stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        for target, name, new in (
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "set_device", lambda device: None),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (torch.cuda, "is_bf16_supported", lambda *_: True),
            (torch.cuda, "mem_get_info", lambda device=None: (self.free_memory, 2**40)),
            (torch.cuda, "_lazy_init", lambda: None),
            (FakeTensorMode, "avoid_device_init", True),
            (Tensor, "pin_memory", lambda tensor, device=None: self._pin(tensor)),
            (Tensor, "is_pinned", lambda tensor, device=None: self._is_pinned(tensor)),
            (FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist()),
            (Tensor, "backward", backward),
            (nn.Module, "_apply", _apply),
            (optimizer, "_foreach_supported_types", [*optimizer._foreach_supported_types, FakeTensor]),
        ):
            self._stack.enter_context(patch.object(target, name, new))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    @contextmanager
    def strict(self, on: bool = True) -> Iterator[None]:
        "Raise a `GpuFault` for what otherwise is only counted; `strict(False)` inside allows it again."
        before = self.is_strict
        self.is_strict = on
        try:
            yield
        finally:
            self.is_strict = before

    def allowed(self, function: Callable) -> Callable:
        "The function, with `strict` off while it runs: for losses, logs and saved states."

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self.strict(False):
                return function(*args, **kwargs)

        return run

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if self.is_strict:
            raise GpuFault(what)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        on_gpu = any(isinstance(t, FakeTensor) for t in tensors)
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type == "cuda"
        if not on_gpu and not to_gpu:
            return func(*args, **kwargs)
        if func in _COPIES:
            return self._copy(func, args, kwargs)
        if func in _READS:
            self._count(f"synchronisation: {_READS[func]}")
            return self._value(func, args, kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            return self._decomposed(func, args, kwargs)  # as in inference mode
        for t in tensors:
            if not isinstance(t, FakeTensor) and t.dim() > 0:
                if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
                    self._count("copy from unpinned memory: index on the CPU")
                else:
                    raise GpuFault(f"{func}: a tensor on {t.device} among tensors on cuda")
        if func in (aten.index.Tensor, aten.index_put_.default):
            args = self._without_masks(args)
        return self.fake.dispatch(func, types, args, kwargs)

    def _decomposed(self, func: Any, args: Sequence, kwargs: dict) -> Any:
        "The operations that an operation consists of, checked one by one."
        super().__enter__()
        try:
            return func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _copy(self, func: Any, args: Sequence, kwargs: dict) -> Any:
        source = args[1] if func is aten.copy_.default else args[0]
        if func is aten.copy_.default:
            target = args[0].device
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            target = torch.device(kwargs.get("device") or source.device)
            waits = not kwargs.get("non_blocking", False)
        if isinstance(source, FakeTensor) and target.type == "cpu":
            self._count("synchronisation: copy to the CPU")
            empty = torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
            return args[0].copy_(empty) if func is aten.copy_.default else empty
        if not isinstance(source, FakeTensor):
            self._check_source(source, waits)
            args = tree_map_only(Tensor, self._as_fake, args)
        return self.fake.dispatch(func, (), args, kwargs)

    def _as_fake(self, tensor: Tensor) -> FakeTensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def _check_source(self, source: Tensor, waits: bool) -> None:
        "Count a copy to the GPU that waits, or that cannot be asynchronous."
        if not self._is_pinned(source):
            self._count(f"copy from unpinned memory: {tuple(source.shape)} of {source.dtype}")
        elif waits:
            self._count(f"synchronisation: copy of {tuple(source.shape)} to the GPU without non_blocking")

    def _value(self, func: Any, args: Sequence, kwargs: dict) -> Any:
        "A value that the GPU would have computed: True, zero, or no rows."
        x = args[0]
        if func is aten._local_scalar_dense.default:
            return torch.ones((), dtype=x.dtype).item() if x.dtype == torch.bool else 0
        if func is aten.equal.default:
            return True
        if func is aten.nonzero.default:
            with self.fake:
                return torch.empty((0, x.dim()), dtype=torch.long, device=GPU)
        raise NotImplementedError(func)

    def _without_masks(self, args: Sequence) -> list:
        "The arguments of an index with row numbers for masks: how many rows a mask takes is read by the CPU."
        indices = []
        for index in args[1]:
            if index is not None and index.dtype == torch.bool:
                self._count("synchronisation: index with a mask")
                assert index.dim() == 1, "only masks of rows are supported"
                with self.fake:
                    index = torch.arange(len(index), device=index.device)
            indices.append(index)
        return [args[0], indices, *args[2:]]

    def _pin(self, tensor: Tensor) -> Tensor:
        assert not isinstance(tensor, FakeTensor), "only memory of the CPU can be pinned"
        if self._is_pinned(tensor):
            return tensor
        copy = tensor.clone()
        self.pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, FakeTensor) and tensor.untyped_storage().data_ptr() in self.pinned


def _apply(module: nn.Module, function: Callable, recurse: bool = True) -> nn.Module:
    "`nn.Module._apply`, which `to` calls; PyTorch's own swaps tensors in place, which fails for a fake tensor."
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, weight in module._parameters.items():
        if weight is not None:
            with torch.no_grad():
                moved = function(weight)
            if moved is not weight:
                module._parameters[name] = nn.Parameter(moved, weight.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


def backward(loss: Tensor) -> None:
    "The gradients of a scalar: each node once, after all nodes that it gets gradients from."
    root = loss.grad_fn
    uses: Counter[Any] = Counter()
    seen = {root}
    waiting = [root]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None:
                uses[node] += 1
                if node not in seen:
                    seen.add(node)
                    waiting.append(node)
    # as in the engine: within one backward pass, checkpointing computes each part again only once
    with patch.object(torch._C, "_current_graph_task_id", functools.partial(int, next(_passes))):
        _visit(root, loss, uses)


_passes = itertools.count(2**20)


def _visit(root: Any, loss: Tensor, uses: Counter[Any]) -> None:
    "Run every node once all its gradients are there."
    gradients: dict[Any, dict[int, Tensor]] = {root: {loss.output_nr: torch.ones_like(loss)}}
    ready = [root]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        results = _run(node, given) if given else ()
        for i, (following, number) in enumerate(node.next_functions):
            if following is None:
                continue
            if i < len(results) and results[i] is not None:
                slots = gradients.setdefault(following, {})
                grad = _fitted(results[i], following._input_metadata[number])
                slots[number] = grad if number not in slots else slots[number] + grad
            uses[following] -= 1
            if uses[following] == 0:
                ready.append(following)


@torch.no_grad()
def _fitted(grad: Tensor, expected: Any) -> Tensor:
    "The gradient in the shape and dtype of the tensor that it belongs to, as the engine does it."
    if grad.device != expected.device:
        raise GpuFault(f"a gradient on {grad.device} of a tensor on {expected.device}")
    return grad.sum_to_size(expected.shape).to(expected.dtype)


@torch.no_grad()
def _run(node: Any, given: dict[int, Tensor]) -> tuple:
    "The gradients of a node's inputs."
    if hasattr(node, "variable"):
        weight = node.variable
        weight.grad = given[0].detach() if weight.grad is None else weight.grad + given[0]
        return ()
    slots = len(node._input_metadata)
    run = node if callable(node) else node.apply  # a node of PyTorch, or of a Function in Python
    results = run(*(given.get(i) for i in range(slots)))
    return results if isinstance(results, tuple) else (results,)
