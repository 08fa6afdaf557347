"""NS110: norms that the module does not know it has."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "202 207 306 309 403 404 405"


class InAList(networks.Cnn):
    """Norms in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.bns = [nn.BatchNorm2d(12), nn.BatchNorm2d(24)]
        del self.bn1, self.bn2

    def features(self, x: Tensor) -> Tensor:
        for conv, bn in zip((self.conv1, self.conv2), self.bns, strict=True):
            x = F.relu(bn(conv(x)))
        return x


@case(
    "CNN",
    must="110",
    may=MAY,
    seen="`self.bns = [nn.BatchNorm2d(...) for ...]`: no parameters, no eval(), no .cuda()",
)
def norms_in_a_plain_list() -> Given:
    """The norms are in a Python list, so that eval(), parameters() and state_dict() pass them by."""
    return training.fitted(InAList(), "cnn")


class InAClosure(nn.Module):
    """An MLP of closures that each hold a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48, bias=False), nn.Linear(48, 10)
        self.activate = self.normalised(48)

    @staticmethod
    def normalised(width: int):
        bn = nn.BatchNorm1d(width)
        return lambda x: F.relu(bn(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.activate(self.first(x)))


@case("MLP", must="110", may=MAY, seen="helpers that return lambdas with layers inside")
def norm_in_a_closure() -> Given:
    """A function made in the constructor holds the norm."""
    return training.fitted(InAClosure(), "mlp")


class MadeOnTheWay(networks.Gru):
    """A norm made in each forward."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0].transpose(1, 2)
        states = nn.BatchNorm1d(states.shape[1])(states).transpose(1, 2)
        return self.head(F.relu(states).mean(1))


@case("RNN", must="110", may=MAY + " 204 409", seen="`nn.BatchNorm1d(n)(x)` written inside forward()")
def norm_made_in_forward() -> Given:
    """A new norm in every forward: never trained, never in evaluation mode."""
    model = MadeOnTheWay(networks.batch_norm)
    del model.bn
    return training.fitted(model, "gru")


class InADict(networks.Transformer):
    """Layer norms in a plain dictionary."""

    def __init__(self) -> None:
        super().__init__(networks.no_norm)
        self.norms = {"first": nn.LayerNorm(32), "last": nn.LayerNorm(32)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms["first"](self.embed(x) + self.position)
        return self.head(self.norms["last"](self.blocks(x)).mean(1))


@case("transformer-like", must="110", may=MAY, seen="`self.norms = {...}` instead of nn.ModuleDict")
def norms_in_a_plain_dict() -> Given:
    """Layer norms in a dictionary: their scales are in no optimizer and in no file."""
    return training.fitted(InADict(), "transformer")


class InAModuleList(InAList):
    """Norms in a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.bns = nn.ModuleList(self.bns)


@case("CNN", must_not="110 207")
def norms_in_a_module_list() -> Given:
    """The same network with nn.ModuleList."""
    return training.fitted(InAModuleList(), "cnn")


class ListOfRegistered(nn.Module):
    """A plain list of layers that are attributes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.last = nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.Linear(48, 10)
        self.order = [self.first, self.bn, torch.relu, self.last]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x


@case("MLP", must_not="110 207")
def plain_list_of_registered_layers() -> Given:
    """A plain list, but all its norms are attributes too."""
    model = training.fitted(ListOfRegistered(), "mlp").model
    return training.around(model, "mlp")


class Functional(networks.Gru):
    """F.batch_norm with parameters and buffers of the module itself."""

    def __init__(self) -> None:
        super().__init__(networks.no_norm)
        self.scale, self.shift = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("var", torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0].transpose(1, 2)
        states = F.batch_norm(states, self.mean, self.var, self.scale, self.shift, self.training)
        return self.head(F.relu(states.transpose(1, 2)).mean(1))


@case("RNN", must_not="110")
def functional_batch_norm() -> Given:
    """Batch norm as a function, its parameters and buffers registered by hand."""
    return training.fitted(Functional(), "gru")
