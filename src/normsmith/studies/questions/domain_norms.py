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
from normsmith.studies.statistics import Pairs
from normsmith.studies.styles import styles_standardised, two_styles
from normsmith.studies.tuning import Requests, Tuned

AFFINE = {"shared": "one γ and β", "own": "its own γ and β"}
"""What the norms of two styles share beside nothing of their statistics."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train on data in two styles with one norm for both and with a norm for each, and compare the final metric."""
    one = _in_styles(lab, lab.normalized(None), "one batch norm")
    arms = {affine: _per_style(lab, affine) for affine in AFFINE}
    told = one.on("one batch norm, each style standardised before", edit(styles_standardised))
    beside = [told, _in_styles(lab, lab.network(None), "no norm")] if lab.profile == "full" else []
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
    if told in tuned:
        pairs.append(_against_told(lab, tuned[arms["own"]], tuned[told]))
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
            "is of which, in evaluation too. Nothing else of the network knows; what that knowledge alone is worth is "
            "shown, in the full profile, by one norm on inputs that were standardised style by style.",
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _against_told(lab: Lab, each: Tuned, told: Tuned) -> Pairs:
    """Whether a norm for each style is also better than one norm on inputs that were standardised style by style."""
    return lab.ends_better(
        "final metric, its own γ and β: a norm for each style vs one, each style standardised before",
        "a batch norm for each style, with its own γ and β, is more than 1 point better than one for both on inputs of "
        "which each style was standardised before",
        each,
        told,
        1.0,
        beside=True,
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
    "metric on both styles, paired by seed. In the full profile stand beside: no norm, and one norm on inputs of which "
    "each style was standardised before, which is told as much as norms for each style are.",
    ask=ask,
    profiles=(),
)
