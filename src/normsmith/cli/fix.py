"""`normsmith fix`: the norms of a network changed, as a plan to read or as a checkpoint to write."""

from __future__ import annotations

import difflib
import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from torch import nn

from normsmith import surgery
from normsmith._text import count
from normsmith.anatomy.batch_norms import is_batch_norm
from normsmith.anatomy.kinds import is_norm
from normsmith.cli.prints import prints_aside
from normsmith.errors import InputError
from normsmith.measure import MAX_PASSES
from normsmith.surgery import Checkpoint, Plan
from normsmith.surgery.checkpoints.allowed import ALLOWED
from normsmith.surgery.checkpoints.read import nearest
from normsmith.surgery.checkpoints.write import PICKLED, check_target, save_text
from normsmith.surgery.plans.table import WIDTH
from normsmith.surgery.targets.conversions import TARGETS
from normsmith.surgery.targets.factory import NAMES
from normsmith.tasks import Task, build, check, evaluation_batches, example, forward_of, load, seeded
from normsmith.tasks.load import FORMS


class Side(StrEnum):
    """Where a norm stands beside its activation."""

    BEFORE = "before"
    AFTER = "after"


_Task = Annotated[
    str,
    typer.Argument(help=f"{FORMS}. The file or module is executed."),
]
_Convert = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help=f"Make batch norms another kind: {', '.join(TARGETS)}.",
    ),
]
_Insert = Annotated[Side | None, typer.Option(help="Put norms before or after the activations.")]
_Place = Annotated[Side | None, typer.Option(help="Move norms before or after their activations.")]
_Strip = Annotated[bool, typer.Option("--strip", help="Take norms out.")]
_Fold = Annotated[bool, typer.Option("--fold", help="Fold batch norms into their layers.")]
_Recalibrate = Annotated[
    bool, typer.Option("--recalibrate", help="Measure running statistics on the training set.")
]
_Plan = Annotated[Path | None, typer.Option(metavar="FILE", help="Repeat a plan that was saved.")]
_Norm = Annotated[str | None, typer.Option(help=f"For --insert: {', '.join(NAMES)}.", show_default="batch")]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the new layers (again for more)."),
]
_Only = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only these paths, as 'layer1.*' (again for more)."),
]
_Exact = Annotated[bool, typer.Option("--exact", help="For --recalibrate: in passes until nothing moves.")]
_MaxPasses = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=2,
        help="For --exact: the most passes over the training set.",
        show_default=str(MAX_PASSES),
    ),
]
_Partial = Annotated[bool, typer.Option("--partial", help="Do the rest where parts are refused.")]
_Diff = Annotated[bool, typer.Option("--diff", help="Show how the tree of modules changes.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the plan as JSON, and nothing else.")]
_SavePlan = Annotated[Path | None, typer.Option(metavar="FILE", help="Save the plan as JSON.")]
_Checkpoint = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Weights to load first: .safetensors, .pt and the like, or a folder."),
]
_Key = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="For --checkpoint: the state dict to take, as 'params_ema'."),
]
_Prefix = Annotated[
    str | None,
    typer.Option(metavar="PREFIX", help="For --checkpoint: the module whose part to take, as 'backbone.'."),
]
_NonStrict = Annotated[
    bool,
    typer.Option("--non-strict", help="For --checkpoint: leave out keys that the network does not have."),
]
_Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPE",
        help=f"For --checkpoint: unpickle this type too (again for more): {', '.join(ALLOWED)}.",
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the changed network's weights: .safetensors, .pt and the like. The rest of the checkpoint "
        "stays.",
    ),
]
_Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


