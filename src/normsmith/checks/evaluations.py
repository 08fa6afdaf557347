"""The batches in evaluation, as the model is: each runs once, whichever rules ask for its output or its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._torch import version_of
from normsmith.anatomy.forward import copied, flat
from normsmith.anatomy.isolation import random_states, same_random_numbers
from normsmith.checks.batches import rows
from normsmith.checks.moments import run_batch
from normsmith.checks.per_sample import SampleRows, most_samples
from normsmith.checks.restore import modes_kept

Result = tuple[Any, Any]
"""Output and target of a batch."""


class Evaluations:
    """What is kept of each batch in evaluation: rows of samples at the norms, and the output, unless it is large.

    Large is an output that takes more memory than its batch; the batch then runs again for whoever asks. What is kept
    serves as long as the tensors of the model are the same. Each forward begins with the same random numbers.

    >>> model = nn.BatchNorm1d(2)
    >>> evaluations = Evaluations(model, [torch.ones(3, 2)], lambda model, batch: (model(batch), None), [model])
    >>> evaluations.result(evaluations.batches[0])[0].shape, evaluations.samples(0)[0].shape
    (torch.Size([3, 2]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Callable[[nn.Module, Any], Result],
        norms: Sequence[nn.Module],
    ) -> None:
        self._model, self._forward, self._norms = model, forward, norms
        self.batches = batches
        self._begin = random_states(model)
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._results: dict[int, Result] = {}
        self._samples: dict[int, list[Tensor | None]] = {}

    def result(self, batch: Any) -> Result:
        """Output and target of a batch.

        Raises:
            UnavailableError: the model raised.
        """
        self._forget_what_has_changed()
        number = self._number(batch)
        return self._results[number] if number in self._results else self._watch(batch, number)

    def changed(self, batch: Any, changed: Callable[[], AbstractContextManager[None]]) -> Result:
        """Output and target of a batch in evaluation within `changed()`.

        Raises:
            UnavailableError: the model raised.
        """
        return self._run(batch, self._number(batch), changed)

    def samples(self, number: int) -> list[Tensor | None]:
        """What reached each norm from the samples of a batch; see `SampleRows`.

        Raises:
            UnavailableError: the model raised.
        """
        self._forget_what_has_changed()
        if number not in self._samples:
            self._watch(self.batches[number], number)
        return self._samples[number]

    def _number(self, batch: Any) -> int:
        """The number of a batch; that of the next one for one that is not among them."""
        return next((i for i, known in enumerate(self.batches) if known is batch), len(self.batches))

    def _watch(self, batch: Any, number: int) -> Result:
        watched = SampleRows(self._norms, rows(batch), most_samples(len(self.batches)))
        result = self._run(batch, number, watched.watching)
        if number < len(self.batches):
            self._samples[number] = watched.take()
            if _bytes(result[0]) <= _bytes(batch):
                # a copy: it may be a part of something large, and lies between what the forward has given back
                self._results[number] = copied(result)
        return result

    def _run(self, batch: Any, number: int, block: Callable[[], AbstractContextManager[None]]) -> Result:
        model = self._model
        with modes_kept(model), torch.no_grad(), same_random_numbers(model, self._begin):
            model.eval()
            with block():
                result: Result = run_batch(self._forward, model, copied(batch), number + 1)
        return result

    def _forget_what_has_changed(self) -> None:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        versions = [version_of(tensor) for tensor in tensors]
        if versions != self._versions or list(map(id, tensors)) != list(map(id, self._tensors)):
            self._tensors, self._versions = tensors, versions
            self._results.clear()
            self._samples.clear()


def _bytes(values: Any) -> int:
    return sum(tensor.nbytes for tensor in flat(values))
