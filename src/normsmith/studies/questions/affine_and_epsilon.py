"""Do γ and β restore what a network can represent, and does ε only stabilise?"""

from __future__ import annotations

from dataclasses import replace

from normsmith._text import exact
from normsmith.studies.arms import Arm, Edit, edit, fix_affine, set_norms
from normsmith.studies.figures import (
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
    response,
    target_note,
    training_curves,
    unreached,
)
from normsmith.studies.lab import LESS, MORE, Lab
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.tuning import Requests, Setting, Tuned

FIXED = {
    "without γ and β": {"weight": True, "bias": True},
    "without β": {"weight": False, "bias": True},
    "without γ": {"weight": True, "bias": False},
}
ASKED = {"quick": ("without γ and β",), "full": tuple(FIXED)}
EPSILONS = {"quick": (1e-8, 1e-5, 1e-3, 1e-1, 1.0), "full": (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)}
SMALL, LARGE = 1e-8, 1e-3
"""Both are below the order of the variances; what is beyond is shown."""
SHARE = 0.8
"""Fewer steps, where they are shown: at most so much of them."""


def ask(lab: Lab) -> Requests[Findings]:
    """Train sigmoids with and without γ and β; and the own activation at other ε than the one it is tuned at."""
    sigmoid, own = lab.normalized("sigmoid"), lab.normalized(None)
    fixed = {name: sigmoid.but(f"{sigmoid.name}, {name}", _fix(name)) for name in ASKED[lab.profile]}
    bare = own.but(f"{own.name}, without γ and β", _fix("without γ and β"))
    others = [bare] if lab.profile == "full" else []
    tuned = yield from lab.tune([sigmoid, *fixed.values(), own, *others], lab.shortfall, detail="end")
    sweep = {epsilon: _at(tuned[own], own, epsilon) for epsilon in EPSILONS[lab.profile]}
    curves = {arm: replace(best, detail="curve") for arm, best in tuned.items()}
    yield [trial for at in (*sweep.values(), *curves.values()) for trial in lab.trials(at).values()]
    both, neither = sigmoid, fixed["without γ and β"]
    target = yield from lab.target([both, neither], detail="end")
    pairs = [
        lab.ends_better(
            "final metric, sigmoid: with vs without γ and β",
            "with γ and β a sigmoid network ends more than 1 point better than without",
            tuned[both],
            tuned[neither],
            1.0,
        ),
        _same(lab, f"final metric: ε {LARGE:g} vs {SMALL:g}", sweep[LARGE], sweep[SMALL]),
    ]
    pairs += [_same(lab, "final metric: without vs with γ and β", tuned[arm], tuned[own]) for arm in others]
    versus = "sigmoid: with vs without γ and β"
    pairs.append(lab.fewer_steps(versus, curves[both], curves[neither], target, SHARE, beside=True))
    effects = lab.judge(pairs)
    best = list(tuned.values())
    title, to = "Final test metric by ε", "ε, with everything else as it was tuned at 1e-5"
    return Findings(
        headline=headline("γ and β restore what a network can represent, and ε only stabilises", effects),
        effects=effects,
        charts=(
            response(lab, {own.name: sweep}, name="epsilon", title=title, to=to),
            rate_response(lab, best),
            training_curves(lab, curves.values()),
            chosen_settings(best),
        ),
        tables=(arms_table(lab, curves.values(), {"steps to target": lab.steps_to(target)}),),
        notes=(
            f"ε from {exact(min(sweep))} to {exact(max(sweep))} at the learning rate and the initial weights that are "
            "best for the seed at 1e-5, not tuned again. γ and β that are left out stay at 1 and 0.",
            target_note(lab, target, control="the sigmoid networks with and without γ and β"),
            *unreached(lab, target, curves.values()),
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _fix(name: str) -> Edit:
    return edit(fix_affine, **FIXED[name])


def _at(tuned: Tuned, arm: Arm, epsilon: float) -> Tuned:
    """The tuned arm with another ε."""
    name, change = f"{arm.name}, ε {epsilon:g}", edit(set_norms, eps=epsilon)
    return tuned.changed(arm.called(name), lambda best: Setting(best.arm.but(name, change), best.rate))


def _same(lab: Lab, name: str, treatment: Tuned, control: Tuned) -> Pairs:
    """The pairs of the hypothesis that two arms end within a point of each other.

    A trial that diverged is as bad as the untrained network or worse: two that diverged are not known to be alike.
    """
    hypothesis = Hypothesis(
        name=name,
        text=f"{treatment.arm.name} ends within one point of {control.arm.name}",
        treatment=treatment.arm.name,
        control=control.arm.name,
        unit="points",
        scale="difference",
        margin=1.0,
        better=lab.better,
        kind="equivalence",
    )
    pairs = lab.compare(hypothesis, treatment, control, lab.points)
    worse = LESS if lab.task.higher_is_better else MORE
    bounds = [
        tuple(worse * (outcomes[seed].status == "diverged") for seed in pairs.seeds)
        for outcomes in (lab.measured(treatment), lab.measured(control))
    ]
    return replace(pairs, treatment_censored=bounds[0], control_censored=bounds[1])


QUESTION = Question(
    name="affine-and-epsilon",
    title="Do γ and β restore what a network can represent, and does ε only stabilise?",
    claim="Without γ and β, batch norm confines a sigmoid to its nearly linear middle; ε only keeps the division "
    "finite, so that its size does not matter below the order of the variances.",
    source="Ioffe & Szegedy 2015, section 3 (γ and β, so that the transformation can be the identity) and algorithm 1",
    method="Sigmoid networks with γ and β and with both held at 1 and 0, each arm and seed at its own best initial "
    "weights and learning rate. The network with its own activation at ε from 1e-8 to 1, at the setting that is best "
    "for the seed at 1e-5: 1e-3 and 1e-8 have to end within a point. Final test metric, paired by seed; beside it the "
    "steps to the target, at the settings that end best.",
    ask=ask,
    profiles=("full",),
)
