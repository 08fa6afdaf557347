"""Three clinics that must not put their data together: statistics merged, and made exact by an exchange of files.

    python examples/clients.py

All have the same network, and each measures its batch norms on its own data. Averaging the three variances loses what
the clinics differ by; merging keeps it, which is exact for the first norm. Deeper norms have seen inputs that each
clinic normalised in its own way: they become exact once the clinics exchange moments, round by round, in a folder.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from normsmith import surgery

SIZES = {"clinic-a": 200, "clinic-b": 500, "clinic-c": 1300}


def network() -> nn.Sequential:
    """Three hidden layers with batch norm."""
    hidden = [[nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()] for _ in range(3)]
    return nn.Sequential(*(layer for block in hidden for layer in block)).double()


def data(number: int, size: int) -> list[Tensor]:
    """Batches of one clinic, whose instruments have an offset of their own."""
    return list((torch.randn(size, 8).double() + 2 * number).split(100))


def running_variance(model: nn.Module) -> Tensor:
    """That of the first norm."""
    return model.get_submodule("1").get_buffer("running_var")


def off_by(model: nn.Module, truth: nn.Module) -> list[float]:
    """For each norm the largest difference of its running statistics from the true ones, as a share of these."""
    buffers = zip(model.named_buffers(), truth.buffers(), strict=True)
    off: dict[str, float] = {}
    for (name, mine), right in buffers:
        path, _, kind = name.rpartition(".")
        if kind != "num_batches_tracked":
            scale = dict(truth.named_buffers())[f"{path}.running_var"]
            scale = scale if kind == "running_var" else scale.sqrt()
            off[path] = max(off.get(path, 0.0), float(((mine - right) / scale).abs().max()))
    return list(off.values())


def exchanged(clients: dict[str, nn.Sequential], batches: dict[str, list[Tensor]], folder: str) -> None:
    """All clinics recalibrate together by way of a folder; here they are threads, elsewhere three machines."""

    def one(name: str) -> None:
        parties = surgery.FolderGroup(folder, name, list(SIZES), timeout=60)
        surgery.recalibrate(clients[name], batches[name], mode="exact", group=parties).apply()

    with ThreadPoolExecutor(len(SIZES)) as pool:
        list(pool.map(one, SIZES))


def main() -> None:
    """Average, merge, exchange; each compared with one place that has all data."""
    torch.manual_seed(0)
    model = network()
    batches = {name: data(number, size) for number, (name, size) in enumerate(SIZES.items())}
    truth = copy.deepcopy(model)
    surgery.recalibrate(truth, [batch for each in batches.values() for batch in each], mode="exact").apply()

    clients = {name: copy.deepcopy(model) for name in SIZES}
    measured = [surgery.recalibrate(clients[name], batches[name]) for name in SIZES]
    for result in measured:
        result.apply()
    averaged = sum(size * running_variance(clients[name]) for name, size in SIZES.items()) / sum(
        SIZES.values()
    )
    share = averaged / running_variance(truth)
    print(f"averaged: variances of the first norm are as little as {share.min():.2f} of those of all data")

    first, *others = clients.values()
    plan = surgery.merge_statistics(first, others, counts=measured)
    merged = plan.apply(copy=True)
    exact, *deeper = off_by(merged, truth)
    print(
        f"merged: the first norm is off by {exact:.1e}, deeper ones by {min(deeper):.2f} to {max(deeper):.2f}"
    )
    print(f"        {plan.warnings[-1].text}")

    with TemporaryDirectory() as folder:
        exchanged(clients, batches, folder)
    off = max(max(off_by(client, truth)) for client in clients.values())
    print(f"exchanged by files: no norm of any clinic is off by more than {off:.1e}")


if __name__ == "__main__":
    main()
