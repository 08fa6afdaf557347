"""Do the batch norms that a network has help, and would renorm or the other side of the activation help more?"""

from __future__ import annotations

from normsmith import surgery
from normsmith._text import count, some
from normsmith.anatomy import Refusal
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.errors import StudyError, SurgeryError
from normsmith.studies.arms import AS_IS, Arm, convert_norm, edit, move_norm, plan_of_move, strip_batch_norm
from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    headline,
    rate_response,
    training_curves,
)
from normsmith.studies.lab import Lab
from normsmith.studies.probes import renorm_acted, renorm_activity
from normsmith.studies.question import Findings, Question
from normsmith.studies.statistics import Pairs
from normsmith.studies.tuning import Requests, Tuned
from normsmith.tasks import build

STRIPPED = AS_IS.but("stripped", edit(strip_batch_norm))
SMALL = 16
"""Samples in a batch, at most, where renorm is claimed to help: at larger ones it is shown, and not judged."""
SHOWN = 3
"""Reasons that are told why norms stay."""


def ask(lab: Lab) -> Requests[Findings]:
    """Tune the network as it is, stripped, with renorm and with its norms moved; compare the final metric."""
    norms = _norms(lab)
    renorm, moved = _renorm(lab), _moved(lab, norms)
    changes = {"renorm helps more": renorm, "other side helps more": moved}
    changed = {name: arm for name, arm in changes.items() if isinstance(arm, Arm)}
    tuned = yield from lab.tune([AS_IS, STRIPPED, *changed.values()], lab.shortfall)
    as_initialised = yield from lab.tune([STRIPPED], lab.shortfall, own_weights=True)
    pairs = [_better(lab, tuned[AS_IS], tuned[STRIPPED])]
    large = lab.task.batch_size > SMALL
    pairs += [
        _better(lab, tuned[arm], tuned[AS_IS], beside=arm == renorm and large) for arm in changed.values()
    ]
    pairs += [_better(lab, tuned[AS_IS], as_initialised[STRIPPED], beside=True)]
    effects = lab.judge(pairs)
    best = [*tuned.values(), *as_initialised.values()]
    return Findings(
        headline=headline("The network's batch norms help, and a change to them helps more", effects),
        effects=effects,
        charts=(training_curves(lab, best), rate_response(lab, tuned.values()), chosen_settings(best)),
        tables=(arms_table(lab, best),),
        notes=(
            f"The network has {count(len(norms), 'batch norm')}, and batches of {lab.task.batch_size}.",
            *(
                f"Not asked: {name}. {arm.reason}."
                for name, arm in changes.items()
                if isinstance(arm, Refusal)
            ),
            *(_staying(lab, norms, moved) if isinstance(moved, Arm) else ()),
            *(_idle(lab, tuned[renorm]) if isinstance(renorm, Arm) else ()),
            WELL_INITIALISED,
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _norms(lab: Lab) -> set[str]:
    """The paths of the network's batch norms."""
    model = build(lab.task, 0)
    paths = {path for path, module in model.named_modules() if is_batch_norm(module)}
    if not paths:
        raise StudyError(
            f"it is about the batch norms that a network has, and {type(model).__name__} has none"
        )
    return paths


def _renorm(lab: Lab) -> Arm | Refusal:
    """The arm with renorm in the norms' places, or why there is none."""
    try:
        plan = surgery.convert(build(lab.task, 0), "renorm", total_steps=lab.steps)
    except SurgeryError as error:
        return Refusal("", str(error))
    if plan.refusals or not plan.changes:
        remarks = (plan.refusals or plan.kept)[:SHOWN]
        return Refusal("", "; ".join(f"{remark.path}: {remark.reason}" for remark in remarks))
    return AS_IS.but(
        "renorm", edit(convert_norm, to="renorm", total_steps=lab.steps), probes=(renorm_activity,)
    )


def _moved(lab: Lab, norms: set[str]) -> Arm | Refusal:
    """The arm with the norms on the side where fewer of them are, or why there is none."""
    try:
        plans = {where: plan_of_move(build(lab.task, 0), lab.task, where) for where in ("after", "before")}
    except SurgeryError as error:
        return Refusal("", str(error))
    moving = {where: len(norms & {change.path for change in plan.changes}) for where, plan in plans.items()}
    where = max(moving, key=lambda side: moving[side])
    if not moving[where]:
        return Refusal("", "None of the norms can go to the other side of an activation")
    return AS_IS.but(f"moved {where} activation", edit(move_norm, where=where))


def _staying(lab: Lab, norms: set[str], moved: Arm) -> tuple[str, ...]:
    """A note on the norms that are where they were in the arm `moved`."""
    (move,) = moved.edits
    plan = plan_of_move(build(lab.task, 0), lab.task, str(dict(move.arguments)["where"]))
    stay: dict[str, list[str]] = {}
    for remark in (*plan.refusals, *plan.kept):
        if remark.path in norms:
            stay.setdefault(remark.reason, []).append(remark.path)
    if not stay:
        return ()
    told = "; ".join(f"{some(paths, most=1)}, as {reason}" for reason, paths in list(stay.items())[:SHOWN])
    return (f"In “{moved.name}” {sum(map(len, stay.values()))} of them stay, among them {told}.",)


def _better(lab: Lab, treatment: Tuned, control: Tuned, *, beside: bool = False) -> Pairs:
    one, other = treatment.arm.name, control.arm.name
    text = f"“{one}” ends more than 1 point better than “{other}”"
    return lab.ends_better(f"final metric: {one} vs {other}", text, treatment, control, 1.0, beside=beside)


def _idle(lab: Lab, renorm: Tuned) -> tuple[str, ...]:
    """A warning where r stayed 1 and d stayed 0 in some trial: it was batch norm."""
    idle = [
        seed
        for seed, outcome in lab.measured(renorm).items()
        if outcome.status == "finished" and not renorm_acted(outcome.probes)
    ]
    return (
        (f"Renorm did nothing, r stayed 1 and d stayed 0, in seeds {idle}: it was batch norm.",)
        if idle
        else ()
    )


QUESTION = Question(
    name="own-norms",
    title="Do the batch norms that the network has help, as they are?",
    claim="Batch norms help the network that was built with them; at small batches renorm in their place helps more, "
    "and by the advice of practitioners so does the other side of the activation.",
    source="Ioffe & Szegedy 2015 (that they help); Ioffe 2017 (renorm); common practice since (the side)",
    method="The network as it is, stripped of its batch norms, with batch renorm in their place, and with its norms "
    "moved to the other side of their activations; its batch size stays, and renorm is judged at 16 samples and fewer. "
    "Each arm and seed at its own best initial weights and learning rate; final test metric, paired by seed. A change "
    "has to be worth more than a point.",
    ask=ask,
)
