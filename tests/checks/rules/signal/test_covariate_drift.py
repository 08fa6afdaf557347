"""NS506: inputs of norms that move with each step."""

from __future__ import annotations

import torch
from tests.checks.networks import Attention, cnn, images, mlp, sequences, trained, vectors
from tests.checks.rules.signal.test_update_ratio import case
from tests.contracts.rule import RuleContract
from torch import nn

import normsmith
from normsmith.checks.rules.signal.covariate_drift import drift


def pinned() -> nn.Module:
    return normsmith.surgery.freeze(mlp(), "statistics").apply()


class TestCovariateDrift(RuleContract):
    code = "NS506"
    faulty = {
        "an MLP": lambda: case(mlp(), vectors(8), 1.0),
        "a CNN with momentum": lambda: case(cnn(), images(8), 5.0, "SGD", momentum=0.9),
        "attention": lambda: case(Attention(), sequences(8), 1.0),
    }
    healthy = {
        "Adam": lambda: case(mlp(), vectors(8), 1e-3),
        "small batches": lambda: case(mlp(), vectors(8, size=4), 1e-3),
        "gradient descent": lambda: case(cnn(), images(8), 0.05, "SGD", momentum=0.9),
        "a trained network": lambda: case(trained(mlp(), vectors()), vectors(), 0.01),
        "statistics that are pinned": lambda: case(pinned(), vectors(8), 1.0),
    }


def test_it_warns_where_evaluation_suffers():
    torch.manual_seed(0)
    made = case(trained(mlp(), vectors()), vectors(), 1.0)
    findings = made.check("NS506")
    assert {finding.severity for finding in findings} == {"warning"}
    assert all(finding.batches == 8 for finding in findings)


def test_drift_of_what_is_not_a_number():
    rows = [(torch.zeros(2), torch.ones(2)), (torch.tensor([0.1, torch.nan]), torch.ones(2))]
    mean, logs = drift(rows, 0.0)
    assert mean[0] == torch.tensor(0.1)
    assert mean[1].isnan()
    assert logs.tolist() == [0, 0]
