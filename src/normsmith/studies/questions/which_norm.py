"""Which norm does a network need, where, and at which learning rate: or is it better off without one?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, median_low

from normsmith._text import exact, p_value
from normsmith.anatomy.kinds import is_norm
from normsmith.errors import NormsmithError
from normsmith.studies import notation
from normsmith.studies.arms import AS_IS, Arm, edit, insert_whitening
from normsmith.studies.figures import (
    WELL_INITIALISED,
    arms_table,
    ceiling_notes,
    chosen_settings,
    edge_notes,
    middle,
    rate_response,
)
from normsmith.studies.initial_weights import weights_of
from normsmith.studies.lab import Lab, Sample
from normsmith.studies.question import Findings, Question
from normsmith.studies.results import Effect, Table, Verdict
from normsmith.studies.statistics import Hypothesis, Pairs
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Requests, Tuned
from normsmith.tasks import build

CHOOSING = 10
"""With how many seeds the norms are compared on validation, at most: as many as a quick study judges with."""
STREAM = 1
"""Of these seeds, which are thereby others than those that judge."""
GHOSTS = 4
"""Into so many ghost batches the batch is divided."""
WHITENED = 16
"""Channels that are whitened together, at most."""
POINT = 1.0
"""What a norm must be worth, in points, and how near two must be to tie."""


@dataclass(frozen=True)
class Contest:
    """The candidates, the simplest first, and the two of them that are judged.

    Attributes:
        plain: the network without norms.
        norms: the candidates.
        best: the best of them on validation, by the seeds that choose.
        rival: what a user would have without this question: the network's own norms, or else batch norm; where `best`
            is that itself, the second best. None if there is no other.
    """

    plain: Arm
    norms: tuple[Arm, ...]
    best: Arm
    rival: Arm | None

    def simpler(self) -> Arm:
        """The simpler of the two that are judged."""
        two = {self.best, self.rival}
        return next(arm for arm in self.norms if arm in two)


def ask(lab: Lab) -> Requests[Findings]:
    """Choose the best norm on validation by seeds of their own, and judge it on test by the study's."""
    candidates, refused = _candidates(lab)
    choosing = replace(lab, seeds=lab.seeds[:CHOOSING], stream=STREAM, look=None)
    tried = yield from choosing.tune(candidates, choosing.shortfall, detail="metric")
    contest = _contest(choosing, lab.network(None), tried)
    judged = [arm for arm in (contest.best, contest.rival, contest.plain) if arm is not None]
    tuned = yield from lab.tune(judged, lab.shortfall, detail="end")
    as_initialised = yield from lab.tune([contest.plain], lab.shortfall, own_weights=True, detail="end")
    pairs = _hypotheses(lab, contest, tuned, as_initialised[contest.plain])
    effects = lab.judge(pairs)
    best = [*tuned.values(), *as_initialised.values()]
    recommendation = _recommendation(contest, tuned, effects)
    return Findings(
        headline=recommendation,
        recommendation=recommendation,
        effects=effects,
        charts=(rate_response(lab, tuned.values()), chosen_settings(best)),
        tables=(_by_validation(choosing, tried.values()), arms_table(lab, best)),
        notes=(
            f"{len(choosing.seeds)} seeds chose on validation, and {len(lab.seeds)} others judge on test what these "
            "chose, so that being the best of many does not flatter it.",
            *(f"Not tried: {name}, as {reason}." for name, reason in refused.items()),
            WELL_INITIALISED,
            *ceiling_notes(lab, pairs),
            *edge_notes(best),
        ),
    )


