"""Batches of sequences of different lengths: padded with a mask, or packed; brought into one form and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from normsmith.errors import InputError


@dataclass(frozen=True)
class Sequences:
    """Sequences of shape (time, batch, features): the steps of each come first, in order, and then zeros.

    `alive` (time, batch) is True where a sequence is still running; None: everywhere. `order` (time, batch) says
    where in the input each step was; None: in the same place.
    """

    x: Tensor
    alive: Tensor | None
    order: Tensor | None = None
    packed: PackedSequence | None = None
    batch_first: bool = False
    batched: bool = True

    def restore(self, output: Tensor) -> Tensor | PackedSequence:
        """Give outputs the layout of the input."""
        if self.packed is not None:
            return _packed_like(self.packed, output)
        if self.order is not None:
            output = _along_time(output, self.order.argsort(0))
        if not self.batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output


def sequences(
    given: Tensor | PackedSequence, mask: Tensor | None, batch_first: bool, features: int
) -> Sequences:
    """Check an input and bring it into one form.

    Raises:
        InputError: the input or the mask has a wrong shape or dtype.
    """
    if isinstance(given, PackedSequence):
        if mask is not None:
            raise InputError("mask: expected none with a packed sequence, which knows its lengths; got one")
        _check_features(given.data, 2, "data of (steps, features)", features)
        x, lengths = pad_packed_sequence(given)
        alive = torch.arange(len(x), device=lengths.device).unsqueeze(1) < lengths
        whole = bool(alive.all())  # both on the CPU
        return Sequences(x, None if whole else alive.to(x.device), packed=given)
    layout = "(batch, time, features)" if batch_first else "(time, batch, features)"
    batched = given.ndim != 2
    _check_features(given, 3, f"{layout}, or (time, features) of a single sequence,", features)
    if mask is not None:
        mask = _checked_mask(mask, given)
    x = given if batched else given.unsqueeze(1)
    if batched and batch_first:
        x, mask = x.transpose(0, 1), None if mask is None else mask.transpose(0, 1)
    if len(x) == 0:
        raise InputError(f"expected at least one step in {layout}, got shape {tuple(given.shape)}")
    if mask is None:
        return Sequences(x, None, batch_first=batch_first, batched=batched)
    alive = mask if batched else mask.unsqueeze(1)
    order = (~alive).to(torch.uint8).argsort(dim=0, stable=True)
    alive = alive.gather(0, order)
    x = torch.where(alive.unsqueeze(2), _along_time(x, order), 0.0)
    return Sequences(x, alive, order, None, batch_first, batched)


def reverse(x: Tensor, alive: Tensor | None) -> Tensor:
    """Turn each sequence around within its length; twice is the identity."""
    if alive is None:
        return x.flip(0)
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)
    return _along_time(x, torch.where(alive, alive.sum(0) - 1 - steps, steps))


def _along_time(x: Tensor, order: Tensor) -> Tensor:
    """Steps of each sequence in another order; `order` has shape (time, batch)."""
    return x.gather(0, order.unsqueeze(2).expand_as(x))


def _packed_like(given: PackedSequence, output: Tensor) -> PackedSequence:
    """Outputs of shape (time, batch, features), packed as the input was."""
    if given.sorted_indices is not None:
        output = output.index_select(1, given.sorted_indices)
    # the batch sizes count down the running sequences: lengths, in the order of the data
    lengths = (given.batch_sizes.unsqueeze(1) > torch.arange(output.shape[1], device="cpu")).sum(0)
    data = pack_padded_sequence(output, lengths).data
    return PackedSequence(data, given.batch_sizes, given.sorted_indices, given.unsorted_indices)


def _check_features(x: Tensor, dimensions: int, layout: str, features: int) -> None:
    """Raise InputError unless x is floating-point, with the features last."""
    if not x.is_floating_point():
        raise InputError(f"expected a floating-point input, got {x.dtype}; convert it, e.g. with .float()")
    if x.ndim not in (2, dimensions) or x.shape[-1] != features:
        raise InputError(
            f"expected an input of shape {layout} with {features} features, got {tuple(x.shape)}; "
            "features come last"
        )


def _checked_mask(mask: Tensor, x: Tensor) -> Tensor:
    """The mask as bool, on the device of x and of its shape without the features; refused where it does not fit."""
    if mask.is_floating_point() or mask.is_complex():
        raise InputError(
            f"mask: expected bool or 0/1 integers, True or 1 = valid, got {mask.dtype}; "
            "note that torch's key_padding_mask means the inverse"
        )
    shape = x.shape[:-1]
    if mask.ndim != len(shape) or any(
        have not in (1, want) for have, want in zip(mask.shape, shape, strict=True)
    ):
        raise InputError(
            f"mask: expected shape {tuple(shape)}, that of the input without its features (or 1 where it is the "
            f"same for all), got {tuple(mask.shape)}"
        )
    return mask.to(device=x.device, dtype=torch.bool).expand(shape)
