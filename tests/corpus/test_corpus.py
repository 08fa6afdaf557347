"""That the corpus is what it says: cases build alike every time, run on their data, and are enough for each rule."""

from __future__ import annotations

import copy
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.corpus import training
from tests.corpus.case import Case, Given, judge, unknown
from tests.corpus.cases import by_file, every_case, healthy
from tests.corpus.codes import ABSENT, INFORMS, RULES, codes
from torch import nn

CASES = every_case()


def cases() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", CASES)


@pytest.fixture
def barely_trained() -> Iterator[None]:
    """Two steps of training are enough to see whether a case builds and runs."""
    training.AT_MOST = 2
    training._trained.cache_clear()
    yield
    training.AT_MOST = None
    training._trained.cache_clear()


def small(given: Given) -> list[tuple[object, ...]]:
    """The first two batches, or none."""
    return [batch for batch, _ in zip(given.batches or (), range(2), strict=False)]


def run(given: Given) -> None:
    """Use everything that is given as a checker would."""
    assert isinstance(given.model, nn.Module)
    assert given.batches is not None, "every case has data: what is not handed over cannot be checked"
    probe = copy.deepcopy(given.model)
    for x, y, *_ in small(given):
        for mode in (False, True) if given.runs_in_training else (False,):
            output = probe.train(mode)(x)
            assert isinstance(output, torch.Tensor)
            if given.loss is not None:
                assert given.loss(output, y).dim() == 0
    if given.optimizer is not None:
        optimizer = given.optimizer(probe)
        assert isinstance(optimizer, torch.optim.Optimizer)
        if given.training_step is not None:
            given.training_step(probe, given.batches, optimizer)
    if given.validate is not None:
        assert isinstance(given.validate(probe), float)
    if given.domain is not None:
        assert all(isinstance(given.domain(batch), str) for batch in given.batches)
    if given.ema is not None:
        assert isinstance(copy.deepcopy(given.ema).eval()(small(given)[0][0]), torch.Tensor)
    for path in filter(None, (given.checkpoint, *given.rank_checkpoints)):
        assert torch.load(path, weights_only=True)


@cases()
def test_case_builds_and_its_model_runs(name: str, tmp_path: Path, barely_trained: None) -> None:
    run(CASES[name].build(tmp_path))


@cases()
def test_labels_are_codes_and_disjoint(name: str) -> None:
    case = CASES[name]
    assert unknown(case) == set()
    assert not case.must & case.may
    assert not case.must & case.must_not
    assert not case.may & case.must_not
    assert case.as_information <= case.must
    assert case.fault.endswith(".")
    if case.must:
        assert case.seen, "a fault is one that people meet somewhere"
    else:
        assert case.must_not or name in healthy()


def test_no_two_cases_have_one_name() -> None:
    names = Counter(case.name for cases in by_file().values() for case in cases)
    assert [name for name, count in names.items() if count > 1] == []
    assert names.total() == len(CASES)


@pytest.mark.parametrize("code", RULES)
def test_each_rule_has_faults_of_different_kinds_and_near_misses(code: str) -> None:
    faulty = [case for case in CASES.values() if code in case.must]
    assert len(faulty) >= 3, code
    assert len({case.kind for case in faulty}) >= 2, f"{code}: faults in {faulty[0].kind} alone"
    assert sum(code in case.must_not for case in CASES.values()) >= 3, code


def test_healthy_networks_are_many_and_of_every_kind() -> None:
    assert len(healthy()) >= 20
    kinds = {case.kind for case in healthy().values()}
    assert {"MLP", "CNN", "RNN", "transformer-like", "Hugging Face", "MONAI"} <= kinds
    assert all(not case.must and not case.may for case in healthy().values())
    assert all(
        case.label(code) != "must not" for case in healthy().values() for code in INFORMS - case.must_not
    )


def test_what_is_absent_is_of_a_rule() -> None:
    assert ABSENT.keys() <= RULES.keys()


def digest(given: Given) -> str:
    """A digest of all numbers in what is given."""
    file = io.BytesIO()
    models = [given.model.state_dict(), given.ema.state_dict() if given.ema is not None else {}]
    torch.save([models, small(given), given.saved, given.saved_by_ranks], file)
    return hashlib.sha256(file.getvalue()).hexdigest()


@pytest.mark.full
@cases()
def test_trained_case_runs_and_is_the_same_when_built_again(name: str, tmp_path: Path) -> None:
    given = CASES[name].build(tmp_path)
    before = digest(given)
    run(given)
    training._trained.cache_clear()
    torch.rand(3)
    assert digest(CASES[name].build(tmp_path)) == before


QUICK = ("healthy-mlp", "remainder-of-one", "mild-noise-in-validation", "dropout-after-the-last-norm")
"""Cases that take no time; some draw at random after a base was trained or copied."""


@pytest.mark.parametrize("name", QUICK)
def test_building_twice_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    first = digest(CASES[name].build(tmp_path))
    assert digest(CASES[name].build(tmp_path)) == first
    training._trained.cache_clear()
    torch.rand(3)
    assert digest(CASES[name].build(tmp_path)) == first


def test_building_leaves_random_state_and_threads(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    CASES["healthy-mlp"].build(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def sketch(**labels: str) -> Case:
    """A case of labels alone."""
    sets = [codes(labels.get(name, "")) for name in ("must", "may", "must_not", "as_information")]
    return Case("sketch", "MLP", lambda: Given(nn.Identity()), *sets, fault="None.", seen="")


@pytest.mark.parametrize(
    ("labels", "findings", "hits", "misses", "alarms"),
    [
        ({"must": "301"}, [("NS301", "error")], "301", "", ""),
        ({"must": "301"}, [("NS301", "info")], "", "301", ""),
        ({"must": "301 303"}, [("NS303", "warning"), ("NS404", "warning")], "303", "301", "404"),
        ({"must": "301", "may": "404"}, [("NS404", "error")], "", "301", ""),
        ({"must": "101"}, [("NS101", "info")], "101", "", ""),
        ({"must_not": "101"}, [("NS101", "info")], "", "", "101"),
        ({}, [("NS101", "info"), ("NS310", "info")], "", "", ""),
        ({"must": "310", "as_information": "310"}, [("NS310", "info")], "310", "", ""),
        ({"must": "310", "as_information": "310"}, [("NS310", "warning")], "", "", "310"),
    ],
)
def test_findings_are_judged_by_labels(
    labels: dict[str, str], findings: list[tuple[str, str]], hits: str, misses: str, alarms: str
) -> None:
    assert judge(sketch(**labels), findings) == (set(codes(hits)), set(codes(misses)), set(codes(alarms)))
