"""Sizes of padded tensors as a model's code reads them: numbers that know what each sample alone would have."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Asker(Protocol):
    """Whoever is told that code does with a size what would differ from sample to sample."""

    is_open: bool

    def refuse(self, reason: str) -> Any:
        """Raise the error that names the module whose code runs."""


class PerSample:
    """A number read off a padded batch, with the number that each sample by itself would have given.

    Arithmetic keeps both. A decision that would be another one for some sample is refused, and so is what would
    lose the numbers of the samples. Once the block is closed it is a number like any other.
    """

    values: tuple[float, ...]
    asker: Asker
    axis: int | None = None
    """Which of the input's lengths a size is that was read off a tensor; None of what was computed."""

    def _same(self, outcome: Any, of_samples: Iterable[Any], what: str) -> Any:
        if self.asker.is_open and any(each != outcome for each in of_samples):
            self.asker.refuse(
                f"its code asks {what} of a padded size, {self!r}, and samples by themselves, with "
                f"{min(self.values)} to {max(self.values)}, would give another answer; a network that goes down and up "
                "again needs lengths that divide by its total stride"
            )
        return outcome

    def _compared(self, other: Any, compare: Callable[[Any, Any], bool], what: str) -> Any:
        plain = plain_number(self)
        if not isinstance(other, (int, float)):
            return NotImplemented
        outcome = compare(plain, plain_number(other))
        if (
            not isinstance(other, PerSample)
            and self.axis is not None
            and compare in (operator.eq, operator.ne)
        ):
            return outcome  # with the size of a mask, say, that each sample would have of its own
        pairs = zip(self.values, values_of(other, len(self.values)), strict=True)
        return self._same(outcome, [compare(a, b) for a, b in pairs], what)

    def __eq__(self, other: object) -> Any:
        return self._compared(other, operator.eq, "for equality")

    def __ne__(self, other: object) -> Any:
        return self._compared(other, operator.ne, "for equality")

    def __lt__(self, other: Any) -> Any:
        return self._compared(other, operator.lt, "for the order")

    def __le__(self, other: Any) -> Any:
        return self._compared(other, operator.le, "for the order")

    def __gt__(self, other: Any) -> Any:
        return self._compared(other, operator.gt, "for the order")

    def __ge__(self, other: Any) -> Any:
        return self._compared(other, operator.ge, "for the order")

    def __hash__(self) -> int:
        return hash(plain_number(self))

    def __bool__(self) -> bool:
        return bool(
            self._same(bool(plain_number(self)), [bool(value) for value in self.values], "for the truth")
        )

    def __int__(self) -> int:
        whole = [int(value) for value in self.values]
        return int(self._same(int(plain_number(self)), whole, "for a plain number by int()"))

    def __float__(self) -> float:
        whole = [float(value) for value in self.values]
        return float(
            self._same(float(plain_number(self)), whole, "for a plain number, as by float() or math.sqrt(),")
        )

    def __reduce__(self) -> tuple[Any, ...]:
        plain = plain_number(self)
        return type(plain), (plain,)


class Size(PerSample, int):
    """A whole number of that kind.

    >>> class Nobody:
    ...     is_open = True
    ...     def refuse(self, reason):
    ...         raise ValueError(reason)
    >>> size = Size(8, (8, 5), Nobody())
    >>> size // 2 + 1, (size // 2 + 1).values
    (5, (5, 3))
    """

    def __new__(cls, number: int, values: Iterable[int], asker: Asker, *, axis: int | None = None) -> Size:
        size = super().__new__(cls, number)
        size.values, size.asker, size.axis = tuple(values), asker, axis
        return size


class Quotient(PerSample, float):
    """A number of that kind that may be no whole one, as of a division."""

    def __new__(cls, number: float, values: Iterable[float], asker: Asker) -> Quotient:
        quotient = super().__new__(cls, number)
        quotient.values, quotient.asker = tuple(values), asker
        return quotient


def differing(value: Any) -> PerSample | None:
    """A number, if it is one that differs from sample to sample."""
    if (
        isinstance(value, PerSample)
        and value.asker.is_open
        and any(each != plain_number(value) for each in value.values)
    ):
        return value
    return None


def values_of(number: Any, samples: int) -> tuple[Any, ...]:
    """What a number is for each sample."""
    return number.values if isinstance(number, PerSample) else (number,) * samples


def plain_number(number: Any) -> Any:
    """The number of the padded batch, of Python's own type; what is no such number stays as it is."""
    if not isinstance(number, PerSample):
        return number
    return int.__add__(number, 0) if isinstance(number, int) else float.__add__(number, 0.0)  # type: ignore[operator]


def _made(asker: Asker, number: Any, values: Iterable[Any]) -> Any:
    if not asker.is_open:
        return number
    kind = Size if isinstance(number, int) else Quotient
    return kind(number, values, asker)


def _define(name: str, function: Callable[[Any, Any], Any]) -> None:
    def forwards(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        values = map(function, self.values, values_of(other, len(self.values)))
        return _made(self.asker, function(plain_number(self), plain_number(other)), values)

    def backwards(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        values = map(function, values_of(other, len(self.values)), self.values)
        return _made(self.asker, function(plain_number(other), plain_number(self)), values)

    for kind in (Size, Quotient):
        setattr(kind, f"__{name}__", forwards)
        setattr(kind, f"__r{name}__", backwards)


def _define_unary(name: str, function: Callable[..., Any]) -> None:
    def applied(self: Any, *digits: Any) -> Any:
        return _made(
            self.asker,
            function(plain_number(self), *digits),
            [function(each, *digits) for each in self.values],
        )

    for kind in (Size, Quotient):
        setattr(kind, f"__{name}__", applied)


for _name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow"):
    _define(_name, getattr(operator, _name))
_UNARY: dict[str, Callable[..., Any]] = {
    "neg": operator.neg, "abs": abs, "floor": math.floor, "ceil": math.ceil, "round": round,
}  # fmt: skip
for _name, _function in _UNARY.items():
    _define_unary(_name, _function)
