"""A/A by simulation: every question is asked where all arms are alike, and seldom says that they differ.

What a trial measures is drawn, from the same distribution whatever its arm, so that no arm is better than another: any
difference that a question finds, however slight, is false. Its own code tunes, measures, pairs and judges.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats
from torch import nn

from normsmith.studies.lab import Lab
from normsmith.studies.question import every_question
from normsmith.studies.results import Verdict
from normsmith.studies.trial import Outcome
from normsmith.tasks import load

STUDIES, SEEDS = 8, 10
SLIGHT = 1e-9
"""A margin of nearly nothing: beyond it lies every difference."""
TASKS = {"own-norms": "digits-cnn", "recurrent-norms": "digits-rnn"}
"""Where a question cannot be put to digits-mlp."""
NOT_BETWEEN_ARMS = {"slope of the normalisation noise in the batch size"}
"""Hypotheses that compare an arm with a number."""
EVALUATIONS = 20


class Drawn(dict):
    """A value for whatever probe is asked for, distributed like the final metric: it is the end of another curve."""

    def __init__(self, curve):
        super().__init__()
        self._curve = curve

    def get(self, name, default=None):
        return self[name]

    def __missing__(self, name):
        self[name] = (self._curve()[-1],) * 4
        return self[name]


class Strict(Lab):
    """A lab that calls every difference, and keeps what was asked as superiority only."""

    def judge(self, pairs):
        superior = [
            replace(pair, hypothesis=replace(pair.hypothesis, margin=SLIGHT), decided="")
            for pair in pairs
            if pair.hypothesis.kind == "superiority" and pair.hypothesis.name not in NOT_BETWEEN_ARMS
        ]
        self.said += Lab.judge(self, superior)
        return Lab.judge(self, pairs)


def drawn(trial, study, task):
    """A curve to a metric, at a speed, both of which depend on chance and the learning rate alone."""
    key = zlib.crc32(repr((trial.arm, trial.learning_rate, trial.seed, trial.stream)).encode())
    draw = np.random.default_rng([study, key])
    middle = math.log2(max(task.learning_rates) * min(task.learning_rates)) / 2
    away = abs(math.log2(trial.learning_rate) - middle) + draw.normal(0, 1)
    speed = 5 * math.exp(draw.normal(0, 0.3) - 0.1 * abs(away))

    def curve():
        top = draw.normal(0.96, 0.01) - 0.002 * away**2
        return tuple(
            max(0.1, top * (1 - math.exp(-speed * part / EVALUATIONS))) for part in range(EVALUATIONS + 1)
        )

    steps = tuple(round(trial.steps * part / EVALUATIONS) for part in range(EVALUATIONS + 1))
    return Outcome("finished", "", steps, (0.0,) * len(steps), curve(), curve(), Drawn(curve))


@lru_cache
def task_of(name):
    task = load(name)
    return replace(task, model=with_norms) if name == "digits-cnn" else task


def with_norms():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def statements(question, study):
    """What a question says of arms that are alike, in one study."""
    task = task_of(TASKS.get(question.name, "digits-mlp"))
    lab = Strict(task, tuple(range(SEEDS)), "quick", task.steps)
    lab.said = []
    asking = question.ask(lab)
    try:
        while True:
            lab.outcomes |= {trial: drawn(trial, study, task) for trial in next(asking)}
    except StopIteration:
        return lab.said


@pytest.mark.parametrize("name", every_question())
def test_arms_that_are_alike_are_seldom_told_apart(name):
    question = every_question()[name]
    false = judged = 0
    for study in range(STUDIES):
        said = [effect.verdict for effect in statements(question, study)]
        judged += any(verdict is not Verdict.NOT_JUDGED for verdict in said)
        false += any(verdict in (Verdict.HOLDS, Verdict.REVERSED) for verdict in said)
    assert judged == STUDIES
    assert false <= stats.binom.ppf(0.999, STUDIES, 0.05)
