"""The tables: raw inputs, a first module that standardises them, and that they can be learnt."""

import builtins

import pytest
import torch
from torch import nn

from normsmith.errors import MissingExtraError
from normsmith.layers import BatchNorm1d
from normsmith.surgery import insert, strip
from normsmith.tasks import Standardise, batches, breast_cancer, build, diabetes, evaluate, example, wine
from normsmith.tasks.tabular import _table

TASKS = [wine(), breast_cancer(), diabetes()]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_inputs_are_raw_and_the_first_module_standardises_them(task):
    inputs = task.train.tensors[0]
    size = inputs.square().mean(0).sqrt()
    assert size.max() > 100 * size.min()
    first = build(task, 0)[0]
    assert isinstance(first, Standardise)
    assert list(first.parameters()) == []
    torch.testing.assert_close(first(inputs).mean(0), torch.zeros(inputs.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(first(inputs).std(0), torch.ones(inputs.shape[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_row_is_in_two_splits_and_all_are_used(task):
    loader = f"load_{task.name.replace('-', '_')}"
    table, _ = _table(loader, **({"scaled": False} if task is diabetes() else {}))
    rows = torch.cat([task.dataset(split).tensors[0] for split in ("train", "validation", "test")])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, torch.from_numpy(table).float().tolist()))


@pytest.mark.parametrize(("task", "reached"), [(wine(), 0.9), (breast_cancer(), 0.9), (diabetes(), 0.2)])
def test_they_learn_and_not_from_raw_inputs(task, reached):
    def trained(model):
        optimizer = task.optimizer(model.parameters(), 2**-8)
        stream = batches(task, torch.Generator().manual_seed(0))
        for _ in range(task.steps):
            output, target = task.forward(model, next(stream))
            optimizer.zero_grad()
            task.loss(output, target).backward()
            optimizer.step()
        return evaluate(task, model, "test")[1]

    assert trained(build(task, 0)) > reached
    raw = build(task, 0)
    raw[0] = nn.Identity()
    assert not trained(raw) > reached - 0.2


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_surgery_leaves_the_first_module(task):
    model = build(task, 0)
    insert(model, "batch", batch=example(task)).apply()
    assert [type(layer) for layer in model][:3] == [Standardise, nn.Linear, BatchNorm1d]
    strip(model, batch=example(task)).apply()
    assert [type(layer) for layer in model] == [type(layer) for layer in build(task, 0)]


def test_networks_share_no_buffer():
    one, other = build(wine(), 0), build(wine(), 0)
    one[0].mean.zero_()
    assert not torch.equal(one[0].mean, other[0].mean)


def test_the_target_of_the_regression_is_around_zero():
    targets = torch.cat([diabetes().dataset(split).tensors[1] for split in ("train", "validation", "test")])
    assert abs(float(targets.mean())) < 0.01
    assert float(targets.std()) == pytest.approx(1, abs=0.01)
    assert build(diabetes(), 0)(diabetes().test.tensors[0]).shape == diabetes().test.tensors[1].shape


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name, name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"normsmith\[study\]"):
        _table("load_wine")
