"""`normsmith check --fix`: what a check found, mended in the task's network: plans first, then new weights."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from normsmith import surgery
from normsmith._text import count
from normsmith.checks import Findings, Fix
from normsmith.errors import InputError
from normsmith.surgery.checkpoints.write import PICKLED, check_target
from normsmith.tasks import Task, build


class Loaded:
    """A task's network, with the weights of a checkpoint where one is named; says which."""

    def __init__(self, task: Task, checkpoint: Path | None) -> None:
        self.task = task
        self.model: nn.Module = build(task, 0)
        self.read = (
            None if checkpoint is None else surgery.load_checkpoint(self.model, checkpoint, lacking=True)
        )
        new = "the network is new; --checkpoint FILE loads the weights of a trained one"
        say(new if self.read is None else str(self.read))


def check_fix_options(fix: bool, *, unsafe: bool, target: Path | None, force: bool) -> None:
    """Refuse options that go with others, and a file that cannot be written, before anything runs."""
    if not fix and (unsafe or target is not None):
        raise InputError("--unsafe-fixes and --fixed go with --fix")
    if target is not None:
        check_target(target, force=force, suffixes=(".safetensors", *PICKLED))


def mend(network: Loaded, findings: Findings, *, unsafe: bool, target: Path | None) -> None:
    """Show the plan of each fix, do it, and write the weights to `target`; standard error says what was not done.

    A setting such as momentum is no weight: where a plan changes none, the line of code stands there instead.
    """
    fixes = [fix for fix in findings.fixes(keep_outputs=not unsafe) if fix.plan is not None]
    left = [fix for fix in findings.fixes() if fix not in fixes]
    model, settings = network.model, []
    for fix in fixes:
        assert fix.plan is not None  # chosen so
        plan = fix.plan(model)
        say(str(plan))
        before = _weights(model)
        model = plan.apply()
        if _are_equal(before, _weights(model)):
            settings.append(fix)
    for fix in left:
        say(f"not done: {_why(fix)}: {fix.code}")
    for fix in settings:
        say(f"no weight is changed by {fix.code}: do the same where the network is made")
    if not fixes:
        say("nothing to fix")
    elif target is None:
        say("dry run: no weights are written without --fixed FILE")
    else:
        notes = surgery.save_checkpoint(model, target, like=network.read)
        say("\n  ".join((f"written: {target}, {count(len(model.state_dict()), 'entry')}", *notes)))


def say(text: str) -> None:
    """A line or more on standard error, as they are."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _why(fix: Fix) -> str:
    return "a change of the optimizer" if fix.plan is None else "it changes outputs; --unsafe-fixes does it"


def _weights(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict().items()
    return {name: value.clone() for name, value in state if isinstance(value, Tensor)}


def _are_equal(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(
        torch.allclose(value, after[name], rtol=0, atol=0, equal_nan=True) for name, value in before.items()
    )
