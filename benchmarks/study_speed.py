"""A studied trial against a bare PyTorch loop of the same steps and evaluations, on the embedded digits.

Goal: at least 0.95 of the bare loop's speed without probes, which the bare loop has none of; 0.9 with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks.protocol import interleave, ratio, write
from normsmith.studies.arms import Arm, network, normalized
from normsmith.studies.trial import Trial, train
from normsmith.tasks import Task, load

STEPS = 200


def bare(task: Task, arm: Arm) -> None:
    """The loop that one writes by hand: shuffled epochs, accuracy of two sets every 5 steps."""
    torch.manual_seed(0)
    model = arm.build(task.model(), task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, labels = task.train.tensors
    step = 0
    while step < STEPS:
        for index in torch.randperm(len(inputs)).split(task.batch_size)[:-1]:
            loss = nn.functional.cross_entropy(model(inputs[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            step += 1
            if step % 5 == 0:
                model.eval()
                with torch.no_grad():
                    for split in (task.validation, task.test):
                        x, y = split.tensors
                        (model(x).argmax(1) == y).float().mean().item()
                model.train()
            if step == STEPS:
                break


def studied(task: Task, arm: Arm) -> None:
    """The same through the study's engine."""
    assert train(task, Trial(arm, 0.1, 0, STEPS)).status == "finished"


def main() -> None:
    """Measure both networks of the embedded task, without and with batch norm."""
    torch.set_num_threads(1)
    rows = [
        "| task | arm | probes | speed against the bare loop (quartiles) | rounds |",
        "|---|---|---|---|---|",
    ]
    for name in ("digits-mlp", "digits-cnn"):
        task = load(name)
        for arm in (network(None), normalized(None)):
            candidates: dict[str, Callable[[], None]] = {
                "bare": partial(bare, task, arm),
                "without": partial(studied, task, replace(arm, probes=())),
                "with": partial(studied, task, arm),
            }
            times = interleave(candidates)
            for probes in ("without", "with"):
                speed = ratio(times["bare"], times[probes])
                rows.append(f"| {name} | {arm.name} | {probes} | {speed} | {speed.rounds} |")
    write(
        "study_speed", f"A studied trial of {STEPS} steps, as a share of a bare loop's speed", "\n".join(rows)
    )


if __name__ == "__main__":
    main()
