"""What stands where a norm was: nothing but an identity, or a copy where code writes to the norm's result."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from normsmith._torch import children_of
from normsmith.anatomy.hooks import After, attached_norms
from normsmith.anatomy.kinds import is_in_place, is_producer, is_sequential


class Copied(nn.Identity):
    """Stands where a norm was whose result is overwritten in place: it returns a copy, as the norm a new tensor.

    >>> import torch
    >>> x = torch.tensor([-1.0, 2.0])
    >>> nn.Sequential(Copied(), nn.ReLU(inplace=True))(x), x
    (tensor([0., 2.]), tensor([-1.,  2.]))
    """

    def forward(self, input: Tensor) -> Tensor:
        """A copy of the input."""
        return input.clone()


def stand_in(*, copies: bool) -> nn.Module:
    """An identity in the place of a norm, which `copies` where the norm's result must be a tensor of its own.

    >>> stand_in(copies=False), stand_in(copies=True)
    (Identity(), Copied())
    """
    return Copied() if copies else nn.Identity()


def by_itself(activation: nn.Module) -> nn.Module:
    """An activation that was fused with a norm; one that overwrites its input gets a copy, as it had the norm's result.

    >>> by_itself(nn.ReLU()), len(by_itself(nn.Sequential(nn.ReLU(inplace=True))))
    (ReLU(), 2)
    """
    if not any(map(is_in_place, activation.modules())):
        return activation
    parts = dict(activation.named_children()) if is_sequential(activation) else {"act": activation}
    return nn.Sequential(OrderedDict({"norm": Copied(), **parts}))


def comes_right_after_a_producer(parent: nn.Module, name: str) -> bool:
    """Whether a child takes the new result of a linear layer or convolution, and nobody else can, whatever the code.

    So it is after one in an `nn.Sequential`, and where a hook of the layer itself applies it.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.LayerNorm(2))
    >>> [comes_right_after_a_producer(model, name) for name in ("1", "3")]
    [True, False]
    """
    if is_producer(parent):
        hooks = list(attached_norms(parent).values())
        return bool(hooks) and isinstance(hooks[0], After) and hooks[0].name == name
    names = list(children_of(parent))
    position = names.index(name)
    before = children_of(parent)[names[position - 1]] if position and is_sequential(parent) else None
    return before is not None and is_producer(before)
