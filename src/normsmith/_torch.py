"""The private names of torch that normsmith uses, each in one function that says what it needs.

No other file of the package uses one. When torch takes one away, tests/test_torch_names.py fails, and only the function
here is to be written anew.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """The parameters that a module itself holds, by name; those registered as None are there as None.

    The dictionary is the module's own: what is written into it is what the module then has; of a scripted module it is
    a copy. While `torch.func.functional_call` runs, plain tensors stand in it. Needs
    `nn.Module._parameters`, which every version of torch has; `named_parameters(recurse=False)` reads the same without
    the Nones, and `register_parameter` writes.
    """
    held: Any = module._parameters
    return held if isinstance(held, dict) else dict(held.items())


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The buffers that a module itself holds, by name; those registered as None are there as None.

    The dictionary is the module's own: what is written into it is what the module then has, and whether the buffer is
    persistent stays as it was; of a scripted module it is a copy. Needs `nn.Module._buffers`, which every version of
    torch has; `named_buffers(recurse=False)` reads the same without the Nones, and `setattr` writes.
    """
    held: Any = module._buffers
    return held if isinstance(held, dict) else dict(held.items())


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules that a module itself holds, by name, in order; those registered as None are there as None.

    The dictionary is the module's own: order and names can be changed in it; of a scripted module
    it is a copy. Needs `nn.Module._modules`, which every
    version of torch has; `named_children` reads the same without the Nones and without second names of a module, and
    `register_module` writes.
    """
    held: Any = module._modules
    return held if isinstance(held, dict) else dict(held.items())
