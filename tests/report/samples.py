"""Synthetic study results: what a study can return, the ordinary and the nasty."""

import math
import random
from dataclasses import replace
from statistics import median

from normsmith.checks import Finding, Findings, Fix, NotRun, Proof
from normsmith.studies.results import (
    Answer,
    Budget,
    Chart,
    Effect,
    Failure,
    LeftOut,
    Line,
    Looked,
    Strip,
    StripChart,
    StudyResult,
    Table,
    Verdict,
)
from normsmith.studies.statistics import Interval

SEEDS = tuple(range(8))
NASTY = "</script><img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("http://example.invalid","click")'
LONG = "a-very-long-name-without-a-place-to-break-" * 6


def effect(
    name: str,
    centre: float,
    spread: float,
    *,
    margin: float,
    verdict: Verdict,
    scale: str = "ratio",
    unit: str = "steps",
    kind: str = "superiority",
    better: str = "lower",
    censored: int = 0,
    seeds: tuple[int, ...] = SEEDS,
    p: float = 0.0078,
) -> Effect:
    draw = random.Random(name)
    values = [centre + draw.gauss(0, spread) for _ in seeds]
    effects = [Interval(value, math.inf if index < censored else value) for index, value in enumerate(values)]
    middle = median(values)
    half = 2.2 * spread / math.sqrt(len(values))
    return Effect(
        name=name,
        hypothesis=f"With batch norm, {name} gets there sooner.",
        treatment="bn",
        control="none",
        unit=unit,
        scale=scale,
        kind=kind,
        better=better,
        margin=margin,
        seeds=seeds,
        effects=tuple(effects),
        median=Interval(middle, middle),
        interval=Interval(middle - half, math.inf if censored > 1 else middle + half),
        beyond=sum(low > margin for low, _ in effects),
        short=sum(high < margin for _, high in effects),
        needed=8,
        p=p,
        p_adjusted=min(1.0, 2 * p),
        verdict=verdict,
        sentence=f"{verdict.value.capitalize()}: {name}, as far as eight seeds can tell.",
    )


def fewer_steps() -> Answer:
    return Answer(
        question="fewer-steps",
        title="Does batch norm reach the target in fewer steps?",
        claim="Batch-normalised networks reach the same accuracy with 14 times fewer training steps.",
        source="Ioffe & Szegedy 2015, arXiv:1502.03167, §4.2",
        headline="On digits-mlp, batch norm reaches 95 % in 2.5 times fewer steps with tanh and 3.4 with relu.",
        effects=(
            effect("tanh, each at its best rate", 0.92, 0.16, margin=0.405, verdict=Verdict.HOLDS),
            effect("relu, each at its best rate", 1.25, 0.3, margin=0.405, verdict=Verdict.HOLDS, censored=2),
            effect("relu, at the same rate", 0.1, 0.35, margin=0.405, verdict=Verdict.NOT_HERE, p=0.41),
        ),
        charts=(response(), curves()),
        tables=(
            Table(
                title="Steps to 95 % at each arm's best rate",
                columns=("arm", "learning rate", "median steps", "reached by"),
                rows=(
                    ("tanh, none", "0.1", "100", "8 of 8"),
                    ("tanh, bn", "0.5", "40", "8 of 8"),
                    ("relu, none", "0.1", "140", "6 of 8"),
                    ("relu, bn", "0.5", "40", "8 of 8"),
                ),
            ),
        ),
        notes=("Two seeds of relu without norm never reached the target; they rank last, at budget + 1.",),
        trials=128,
    )


def response() -> Chart:
    rates = tuple(2.0**k for k in range(-6, 4))
    lines = []
    for i, (label, best, top) in enumerate(
        [
            ("tanh, none", -3.2, 0.95),
            ("tanh, bn", -0.6, 0.98),
            ("relu, none", -3.6, 0.94),
            ("relu, bn", 0.2, 0.985),
        ]
    ):
        ys: list[float | None] = [max(0.1, top - 0.035 * (math.log2(rate) - best) ** 2) for rate in rates]
        if i == 2:
            ys[-3:] = [None, None, None]
        low = tuple(None if y is None else max(0.05, y - 0.03) for y in ys)
        high = tuple(None if y is None else min(1.0, y + 0.02) for y in ys)
        lines.append(Line(label=label, x=rates, y=tuple(ys), low=low, high=high))
    return Chart(
        name="response",
        title="Learning-rate response",
        x_title="learning rate",
        y_title="validation accuracy at the end of the budget",
        log_x=True,
        lines=tuple(lines),
        description="Median validation accuracy over 8 seeds against the learning rate, with the quartiles as a "
        "band. With batch norm the plateau lies three octaves higher.",
    )


