"""The private names of torch that normsmith uses, each in one function that says what it needs.

No other file of the package uses one. A name is there in every torch from 2.6, the oldest that is declared, to 2.15,
unless its docstring says otherwise. When torch takes one away, or changes what it means, a test of
tests/test_torch.py fails, and only the function here has to be written anew.

Two private methods of `nn.Module` cannot stand here, because layers override them: `_apply`, which `module.to(...)`,
`module.half()` and the like call, and `_load_from_state_dict`, which `module.load_state_dict(...)` calls. Tests there
say that torch still calls both. `_check_input_dim` of torch's norms is overridden as well; our forwards call it.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._library import triton as _triton
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

# Classes, for `isinstance` and to derive from. If one goes, name the public classes that it was the base of.

NormBase = _NormBase
"""The base of torch's batch norms and instance norms: their settings, γ, β and running statistics."""
NORMS_TAKE_BIAS = "bias" in inspect.signature(_NormBase.__init__).parameters
"""Whether torch's norms have an argument `bias`, and say in their repr what it is; those of torch 2.6 have none."""
TorchBatchNorm = _BatchNorm
"""The base of torch's own batch norms in all dimensions, lazy and synchronised ones too."""
LazyNormBase = _LazyNormBase
"""What makes a norm lazy: it takes the number of channels from its first input."""
TorchInstanceNorm = _InstanceNorm
"""The base of torch's instance norms in all dimensions."""
ConvTranspose = _ConvTransposeNd
"""The base of transposed convolutions in all dimensions."""
Dropout = _DropoutNd
"""The base of everything that drops out, elements or channels."""
DispatchMode = TorchDispatchMode
"""A block in which every kernel that torch calls goes through `__torch_dispatch__`; it has no public module."""


# What a module holds.


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """The parameters that a module itself holds, by name; those registered as None are there as None.

    The dictionary is the module's own: what is written into it is what the module then has; of a scripted module it is
    a copy. While `torch.func.functional_call` runs, plain tensors stand in it. Needs `nn.Module._parameters`;
    `named_parameters(recurse=False)` reads the same without the Nones, and `register_parameter` writes.
    """
    held: Any = module._parameters
    return held if isinstance(held, dict) else dict(held.items())


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that a module itself holds, by name; those registered as None are there as None.

    The dictionary is the module's own: what is written into it is what the module then has, and whether the buffer is
    persistent stays as it was; of a scripted module it is a copy. Needs `nn.Module._buffers`;
    `named_buffers(recurse=False)` reads the same without the Nones, and `setattr` writes.
    """
    held: Any = module._buffers
    return held if isinstance(held, dict) else dict(held.items())


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules that a module itself holds, by name, in order; those registered as None are there as None.

    The dictionary is the module's own: order and names can be changed in it; of a scripted module it is a copy. Needs
    `nn.Module._modules`; `named_children` reads the same without the Nones and without second names of a module, and
    `register_module` writes.
    """
    held: Any = module._modules
    return held if isinstance(held, dict) else dict(held.items())


