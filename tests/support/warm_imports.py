"""What processes of tests import and load, done once in the server that they are forked from; see `warm_processes`."""

from contextlib import suppress
from importlib import import_module

import torch

for name in (
    "numba",
    "pytest",
    "torch.distributed",
    "normsmith.layers",
    "normsmith.cli.app",
    "normsmith.studies.executors._worker",
):
    with suppress(ImportError):  # with another torch, the tests of studies are left out, and what they need
        import_module(name)

weight = torch.nn.Parameter(torch.zeros(1))
weight.grad = torch.zeros(1)
torch.optim.SGD([weight], lr=0.1).step()  # imports as much again

with suppress(ImportError):
    from normsmith.ops.cpu.kernels.compile import kernel

    for layout in ("columns", "planes"):
        for direction in ("forward", "backward"):
            kernel(layout, direction, torch.float32)  # loaded, or compiled where nobody has done so before
