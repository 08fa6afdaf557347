"""Where data come in two styles, is a batch norm for each better than one for both?"""

from __future__ import annotations

from normsmith.studies.arms import Arm, convert_norm, edit
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
)
from normsmith.studies.inputs import standardised_outside
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.styles import two_styles
from normsmith.studies.tuning import Requests

AFFINE = {"shared": "one γ and β", "own": "its own γ and β"}
"""What the norms of two styles share beside nothing of their statistics."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train on data in two styles with one norm for both and with a norm for each, and compare the final metric."""
    one = _in_styles(lab, lab.normalized(None), "one batch norm")
    arms = {affine: _per_style(lab, affine) for affine in AFFINE}
    beside = [_in_styles(lab, lab.network(None), "no norm")] if lab.profile == "full" else []
    tuned = yield from lab.tune([one, *arms.values(), *beside], lab.shortfall, detail="end")
    pairs = [
        lab.ends_better(
            f"final metric, {AFFINE[affine]}: a norm for each style vs one",
            f"a batch norm for each style, with {AFFINE[affine]}, is more than 1 point better than one for both",
            tuned[arm],
            tuned[one],
            1.0,
        )
        for affine, arm in arms.items()
    ]
    effects = lab.judge(pairs)
    best = list(tuned.values())
    return Findings(
        headline=headline(
            "On data in two styles, a batch norm for each is better than one for both", effects
        ),
        effects=effects,
        charts=(rate_response(lab, best), chosen_settings(best)),
        tables=(arms_table(lab, best),),
        notes=(
            "Half of the samples of training, validation and test, drawn at random, are inverted, with half the "
            "contrast and one SD brighter. Every batch holds both styles; norms for each style are told which sample "
            "is of which, in evaluation too. Nothing else of the network knows.",
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _per_style(lab: Lab, affine: str) -> Arm:
    """The network with norms for each style."""
    arm = lab.normalized(None).but("", edit(convert_norm, to="domain", domains=2, affine=affine))
    return _in_styles(lab, arm, f"a norm for each style, {AFFINE[affine]}")


def _in_styles(lab: Lab, arm: Arm, name: str) -> Arm:
    return arm.on(name, *standardised_outside(lab.task), edit(two_styles))


QUESTION = Question(
    name="domain-norms",
    title="Where data come in two styles, is a batch norm for each better than one for both?",
    claim="Data of several domains have statistics of their own; a network with batch norm statistics for each domain "
    "learns them better than with one norm that mixes them.",
    source="Chang et al. 2019 (domain-specific batch normalization); Xie et al. 2020, AdvProp: clean and adversarial "
    "images by norms of their own, ImageNet top-1 of EfficientNet-B7 from 84.5 to 85.2 %",
    method="Half of the samples of every split are inverted, with half the contrast and one SD brighter. The same "
    "network is trained on both styles mixed, with one batch norm for both and with statistics for each style, γ and β "
    "shared or each style's own; each arm and seed at its own best initial weights and learning rate; final test "
    "metric on both styles, paired by seed. No norm stands beside in the full profile.",
    ask=ask,
    profiles=(),
)