def curves() -> Chart:
    steps = tuple(float(step) for step in range(5, 565, 5))
    lines = []
    for label, tau, top in [
        ("tanh, none", 60, 0.96),
        ("tanh, bn", 22, 0.98),
        ("relu, none", 75, 0.95),
        ("relu, bn", 18, 0.985),
    ]:
        ys = tuple(top * (1 - math.exp(-step / tau)) + 0.004 * math.sin(step / 7 + tau) for step in steps)
        low = tuple(y - 0.05 * math.exp(-step / 150) for y, step in zip(ys, steps, strict=True))
        high = tuple(min(1.0, y + 0.03 * math.exp(-step / 150)) for y, step in zip(ys, steps, strict=True))
        lines.append(Line(label=label, x=steps, y=ys, low=low, high=high))
    return Chart(
        name="curves",
        title="Training curves at each arm's best rate",
        x_title="training step",
        y_title="validation accuracy",
        lines=tuple(lines),
        description="Median validation accuracy over 8 seeds while training, with the quartiles as a band.",
    )


def choices() -> StripChart:
    """Three arms; where seeds chose the same they lie at one place."""
    draw = random.Random(5)
    rows = tuple(
        Strip(
            label=label,
            x=tuple(2.0 ** draw.choice(octaves) for _ in SEEDS),
            kinds=tuple(draw.choice(("own", "He")) for _ in SEEDS),
        )
        for label, octaves in (("tanh, none", (-4, -3)), ("tanh, bn", (-1, 0, 1)), ("relu, none", (-5,)))
    )
    return StripChart(
        name="choices",
        title="What the seeds chose",
        x_title="learning rate",
        log_x=True,
        rows=rows,
        description="The best rate of each seed on validation. With batch norm it lies three octaves higher.",
    )


def learning_rates() -> Answer:
    return Answer(
        question="learning-rates",
        title="Does batch norm allow larger learning rates?",
        claim="Batch normalization enables higher learning rates.",
        source="Ioffe & Szegedy 2015, arXiv:1502.03167, §3.3",
        headline="The largest rate that still trains is 4 octaves higher with batch norm.",
        effects=(
            effect(
                "largest rate",
                4.1,
                0.5,
                margin=2,
                verdict=Verdict.HOLDS,
                scale="difference",
                unit="octaves",
                better="higher",
            ),
        ),
        charts=(choices(), response()),
        trials=256,
    )


def placement() -> Answer:
    return Answer(
        question="placement",
        title="Is batch norm better before or after the activation?",
        claim="Before ReLU, after s-shaped activations.",
        source="Ioffe & Szegedy 2015, §3.2",
        headline="After the activation is faster with sigmoid, and with relu too; accuracy is the same within a point.",
        effects=(
            effect("sigmoid: after is faster", 0.5, 0.2, margin=0.1, verdict=Verdict.HOLDS),
            effect("relu: before is faster", -0.32, 0.1, margin=0.1, verdict=Verdict.REVERSED),
            effect(
                "tanh: same accuracy",
                0.1,
                0.5,
                margin=1,
                verdict=Verdict.HOLDS,
                scale="difference",
                unit="points",
                kind="equivalence",
                better="higher",
            ),
        ),
        charts=(curves(),),
        trials=96,
    )


def small_batches() -> Answer:
    return Answer(
        question="small-batches",
        title="Does batch norm fail at small batches, and does renorm cure it?",
        claim="Batch Renormalization makes training on small minibatches as good as on large ones.",
        source="Ioffe 2017, arXiv:1702.03275",
        headline="With 8 seeds it cannot be said whether batch norm loses more than 2 points at batch 2.",
        effects=(
            effect(
                "loss at batch 2",
                1.7,
                2.0,
                margin=2,
                verdict=Verdict.INCONCLUSIVE,
                scale="difference",
                unit="points",
                better="higher",
                p=0.11,
            ),
        ),
        notes=("10 seeds would be needed to decide it.",),
        trials=64,
    )


