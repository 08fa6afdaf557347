"""Does whitening, which removes correlations too, go further than batch norm?"""

from __future__ import annotations

from normsmith.studies.arms import Arm, edit, insert_whitening
from normsmith.studies.figures import (
    arms_table,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.inputs import correlate, standardised_outside
from normsmith.studies.lab import Lab, Measure, Sample
from normsmith.studies.question import Findings, Question
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Requests

CONDITION = 30.0
"""How correlated the inputs are: the largest singular value of what mixes them, over the smallest."""
MOST = 16
"""Channels that are whitened together, at most: a batch must hold more samples than that."""
METHODS = {"zca": "whitening", "newton": "whitening by iterations"}
SHARE = 0.8
"""Worth having: at most so much of the steps."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune batch norm and whitening by steps to the target on correlated inputs, and compare the steps."""
    norm = _correlated(lab, lab.normalized(None))
    whitened = {
        method: _correlated(
            lab,
            lab.network(None).but(
                f"{name} {lab.side} activation",
                edit(insert_whitening, where=lab.side, method=method, most=MOST),
            ),
        )
        for method, name in METHODS.items()
    }
    target = yield from lab.target([norm])
    criteria = lab.steps_to(target, "validation"), lab.shortfall
    tuned = yield from lab.tune([norm, *whitened.values()], *criteria)
    pairs = [
        lab.fewer_steps(f"{METHODS[method]} vs batch norm", tuned[arm], tuned[norm], target, SHARE)
        for method, arm in whitened.items()
    ]
    effects = lab.judge(pairs)
    best = list(tuned.values())
    measures = {
        "steps to target": lab.steps_to(target),
        "seconds to target": _seconds_to(lab, target),
        "seconds of a trial": _seconds,
    }
    return Findings(
        headline=headline("Whitening reaches the target in fewer steps than batch norm", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, best), chosen_settings(best)),
        tables=(arms_table(lab, best, measures),),
        notes=(
            target_note(lab, target, control=norm.name),
            *unreached(lab, target, best),
            f"Inputs are mixed so that their condition number grows {CONDITION:g} times; groups of at most {MOST} "
            "channels are whitened together. Fewer steps are not less time. Seconds to the target are a trial's, "
            "evaluations included, in proportion to its steps; they measure the machine that ran the trials and what "
            "else it did, so they are shown and never judged.",
            *edge_notes(best),
        ),
    )


def _correlated(lab: Lab, arm: Arm) -> Arm:
    return arm.on(arm.name, *standardised_outside(lab.task), edit(correlate, condition=CONDITION))


def _seconds_to(lab: Lab, target: float) -> Measure:
    """The share of a trial's seconds that its steps to the target are of all its steps; never reached, a bound."""
    steps_to = lab.steps_to(target)

    def measure(outcome: Outcome) -> Sample:
        steps, bound = steps_to(outcome)
        return outcome.seconds * steps / lab.steps, bound

    return measure


def _seconds(outcome: Outcome) -> Sample:
    """How long a trial took, its evaluations included."""
    return outcome.seconds, 0


QUESTION = Question(
    name="whitening",
    title="Does whitening, which removes correlations too, go further than batch norm?",
    claim="Inputs of a layer that are uncorrelated, and not only of equal variance, make gradient descent better "
    "conditioned, so that fewer steps are needed; each step costs more.",
    source="LeCun et al. 1998, section 4.3; Huang et al. 2018 (decorrelated batch norm); Huang et al. 2019 (IterNorm)",
    method="Inputs are mixed by a matrix of condition number 30 so that they correlate, those of tables after they are "
    "standardised; batch norm, whitening by eigendecomposition (ZCA) and by Newton's iterations (IterNorm) in the "
    "same places; each arm and seed at its own best initial weights and learning rate, chosen on validation by the "
    "steps to the target; steps after which the target holds on test, by seed.",
    ask=ask,
    profiles=("full",),
)