def fix(
    task: _Task,
    convert: _Convert = None,
    insert: _Insert = None,
    place: _Place = None,
    strip: _Strip = False,
    fold: _Fold = False,
    recalibrate: _Recalibrate = False,
    plan: _Plan = None,
    norm: _Norm = None,
    setting: _Settings = None,
    only: _Only = None,
    exact: _Exact = False,
    max_passes: _MaxPasses = None,
    partial: _Partial = False,
    diff: _Diff = False,
    as_json: _Json = False,
    save_plan: _SavePlan = None,
    checkpoint: _Checkpoint = None,
    key: _Key = None,
    prefix: _Prefix = None,
    non_strict: _NonStrict = False,
    allow: _Allow = None,
    output: _Output = None,
    force: _Force = False,
) -> None:
    """Change the norms of a task's network: print what would change, and with --output write the new weights.

    Without --output it is a dry run. The plan is tried on a batch of the task first, and nothing is written unless
    the outputs are what it says they will be. Exit code 0: done; 1: parts of the plan are refused and --partial was
    not given, nothing is written; 2: wrong usage, or the network cannot be changed like this.
    """
    if as_json and diff:
        raise InputError("--json prints the plan alone: leave --diff out, or --save-plan FILE beside it")
    for path, suffixes in ((output, (".safetensors", *PICKLED)), (save_plan, (".json",))):
        if path is not None:
            check_target(path, force=force, suffixes=suffixes)
    request = _Request(
        {
            "--convert": convert,
            "--insert": insert,
            "--place": place,
            "--strip": strip or None,
            "--fold": fold or None,
            "--recalibrate": recalibrate or None,
            "--plan": plan,
        },
        {
            "--norm": norm,
            "--set": setting or None,
            "--only": only or None,
            "--exact": exact or None,
            "--max-passes": max_passes,
        },
    )
    loading = {"key": key, "prefix": prefix, "strict": not non_strict, "allow": allow or ()}
    with prints_aside() if as_json else nullcontext():  # a network may print in its forward
        planned, read, text = _planned(request, load(task), checkpoint, loading)
    sys.stdout.write(planned.to_json() + "\n" if as_json else f"{text}\n")
    if save_plan is not None:
        save_text(planned.to_json(), save_plan)
    _finish(planned, partial=partial, diff=diff, output=output, like=read)


def _planned(
    request: _Request, task: Task, checkpoint: Path | None, loading: dict[str, Any]
) -> tuple[Plan, Checkpoint | None, str]:
    """The plan for a task's network with the weights of a checkpoint, what was read of that, and the text to show."""
    check(task)
    model = build(task, 0)
    read = _loaded(model, checkpoint, loading)
    plan, text = request.plan(task, model)
    verification = plan.verify(example(task), forward=forward_of(task))
    return plan, read, f"{text}\n{verification}"


def _loaded(model: nn.Module, checkpoint: Path | None, options: dict[str, Any]) -> Checkpoint | None:
    """Load the checkpoint, if one is named, and say what was taken where that is not plain."""
    if checkpoint is None:
        if any(option not in (None, True, ()) for option in options.values()):
            raise InputError("--key, --prefix, --non-strict and --allow go with --checkpoint, got none")
        return None
    loaded = surgery.load_checkpoint(model, checkpoint, **options)
    if not loaded.is_plain:
        _say(str(loaded))
    return loaded


