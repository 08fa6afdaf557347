"""All that must be as before after something was only looked at, in a form that compares."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


def state_of(model: nn.Module) -> dict[str, Any]:
    """Tensors by identity and bits, modes, hooks, attributes, gradients, and the random state."""
    found: dict[str, Any] = {"random": torch.get_rng_state().tolist()}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path}:module"] = (id(module), type(module), module.training)
        for name, value in vars(module).items():
            found[f"{path}:{name}"] = _shown(value)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found[f"{path}.{name}"] = (
                    id(tensor),
                    tensor.requires_grad,
                    tensor.dtype,
                    tensor.device,
                    id(tensor.grad),
                )
                found[f"{path}.{name}:bits"] = bits(tensor)
    return found


def bits(tensor: torch.Tensor) -> bytes | None:
    if is_lazy(tensor) or tensor.is_meta:
        return None
    return (
        tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
        if tensor.dim()
        else repr(tensor).encode()
    )


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, id(inner)) for key, inner in value.items()]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)
