"""Two processes with uneven shares of a batch train the same network as one process with the whole batch.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py          # does that for you

Runs on any machine: gloo, on the CPU. With GPUs, only the backend and the devices change.
"""

import copy
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.run import main as torchrun
from torch.nn.parallel import DistributedDataParallel

from normsmith.layers import BatchNorm1d

STEPS, ROWS = 50, 12
SHARES = (9, 3)  # rows of each batch per rank: as uneven as they come


def network(process_group: str | None) -> nn.Sequential:
    """`process_group` is all it takes: "world", or a group from torch.distributed.new_group."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), BatchNorm1d(16, process_group=process_group), nn.ReLU(), nn.Linear(16, 1)
    )


def batches() -> list[tuple[Tensor, Tensor]]:
    """The same on every rank; each takes its share."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS, ROWS, 8, generator=generator)
    return [(x, x[:, :1] * x[:, 1:2]) for x in inputs]


def train(model: nn.Module, rows: slice, world: int) -> nn.Module:
    """Loss = local sum × world / global count: DDP averages gradients over ranks, whatever their shares."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, target in batches():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x[rows]), target[rows], reduction="sum") * world / ROWS
        loss.backward()
        optimizer.step()
    return model


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two state dicts."""
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def worker() -> None:
    """What every rank does."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    if world != len(SHARES):
        raise SystemExit(f"expected {len(SHARES)} processes, one per share in SHARES; got {world}")
    first = sum(SHARES[:rank])
    model = DistributedDataParallel(network("world"))
    train(model, slice(first, first + SHARES[rank]), world)
    state = copy.deepcopy(model.module.state_dict())

    states: list[dict[str, Tensor]] = [{} for _ in range(world)]
    dist.all_gather_object(states, state)
    if rank == 0:
        apart = max(difference(states[0], other) for other in states[1:])
        alone = train(network(None), slice(None), 1)
        print(f"{world} ranks with {SHARES} rows of {ROWS}, {STEPS} steps")
        print(f"all ranks agree: {apart <= 1e-6} (largest difference {apart:.0e})")
        from_one = difference(states[0], alone.state_dict())
        print(f"equal to one process: {from_one <= 1e-4} (largest difference {from_one:.0e})")
    dist.destroy_process_group()


def main() -> None:
    """Started by torchrun, work; started by hand, start torchrun."""
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        worker()
    else:
        torchrun(["--standalone", "--nproc-per-node", str(len(SHARES)), __file__])


if __name__ == "__main__":
    main()
