"""The arguments of `use_lengths`, checked and brought into one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._choices import did_you_mean
from normsmith._text import error_text
from normsmith.anatomy.lengths.layouts import Layout, LayoutError, Samples, Steps, within
from normsmith.errors import InputError

LengthsRule = Callable[[Tensor], Any] | None
"""Of a module: takes the lengths of its input, and returns those of its output, alone or with a layout; or None."""

_AXES = {1: ("T",), 2: ("H", "W")}
_USUAL = {(1, 2): "NT", (1, 3): "NCT", (1, 4): "NCFT", (2, 3): "NHW", (2, 4): "NCHW"}


def read_lengths(lengths: Any) -> tuple[tuple[int, ...], ...]:
    """For each axis the length of every sample; a mask becomes the lengths that it has.

    Raises:
        InputError: they are no lengths, or a mask that does not begin with what is valid.
    """
    tensor = lengths if isinstance(lengths, Tensor) else _tensor(lengths)
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bool:
        return _lengths_of_mask(tensor)
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        raise InputError(f"lengths: expected whole numbers or a bool mask, got {tensor.dtype}; use .long()")
    if tensor.ndim not in (1, 2) or tensor.numel() == 0 or (tensor.ndim == 2 and tensor.shape[1] != 2):
        raise InputError(
            "lengths: expected one for each sample, shape (samples,), or a height and a width, shape (samples, 2), or "
            f"a bool mask of the input; got shape {tuple(tensor.shape)} of {tensor.dtype}"
        )
    columns = [tensor] if tensor.ndim == 1 else list(tensor.T)
    for column in columns:
        if int(column.min()) < 1:
            place = int(column.argmin())
            raise InputError(
                f"lengths: expected positive numbers, got {int(column[place])} for sample {place}; leave it out of the "
                "batch"
            )
    return tuple(tuple(column.tolist()) for column in columns)


def sizes_of_mask(lengths: Any) -> tuple[int, ...] | None:
    """The sizes of the axes of a mask, which are those of the input that it is of; None for lengths.

    >>> sizes_of_mask(torch.ones(2, 7, dtype=torch.bool)), sizes_of_mask([3, 1])
    ((7,), None)
    """
    tensor = lengths if isinstance(lengths, Tensor) else _tensor(lengths)
    return tuple(tensor.shape[1:]) if tensor.dtype == torch.bool else None


def _tensor(lengths: Any) -> Tensor:
    try:
        return torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"lengths: expected a tensor or a list of whole numbers, got {type(lengths).__name__}"
        ) from error


def _lengths_of_mask(mask: Tensor) -> tuple[tuple[int, ...], ...]:
    if mask.ndim not in (2, 3):
        raise InputError(
            "lengths: expected a mask of shape (samples, time) or (samples, height, width), got shape "
            f"{tuple(mask.shape)}; a flat mask does not say which sample comes first: give lengths"
        )
    axes = range(1, mask.ndim)
    columns = [
        mask.any([other for other in axes if other != axis]) if mask.ndim > 2 else mask for axis in axes
    ]
    lengths = tuple(tuple(column.sum(1).tolist()) for column in columns)
    if any(0 in column for column in lengths):
        raise InputError(
            "lengths: expected a valid position of every sample, got a sample that the mask leaves nothing of"
        )
    again = torch.ones_like(mask)
    for axis, column in zip(axes, lengths, strict=True):
        of_axis = within(column, mask.shape[axis], torch.device("cpu"))
        again &= of_axis.reshape([len(mask), *(mask.shape[axis] if i == axis else 1 for i in axes)])
    if not torch.equal(again, mask):
        raise InputError(
            "lengths: expected a mask whose valid positions are each sample's first, got one with others; if it was "
            "made for another layout, or is True where a sample is padded, turn it around"
        )
    return lengths


def layout_of_input(
    x: Tensor, lengths: Sequence[tuple[int, ...]], letters: str | None, sizes: Sequence[int] | None = None
) -> Layout:
    """The layout of the tensor that goes in; `sizes` are those of a mask, if there was one.

    Raises:
        InputError: the lengths or the mask do not go with it.
    """
    layout = _layout_of_input(x, lengths, letters)
    for steps in layout.steps:
        if sizes is not None and sizes[steps.axis] != steps.size:
            raise InputError(
                f"lengths: expected a mask of {steps.size} positions, as the input {tuple(x.shape)} has, got "
                f"{sizes[steps.axis]}; give the mask of the input itself, or lengths"
            )
    return layout


def _layout_of_input(x: Tensor, lengths: Sequence[tuple[int, ...]], letters: str | None) -> Layout:
    if letters is not None:
        return layout_of(tuple(x.shape), lengths, letters)
    letters = _USUAL.get((len(lengths), x.ndim))
    if letters is None:
        raise InputError(f"layout: expected one for an input of {x.ndim} dimensions, e.g. 'NCT'; got None")
    layout = layout_of(tuple(x.shape), lengths, letters)
    for steps in layout.steps:
        longest = max(steps.lengths)
        others = [i for i, size in enumerate(x.shape) if size == longest and layout.is_plain(i)]
        if longest < steps.size and others:
            raise InputError(
                f"lengths: of at most {longest}, for a size of {steps.size} in {letters!r}, while dimension "
                f"{others[0]} of the input {tuple(x.shape)} has the size {longest}; say with layout= which "
                "dimension is which"
            )
    return layout


def layout_of(shape: tuple[int, ...], lengths: Sequence[tuple[int, ...]], letters: str) -> Layout:
    """The layout that letters tell, e.g. "NCT": N samples, T time (or H and W), all others anything.

    Raises:
        InputError: letters or lengths do not go with the shape.
    """
    axes = _AXES[len(lengths)]
    if (
        not isinstance(letters, str)
        or len(letters) != len(shape)
        or any(letters.count(letter) != 1 for letter in ("N", *axes))
    ):
        raise InputError(
            f"layout: expected a letter for each dimension of {tuple(shape)}, with one N (samples) and one "
            f"{' and one '.join(axes)}, got {letters!r}"
        )
    samples = shape[letters.index("N")]
    if samples != len(lengths[0]):
        raise InputError(
            f"lengths: expected one for each of {samples} samples of the input {tuple(shape)} ({letters}), got "
            f"{len(lengths[0])}"
        )
    atoms: dict[int, Any] = {letters.index("N"): Samples(samples)}
    for axis, (letter, column) in enumerate(zip(axes, lengths, strict=True)):
        size = shape[letters.index(letter)]
        if max(column) > size:
            place = column.index(max(column))
            raise InputError(
                f"lengths: expected at most {size}, the size of {letter} in the input {tuple(shape)} ({letters}), got "
                f"{max(column)} for sample {place}; say with layout= which dimension is which"
            )
        atoms[letters.index(letter)] = Steps(axis, column, size)
    return Layout.of_shape(shape, atoms)


def read_rules(model: nn.Module, rules: Mapping[Any, Any] | None) -> dict[nn.Module, LengthsRule]:
    """The modules that have a rule, which is named by a path, a pattern of paths or a class.

    Raises:
        InputError: a name fits no module, or what stands for a rule is none.
    """
    found: dict[nn.Module, LengthsRule] = {}
    paths = dict(model.named_modules())
    for name, rule in (rules or {}).items():
        if rule is not None and not callable(rule):
            raise InputError(f"rules: expected a function of lengths or None for {name!r}, got {rule!r}")
        fitting = [
            module
            for path, module in paths.items()
            if (isinstance(module, name) if isinstance(name, type) else fnmatchcase(path, str(name)))
        ]
        if not fitting:
            raise InputError(
                f"rules: expected the path, a pattern of paths or the class of a module, got {name!r}, which fits "
                f"none{did_you_mean(name, paths)}"
            )
        found |= dict.fromkeys(fitting, rule)
    return found


def by_rule(rule: LengthsRule, layout: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The layout of an output of a module with a rule, given that of its input.

    Raises:
        InputError: the rule returns no lengths.
        LayoutError: the lengths do not go with the output.
    """
    if rule is None:
        return None
    steps = sorted({(each.axis, each.lengths) for each in layout.steps})
    before = torch.tensor([lengths for _, lengths in steps]).T
    try:
        given = rule(before[:, 0] if len(steps) == 1 else before)
    except Exception as error:  # the user's own function
        raise LayoutError(f"it raised {error_text(error)}") from error
    lengths, letters = given if isinstance(given, tuple) else (given, None)
    if lengths is None:
        return None
    after = read_lengths(lengths)
    if letters is not None:
        return layout_of(shape, after, letters)
    if steps and len(after[0]) != len(before):
        raise LayoutError(f"it returned {len(after[0])} lengths for {len(before)} samples")
    atoms: dict[int, Any] = {}
    for i, dim in enumerate(layout.dims):
        if len(dim) == 1 and isinstance(dim[0], Steps):
            atoms[i] = Steps(
                dim[0].axis, after[min(dim[0].axis, len(after) - 1)], shape[i] if i < len(shape) else 0
            )
        elif not layout.is_plain(i):
            atoms[i] = dim[0]
    if len(shape) != len(layout.dims) or any(
        max(a.lengths) > a.size for a in atoms.values() if isinstance(a, Steps)
    ):
        raise LayoutError(
            f"an output of shape {tuple(shape)} does not fit the input's layout of {layout.shape}; let the rule return "
            "(lengths, layout), e.g. (lengths, 'NTC')"
        )
    return Layout.of_shape(shape, atoms)