def children_so_far(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """As `children_of`, without asking the module's class, and none where `nn.Module.__init__` has not run yet.

    Needs `_modules` in the module's `__dict__`, where `nn.Module.__setattr__` puts it.
    """
    held: Any = module.__dict__.get("_modules", {})
    return held if isinstance(held, dict) else dict(held.items())  # a scripted module's is no mapping


# Hooks of a module: handles that users hold point into these dictionaries, by their keys.

_HOOK_ATTRIBUTES = tuple(name for name in vars(nn.Module()) if "hook" in name)


def forward_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls after its forward, by handle, in order; its own dictionary.

    Needs `nn.Module._forward_hooks`. Without it a norm cannot be attached to a module that can be copied and pickled
    by hooks that are found again; `register_forward_hook` only adds.
    """
    return module._forward_hooks


def forward_pre_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls before its forward, by handle, in order; its own dictionary.

    Needs `nn.Module._forward_pre_hooks`; `register_forward_pre_hook` only adds.
    """
    return module._forward_pre_hooks


def keyword_pre_hooks_of(module: nn.Module) -> dict[int, bool]:
    """Which of the hooks before a module's forward take its keyword arguments too, by handle; its own dictionary.

    Needs `nn.Module._forward_pre_hooks_with_kwargs`, of torch 2.0.
    """
    return module._forward_pre_hooks_with_kwargs


def backward_hooks_of(module: nn.Module) -> dict[int, Callable[..., Any]]:
    """The hooks that a module calls before and after its backward, by handle.

    Needs `nn.Module._backward_pre_hooks`, of torch 2.0, and `_backward_hooks`. If they go, a fold cannot tell that
    somebody listens to the gradients between a norm and its neighbour; say so in its documentation.
    """
    return {**module._backward_pre_hooks, **module._backward_hooks}


def hand_over_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give all hooks of a module to its successor, so that handles held by users remove them there.

    Hooks that torch bound to the module itself are bound to the successor. Needs that attributes of a new
    `nn.Module` with "hook" in their names are its hooks, the wrapper in which load hooks stand (`with_module`,
    `module`, `hook`), and the handles that lazy modules keep of their own hooks.
    """
    for name in _HOOK_ATTRIBUTES:
        if name in vars(old):
            vars(new)[name] = vars(old)[name]
        if isinstance(hooks := vars(new).get(name), dict):
            _rebind(hooks, old, new)
    for name in ("_initialize_hook", "_load_hook"):  # of lazy modules: handles into the hooks above
        if name in vars(old):
            vars(new)[name] = vars(old)[name]


def _rebind(hooks: dict[int, Any], old: nn.Module, new: nn.Module) -> None:
    for key, hook in hooks.items():
        inner = getattr(hook, "hook", None)
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
        elif inner is not None and _is_method_of(inner, old):
            hook.hook = getattr(new, inner.__name__)
        elif _is_method_of(hook, old) and hasattr(new, hook.__name__):
            hooks[key] = getattr(new, hook.__name__)


def _is_method_of(hook: Any, module: nn.Module) -> bool:
    return isinstance(hook, types.MethodType) and hook.__self__ is module


# Modules that were compiled.

COMPILED_PREFIX = "_orig_mod."
"""What `torch.compile(model)` puts before every name in the model's state dict, since torch 2.0."""


def compiled_module(module: nn.Module) -> nn.Module | None:
    """The module that `torch.compile` wrapped in this one; None where it is no such wrapper.

    Needs the child `_orig_mod` of `OptimizedModule`, of torch 2.0. Names in state dicts that were saved from compiled
    models contain it, so torch will hardly take it away.
    """
    return children_of(module).get("_orig_mod")


def is_compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called, which compiles a module without a wrapper.

    Needs `nn.Module._compiled_call_impl`. If it goes, a replaced layer that was compiled by itself is not refused.
    """
    return vars(module).get("_compiled_call_impl") is not None


def is_compiler_loaded() -> bool:
    """Whether torch's compiler was imported in this process; to import it takes seconds.

    Needs the module name `torch._dynamo`. If it changes, compiled models are run compiled where eager is meant.
    """
    return "torch._dynamo" in sys.modules


def mark_constant(function: Callable[..., Any]) -> None:
    """Have the compiler call a function while it traces, and take the result as a constant.

    Needs the attribute that `torch.compiler.assume_constant_result` sets, `_dynamo_marked_constant`; to call that
    decorator at import would import the compiler. If it goes, call the decorator at the first compiled forward.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]


# What runs around an operation. The first two are torch's own functions without a wrapper: every forward calls them.
has_function_transforms: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of `torch.func`, such as vmap or grad, is at work. Without it, ask whether inputs are wrapped."""

number_of_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many dispatch modes see every kernel now. Without it, kernels of ours would not be seen by fake tensor modes."""


def is_transformed() -> bool:
    """Whether a transform of `torch.func`, or forward-mode autograd, is at work.

    Needs `torch._C._are_functorch_transforms_active` and the level in `torch.autograd.forward_ad`, which is −1 outside
    of every `dual_level`. Without it, ask the inputs for tangents.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def is_exporting() -> bool:
    """Whether `torch.export` is recording; torch 2.6 does not say so, and exports what it would compile.

    Needs `torch.compiler.is_exporting`, of torch 2.7.
    """
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def is_traced_or_transformed() -> bool:
    """Whether `torch.jit.trace` is recording, or `is_transformed`. Needs `torch._C._get_tracing_state` beside that."""
    transformed = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    return transformed or torch._C._get_tracing_state() is not None


def for_captured(buffer: Tensor, value: Tensor) -> Tensor:
    """What to write into a buffer that `torch.func.functionalize` was not given. Needs `_is_functional_tensor`."""
    compiling = torch.compiler.is_compiling()  # which rewrites what is written by itself
    if compiling or not torch._is_functional_tensor(value) or torch._is_functional_tensor(buffer):
        return value
    torch._sync(value)  # type: ignore[attr-defined, no-untyped-call]
    return torch._from_functional_tensor(value)


def is_batched_gradient(tensor: Tensor) -> bool:
    """Whether a gradient stands for many at once, as with `torch.autograd.grad(..., is_grads_batched=True)`.

    Needs `torch._C._functorch.is_legacy_batchedtensor`. Without it, our kernels raise errors for batched gradients.
    """
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))


def without_torch_functions() -> AbstractContextManager[Any]:
    """A block without `__torch_function__`, of modes and of subclasses. Needs `torch._C.DisableTorchFunction`."""
    return torch._C.DisableTorchFunction()


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place; tensors that share memory share the number.

    Needs `Tensor._version`, which torch's own documentation of autograd names. Without it, what writes into its
    arguments cannot be told from what does not while a forward is recorded.
    """
    return tensor._version


# Backward passes and activation checkpointing.

backward_number: Callable[[], int] = torch._C._current_graph_task_id
"""The number of the backward that calls this code; −1 where none does.

Needs `torch._C._current_graph_task_id`. Without it, a recomputed forward would move running statistics twice.
"""