def _candidates(lab: Lab) -> tuple[tuple[Arm, ...], dict[str, str]]:
    """The norms that surgery can give the network, the simplest first, and why it cannot give it others.

    Simple is what costs least: norms that are there already, batch norm (which can be folded away for inference), norms
    that need no batch, then those with further settings.
    """
    model = build(lab.task, 0)
    own = [AS_IS.called("the network's own norms")] if any(map(is_norm, model.modules())) else []
    other = "after" if lab.side == "before" else "before"
    ghost = lab.normalized(None, "batch", lab.side, ghost_batch_size=max(2, lab.task.batch_size // GHOSTS))
    whitening = edit(insert_whitening, where=lab.side, method="zca", most=WHITENED)
    arms = [
        *own,
        lab.normalized(None, "batch", lab.side),
        lab.normalized(None, "batch", other),
        lab.normalized(None, "layer", lab.side),
        lab.normalized(None, "group", lab.side),
        ghost.called(f"ghost {ghost.name}"),
        lab.normalized(None, "renorm", lab.side, total_steps=lab.steps),
        lab.network(None).but(f"whitening {lab.side} activation", whitening),
    ]
    refused: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for arm in arms:
        try:
            arm.build(build(lab.task, 0), lab.task)
        except NormsmithError as error:
            reasons[arm.name] = str(error)
            refused.setdefault(str(error), arm.name)
    fitting = tuple(arm for arm in arms if arm.name not in reasons)
    if not fitting:  # let the study say why
        arms[0].build(model, lab.task)
    return fitting, {name: reason.rstrip(".") for reason, name in refused.items()}


def _contest(choosing: Lab, plain: Arm, tried: Mapping[Arm, Tuned]) -> Contest:
    """Who is judged: the best on validation, of arms in the order of simplicity, and its rival."""
    ends = {arm: _validated(choosing, tuned) for arm, tuned in tried.items()}
    ranked = sorted(tried, key=lambda arm: ends[arm])  # of equals the simplest
    best, others = ranked[0], ranked[1:]
    second = others[0] if others else None
    own = next((arm for arm in tried if arm == AS_IS), None)
    rival = own or next(filter(_is_plain_batch_norm, ranked), None)
    return Contest(plain, tuple(tried), best, second if rival in (best, None) else rival)


def _is_plain_batch_norm(arm: Arm) -> bool:
    """Whether an arm has batch norm put in, with no further settings."""
    settings = [dict(change.arguments) for change in arm.edits if "norm" in dict(change.arguments)]
    return any(set(of) == {"norm", "where"} and of["norm"] == "batch" for of in settings)


def _validated(choosing: Lab, tuned: Tuned) -> float:
    """The median validation metric of an arm, negated where higher is better; last if nothing was measured."""
    samples = choosing.series(tuned, choosing.shortfall).values()
    return median(value for value, _ in samples) if samples else float("inf")


def _hypotheses(lab: Lab, contest: Contest, tuned: Mapping[Arm, Tuned], as_initialised: Tuned) -> list[Pairs]:
    """Is a norm worth a point; is there a tie with the rival; and, beside, what the network as initialised loses."""
    best, plain = tuned[contest.best], tuned[contest.plain]
    name, text = contest.best.name, "“{}” ends more than 1 point better than “{}”"
    worth = lab.ends_better(
        "final metric: best norm vs none", text.format(name, contest.plain.name), best, plain, POINT
    )
    beside = lab.ends_better(
        "final metric: best norm vs none as initialised",
        text.format(name, as_initialised.arm.name),
        best,
        as_initialised,
        POINT,
        beside=True,
    )
    if contest.rival is None:
        return [worth, beside]
    tie = Hypothesis(
        name="final metric: best norm vs its rival",
        text=f"“{name}” and “{contest.rival.name}” end within 1 point of each other",
        treatment=name,
        control=contest.rival.name,
        unit="points",
        scale="difference",
        margin=POINT,
        better=lab.better,
        kind="equivalence",
    )
    return [worth, lab.compare(tie, best, tuned[contest.rival], lab.points), beside]


def _recommendation(contest: Contest, tuned: Mapping[Arm, Tuned], effects: Sequence[Effect]) -> str:
    """What to do, and how sure that is: no more than what the verdicts say."""
    worth, tie = effects[0], effects[1] if contest.rival is not None else None
    best, plain = contest.best, contest.plain
    if worth.verdict is Verdict.HOLDS:
        taken, versus = _between(contest, tie)
        first = (
            f"{best.name} ends more than 1 point better than {plain.name}, well initialised ({_sure(worth)})"
        )
        return f"Use {_at(tuned[taken])}: {first}{versus}."
    if worth.verdict in (Verdict.NOT_HERE, Verdict.REVERSED):
        less = "less than 1 point better" if worth.verdict is Verdict.NOT_HERE else "more than 1 point worse"
        return (
            f"Do not use batch norm here, nor another norm, but {_at(tuned[plain])}: {best.name}, the best of "
            f"{len(contest.norms)} on validation, ends {less} than {plain.name}, well initialised ({_sure(worth)})."
        )
    leaning = best if min(worth.median) > POINT else plain
    return (
        f"Not decided, so take it as a guess: {_at(tuned[leaning])}; whether {best.name}, the best norm of "
        f"{len(contest.norms)} on validation, ends more than 1 point better than {plain.name}, well initialised, is "
        f"open ({_sure(worth)}), and more seeds may tell."
    )


def _between(contest: Contest, tie: Effect | None) -> tuple[Arm, str]:
    """Which of the best norm and its rival to take, and why."""
    best, rival = contest.best, contest.rival
    if tie is None or rival is None:
        return best, ""
    if tie.verdict is Verdict.HOLDS:
        return (
            contest.simpler(),
            f"; {rival.name} ends within 1 point of it, a tie: take the simplest ({_sure(tie)})",
        )
    if tie.verdict is Verdict.NOT_HERE:
        ahead, behind = (best, rival) if min(tie.median) > 0 else (rival, best)
        worse = f"{behind.name} ends more than 1 point worse than {ahead.name}"
        return ahead, f"; {worse}, so do not use it here ({_sure(tie)})"
    return best, f"; whether {rival.name} ends within 1 point of it is open ({_sure(tie)})"


def _sure(effect: Effect) -> str:
    """The verdict of a test, its estimate and interval, and the p-value."""
    interval = f"{notation.interval_name([effect])} {notation.ends(effect)}"
    return f"{effect.verdict.value}: {notation.estimate(effect)}, {interval}, {p_value(effect.p_adjusted)}"


def _at(tuned: Tuned) -> str:
    """An arm with the learning rate and the initial weights that its seeds chose."""
    rates = sorted(setting.rate for setting in tuned.chosen.values())
    span = "" if rates[0] == rates[-1] else f" (seeds chose {exact(rates[0])} to {exact(rates[-1])})"
    weights = Counter(weights_of(setting.arm) for setting in tuned.chosen.values()).most_common(1)[0][0]
    drawn = "its own initial weights" if weights == "own" else f"initial weights {weights}"
    return f"{tuned.arm.name} at a learning rate of {exact(median_low(rates))}{span}, {drawn}"


def _by_validation(choosing: Lab, tried: Iterable[Tuned]) -> Table:
    """The candidates as the seeds that chose saw them."""

    def validation(outcome: Outcome) -> Sample:
        return choosing.final(outcome, "validation")

    return Table(
        title="The norms that were to be chosen from, the simplest first (median over the seeds that chose)",
        columns=("arm", "validation metric", "rate"),
        rows=tuple(
            (
                tuned.arm.name,
                middle(choosing, tuned, validation),
                exact(median_low(setting.rate for setting in tuned.chosen.values())),
            )
            for tuned in tried
        ),
    )


QUESTION = Question(
    name="which-norm",
    title="Which norm does the network need, where, and at which rate, or is it better off without one?",
    claim="A network needs a norm, and batch norm is the one to take; where batches are small or dependent, by the "
    "advice of practitioners, layer or group norm, or renorm.",
    source="Ioffe & Szegedy 2015 (batch norm); Ba et al. 2016 (layer norm); Ioffe 2017 (renorm); Wu & He 2018 (group "
    "norm); Hoffer et al. 2017 (ghost batches); Huang et al. 2018 (whitening)",
    method="The network's own norms, and in their place batch norm before and after the activation, layer, group and "
    "ghost batch norm, renorm and whitening, as far as the network can have them. Ten seeds choose the best of them "
    "by its median final validation metric; other seeds, which are the study's, judge it on test: against the network "
    "without a norm, well initialised (it must be worth more than a point), and, as a tie within one point, against "
    "its rival: the network's own norms, or else batch norm; if that is the best itself, the second best. Of a tie "
    "the simplest is taken. Each arm and seed at its own best initial weights and learning rate.",
    ask=ask,
    profiles=(),
)
