"""Modules that read attributes of layers which they hold, each in another way."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def by_hand(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Batch norm in evaluation, by a function."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


class Reader(nn.Module):
    """Between two layers with a norm that is called; subclasses read it too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        nn.init.constant_(self.bn.weight, 0.5)  # reads it, but not in the forward

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))

    def norm(self, x: Tensor) -> Tensor:
        return self.bn(x)


class Plain(Reader):
    """Reads nothing: modes and methods are those of every module."""

    def norm(self, x):
        return self.bn(x) if self.bn.training or list(self.bn.parameters()) else x


class ByHand(Reader):
    """Computes with the norm's tensors itself."""

    def norm(self, x):
        n = self.bn
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, self.training, 0.1, n.eps)


class ByFunction(Reader):
    """Leaves it to a function that gets the norm."""

    def norm(self, x):
        return by_hand(x, norm=self.bn)


class InLoop(Reader):
    """Finds the norm in a list."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([self.bn])
        del self.bn

    def norm(self, x):
        for _, norm in enumerate(self.norms):
            x = by_hand(x, norm)
        return x


class InProperty(Reader):
    """Calls the norm, and in training adds a penalty on its weight, which a property computes."""

    @property
    def penalty(self):
        return self.bn.weight.abs().sum()

    def forward(self, x):
        y = super().forward(x)
        return y + self.penalty if self.training else y


class InSubscript(Reader):
    """Reads a setting of the norm in a Sequential."""

    def __init__(self):
        super().__init__()
        self.bn = nn.Sequential(self.bn)

    def norm(self, x):
        return self.bn(x).view(-1, self.bn[0].num_features)


class ByName(Reader):
    """Reads a setting by a name in quotes."""

    def norm(self, x):
        return self.bn(x) + getattr(self.bn, "eps")  # noqa: B009


READERS = {
    ByHand: {"running_mean", "running_var", "weight", "bias", "eps"},
    ByFunction: {"running_mean", "running_var", "weight", "bias", "eps"},
    InLoop: {"running_mean", "running_var", "weight", "bias", "eps"},
    InProperty: {"weight"},
    InSubscript: {"num_features"},
    ByName: {"eps"},
}
BY_HAND = (ByHand, ByFunction, InLoop)


def norm_of(model: nn.Module) -> nn.BatchNorm1d:
    """Its only norm."""
    return next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d))


def transformer(activation: str | nn.Module = "relu", *, norm_first: bool = False) -> nn.Module:
    """torch's transformer, whose code looks at its norms to choose a fast path in evaluation."""
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, activation=activation, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
