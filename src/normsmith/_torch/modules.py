"""What a module holds: its own dictionaries of parameters, buffers and children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PARAMETERS = "_parameters"
"""Where `vars(module)` has the dictionary of `parameters_of`, for code that every forward runs."""
BUFFERS = "_buffers"
"""Where `vars(module)` has the dictionary of `buffers_of`."""


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


def convert_tensors(module: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
    """Do to a module what `model.to(...)` does to each. Needs `nn.Module._apply`, which layers override."""
    converted: nn.Module = module._apply(*arguments, **options)  # type: ignore[no-untyped-call]
    return converted


def load_own_state(module: nn.Module, *arguments: Any, **options: Any) -> None:
    """Do to a module what `model.load_state_dict(...)` does to each. Needs `nn.Module._load_from_state_dict`."""
    module._load_from_state_dict(*arguments, **options)