def failures() -> tuple[Failure, ...]:
    diverged = [
        Failure(
            key=f"d{rate}{seed}",
            arm="relu, none",
            setting=f"lr={rate}",
            seed=seed,
            status="diverged",
            reason=f"loss is not finite at step {seed + 3}",
        )
        for rate in (4, 8)
        for seed in SEEDS
    ]
    raised = Failure(
        key="r",
        arm="tanh, bn",
        setting="lr=0.5",
        seed=3,
        status="raised",
        reason="RuntimeError: the metric got an empty batch",
    )
    return (*diverged, raised)


def study(*answers: Answer, **changes: object) -> StudyResult:
    fields: dict[str, object] = {
        "task": "digits-mlp",
        "task_facts": {
            "parameters": "28,710",
            "training rows": "1,077",
            "batch size": "64",
            "target": "0.95",
        },
        "profile": "quick",
        "seeds": SEEDS,
        "answers": answers,
        "failures": failures(),
        "trials_new": 424,
        "trials_reused": 120,
        "seconds": 134.2,
        "started": "2026-02-03 10:15 UTC",
        "command": "normsmith study digits-mlp -q fewer-steps -q learning-rates --seeds 8 --report report.html",
        "settings": {"steps": "560", "evaluate every": "5 steps", "jobs": "2"},
        "versions": {"normsmith": "0.1.0", "torch": "2.13.0", "python": "3.12.3", "platform": "Linux x86_64"},
    }
    return StudyResult(**{**fields, **changes})


def ordinary() -> StudyResult:
    return study(fewer_steps(), learning_rates(), placement(), small_batches())


def budgeted() -> StudyResult:
    """A study with a budget: one question ended at its first look."""
    first = Looked(number=1, of=2, seeds=10, alpha=0.008)
    second = Looked(number=2, of=2, seeds=20, alpha=0.042)
    left_out = LeftOut(question="small-batches", answered=0, seeds=10, seconds=95.0, begun=False)
    said = {"look": second, "recommendation": "Use batch norm after the activation."}
    return study(
        fewer_steps().model_copy(update={"look": first}),
        placement().model_copy(update=said),
        budget=Budget(seconds=600.0, looks=(first, second), left_out=(left_out,)),
        notes=("The budget was 10 min.",),
    )


def nasty() -> StudyResult:
    """Every string a user could have named is an attack, a formula, very long or far from ASCII."""
    bad = effect(f"{NASTY} %{{x}} $x^2$", 0.3, 0.2, margin=0.1, verdict=Verdict.INCONCLUSIVE, unit=NASTY)
    bad = bad.model_copy(
        update={"hypothesis": FORMULA, "treatment": f"@{NASTY}", "control": LONG, "sentence": NASTY}
    )
    line = Line(label=f"{NASTY} %{{y}}", x=(1.0, 2.0, 3.0), y=(1.0, None, 2.0))
    other = Line(label=LONG, x=(1.0, 2.5), y=(0.5, 0.7), low=(0.4, None), high=(0.6, None))
    chart = Chart(
        name=NASTY,
        title=NASTY,
        x_title=LONG,
        y_title=NASTY,
        log_x=True,
        log_y=True,
        lines=(line, other),
        description=NASTY,
    )
    strips = StripChart(
        name=NASTY,
        title=NASTY,
        x_title=LONG,
        rows=(Strip(label=LONG, x=(1.0,), kinds=(NASTY,)),),
        description=NASTY,
    )
    answer = Answer(
        question=NASTY,
        title=NASTY,
        claim=LONG,
        source=NASTY,
        headline=NASTY,
        effects=(bad,),
        charts=(chart, strips),
        tables=(Table(title=NASTY, columns=(NASTY, LONG), rows=((NASTY, "数字 🙂 é"),)),),
        notes=(NASTY, LONG),
        trials=1,
    )
    failure = Failure(key=NASTY, arm=NASTY, setting=LONG, seed=0, status="raised", reason=NASTY)
    return study(
        answer,
        answer,
        task=f"{LONG}{NASTY} — 数字 Ünïcode",
        task_facts={NASTY: LONG},
        profile=NASTY,
        failures=(failure,),
        started=NASTY,
        command=f"normsmith study '{LONG}{NASTY}'",
        settings={LONG: NASTY},
        versions={NASTY: NASTY},
    )


BIDI = "\u202egnp.evil\u2066"


