"""The runs of the explorer page are real training, and looking at them changes nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import explorer
from explore import runs

sys.path.remove(str(ROOT / "scripts"))

SETTING = runs.Setting("batch", "before", 16, 0.25)


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    return runs.measured(SETTING, steps=6)


def test_a_run_has_a_value_for_each_step_that_is_looked_at(run: dict[str, Any]) -> None:
    looked_at = sum(step <= 6 for step in runs.EVALUATED)
    assert run["diverged"] is None
    assert set(run["evaluation"]) == set(run["running"]) == {"0.01", "0.1", "0.5"}
    for curve in (run["train"], *run["evaluation"].values()):
        assert len(curve["loss"]) == len(curve["accuracy"]) == looked_at
    assert len(run["population"]["mean"]) == looked_at
    assert len(run["batch"]["mean"]) == sum(step <= 6 for step in runs.TRACED)
    assert [len(losses) for losses in run["landscape"]] == [17]
    assert len(run["beta"]) == len(run["agreement"]) == 1
    assert (
        0.5 < run["noise"] / (1.5 / 16) ** 0.5 < 1
    )  # of independent normal values 1; the norm before takes a part


def test_a_run_is_the_same_again(run: dict[str, Any]) -> None:
    assert runs.measured(SETTING, steps=6) == run


def test_what_comes_out_of_a_fresh_norm_is_standardised(run: dict[str, Any]) -> None:
    assert run["output"]["mean"][0] == pytest.approx(0, abs=1e-3)
    assert run["output"]["deviation"][0] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("norm", runs.TRACKED)
def test_averages_of_its_momentum_are_the_layers_own(norm: str) -> None:
    watched = runs.Watched(replace(SETTING, norm=norm), steps=6)
    averages = runs.Averages(0.1)
    for images in torch.randn(3, 16, 64):
        watched.model(images)
        averages.update(runs.moments(watched.signals))
    own, ours = watched.state(), averages.into(watched.state())
    assert set(ours) == set(own)
    for name, value in own.items():
        torch.testing.assert_close(ours[name], value)


def test_looking_changes_nothing() -> None:
    watched = runs.Watched(SETTING, steps=6)
    before = {name: value.clone() for name, value in watched.model.state_dict().items()}
    record = runs.Record(watched)
    record.evaluate()
    images, labels = runs._tensors(watched.task, "train")
    record.probe((images[:16], labels[:16]))
    assert watched.model.training
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_loss_along_the_gradient_begins_at_the_loss_and_passes_the_next_step() -> None:
    watched = runs.Watched(SETTING, steps=6)
    images, labels = runs._tensors(watched.task, "train")
    batch = (images[:16], labels[:16])
    record = runs.Record(watched)
    record.probe(batch)
    (losses,) = record.landscape
    optimizer = torch.optim.SGD(watched.model.parameters(), SETTING.rate)
    loss = watched.task.loss(watched.model(batch[0]), batch[1])
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    optimizer.step()
    after = watched.task.loss(watched.model(batch[0]), batch[1])
    assert losses[runs.MULTIPLES.index(1)] == pytest.approx(after.item(), rel=1e-4)


def test_a_run_that_diverges_says_when() -> None:
    run = runs.measured(runs.Setting("none", "", 16, 1e6), steps=6)
    assert 0 < run["diverged"] <= 6
    assert "on training data" not in run
    explorer.as_text({"runs": {"a": run}})  # no number that JSON does not know


def test_initial_weights_are_scaled_and_otherwise_the_same() -> None:
    models = [runs.Watched(runs.Setting("none", "", 16, 0.25, gain), 6).model for gain in (1.0, 4.0)]
    one, four = ([p.detach() for p in model.parameters() if p.dim() == 2] for model in models)
    assert [float((b / a).mean()) for a, b in zip(one, four, strict=True)] == pytest.approx([4, 4, 4, 1])
