"""A case: a network with what its owner would hand to a checker, and what the checker should say of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tests.corpus.codes import INFORMS, RULES, codes
from torch import Tensor, nn
from torch.optim import Optimizer

Label = Literal["must", "may", "must not"]


@dataclass(frozen=True, eq=False)
class Given:
    """What a user hands over; everything but the model is left out where they would leave it out.

    Arguments:
        model: as it is at that moment, in training or evaluation mode.
        batches: a list or DataLoader of tuples: what the model is called with, its target, and perhaps a source.
        loss: `loss(output, target)` → scalar.
        optimizer: `optimizer(model)` → the optimizer the user has for this model.
        validate: `validate(model)` → a number; may leave the model as it should not.
        training_step: `training_step(model, batches, optimizer)` does one step of the user's training with as many
            of the batches as it needs.
        domain: `domain(batch)` names where a batch comes from.
        ema: the averaged copy that is evaluated in place of the model.
        checkpoint: the file, once `Case.build` has written what is `saved`.
        rank_checkpoints: one file for each rank of a distributed run, written from `saved_by_ranks`.
        runs_in_training: whether a forward in training mode works; torch refuses a single value per channel.
    """

    model: nn.Module
    batches: Iterable[Any] | None = None
    _: KW_ONLY
    loss: Callable[[Any, Any], Tensor] | None = None
    optimizer: Callable[[nn.Module], Optimizer] | None = None
    validate: Callable[[nn.Module], float] | None = None
    training_step: Callable[[nn.Module, Iterable[Any], Optimizer], Any] | None = None
    domain: Callable[[Any], str] | None = None
    ema: nn.Module | None = None
    saved: Any = None
    checkpoint: Path | None = None
    saved_by_ranks: tuple[Any, ...] = ()
    rank_checkpoints: tuple[Path, ...] = ()
    runs_in_training: bool = True


@dataclass(frozen=True, eq=False)
class Case:
    """A network with or without a fault, and the rules that must, may and must not fire on it.

    A rule in none of the three sets may fire if it only ever informs, and must not otherwise.
    """

    name: str
    kind: str
    make: Callable[[], Given]
    must: frozenset[str]
    may: frozenset[str]
    must_not: frozenset[str]
    as_information: frozenset[str]
    """Those of `must` that should come as information: nobody should be warned of them."""
    fault: str
    """What is wrong with the network, or why nothing is."""
    seen: str
    """Where people meet the fault; empty where there is none."""

    def build(self, folder: Path) -> Given:
        """Build it from fixed seeds on one thread, and write its checkpoints into a folder; random state stays."""
        with _alone():
            given = self.make()
        if given.saved is not None:
            given = replace(given, checkpoint=_write(given.saved, folder / f"{self.name}.pt"))
        paths = [folder / f"{self.name}-rank{rank}.pt" for rank in range(len(given.saved_by_ranks))]
        states = zip(given.saved_by_ranks, paths, strict=True)
        return replace(given, rank_checkpoints=tuple(_write(state, path) for state, path in states))

    def label(self, code: str) -> Label:
        """Whether a rule must, may or must not fire."""
        if code in self.must:
            return "must"
        if code in self.may or (code in INFORMS and code not in self.must_not):
            return "may"
        return "must not"


def case(
    kind: str, *, must: str = "", may: str = "", must_not: str = "", as_information: str = "", seen: str = ""
) -> Callable[[Callable[[], Given]], Case]:
    """Make a case of a function that builds it; its name and docstring are the case's name and fault."""

    def wrap(make: Callable[[], Given]) -> Case:
        name, fault = make.__name__.replace("_", "-"), inspect.getdoc(make) or ""
        labels = (codes(must), codes(may), codes(must_not), codes(as_information))
        return Case(name, kind, make, *labels, " ".join(fault.split()), seen)

    return wrap


def judge(case: Case, findings: Iterable[tuple[str, str]]) -> tuple[set[str], set[str], set[str]]:
    """Compare findings, as (code, severity), with a case's labels.

    A rule that must fire has to warn, unless it only ever informs or the case says that information is right.
    A rule that must not fire may still inform, unless information is all it ever gives.

    Returns:
        The codes that were rightly reported, those that were missed, those that are false alarms.
    """
    fired = list(findings)
    warned = {code for code, severity in fired if severity in {"warning", "error"}}
    informed = {code for code, _ in fired}
    enough = INFORMS | case.as_information
    hits = {code for code in case.must if code in warned or (code in informed and code in enough)}
    alarms = {code for code in informed & INFORMS | warned if case.label(code) == "must not"}
    alarms |= warned & case.as_information
    return hits - alarms, set(case.must) - hits, alarms


def unknown(case: Case) -> set[str]:
    """Labels of a case that are no codes of rules."""
    return set((case.must | case.may | case.must_not | case.as_information) - RULES.keys())


def _write(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@contextmanager
def _alone():
    """One thread, a fixed seed; the caller's threads and random state come back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