_top_hooks: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def checkpointed_segment() -> Any:
    """The object that stands for the checkpointed segment which runs its first forward now, or None.

    `torch.utils.checkpoint` makes one for each segment and keeps it for the recomputation, but does not hand it out.
    Without reentry it is the variable `frame` in the closure of the hook that packs saved tensors, whose name begins
    with `_checkpoint_hook.`; with reentry it is `ctx` of `CheckpointFunction.forward`, which runs without gradients.
    Needs these variables, and `torch._C._autograd._top_saved_tensors_default_hooks`; in torch 2.6, which has no such
    function, the variable is looked for on Python's stack. Without both, checkpointed layers use the present statistics
    when they are recomputed: correct for batch norm, not for batch renormalization.
    """
    if _top_hooks is None:
        generator = _variable_of_checkpoint({"checkpoint": "gen"})
        if generator is not None:
            return generator.gi_frame.f_locals["new_frame"]
    elif (hooks := _top_hooks(False)) is not None:
        pack = hooks[0]
        if getattr(pack, "__qualname__", "").startswith("_checkpoint_hook."):
            return dict(zip(pack.__code__.co_freevars, pack.__closure__, strict=True))["frame"].cell_contents
        return None
    return None if torch.is_grad_enabled() else _variable_of_checkpoint({"forward": "ctx"})


def recomputed_segment() -> Any:
    """The object that stands for the checkpointed segment which is recomputed now, or None.

    It is the one that `checkpointed_segment` gave during the first forward. Needs, on Python's stack, the variable
    `frame` of the function `unpack_hook` in `torch.utils.checkpoint`, or `ctx` of `CheckpointFunction.backward`.
    """
    return _variable_of_checkpoint({"unpack_hook": "frame", "backward": "ctx"})


def _variable_of_checkpoint(variables: dict[str, str]) -> Any:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        variable = variables.get(frame.f_code.co_name)
        if variable is not None and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return frame.f_locals.get(variable)
        frame = frame.f_back
    return None


# Nested structures of tensors: `torch.utils._pytree`, of which torch has no public Python counterpart in 2.6.


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with the function's value for each leaf. Needs `torch.utils._pytree.tree_map`."""
    return _pytree.tree_map(function, tree)


def leaves_of(tree: Any) -> list[Any]:
    """What nested tuples, lists and dictionaries hold, in order. Needs `torch.utils._pytree.tree_leaves`."""
    return _pytree.tree_leaves(tree)


def leaves_and_layout(tree: Any) -> tuple[list[Any], Any]:
    """The leaves, and what `with_layout` needs to put others in their places. Needs `_pytree.tree_flatten`."""
    return _pytree.tree_flatten(tree)


def with_layout(leaves: list[Any], layout: Any) -> Any:
    """Leaves in a structure that `leaves_and_layout` gave. Needs `torch.utils._pytree.tree_unflatten`."""
    return _pytree.tree_unflatten(leaves, layout)


# Several processes.


def timeout_of(group: torch.distributed.ProcessGroup) -> timedelta:
    """How long an exchange of a process group on the CPU waits for other ranks.

    Needs `ProcessGroup._get_backend` and `options._timeout` of the backend. Without them, take the default of
    `torch.distributed` or let users pass a timeout.
    """
    return group._get_backend(torch.device("cpu")).options._timeout


def differentiable_sum(tensor: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
    """The sum of a tensor over all ranks of a group, as an operation that autograd and the compiler know.

    Needs `torch.distributed._functional_collectives`, which is imported here alone, because it imports much. Where its
    sum has no gradient, as in torch 2.6, `torch.distributed.nn.functional` has one that does not compile.
    """
    if torch.is_grad_enabled() and tensor.requires_grad and not _has_gradient_of_sums():
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(tensor, group=group)  # type: ignore[no-untyped-call, no-any-return]
    from torch.distributed import _functional_collectives as functional

    total: Tensor = functional.all_reduce(tensor, "sum", group)
    return functional.wait_tensor(total)  # type: ignore[no-untyped-call, no-any-return]


def _has_gradient_of_sums() -> bool:
    from torch.distributed import _functional_collectives  # noqa: F401  registers the gradients

    return torch._C._dispatch_has_kernel_for_dispatch_key("_c10d_functional::all_reduce", "Autograd")


mark_constant(_has_gradient_of_sums)


# Kernels in compiled graphs.


def is_functional(tensor: Tensor) -> bool:
    """Whether a tensor stands for one while the compiler rewrites a graph without mutations.

    Needs `torch._subclasses.functional_tensor.FunctionalTensor`, of torch 2.1."""
    return isinstance(tensor, FunctionalTensor)


def name_triton_kernels(operator: str, kernels: list[Any]) -> None:
    """Tell torch which Triton kernels an operator launches, so that its cache of graphs knows their sources.

    Needs `torch._library.triton.triton_ops_to_kernels`, which torch 2.6 does not have: it keeps no such list.
    """
    getattr(_triton, "triton_ops_to_kernels", {})[operator] = kernels
