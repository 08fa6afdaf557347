"""`own-norms`: whether the norms that a network has help, and whether a change helps more."""

import pytest
import torch
from tests.contracts.question import ACTIVE, TINY, QuestionContract, ask, hash_of, outcome, verdicts
from tests.surgery.networks import REAL
from torch import nn

from normsmith import Task
from normsmith.anatomy.forward import flat
from normsmith.errors import StudyError
from normsmith.layers import BatchRenorm1d
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.initial_weights import weights_of
from normsmith.studies.lab import Lab
from normsmith.studies.results import Verdict
from normsmith.tasks import build, load

FINAL = {"as is": 0.8, "stripped": 0.7, "renorm": 0.85, "moved after activation": 0.9}


def final(trial):
    return FINAL[trial.arm.name] + 0.001 * (hash_of(trial) % 5)


class TestOwnNorms(QuestionContract):
    name = "own-norms"
    task = "normed"

    def world(self, trial):
        return outcome(20, final(trial), **ACTIVE)

    def indifferent(self, trial):
        return outcome(20, 0.9 + 0.002 * (hash_of(trial) % 9), **ACTIVE)


def arms(task):
    _, asked = ask("own-norms", lambda trial: outcome(20, final(trial), **ACTIVE), task)
    return {trial.arm.name: trial.arm for trial in asked if weights_of(trial.arm) == "own"}


def test_arms_are_the_networks_own_norms_changed_and_nothing_else():
    task = load(f"{TINY}:normed")
    built = {name: arm.build(build(task, 0), task) for name, arm in arms("normed").items()}
    kinds = {name: [type(module).__name__ for module in model] for name, model in built.items()}
    own = ["LayerNorm", *["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear"]
    moved = ["LayerNorm", *["Linear", "ReLU", "BatchNorm1d"] * 2, "Linear"]
    assert kinds == {
        "as is": own,
        "stripped": ["Identity" if kind == "BatchNorm1d" else kind for kind in own],
        "renorm": ["BatchRenorm1d" if kind == "BatchNorm1d" else kind for kind in own],
        "moved after activation": moved,
    }
    renorms = [module for module in built["renorm"] if isinstance(module, BatchRenorm1d)]
    assert {renorm.total_steps for renorm in renorms} == {100}


@pytest.mark.parametrize("name", ["hf-regnet", "monai-densenet"])
def test_networks_of_other_libraries_are_changed_and_train(name):
    network = REAL[name]
    batch = network.batch()
    images = batch["pixel_values"] if isinstance(batch, dict) else batch
    data = (images, torch.zeros(len(images)))
    task = Task(
        model=network.model, train=data, validation=data, test=data, batch_size=len(images),
        loss=lambda output, target: output.square().mean(), metric=lambda output, target: 0.0,
        forward=lambda model, pair: (next(flat(model(pair[0]))), pair[1]),
    )  # fmt: skip
    requests = next(select(("own-norms",))[0].ask(Lab(task, (0,), "quick", 10)))
    arms = {
        trial.arm.name: trial.arm for trial in requests
    }  # each with the good initial weights that came last
    assert list(arms) == ["as is", "stripped", "renorm", "moved after activation"]
    for arm in arms.values():
        model = arm.build(build(task, 0), task).train()
        task.forward(model, data)[0].square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == (arm.name != "stripped")


def test_a_network_without_batch_norm_costs_no_trial():
    with (
        Store("sqlite://") as store,
        pytest.raises(StudyError, match="batch norms that a network has, and Sequential has none"),
    ):
        run_study(f"{TINY}:task", select(("own-norms",)), store, Settings(seeds=2))
    with pytest.raises(StudyError, match="a network has"):
        next(select(("own-norms",))[0].ask(Lab(load("digits-mlp"), (0,), "quick", 10)))


def test_norms_that_cannot_move_are_said_to_stay():
    findings, asked = ask("own-norms", lambda trial: outcome(20, final(trial), **ACTIVE), "closing")
    assert {trial.arm.name for trial in asked} == {"as is", "stripped", "renorm"}
    assert [effect.name for effect in findings.effects] == [
        "final metric: as is vs stripped",
        "final metric: renorm vs as is",
        "final metric: as is vs stripped, as initialised",
    ]
    assert any("other side helps more. None of the norms" in note for note in findings.notes)


def test_a_norm_that_cannot_move_beside_one_that_can_is_noted():
    findings, _ = ask("own-norms", lambda trial: outcome(20, final(trial), **ACTIVE), "partly")
    (note,) = [note for note in findings.notes if note.startswith("In “moved after activation” 1 of them")]
    assert "4, as no activation" in note


def test_renorm_that_did_nothing_is_noted():
    idle = dict.fromkeys(ACTIVE, 0.0)
    findings, _ = ask("own-norms", lambda trial: outcome(20, final(trial), **idle), "normed")
    assert any("Renorm did nothing" in note and "0, 1" in note for note in findings.notes)


def test_a_reversed_world_is_said_to_be():
    findings, _ = ask("own-norms", lambda trial: outcome(20, 1.6 - final(trial), **ACTIVE), "normed")
    assert verdicts(findings) == {Verdict.REVERSED}
