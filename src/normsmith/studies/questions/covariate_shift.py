"""Is batch norm fast because it reduces internal covariate shift?"""

from __future__ import annotations

import math
from contextlib import suppress

from normsmith.errors import SurgeryError
from normsmith.studies.arms import Arm, edit, swap_activation
from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.lab import Lab
from normsmith.studies.landscape import (
    probe_curves,
    ratio_of,
    shift_signals,
    smoothness_signals,
    while_training,
)
from normsmith.studies.noise import noise_after_norms
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Tuned
from normsmith.tasks import build

SHARE = 0.67
"""Faster: at most so much of the steps."""
TIMES = 1.25
"""More shift: at least so many times that of the network without norms."""
SMOOTHER = 0.8
"""Smoother, where that is shown: at most so much of the effective β of the network without norms."""
SHIFT, BETA = "relative shift", "effective beta"

LINEAR = (
    "Networks without activations compute what one linear layer computes (poolings aside), and differ by how that is "
    "trained: what batch norm does to shift and smoothness there, it does without a nonlinearity to saturate."
)


def ask(lab: Lab) -> Requests[Findings]:
    """Compare speed and shift of a network without norms, with batch norm, and with noise after its batch norms.

    The full profile shows networks without activations beside them, with and without batch norm.
    """
    plain, norm = (
        arm.but(arm.name, probes=(shift_signals,)) for arm in (lab.network(None), lab.normalized(None))
    )
    noisy = norm.but(f"{norm.name} and noise", edit(noise_after_norms))
    target = yield from lab.target([plain])
    criteria = lab.steps_to(target, "validation"), lab.shortfall
    linear = _linear(lab, plain, norm) if lab.profile == "full" else ()
    tuned = yield from lab.tune([plain, norm, noisy, *linear], *criteria)
    pairs = [
        lab.fewer_steps("noisy batch norm vs none", tuned[noisy], tuned[plain], target, SHARE),
        _more_shift(lab, "noisy batch norm vs none", tuned[noisy], tuned[plain]),
        lab.fewer_steps("batch norm vs none", tuned[norm], tuned[plain], target, SHARE, beside=True),
        _more_shift(lab, "batch norm vs none", tuned[norm], tuned[plain], beside=True),
    ]
    if linear:
        bare, normed = (tuned[arm] for arm in linear)
        without = "no activations: batch norm vs none"
        pairs += [
            lab.fewer_steps(without, normed, bare, target, SHARE, beside=True),
            _more_shift(lab, without, normed, bare, beside=True),
            _smoother(lab, without, normed, bare),
        ]
    effects = lab.judge(pairs)
    best = list(tuned.values())
    what = "how far a layer's gradient moves once the layers before it have made a step, as a share of it"
    measures = {
        "steps to target": lab.steps_to(target),
        SHIFT: while_training(SHIFT),
        "absolute shift": while_training("absolute shift"),
        **({BETA: while_training(BETA)} if linear else {}),
    }
    return Findings(
        headline=headline("A network with batch norm is fast although its covariate shift is large", effects),
        effects=effects,
        charts=(
            probe_curves(
                lab, best, SHIFT, title="Internal covariate shift", description=f"While training: {what}."
            ),
            training_curves(lab, best),
            chosen_settings(best),
        ),
        tables=(arms_table(lab, best, measures),),
        notes=(
            target_note(lab, target),
            *unreached(lab, target, best),
            WELL_INITIALISED,
            *([LINEAR] if linear else []),
            *edge_notes(best),
        ),
    )


def _linear(lab: Lab, *arms: Arm) -> tuple[Arm, ...]:
    """Arms without their activations, and with smoothness probed; none where the activations cannot be taken out."""
    change = edit(swap_activation, activation="identity")
    linear = tuple(
        arm.but(f"{arm.name}, no activations", change, probes=(smoothness_signals,)) for arm in arms
    )
    with suppress(SurgeryError):
        for arm in linear:
            arm.build(build(lab.task, 0), lab.task)
        return linear
    return ()


def _smoother(lab: Lab, name: str, treatment: Tuned, control: Tuned) -> Pairs:
    """The pairs of the hypothesis that one arm has a smaller effective β than another; it is shown beside others."""
    hypothesis = Hypothesis(
        name=f"{BETA}, {name}",
        text=f"the effective β of {treatment.arm.name} is at most {SMOOTHER:g} of that of {control.arm.name}",
        treatment=treatment.arm.name,
        control=control.arm.name,
        unit=BETA,
        scale="ratio",
        margin=-math.log(SMOOTHER),
        better="lower",
        beside=True,
    )
    return ratio_of(lab, hypothesis, treatment, control, while_training(BETA))


def _more_shift(lab: Lab, name: str, treatment: Tuned, control: Tuned, *, beside: bool = False) -> Pairs:
    """The pairs of the hypothesis that one arm has more relative shift than another."""
    hypothesis = Hypothesis(
        name=f"{SHIFT}, {name}",
        text=f"the relative internal covariate shift of {treatment.arm.name} is at least {TIMES:g} times that of "
        f"{control.arm.name}",
        treatment=treatment.arm.name,
        control=control.arm.name,
        unit=SHIFT,
        scale="ratio",
        margin=math.log(TIMES),
        better="higher",
        beside=beside,
    )
    return ratio_of(lab, hypothesis, treatment, control, while_training(SHIFT))


QUESTION = Question(
    name="covariate-shift",
    title="Is batch norm fast because it reduces internal covariate shift?",
    claim="The first explanation of batch norm's speed was less internal covariate shift. What is tested is what was "
    "found against it: that a network with more shift than one without norms can be as fast as with batch norm alone.",
    source="Ioffe & Szegedy 2015 (the explanation); Santurkar et al. 2018, section 2 (against it): VGG on CIFAR-10 "
    "with noise after its batch norms trains nearly as fast as without the noise, and much faster than without norms; "
    "batch norm's shift is no smaller than without it",
    method="Three arms: no norm, batch norm, and batch norm whose outputs are shifted and scaled at random, by other "
    "numbers at every step. Each arm and seed at its own best initial weights and learning rate; steps to the target, "
    "and the relative shift at four places of training: how far a layer's gradient moves when the layers before it "
    "make a step of 0.1, on one training batch and with the same random numbers. Paired by seed; shift is judged only "
    "where both networks learn. The full profile shows the network without its activations beside them, with and "
    "without batch norm: the paper's deep linear networks.",
    ask=ask,
    profiles=("full",),
)
