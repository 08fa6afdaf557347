"""Write a file of pickled models, for `test_pickled_models.py`: once a version, or when classes have moved.

python -m tests.pickled_models 0.2
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from normsmith import layers, surgery
from normsmith.surgery.placement.hooks import AttachEdit

DATA = Path(__file__).parent / "data"


def models() -> dict[str, nn.Module]:
    """Models of every kind of class that pickling names, for inputs of shape (3, 4)."""
    torch.manual_seed(0)
    after, before = nn.Linear(4, 4), nn.Linear(4, 4)
    AttachEdit(after, "norm", nn.LayerNorm(4), "after", channels_last=True).do()
    AttachEdit(before, "input_norm", nn.BatchNorm1d(4), "before", channels_last=False).do()
    folded = nn.Sequential(nn.Linear(4, 4), layers.BatchNorm1d(4))
    folded[1].running_mean += 1
    return {
        "attached": nn.Sequential(after, before),
        "folded": surgery.fold(folded).apply(),
        "frozen": layers.BatchNorm1d(4).freeze(),
        "renorm": layers.BatchRenorm1d(4, total_steps=100),
        "act": layers.BatchNormAct1d(4, activation="relu"),
        "lazy": layers.LazyBatchNorm1d(),
        "whitening": layers.Whiten1d(4),
        "input": layers.InputNorm(4),
        "recurrent": layers.BatchNormLSTM(4, 4, max_steps=5),
    }


def main(version: str) -> None:
    every, x = nn.ModuleDict(models()).eval(), torch.arange(12.0).reshape(3, 4) / 7
    outputs = {name: model(x) for name, model in every.items() if name not in ("lazy", "recurrent")}
    torch.save({"model": every, "input": x, "outputs": outputs}, DATA / f"pickled-model-{version}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
