"""Two stores: equal trials, other versions by how much, and verdicts side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report.samples import effect, fewer_steps, study
from tests.studies.test_kept import ASKED

from normsmith.studies.comparison import compare_stores
from normsmith.studies.results import Verdict
from normsmith.studies.store import Record, Store


def record(seed, end, torch="2.13", status="finished", **more):
    spec = {"arm": [], "seed": seed, "task": ASKED.fingerprint}
    return Record(spec, status, "", {"steps": [0, 5], "test": [0.1, end]}, 0.5, {"torch": torch, **more})


def said(verdict, name="steps"):
    answer = fewer_steps().model_copy(
        update={"effects": (effect(name, 0.9, 0.1, margin=0.4, verdict=verdict),)}
    )
    return study(answer)


@pytest.fixture
def two():
    with Store("sqlite://") as first, Store("sqlite://") as second:
        yield first, second


def fill(store, *records):
    for each in records:
        store.put(each)


def test_trials_of_one_key_are_the_same_or_named(two):
    first, second = two
    nan = replace(record(3, 0.5), measurements={"loss": [float("nan"), -0.0]})
    fill(first, record(0, 0.9), record(1, 0.9), record(2, 0.9, status="killed"), nan, record(4, 0.9))
    fill(second, replace(record(0, 0.9), seconds=7.0), record(1, 0.8), record(2, 0.9), nan, record(5, 0.9))
    same = compare_stores(first, second).same_key
    assert (same.both, same.unfinished) == (4, 1)
    assert [(each.key, each.arm, each.what) for each in same.unequal] == [
        (record(1, 0.9).key, "as is, seed 1", "test")
    ]
    assert not compare_stores(first, second).agree
    assert compare_stores(first, first).agree
    assert not compare_stores(first, first).is_empty


def test_stores_with_nothing_in_common_say_nothing(two):
    first, second = two
    fill(first, record(0, 0.9))
    fill(second, record(1, 0.9))
    assert compare_stores(first, second).is_empty


def test_other_versions_are_grouped_and_measured_in_points(two):
    first, second = two
    first.studies.begin(ASKED)
    fill(first, *(record(seed, 0.9) for seed in range(3)), record(3, 0.9, status="raised"))
    fill(second, record(0, 0.9, "2.14"), record(1, 0.87, "2.14"), record(2, 0.91, "2.13", backend="aten"))
    fill(second, record(3, 0.5, "2.14"), record(8, 0.5, "2.14"))
    groups = compare_stores(first, second).other_versions
    by_versions = {tuple(group.versions): group for group in groups}
    torch, backend = by_versions["torch",], by_versions["backend",]
    assert torch.versions == {"torch": ("2.13", "2.14")}
    assert (torch.task, torch.unit) == ("digits", "points")
    assert (torch.pairs, torch.finished, torch.higher, torch.lower) == (2, 2, 0, 1)
    assert (torch.median, torch.largest) == (pytest.approx(1.5), pytest.approx(3.0))
    assert (backend.versions, backend.pairs, backend.higher) == ({"backend": ("-", "aten")}, 1, 1)


def test_verdicts_stand_side_by_side_and_contradictions_are_named(two):
    first, second = two
    for store, verdict in ((first, Verdict.HOLDS), (second, Verdict.REVERSED)):
        store.studies.finish(store.studies.begin(ASKED), said(verdict))
    comparison = compare_stores(first, second)
    (hypothesis,) = comparison.contradictions
    assert (hypothesis.first.verdict, hypothesis.second.verdict) == (Verdict.HOLDS, Verdict.REVERSED)
    assert (hypothesis.question, hypothesis.name, hypothesis.first.seeds) == ("fewer-steps", "steps", 8)
    assert not comparison.agree


def test_of_several_studies_the_one_that_was_asked_last_is_heard_and_other_hypotheses_are_not_compared(two):
    first, second = two
    later = replace(ASKED, settings={"seeds": 9}, started="2026-03-01T00:00:00+00:00")
    first.studies.finish(first.studies.begin(later), said(Verdict.INCONCLUSIVE))
    first.studies.finish(first.studies.begin(ASKED), said(Verdict.HOLDS))
    second.studies.finish(second.studies.begin(ASKED), said(Verdict.REVERSED))
    second.studies.finish(second.studies.begin(later), said(Verdict.HOLDS, "another"))
    (hypothesis,) = compare_stores(first, second).hypotheses
    assert hypothesis.first.verdict is Verdict.INCONCLUSIVE
    assert not hypothesis.is_contradiction
