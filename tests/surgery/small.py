"""Small networks, mostly without norms, and what surgery's tests ask of networks."""

import torch
from torch import nn
from torch.nn import functional as F

from normsmith.surgery import Change, Plan, trace
from normsmith.surgery.placement.sequential import Rearrangement
from normsmith.surgery.plans.edits import ParameterEdit
from normsmith.surgery.plans.operation import operation


def torch_batch_norm(features, producer):
    kinds = {nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
    kinds |= {nn.Conv3d: nn.BatchNorm3d, nn.ConvTranspose2d: nn.BatchNorm2d}
    return next(kind for layer, kind in kinds.items() if isinstance(producer, layer))(features)


def mlp(activation=nn.ReLU):
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


def cnn():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Dropout2d(0.1), nn.SiLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def kinds(model):
    return [type(child).__name__ for child in model.modules() if not isinstance(child, nn.Sequential)]


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@operation("add_norms")
def add_norms(model: nn.Module) -> Plan:
    """A norm after each activation of a Sequential, and no bias in the layers before: for these tests."""
    norms, biases, changes = Rearrangement(model), [], []
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            norms.place(f"{name}_norm", nn.BatchNorm1d(8), name, after=True)
            changes.append(Change(f"{name}_norm", "nothing", "BatchNorm1d", "asked for"))
            layer = model.get_submodule(str(int(name) - 1))
            biases.append(ParameterEdit(layer, "bias", layer.bias, None))
    return Plan("norms", model, changes=tuple(changes), edits=(norms, *biases))


BATCH = torch.randn(16, 4, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Some parts, and a forward that a test writes out."""

    def __init__(self, body, **parts):
        super().__init__()
        self.body = body
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.body(self, x)


class Convolutional(nn.Module):
    """The usual first network: activations and pooling are functions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu(F.max_pool2d(self.second(x), 2))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """As in ResNet, without norms."""

    def __init__(self, features):
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(features, features, 3, padding=1),
            nn.Conv2d(features, features, 3, padding=1),
        )

    def forward(self, x):
        return F.relu(x + self.two(F.relu(self.one(x))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 4, 3), nn.ModuleList([Block(4), Block(4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class PreActivation(nn.Module):
    """x + f(x), with the activation at the branch's begin."""

    def __init__(self):
        super().__init__()
        self.stem, self.act, self.conv = nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.conv(self.act(x)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.act, self.inner, self.head = nn.ReLU(), nn.ReLU(), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.head(
            x * torch.sigmoid(self.excite(self.inner(self.squeeze(x.mean((2, 3), keepdim=True)))))
        )


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, *, batch_first=True):
        super().__init__()
        self.cells = kind(3, 6, batch_first=batch_first)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        found, _ = self.cells(x)
        return self.head(found)


def order(model, batch):
    """Paths of what is called, functions by their names."""
    events = trace(model, batch).events
    return [event.path if event.kind == "module" else event.name for event in events if event.kind != "input"]
