"""Small networks that overwrite tensors in place, each with a twin of the same layers that does not."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """A norm, an activation and a layer, between a layer before and one after; `apart`: nothing is overwritten."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.first, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.act, self.layer, self.last = nn.ReLU(inplace=not apart), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x)))

    def block(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class PreActivation(_Block):
    """x + f(act(norm(x)))"""

    def block(self, x):
        return x + self.layer(self.act(self.bn(x)))


class PreActivationInSequence(_Block):
    """The same, with norm and activation in a Sequential."""

    def __init__(self, apart):
        super().__init__(apart)
        self.branch = nn.Sequential(self.bn, self.act, self.layer)
        del self.bn, self.act, self.layer

    def block(self, x):
        return x + self.branch(x)


class PreActivationByFunction(_Block):
    """x + f(relu_(norm(x)))"""

    def block(self, x):
        h = self.bn(x)
        return x + self.layer(torch.relu(h) if self.apart else torch.relu_(h))


class InputOverwritten(_Block):
    """norm(x), and then x is overwritten while the norm's result is still needed; gradients would need x."""

    def block(self, x):
        h = self.bn(x)
        return h + (F.relu(x) if self.apart or self.training else x.relu_())


class Ignored(_Block):
    """The activation's result is ignored: what it overwrites goes on."""

    def block(self, x):
        h = self.bn(x)
        result = self.act(h)
        return self.layer(result if self.apart else h)


class IgnoredView(_Block):
    """A view is overwritten, and the tensor that was viewed goes on."""

    def block(self, x):
        h = self.bn(x)
        result = self.act(h.view(2, -1, 4))
        return self.layer(result.view(-1, 4) if self.apart else h)


class SliceWritten(_Block):
    """Some channels are overwritten by assignment."""

    def block(self, x):
        h = self.bn(x)
        if self.apart:
            h = torch.cat([torch.zeros_like(h[:, :2]), h[:, 2:]], 1)
        else:
            h[:, :2] = 0
        return x + self.layer(self.act(h))


class ResidualAdded(_Block):
    """out += x after the norm, as torchvision's networks have it."""

    def block(self, x):
        h = self.bn(self.layer(x))
        if self.apart:
            h = h + x
        else:
            h += x
        return self.act(h)


class NormAfterActivation(_Block):
    """act and norm, and then an addition in place to the norm's result."""

    def block(self, x):
        h = self.bn(self.act(self.layer(x)))
        return h + x if self.apart else h.add_(x)


class Dropped(_Block):
    """Dropout in place after the norm of a skip path."""

    def __init__(self, apart):
        super().__init__(apart)
        self.drop = nn.Dropout(0.5, inplace=not apart)

    def block(self, x):
        return x + self.layer(self.act(self.drop(self.bn(x))))


class IntoBuffer(_Block):
    """The activation writes into a tensor that is there, by `out=`."""

    def block(self, x):
        h = self.bn(x)
        if self.training:  # out= has no gradients
            return x + self.layer(torch.tanh(h))
        return x + self.layer(torch.tanh(h) if self.apart else torch.tanh(h, out=h))


@dataclass(frozen=True)
class Hostile:
    """A network with its twin; `dynamic`: it cannot be followed without a batch."""

    model: Callable[[bool], nn.Module]
    dynamic: bool = False

    def pair(self) -> tuple[nn.Module, nn.Module]:
        """The network, and the same one that overwrites nothing."""
        torch.manual_seed(0)
        model, twin = self.model(False), self.model(True)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
                    module.weight.uniform_(0.5, 2)
                    module.bias.normal_()
        twin.load_state_dict(model.state_dict())
        return model, twin


HOSTILE = {
    "pre-activation": Hostile(PreActivation),
    "pre-activation in a Sequential": Hostile(PreActivationInSequence),
    "pre-activation by a function": Hostile(PreActivationByFunction),
    "input overwritten": Hostile(InputOverwritten),
    "result ignored": Hostile(Ignored),
    "view overwritten": Hostile(IgnoredView),
    "slice assigned": Hostile(SliceWritten, dynamic=True),
    "residual added in place": Hostile(ResidualAdded),
    "norm after activation": Hostile(NormAfterActivation),
    "dropout in place": Hostile(Dropped),
    "out=": Hostile(IntoBuffer),
}


def batch() -> Tensor:
    """What goes into each of them."""
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
