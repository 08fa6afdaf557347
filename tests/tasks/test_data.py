"""Batches and evaluation: order, coverage, collation, modes, and what the metric sees."""

from itertools import islice

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from normsmith.errors import TaskError
from normsmith.tasks import Task, batches, evaluate, evaluating, evaluation_batches
from normsmith.tasks import data as data_module


def regression(**changes):
    x = torch.arange(10.0).reshape(10, 1)
    arguments = {
        "model": lambda: nn.Linear(1, 1),
        "train": (x, 2 * x),
        "validation": (x[:4], 2 * x[:4]),
        "test": (x, 2 * x),
        "loss": nn.functional.mse_loss,
        "metric": nn.functional.l1_loss,
        "batch_size": 4,
    }
    return Task(**(arguments | changes))


class Dictionaries(Dataset):
    """Samples as dicts, one by one; counts how often it is asked."""

    def __init__(self, count=10):
        self.count, self.asked = count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.asked += 1
        return {"x": torch.tensor([float(index)]), "y": torch.tensor([2.0 * index]), "name": f"n{index}"}


class Many(Dictionaries):
    """The same, several at a time."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def of_dictionaries(**changes):
    data = Dictionaries()
    return regression(
        **{"train": data, "validation": data, "test": data}
        | {"forward": lambda model, batch: (model(batch["x"]), batch["y"])}
        | changes
    )


def seeds(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", [regression, of_dictionaries, lambda: of_dictionaries(train=Many())])
def test_an_epoch_has_each_sample_at_most_once_and_whole_batches(make):
    task = make()
    stream = batches(task, seeds(0))
    epochs = []
    for _ in range(3):
        taken = [batch[0] if isinstance(batch, (tuple, list)) else batch["x"] for batch in islice(stream, 2)]
        assert all(len(x) == 4 for x in taken)
        epochs.append(torch.cat(taken).flatten().tolist())
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3  # every epoch in another order


def test_the_order_is_the_generators_alone():
    task = regression()
    torch.manual_seed(1)
    first = [batch[0] for batch in islice(batches(task, seeds(7)), 6)]
    torch.manual_seed(2)
    stream, second = batches(task, seeds(7)), []
    for _ in range(6):
        torch.rand(3)
        second.append(next(stream)[0])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = next(batches(task, seeds(8)))[0]
    assert not torch.equal(first[0], other)


def test_tensors_and_a_dataset_of_the_same_samples_give_the_same_batches():
    tensor_batch = next(batches(regression(), seeds(3)))
    dict_batch = next(batches(of_dictionaries(), seeds(3)))
    assert torch.equal(tensor_batch[0], dict_batch["x"])
    assert torch.equal(tensor_batch[1], dict_batch["y"])
    assert dict_batch["name"] == [f"n{int(value)}" for value in dict_batch["x"]]


def test_inputs_and_targets_stay_together():
    for x, y in islice(batches(regression(), seeds(0)), 5):
        assert torch.equal(y, 2 * x)


def test_collate_of_the_task_and_of_a_loader():
    def doubled(samples):
        return torch.stack([2 * sample["x"] for sample in samples]), torch.stack([s["y"] for s in samples])

    by_task = regression(train=Dictionaries(), collate=doubled)
    by_loader = regression(train=DataLoader(Dictionaries(), collate_fn=doubled), collate=lambda samples: None)
    for task in (by_task, by_loader):
        x, y = next(batches(task, seeds(0)))
        assert torch.equal(x, y)


def test_evaluation_is_of_the_whole_split_at_once():
    task = regression(batch_size=2, metric=lambda output, target: float(len(output)))
    assert evaluate(task, task.model(), "test")[1] == 10


def test_evaluation_in_several_batches_gives_the_same(monkeypatch):
    model = nn.Linear(1, 1)
    expected = evaluate(of_dictionaries(), model, "test")
    monkeypatch.setattr(data_module, "_EVALUATION_SAMPLES", 3)
    task = of_dictionaries(batch_size=1)
    assert len(list(evaluation_batches(task, "test"))) == 4
    assert evaluate(task, model, "test") == pytest.approx(expected, rel=1e-6)


def test_outputs_may_be_trees(monkeypatch):
    monkeypatch.setattr(data_module, "_EVALUATION_SAMPLES", 3)
    task = of_dictionaries(
        batch_size=1,
        forward=lambda model, batch: ({"mean": model(batch["x"]), "extra": "word"}, (batch["y"], batch["y"])),
        loss=lambda output, target: (output["mean"] - target[0]).square().mean(),
        metric=lambda output, target: len(output["mean"]) + len(target[1]),
    )
    assert evaluate(task, nn.Linear(1, 1), "test")[1] == 20


def test_evaluation_keeps_modes_statistics_gradients_and_random_state():
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1)).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = evaluate(regression(), model, "test")
    assert first == evaluate(regression(), model, "test")
    assert [module.training for module in model.modules()] == modes
    assert model[1].num_batches_tracked == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_are_restored_when_the_metric_raises():
    def broken(output, target):
        raise ZeroDivisionError("no")

    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    with pytest.raises(TaskError, match="metric raised on test: ZeroDivisionError"):
        evaluate(regression(metric=broken), model, "test")
    assert model.training
    assert model[1].training


def test_small_splits_are_collated_once_and_large_ones_each_time(monkeypatch):
    task = of_dictionaries()
    for _ in range(3):
        evaluate(task, nn.Linear(1, 1), "test")
    assert task.test.asked == 11  # one to see how large a sample is

    monkeypatch.setattr(data_module, "_CACHE_BYTES", 8)
    task = of_dictionaries()
    for _ in range(3):
        evaluate(task, nn.Linear(1, 1), "test")
    assert task.test.asked == 33


def test_a_metric_that_is_no_number_is_named():
    task = regression(metric=lambda output, target: output)
    with pytest.raises(TaskError, match="metric must return a number, got a Tensor of shape"):
        evaluate(task, nn.Linear(1, 1), "test")


def test_outputs_that_cannot_be_concatenated_are_named(monkeypatch):
    monkeypatch.setattr(data_module, "_EVALUATION_SAMPLES", 3)
    task = regression(batch_size=1, forward=lambda model, batch: (batch[0].mean(), batch[1]))
    with pytest.raises(TaskError, match="batches of test must be tensors that can be concatenated"):
        evaluate(task, nn.Linear(1, 1), "test")


def test_evaluating_puts_every_mode_back_and_raises_what_was_raised():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout().eval(), nn.Linear(1, 1))
    before = [module.training for module in model.modules()]

    def fail():
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"), evaluating(model):
        fail()
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
