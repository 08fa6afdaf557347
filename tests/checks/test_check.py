"""`normsmith.check`, and what people hand to it."""

from __future__ import annotations

import pytest
import torch
from tests.checks.networks import KINDS, mlp, trained, vectors
from tests.studies.tiny import make
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import normsmith
from normsmith.checks import check_task
from normsmith.checks.batches import Sizes, sizes
from normsmith.checks.check import TrainingBatches
from normsmith.errors import InputError
from normsmith.tasks import build, digits_cnn


class Raises(nn.Module):
    """Fails in the third forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.forwards = trained(mlp(momentum=0.99), vectors(1)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        if self.forwards > 2:
            raise RuntimeError("out of order")
        return self.body(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["fast", "standard", "deep"])
def test_a_model_is_as_it_was(kind, level):
    network, data = KINDS[kind]
    model = network(momentum=0.9)
    model(data(1)[0][0])
    before = state_of(model)
    findings = normsmith.check(model, data(6), loss=F.cross_entropy, level=level)
    assert state_of(model) == before
    assert "NS201" in findings.codes


NOT_GIVEN = ("give ", "from level ")
"""How reasons begin that are no fault of what was given."""


def test_a_model_that_raises_in_the_third_batch_leaves_the_other_rules_their_say():
    findings = normsmith.check(Raises(), vectors(8))
    assert "NS201" in findings.codes
    reasons = {row.code: row.reason for row in findings.not_run}
    assert "RuntimeError: out of order" in reasons["NS404"]


def test_a_loader_that_yields_nothing():
    findings = normsmith.check(trained(mlp(momentum=0.99), vectors(1)), [])
    assert findings.codes == ("NS201",)
    assert {row.code for row in findings.not_run} >= {"NS101", "NS301", "NS404"}
    assert all("no batch came" in row.reason or row.reason.startswith(NOT_GIVEN) for row in findings.not_run)


def test_dicts_without_a_forward():
    model = trained(mlp(), vectors(2))
    findings = normsmith.check(model, [{"image": torch.zeros(4, 8), "label": torch.zeros(4)}] * 4)
    assert "give forward=" in {row.code: row.reason for row in findings.not_run}["NS404"]
    forward = lambda model, batch: (model(batch["image"]), batch["label"])  # noqa: E731
    batches = [{"image": x, "label": y} for x, y in vectors()]
    given = normsmith.check(model, batches, forward=forward, loss=F.cross_entropy)
    assert "NS404" in given.clean
    assert all(row.reason.startswith(NOT_GIVEN) for row in given.not_run)


def test_data_with_nan():
    batches = [(torch.full((32, 8), torch.nan), y) for _, y in vectors(8)]
    model = trained(mlp(), vectors(4))
    findings = normsmith.check(model, batches, loss=F.cross_entropy)
    assert "NS201" in findings.clean
    assert not any("raised" in row.reason for row in findings.not_run)


def test_a_loader_of_workers_and_a_generator_is_as_before():
    data = TensorDataset(*(torch.cat(part) for part in zip(*vectors(4), strict=True)))
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(data, 16, shuffle=True, generator=own, num_workers=1)
    before = own.get_state()
    normsmith.check(mlp(), loader)
    assert torch.equal(own.get_state(), before)


def test_what_is_no_loader_is_refused(unchecked):
    with pytest.raises(InputError, match=r"give \[batch\]"):
        normsmith.check(mlp(), torch.zeros(4, 8))
    with pytest.raises(InputError, match="expected a DataLoader"):
        normsmith.check(mlp(), 3)
    with pytest.raises(InputError, match="did you mean standard"):
        normsmith.check(mlp(), level="standart")
    with pytest.raises(InputError, match="model"):
        normsmith.check("model")
    with pytest.raises(InputError, match="optimizer: expected an Optimizer of torch, got generator"):
        normsmith.check(model := mlp(), optimizer=model.parameters())


def test_a_model_without_norms_is_clean():
    findings = normsmith.check(nn.Linear(8, 2), vectors(4), loss=F.cross_entropy)
    assert findings.passed()
    assert not findings.found


def test_a_wrapped_model_is_looked_into():
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        findings = normsmith.check(DistributedDataParallel(mlp(momentum=0.99)), vectors(4), select=["NS201"])
    finally:
        dist.destroy_process_group()
    assert [finding.path for finding in findings] == ["1", "4"]


def test_the_embedded_tasks_are_clean():
    task = digits_cnn()
    findings = check_task(task, build(task, 0))
    assert findings.passed()
    assert not [row for row in findings.not_run if "raised" in row.reason]


def test_a_tasks_parts_reach_the_rules():
    task = make(
        "with all",
        model=lambda: nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, momentum=0.99), nn.Linear(8, 3)
        ),
        validate=lambda model: 0.0,
        training_step=lambda model, batches, optimizer: None,
        domain=lambda batch: "here",
    )
    findings = check_task(task, build(task, 0))
    assert findings.codes == ("NS201",)
    asked = {row.reason for row in findings.not_run if row.reason.startswith("give ")}
    assert asked <= {"give ema=...", "give checkpoint=...", "give rank_checkpoints=..."}  # a task has none


def test_training_batches_of_a_task_are_the_same_each_time():
    stream = TrainingBatches(digits_cnn())
    one, two = list(stream), list(stream)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    assert stream.sizes() == sizes(stream, one) == Sizes(64, 64, True)


@pytest.mark.parametrize("kind", KINDS)
def test_all_rules_together_run_each_sample_twice_or_little_more(kind):
    make, data = KINDS[kind]
    batches = data()
    model = trained(make(), batches)
    last, samples = list(model.modules())[-1], []
    handle = last.register_forward_pre_hook(lambda _, arguments: samples.append(len(arguments[0])))
    normsmith.check(model, batches, loss=F.cross_entropy)
    handle.remove()
    # in training 10 of 16, in evaluation 16, with statistics of the batch 6, and a few samples to follow them
    assert (10 + 16) / 16 <= sum(samples) / sum(len(x) for x, _ in batches) < (10 + 16 + 6) / 16 + 0.2
