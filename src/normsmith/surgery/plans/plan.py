"""A plan: what an operation would do to a model, before it is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from normsmith._text import count, error_text, path_text
from normsmith.anatomy.forward import Forward, call
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.errors import InputError, SurgeryError
from normsmith.surgery.plans.edits import Edit, do_all, done, undo_all
from normsmith.surgery.plans.in_float64 import decided_in_float64
from normsmith.surgery.plans.operation import Operation
from normsmith.surgery.plans.optimizers import Following, check_own
from normsmith.surgery.plans.saved import FORMAT, check_format, refusing
from normsmith.surgery.plans.table import WIDTH, table
from normsmith.surgery.plans.verify import DifferenceError, Expectation, Verification, verify
from normsmith.surgery.plans.wrappers import averaged, check_wrapped, wrapped_tensors

_T = TypeVar("_T")


@dataclass(frozen=True)
class Change:
    """One thing that a plan does: at `path` (named as before the change), `before` becomes `after`.

    `also`: the other paths of the same module, which is shared. Changes are equal whatever the reasons, which may
    tell of values.
    """

    path: str
    before: str
    after: str
    why: str = field(compare=False)
    also: tuple[str, ...] = ()


@dataclass(eq=False)
class Plan:
    """What an operation would do to `model`: printing it is the dry run, `apply` does it.

    - `changes`: what is replaced, inserted or removed, and why.
    - `refusals`: what the operation should have changed and cannot, and why; a plan with refusals is applied
      only by `apply(partial=True)`.
    - `kept`: what was looked at and rightly stays, and why.
    - `warnings`: what is done all the same, but should be known, as statistics that are carried over and are broken.
    - `renamed`: children that get another name, old path → new path, as in a numbered `nn.Sequential`; keys of
      the state dict under them change with them.
    - `expects`: what becomes of the model's outputs; `verify` tries it.
    - `replaced`: once applied, the modules that were replaced, old → new.
    - `joined`: once applied with an optimizer, for each new parameter the one whose group it has joined, by name.

    >>> from normsmith.surgery import swap_activation
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = swap_activation(model, "tanh")
    >>> print(plan)
    tanh as activation: 1 change, 0 refusals
      1  ReLU() → Tanh()  asked for
    >>> plan.apply()[1], plan.revert()[1], plan.apply(copy=True)[1], model[1]
    (Tanh(), ReLU(), Tanh(), ReLU())
    """

    title: str
    model: nn.Module
    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    kept: tuple[Remark, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = field(default=(), repr=False)
    expects: Expectation = field(default_factory=Expectation)
    operation: Operation | None = field(default=None, repr=False)
    warnings: tuple[Remark, ...] = ()
    replaced: dict[nn.Module, nn.Module] = field(default_factory=dict, init=False, repr=False)
    _applied: tuple[list[Edit], Following] | None = field(default=None, init=False, repr=False)

    def apply(
        self,
        *,
        optimizer: Optimizer | Sequence[Optimizer] = (),
        ema: nn.Module | Sequence[nn.Module] = (),
        copy: bool = False,
        partial: bool = False,
    ) -> nn.Module:
        """Change the model in place, all or nothing, and return it; `replaced` is then old → new.

        Weights stay the same tensors; no random number is drawn. The model returned is another object only if it
        is a copy, or if it is itself what is replaced.

        Args:
            optimizer: one or several that train the model. Parameters that stay keep their group and state. A new
                parameter joins the group of the one that it replaces or whose work it takes over (a bias that of
                β), or else of the one that is most like it and near: γ and β those of other norms, vectors not those
                of matrices, in the part of the model with the same learning rate. `joined` says which, and so does
                the plan's text from then on. Removed parameters leave their group.
            ema: copies of the model (`torch.optim.swa_utils.AveragedModel`, another holder's `.module`, or plain
                copies) in which the same is changed, with their own values.
            copy: leave the model alone, and change and return a deep copy of it.
            partial: do what can be done in spite of refusals.

        Raises:
            SurgeryError: with everything untouched: there are refusals, the plan was applied before, the model
                changed since it was made, a copy is not the model's, or a wrapper (DDP, FSDP) cannot follow.
            InputError: an optimizer or an EMA together with `copy`, which they do not belong to, or of another type; an
                optimizer of another network.
        """
        optimizers = _several("optimizer", optimizer, Optimizer)
        emas = _several("ema", ema, nn.Module)
        self._check_applicable(partial)
        if copy:
            if optimizers or emas:
                raise InputError(
                    "copy=True: expected neither optimizer nor ema, which belong to the model itself"
                )
            return self._apply_to_copy(partial)
        check_own(optimizers, self.model)
        twins = [self.on(averaged(copied, self.model)) for copied in emas]
        plans = (self, *twins)
        edits = [edit for plan in plans for edit in plan.edits]
        if not all(plan._is_possible() for plan in plans):
            raise SurgeryError(f"the model changed after the plan '{self.title}' was made; make a new one")
        self._do(edits, Following(optimizers, self.model), emas)
        return self._result()

    def revert(self) -> nn.Module:
        """Undo `apply`: the model, its optimizers and EMA copies are as before, bit for bit.

        What was trained in between in tensors that both versions hold (weights, carried statistics, their
        optimizer state) stays as it is; what only the changed model had is gone.

        Raises:
            SurgeryError: with everything untouched: the plan is not applied, or what it changed was changed again.
        """
        if self._applied is None:
            raise SurgeryError(f"the plan '{self.title}' is not applied to its model")
        edits, following = self._applied
        if not (all(edit.is_undoable() for edit in edits) and following.is_restorable()):
            raise SurgeryError(
                f"the model or its optimizer changed after the plan '{self.title}' was applied; undo that first"
            )
        undo_all(edits)
        following.restore()
        self._applied, self.replaced = None, {}
        return self.model

    @property
    def joined(self) -> dict[str, str]:
        """The parameters that are new, each with the one whose optimizer's group it has joined, by their names."""
        return {} if self._applied is None else dict(self._applied[1].joined)

    def verify(self, batch: Any, *, forward: Forward = call, tolerance: float | None = None) -> Verification:
        """Try the plan on a batch, before it is applied: outputs are the same, or differ, as it `expects`.

        Runs `forward(model, batch)` before and after in evaluation, and in training where something is expected
        of that; then everything is as before: modes, buffers, hooks, random state. Outputs that should be the same and
        differ too much in float32 (or half precision) may differ by rounding: the change is then tried on a copy of the
        model in float64, and that decides. Layers that overwrite their input must not make a difference that they did
        not make before: both are also tried with `inplace=False` everywhere.

        Args:
            batch: a tensor, a dict (passed by names) or a tuple whose first part is the input.
            forward: for models that are called in another way.
            tolerance: the largest difference that counts as the same, as a share of the largest output; by
                default 1e-4 in float32, 1e-9 in float64.

        Raises:
            SurgeryError: the outputs are not as expected, or a forward failed; the plan is applied already.
        """
        if self._applied is not None:
            raise SurgeryError(f"the plan '{self.title}' is applied already; verify before that")
        try:
            return self._verified(batch, forward, tolerance, self.expects)
        except DifferenceError as error:
            return decided_in_float64(
                error,
                lambda: _twin(self.model),
                batch,
                lambda twin, wide: self.on(twin)._verified(wide, forward, tolerance, self.expects),
            )

    def _verified(
        self, batch: Any, forward: Forward, tolerance: float | None, expects: Expectation
    ) -> Verification:
        new = {module: path for path, module in self._new_modules()}
        return verify(self.model, self._changed(), new, expects, batch, forward, tolerance)

    def on(self, model: nn.Module) -> Plan:
        """The same plan for another model of the same structure. Raises SurgeryError if it would differ."""
        if self.operation is None:
            raise SurgeryError(
                f"the plan '{self.title}' is of no operation that can be repeated on another model"
            )
        plan: Plan = self.operation.plan(model)
        _check_same(self.changes, plan)
        return plan

    def to_json(self) -> str:
        """The plan as text, for another process; `from_json` makes it again there.

        Raises:
            SurgeryError: it was asked for with objects of this process, such as functions.
        """
        if self.operation is None:
            raise SurgeryError(f"the plan '{self.title}' is of no operation that can be repeated elsewhere")
        written = {
            "format": FORMAT,
            "operation": self.operation.to_dict(),
            "model": type(self.model).__name__,
            "title": self.title,
            "changes": [asdict(change) for change in self.changes],
            "refusals": [asdict(remark) for remark in self.refusals],
            "kept": [asdict(remark) for remark in self.kept],
            "warnings": [asdict(remark) for remark in self.warnings],
            "renamed": dict(self.renamed),
        }
        return json.dumps(written, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, model: nn.Module, text: str) -> Plan:
        """Make the plan of `to_json` again, for a model of the same structure.

        Only the operations of `normsmith.surgery` are called; nothing in the text is executed.

        Raises:
            SurgeryError: the text is no plan, is a plan of another format, or the plan for this model is another
                one; says which change.

        >>> from normsmith.surgery import swap_activation
        >>> text = swap_activation(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "tanh").to_json()
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> Plan.from_json(model, text).apply()[1]
        Tanh()
        """
        with refusing("expected a plan as Plan.to_json writes it, got something else"):
            read = json.loads(text)
            check_format(read)
            operation = Operation(read["operation"]["name"], dict(read["operation"]["arguments"]))
            changes = tuple(Change(**{**row, "also": tuple(row["also"])}) for row in read["changes"])
        with refusing(f"expected arguments of {operation.name!r} as Plan.to_json writes them, got others"):
            plan: Plan = operation.plan(model)
            _check_same(changes, plan)
            str(plan)  # remarks of other types would show only when somebody prints it
        return plan

    def _check_applicable(self, partial: bool) -> None:
        if self.refusals and not partial:
            listed = "; ".join(f"{path_text(refusal.path)}: {refusal.reason}" for refusal in self.refusals)
            raise SurgeryError(
                f"cannot do everything of '{self.title}': {listed}; apply(partial=True) does the rest"
            )
        if self._applied is not None:
            raise SurgeryError(f"the plan '{self.title}' was applied already; make a new one")

    def _is_possible(self) -> bool:
        there = set(self.model.modules())
        return all(edit.is_possible() and there.issuperset(edit.touches()) for edit in self.edits)

    def _do(self, edits: list[Edit], following: Following, emas: Sequence[nn.Module]) -> None:
        wrapped = [wrapped_tensors(model) for model in (self.model, *emas)]
        do_all(edits)
        try:
            for before in wrapped:
                check_wrapped(before)
            successors = {old: new for edit in self.edits for old, new in edit.successors().items()}
            joins = {new: old for edit in edits for new, old in edit.joins().items()}
            cuts = {new: cut for edit in self.edits for new, cut in edit.cuts().items()}
            following.update(self._result(), successors, self._replaces(), joins, cuts)
        except BaseException:
            following.restore()
            undo_all(edits)
            raise
        self._applied = (edits, following)
        self.replaced = self._replaces()

    def _apply_to_copy(self, partial: bool) -> nn.Module:
        twin = _twin(self.model)
        plan = self.on(twin)
        copied = plan.apply(partial=partial)
        self.replaced = dict(zip(self._replaces(), plan.replaced.values(), strict=True))
        return copied

    def _result(self) -> nn.Module:
        return self._replaces().get(self.model, self.model)

    def _replaces(self) -> dict[nn.Module, nn.Module]:
        return {old: new for edit in self.edits for old, new in edit.replaced().items()}

    @contextmanager
    def _changed(self) -> Iterator[nn.Module]:
        wrapped = wrapped_tensors(self.model)
        with done(self.edits):
            check_wrapped(wrapped)
            yield self._result()

    def _new_modules(self) -> Iterator[tuple[str, nn.Module]]:
        before = set(self.model.modules())
        with self._changed() as changed:
            after = list(changed.named_modules())
        return ((path, module) for path, module in after if module not in before)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = WIDTH) -> str:
        """What printing shows, in lines of so many columns."""
        counts = count(len(self.changes), "change"), count(len(self.refusals), "refusal")
        head = f"{self.title}: {', '.join(counts)}"
        rows = [
            (", ".join(map(path_text, (c.path, *c.also))), f"{c.before} → {c.after}", c.why)
            for c in self.changes
        ]
        rows += [(path_text(remark.path), "refused", remark.reason) for remark in self.refusals]
        rows += [(path_text(remark.path), "kept", remark.reason) for remark in self.kept]
        rows += [(path_text(remark.path), "warning", remark.reason) for remark in self.warnings]
        rows += [(old, f"renamed {new}", "") for old, new in self.renamed.items()]
        rows += [(new, f"joins the optimizer's group of {old}", "") for new, old in self.joined.items()]
        lines = table(rows, width)
        if self.expects.evaluation == "same":
            lines.append(f"  outputs: the same in evaluation; in training: {self.expects.training}")
        return "\n".join([head, *lines])


