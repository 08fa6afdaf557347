"""Small networks without norms, and what surgery's tests ask of networks."""

from torch import nn


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
