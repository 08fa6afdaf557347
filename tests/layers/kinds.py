"""The channel-wise layers by name, made with statistics that are not their initial ones, and batches for them."""

import torch

import normsmith.layers as ours

PLAIN = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
RENORM = ["BatchRenorm1d", "BatchRenorm2d", "BatchRenorm3d"]
ACT = [
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BatchRenormAct1d",
    "BatchRenormAct2d",
    "BatchRenormAct3d",
]
SPACES = {"1d": (), "2d": (4, 4), "3d": (3, 3, 3)}


def make(name, **options):
    if "Renorm" in name:
        options.setdefault("schedule", "keras")
        options.setdefault("track", "var")
    layer = getattr(ours, name)(3, **options)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


def batch(name, rows=6):
    return torch.randn(rows, 3, *SPACES[name[-2:]])