def _several(name: str, given: Any, kind: type[_T]) -> list[_T]:
    every = [given] if isinstance(given, kind) or not isinstance(given, Iterable) else list(given)
    for one in every:
        if not isinstance(one, kind):
            raise InputError(f"{name}: expected {kind.__name__}s of torch, got {type(one).__name__}")
    return every


def _twin(model: nn.Module) -> nn.Module:
    """A deep copy, of weights too that a hook computes before each forward (old `weight_norm`)."""
    computed = (
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    )
    try:
        return deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
    except Exception as error:
        raise SurgeryError(
            f"copy=True: {type(model).__name__} cannot be copied: {error_text(error)}"
        ) from error


_SHOWN_LATER = re.compile(r", (?:momentum|schedule|track)=[^,()]+")


def _as_before(change: Change) -> Change:
    """A change as plans of format 1 had it first, before they showed these settings, which its arguments have."""
    return replace(
        change, before=_SHOWN_LATER.sub("", change.before), after=_SHOWN_LATER.sub("", change.after)
    )


def _check_same(changes: Sequence[Change], plan: Plan) -> None:
    """Raise SurgeryError unless a plan makes these changes, apart from those that its model has already."""
    got, changed = plan.changes, {change.path for change in plan.changes}
    settled = {remark.path for remark in plan.kept} - changed
    expected = tuple(change for change in changes if change.path not in settled)
    if list(map(_as_before, expected)) == list(map(_as_before, got)):
        return
    first = next(
        (pair for pair in zip(expected, got, strict=False) if pair[0] != pair[1]),
        (f"{len(expected)} changes", f"{len(got)} changes"),
    )
    raise SurgeryError(
        f"expected the plan's changes on {type(plan.model).__name__} too, got others: {first[0]} there is {first[1]} "
        "here; plan on this model itself"
    )