def _say(text: str) -> None:
    """One line or more on standard error, as they are."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def _finish(plan: Plan, *, partial: bool, diff: bool, output: Path | None, like: Checkpoint | None) -> None:
    """Apply the plan to the model, show the difference, write the weights, and say what was written."""
    before = repr(plan.model).splitlines()
    refused = bool(plan.refusals) and not partial
    if diff or not refused:
        model = plan.apply(partial=True)
        if diff:
            lines = difflib.unified_diff(before, repr(model).splitlines(), "before", "after", lineterm="")
            sys.stdout.write("\n".join(lines) + "\n")
        if output is not None and not refused:
            notes = surgery.save_checkpoint(model, output, like=like)
            _say("\n  ".join((f"written: {output}, {count(len(model.state_dict()), 'entry')}", *notes)))
    if refused:
        _say("parts are refused, see above; --partial does the rest")
        raise typer.Exit(1)
    if not (plan.changes or plan.refusals):
        _say(_nothing(plan.model))
    if output is None:
        _say("dry run: no weights are written without --output")


def _nothing(network: nn.Module) -> str:
    """Why a plan changes nothing."""
    if any(is_norm(module) or is_batch_norm(module) for module in network.modules()):
        return "nothing to change: the norms that there are stand as asked for"
    return "nothing to change: the network has no norms; --insert before puts some in"


def _width() -> int:
    """The columns of a table: those of the terminal, at most so many as fit a page."""
    return min(WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDTH


_TAKES = {
    "--convert": {"--set", "--only"},
    "--insert": {"--norm", "--set", "--only"},
    "--place": {"--only"},
    "--strip": {"--only"},
    "--fold": {"--only"},
    "--recalibrate": {"--only", "--exact", "--max-passes"},
    "--plan": set[str](),
}
"""The settings that each operation takes."""


class _Request:
    """The one operation that the command line asks for, with its settings.

    Raises InputError: no operation or several, or a setting that does not go with it.
    """

    def __init__(self, operations: dict[str, Any], settings: dict[str, Any]) -> None:
        given = [name for name, value in operations.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                f"expected one of {', '.join(operations)}, got {' and '.join(given) or 'none of them'}"
            )
        (self._name,) = given
        self._value = operations[self._name]
        for name, value in settings.items():
            if value is not None and name not in _TAKES[self._name]:
                operations_with = [operation for operation, names in _TAKES.items() if name in names]
                raise InputError(f"{name} goes with {' or '.join(operations_with)}, got it with {self._name}")
        self._norm, self._only = settings["--norm"] or "batch", settings["--only"]
        self._exact = settings["--exact"] is not None
        if settings["--max-passes"] is not None and not self._exact:
            raise InputError("--max-passes goes with --recalibrate --exact, got it without --exact")
        self._max_passes = settings["--max-passes"] or MAX_PASSES
        self._options = dict(_setting(text) for text in settings["--set"] or ())

    def plan(self, task: Task, model: nn.Module) -> tuple[Plan, str]:
        """Make the plan for a network of the task; returns it with the text that shows it."""
        if self._name == "--recalibrate":
            return self._recalibration(task, model)
        traced_with = {"batch": example(task), "forward": forward_of(task), "only": self._only}
        makers: dict[str, Callable[[], Plan]] = {
            "--convert": lambda: surgery.convert(model, self._value, only=self._only, **self._options),
            "--insert": lambda: surgery.insert(
                model, self._norm, str(self._value), **traced_with, **self._options
            ),
            "--place": lambda: surgery.place(model, str(self._value), **traced_with),
            "--strip": lambda: surgery.strip(model, **traced_with),
            "--fold": lambda: surgery.fold(model, **traced_with),
            "--plan": lambda: Plan.from_json(model, _text(self._value)),
        }
        plan = makers[self._name]()
        return plan, plan.text(_width())

    def _recalibration(self, task: Task, model: nn.Module) -> tuple[Plan, str]:
        with seeded(0, task.device):  # a dataset may augment at random
            measured = surgery.recalibrate(
                model,
                _TrainingSet(task),
                mode="exact" if self._exact else "fast",
                only=self._only,
                forward=task.forward,
                max_passes=self._max_passes,
                loss=lambda pair, _: task.loss(*pair),
            )
        return measured.plan, str(measured)


class _TrainingSet:
    """A task's training samples in batches; every iteration goes through all of them again."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __iter__(self) -> Iterator[Any]:
        return evaluation_batches(self._task, "train")


_NAMED = {
    name
    for operation in (surgery.convert, surgery.insert)
    for name, parameter in inspect.signature(operation).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
}
"""What the operations themselves take, which is no setting of the new layers."""


def _setting(text: str) -> tuple[str, Any]:
    """`total_steps=1000` as name and value: JSON, or text where it is none."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()) or name in _NAMED:
        raise InputError(f"--set: expected a setting of the new layers, as total_steps=1000, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        meant = nearest(path) if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"cannot read the plan {path}: {reason}{meant}") from error
