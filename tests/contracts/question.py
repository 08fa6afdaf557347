"""What every question must do, and a way to put one to outcomes that are made up.

A question's test inherits `QuestionContract`, names its question and says in `world` what its trials would
measure if the claim were true.
"""

import math
from pathlib import Path

import cloudpickle

from normsmith.studies import select
from normsmith.studies.lab import Lab
from normsmith.studies.question import Findings
from normsmith.studies.results import StripChart, Verdict
from normsmith.studies.trial import Outcome, Trial, train
from normsmith.tasks import load

TINY = Path(__file__).parents[1] / "studies" / "tiny.py"
BUDGET = 100


def curve(
    reaches: float, final: float = 0.95, steps: int = BUDGET
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """A metric that jumps from chance to `final` at step `reaches` (inf: never)."""
    at = tuple(range(0, steps + 1, 5))
    return at, tuple(final if step >= reaches else 0.3 for step in at)


def outcome(reaches: float, final: float = 0.95, **probes: float) -> Outcome:
    """A finished trial that arrives at `final` at step `reaches`; probes as they would be at the end."""
    steps, values = curve(reaches, final)
    kept = {name.replace("_", " "): (value,) for name, value in probes.items()}
    return Outcome("finished", "", steps, (1.0,) * len(steps), values, values, kept)


def diverged() -> Outcome:
    """A trial that was evaluated before training, at chance, and never again."""
    return Outcome("diverged", "", (0,), (1.0,), (0.3,), (0.3,))


def as_measured(whole: Outcome, trial: Trial) -> Outcome:
    """What a trial that may be shorter, or measure less, would have said."""
    if trial.detail == "curve" or whole.status == "diverged":
        return whole
    there = max(index for index, step in enumerate(whole.steps) if step <= trial.steps)
    return Outcome(
        whole.status,
        steps=(0, trial.steps),
        validation=(whole.validation[0], whole.validation[there]),
        test=(whole.test[0], whole.test[there]),
        probes=whole.probes if trial.detail == "end" else {},
    )


def words(trial: Trial) -> dict[str, object]:
    """The arguments of all edits of a trial's arm, of its data too, merged: what the arm is."""
    merged: dict[str, object] = {"norm": "none"}
    for change in (*trial.arm.data, *trial.arm.edits):
        merged |= dict(change.arguments)
    return merged


def ask(
    name: str, world, task: str = "task", seeds: int = 8, profile="quick", steps: int = BUDGET
) -> tuple[Findings, list[Trial]]:
    """Drive a question with the outcomes of `world(trial)`; its findings and the trials it asked for."""
    lab = Lab(load(f"{TINY}:{task}"), tuple(range(seeds)), profile, steps)
    (question,) = select((name,))
    asked: list[Trial] = []
    generator = question.ask(lab)
    while True:
        try:
            request = next(generator)
        except StopIteration as answered:
            return answered.value, asked
        for trial in request:
            if trial not in lab.outcomes:
                asked.append(trial)
                lab.outcomes[trial] = as_measured(world(trial), trial)


class QuestionContract:
    """Inherit, set `name`, and define `world(trial) -> Outcome` in which the claim holds."""

    name: str
    task: str = "task"
    """Of `tests/studies/tiny.py`: one to which the question can be put."""

    def world(self, trial: Trial) -> Outcome:
        raise AssertionError("a question's test says what a world looks like in which its claim holds")

    def indifferent(self, trial: Trial) -> Outcome:
        """A world in which no arm differs from another but by the seed."""
        return outcome(20 + 5 * (hash_of(trial) % 5), flat=0.2 + 0.01 * (hash_of(trial) % 7), **ACTIVE)

    def test_it_says_what_it_asks(self):
        (question,) = select((self.name,))
        for text in (question.title, question.claim, question.source, question.method):
            assert len(text) > 20
        assert question.title.endswith("?")

    def test_the_claim_holds_where_it_is_true(self):
        findings, _ = ask(self.name, self.world, self.task)
        assert verdicts(findings) == {Verdict.HOLDS}, findings.headline

    def test_nothing_is_called_where_nothing_differs(self):
        findings, _ = ask(self.name, self.indifferent, self.task)
        called = [effect for effect in findings.effects if effect.verdict is Verdict.HOLDS]
        assert not called, findings.headline

    def test_its_findings_can_be_shown(self):
        findings, _ = ask(self.name, self.world, self.task)
        assert findings.headline.endswith(".")
        assert 1 <= len([effect for effect in findings.effects if not effect.beside]) <= 3
        assert findings.charts
        assert len({chart.name for chart in findings.charts}) == len(findings.charts)
        for chart in findings.charts:
            assert len(chart.description) > 20
            assert chart.rows if isinstance(chart, StripChart) else chart.lines
        for effect in findings.effects:
            assert not any(map(math.isnan, (*effect.median, *effect.interval)))
            assert 0 < effect.p <= effect.p_adjusted <= 1

    def test_every_arm_is_paired_by_seed(self):
        findings, asked = ask(self.name, self.world, self.task, seeds=3)
        assert {effect.seeds for effect in findings.effects} == {(0, 1, 2)}
        assert len(asked) == len(set(asked))

    def test_it_answers_from_real_trials(self):
        """Each arm is trained once, in this process, whatever the seed and the rate: to see that it can be.

        `tests/studies/test_study.py` has whole studies with workers and a store.
        """
        task, trained = load(f"{TINY}:{self.task}"), {}

        def real(trial: Trial) -> Outcome:
            kind = trial.arm, trial.steps, trial.detail
            if kind not in trained:
                trained[kind] = train(task, trial)
            return trained[kind]

        findings, asked = ask(self.name, real, self.task, seeds=2, steps=6)
        assert all(cloudpickle.loads(cloudpickle.dumps(trial)) == trial for trial in asked)
        assert all(
            effect.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_JUDGED) and effect.seeds == (0, 1)
            for effect in findings.effects
        )


def verdicts(findings: Findings) -> set[Verdict]:
    """The verdicts on the hypotheses that are judged; those beyond as many as the seeds can decide are not."""
    given = [effect.verdict for effect in findings.effects]
    heads = [i for i, effect in enumerate(findings.effects) if effect.after is None and not effect.beside]
    beside = [i for i, effect in enumerate(findings.effects) if effect.beside]
    not_judged = [i for i, verdict in enumerate(given) if verdict is Verdict.NOT_JUDGED]
    assert not_judged == sorted(heads[2:] + beside)
    return {*given} - {Verdict.NOT_JUDGED}


ACTIVE = {"renorm_|r_-_1|": 0.5, "renorm_|d|": 0.5}


def hash_of(trial: Trial) -> int:
    """A number from the trial's key: noise that is the same in every run."""
    return int(trial.key("world", {})[:8], 16)
