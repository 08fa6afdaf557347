"""Does batch norm make the loss smoother along the gradient?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    training_curves,
)
from normsmith.studies.lab import Lab
from normsmith.studies.landscape import probe_curves, ratio_of, smoothness_signals, while_training
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Tuned

SHARE = 0.8
"""Worth the name: at most so much of what the network without norms has."""

MEASURES = {
    "effective beta": "the effective β",
    "gradient predictiveness": "the change of the gradient along a step",
    "loss range": "the range of the loss along a step",
}
"""What is compared, by the name of the probe; the first ones are judged first."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune both arms, and compare what probes measure along the negative gradient while they train."""
    activations = lab.activations("relu", "tanh")[: None if lab.profile == "full" else 1]
    plains = {
        name: lab.network(name).but(lab.network(name).name, probes=(smoothness_signals,))
        for name in activations
    }
    norms = {
        name: lab.normalized(name).but(lab.normalized(name).name, probes=(smoothness_signals,))
        for name in activations
    }
    tuned = yield from lab.tune([*plains.values(), *norms.values()], lab.shortfall)
    pairs = [
        pair
        for place, name in enumerate(activations)
        for pair in _hypotheses(lab, name, tuned[norms[name]], tuned[plains[name]], beside=place > 0)
    ]
    effects = lab.judge(pairs)
    best = list(tuned.values())
    curves = [
        probe_curves(
            lab, best, probe, title=f"{what[0].upper()}{what[1:]}", description=f"While training: {what}."
        )
        for probe, what in MEASURES.items()
    ]
    return Findings(
        headline=headline("Batch norm makes the loss smoother along the gradient", effects),
        effects=effects,
        charts=(*curves, training_curves(lab, best), chosen_settings(best)),
        tables=(arms_table(lab, best, {what: while_training(probe) for probe, what in MEASURES.items()}),),
        notes=(WELL_INITIALISED, *edge_notes(best)),
    )


def _hypotheses(
    lab: Lab, activation: str | None, norm: Tuned, plain: Tuned, *, beside: bool
) -> Iterator[Pairs]:
    """One for each of the measures: with the norm it is smaller."""
    for probe, what in MEASURES.items():
        hypothesis = Hypothesis(
            name=f"{probe}, {activation or 'own activation'}: batch norm vs none",
            text=f"{what} with {norm.arm.name} is at most {SHARE:g} of that with {plain.arm.name}",
            treatment=norm.arm.name,
            control=plain.arm.name,
            unit=probe,
            scale="ratio",
            margin=-math.log(SHARE),
            better="lower",
            beside=beside,
        )
        yield ratio_of(lab, hypothesis, norm, plain, while_training(probe))


QUESTION = Question(
    name="smoothness",
    title="Does batch norm make the loss smoother along the gradient?",
    claim="With batch norm, loss and gradient change less along a step, so that a gradient stays right for longer.",
    source="Santurkar et al. 2018, section 3.1 and figure 4: VGG on CIFAR-10, where the range of the loss, the change "
    "of the gradient and the effective β are all smaller with batch norm, throughout training",
    method="Each arm and seed at its own best initial weights and learning rate, chosen on validation. At four places "
    "of training, weights make steps of 0.05 to 0.4 against the gradient of one training batch and come back: the same "
    "steps in every arm, the same random numbers in each. Geometric means over the places, paired by seed. Judged only "
    "where both networks learn.",
    ask=ask,
    profiles=("full",),
)