def hostile() -> StudyResult:
    """A thousand failures of as many settings, many reasons of a megabyte, and names from the worst of places."""
    name = f"{NASTY} {BIDI} 🙂 \ud800 {LONG}"
    endless = name + "x" * 1_000_000
    failures = tuple(
        Failure(
            key=str(i),
            arm=f"{i} {name}",
            setting=f"{i} {name}",
            seed=i,
            status="raised",
            reason=f"{i} {endless if i % 10 == 0 else name}",
        )
        for i in range(1000)
    )
    effects = tuple(
        effect(str(i), 0.3, 0.2, margin=0.1, verdict=verdict).model_copy(
            update=dict.fromkeys(("unit", "treatment", "control", "hypothesis", "sentence"), endless)
            | {"name": f"{i} {endless}"}
        )
        for i, verdict in enumerate(Verdict)
    )
    lines = tuple(line.model_copy(update={"label": endless}) for line in curves().lines)
    chart = curves().model_copy(update={"lines": lines, "description": endless, "x_title": endless})
    strips = choices().model_copy(
        update={"rows": tuple(row.model_copy(update={"label": endless}) for row in choices().rows)}
    )
    answers = fewer_steps().model_copy(
        update={"effects": effects, "charts": (chart, strips), "headline": endless, "notes": (endless,)}
    )
    return study(
        *[answers] * 7,
        task=name,
        failures=failures,
        skipped={name: endless},
        command=endless,
        trials_new=5000,
    )


def one_seed() -> StudyResult:
    one = effect("tanh", 0.4, 0.0, margin=0.4, verdict=Verdict.INCONCLUSIVE, seeds=(0,), p=1.0)
    return study(
        fewer_steps().model_copy(update={"effects": (one,), "charts": (), "tables": ()}),
        seeds=(0,),
        failures=(),
    )


def empty() -> StudyResult:
    return study(failures=(), trials_new=0, trials_reused=0)


def evidence() -> dict[str, object]:
    """All that a finding can have for a page to draw, with names of all kinds."""

    def values(mean: float) -> dict[str, object]:
        return {"loss": {"mean": mean, "spread": abs(mean) / 10, "batches": [mean]}}

    parts = [("features.1", 0.2), (LONG, 0.4), (NASTY, -0.05)]
    steps = [
        {
            "layers": [path],
            "in_order": values(added),
            "alone": values(added / 2),
            "reversed": values(3 * added),
        }
        for path, added in parts
    ]
    quantiles = [-1.2, -0.9, -0.3, 0.1, 0.4, 0.8, 2.5]
    return {
        "evaluation": values(1.0),
        "dropout_off": values(-0.1),
        "steps": steps,
        "channels": {
            "what": "running statistics",
            "of": NASTY,
            "mean": quantiles,
            "variance": [math.exp(value) for value in quantiles],
            "allowed": {"mean": [-0.1, 0.1], "variance": [0.8, 1.2]},
        },
        "batches": {"values": [1.0, -0.5, 0.2, 0.0], "errors": [0.2] * 4},
    }


def findings() -> Findings:
    """What a check can find: of each severity, measured far apart, proved, suppressed, and with names of all kinds."""
    fix = Fix("surgery.recalibrate(model, batches).apply()")
    stale = Finding(
        "features.1",
        "the running mean is off by 3.2 standard deviations, " * 6,
        "the weights moved after the statistics were measured",
        fix,
        quantity="shift",
        measured=3.2,
        threshold=0.1,
        severity="error",
        code="NS404",
        name="stale-statistics",
        proof=Proof((0.92, 0.31), (0.5, 0.9), 6),
    )
    return Findings(
        (
            stale,
            replace(stale, path=LONG, measured=0.4),
            replace(stale, path=NASTY, measured=math.nan, message=NASTY, cause=NASTY),
            replace(stale, code="NS403", name="train-eval-gap", path="", evidence=evidence()),
            replace(
                stale,
                code="XX1",
                name="of-another-package",
                severity="warning",
                fix=Fix(NASTY),
                proof=None,
                quantity=NASTY,
                measured=1e6,
                threshold=1.0,
            ),
            replace(stale, code="NS101", name="bias-before-norm", severity="info", proof=None, measured=None),
        ),
        ("NS201", "NS410"),
        (NotRun("give loss=...", "NS403", "train-eval-gap"), NotRun(NASTY, "XX2", LONG)),
        (replace(stale, path="known"),),
    )
