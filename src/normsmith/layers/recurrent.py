"""Batch-normalized LSTM and GRU, called as torch's."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar, Literal, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from normsmith.errors import InputError
from normsmith.layers._cells import CellBase, GRUCell, LSTMCell, NormSettings
from normsmith.layers._recompute import ForwardState, state_of_forward
from normsmith.layers._sequences import Sequences, reverse, sequences
from normsmith.layers._symbolic import call_in_graph, is_symbol
from normsmith.layers._where import where
from normsmith.layers.ours import Ours
from normsmith.layers.policy import Policy
from normsmith.layers.properties import TruthfulProperties
from normsmith.layers.scripted import unscriptable
from normsmith.layers.statistics import StatisticsBase


class RecurrentBase(TruthfulProperties, Ours, nn.Module):
    """A recurrent network of batch-normalized cells, in layers and directions; `BatchNormLSTM` documents it.

    The cells are submodules `l0`, `l0_reverse`, `l1`, …, each with `weight_ih`, `weight_hh`, `bias` and its norms.
    """

    cell: ClassVar[type[CellBase]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        normalize: Literal["all", "input"] = "all",
        max_steps: int = 100,
        gamma: float = 0.1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        on_small_batch: Literal["error", "running"] = "error",
        on_nonfinite: Literal["skip", "propagate"] = "skip",
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        for name, size in {**sizes, "max_steps": max_steps}.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{name}: expected a positive whole number, got {size!r}")
        if normalize not in ("all", "input"):
            raise InputError(f"normalize: expected 'all' or 'input', got {normalize!r}")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise InputError(f"dropout: expected a probability from 0 to 1, got {dropout!r}")
        if proj_size:
            raise InputError(
                f"proj_size: expected 0, got {proj_size!r}; where a projection is normalised is not defined by the "
                "papers, put a Linear layer after the network"
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, 0
        self.normalize, self.max_steps = normalize, max_steps
        settings = NormSettings(normalize, max_steps, gamma, eps, momentum, on_small_batch, on_nonfinite)
        self.directions = 2 if bidirectional else 1
        for layer, direction in product(range(num_layers), range(self.directions)):
            features = input_size if layer == 0 else hidden_size * self.directions
            cell = self.cell(features, hidden_size, bias, settings, device, dtype)
            self.add_module(_name(layer, direction), cell)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        mask: Tensor | None = None,
        first_step: int = 0,
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Run the network over sequences.

        Args:
            input: shape (time, batch, input_size), (batch, time, input_size) with `batch_first`, (time,
                input_size) for a single sequence, or a packed sequence.
            hx: the initial states as in torch, (num_layers·directions, batch, hidden_size); None is zeros.
            mask: bool or 0/1 integers, True = valid, the input's shape without its features, broadcastable. What is
                not valid is passed over, wherever it is: the step after it goes on from the step before it.
            first_step: the number of the first step, where `hx` continues earlier forwards: it decides whose
                statistics are used and updated.

        Returns:
            The outputs in the form of the input, 0 where not valid, and the last states of each sequence.

        Raises:
            InputError: an argument does not fit. The running statistics are then as they were.
        """
        if is_symbol(input):
            output, states = call_in_graph(self, input, hx, mask, first_step)
            return output, states
        try:
            batch = sequences(input, self._mask_of_forward(input, mask), self.batch_first, self.input_size)
            if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step < 0:
                raise InputError(f"first_step: expected a whole number ≥ 0, got {first_step!r}")
            output, states = self._run(batch, self._initial(hx, batch), first_step)
        except InputError as error:
            raise InputError(f"{where(self)}: {error.args[0]}") from None
        if not batch.batched:
            states = tuple(state.squeeze(1) for state in states)
        return batch.restore(output), states if self.cell.states > 1 else states[0]

    @property
    def policy(self) -> Policy:
        """What the next forward will do, as its norms will: pinned by `freeze`, else derived from `training`."""
        return self._norms()[0].policy

    def freeze(self, normalize_with: Literal["batch", "running"] = "running") -> RecurrentBase:
        """Pin the statistics of all norms: no update, whatever `.train()` is called, until `unfreeze()`."""
        for norm in self._norms():
            norm.freeze(normalize_with)
        return self

    def unfreeze(self) -> RecurrentBase:
        """Undo `freeze`: the policy follows `training` again."""
        for norm in self._norms():
            norm.unfreeze()
        return self

    def reset_parameters(self) -> None:
        """Draw all weights anew and set the norms back."""
        for cell in self._cells():
            cell.reset_parameters()

    def flatten_parameters(self) -> None:
        """Do nothing: only cuDNN, which runs torch's networks, wants weights that lie together in memory."""

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse: torch has no batch-normalized recurrent networks."""
        raise unscriptable(self)

    def extra_repr(self) -> str:
        """Torch's settings, then ours, where they are not the default."""
        defaults = {
            "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False,
            "normalize": "all", "max_steps": 100,
        }  # fmt: skip
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, usual in defaults.items()
            if getattr(self, name) != usual
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])

    def _cells(self) -> list[CellBase]:
        return [cell for cell in self.children() if isinstance(cell, CellBase)]

    def _norms(self) -> list[StatisticsBase]:
        return [module for module in self.modules() if isinstance(module, StatisticsBase)]

    def _mask_of_forward(self, input: Tensor | PackedSequence, mask: Tensor | None) -> Tensor | None:
        """The mask of this forward: the argument, or that of an open `use_mask`; recomputed, that of its original."""
        if isinstance(input, PackedSequence):
            return mask  # a packed sequence knows its lengths, whatever `use_mask` says
        context = self._norms()[0].context_mask if mask is None else mask
        return state_of_forward(self, lambda: ForwardState(None, None, context, *self.policy)).mask

    def _initial(self, hx: Any, batch: Sequences) -> tuple[Tensor, ...]:
        """The initial states, h (and c), of shape (layers·directions, batch, hidden_size): `hx`, or zeros."""
        shape: tuple[int, ...] = (self.num_layers * self.directions, batch.x.shape[1], self.hidden_size)
        number = self.cell.states
        if hx is None:
            return (batch.x.new_zeros(shape),) * number
        given = (hx,) if number == 1 else hx
        if not batch.batched:
            shape = (shape[0], shape[2])
        fits = isinstance(given, (tuple, list)) and len(given) == number
        if not fits or any(not isinstance(state, Tensor) or state.shape != shape for state in given):
            got = (
                tuple(
                    tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                    for state in given
                )
                if isinstance(given, (tuple, list))
                else type(given).__name__
            )
            wanted = f"a tensor of shape {shape}" if number == 1 else f"(h, c), each of shape {shape}"
            raise InputError(f"hx: expected {wanted}, got {got}")
        return tuple(state if batch.batched else state.unsqueeze(1) for state in given)

    def _run(
        self, batch: Sequences, initial: tuple[Tensor, ...], first_step: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The outputs of the last layer, and the last states of all cells, stacked."""
        x, final = batch.x, []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in range(self.directions):
                cell = self.get_submodule(_name(layer, direction))
                states = tuple(state[layer * self.directions + direction] for state in initial)
                along = reverse(x, batch.alive) if direction else x
                output, states = cell(along, states, batch.alive, first_step)
                outputs.append(reverse(output, batch.alive) if direction else output)
                final.append(states)
            x = outputs[0] if self.directions == 1 else torch.cat(outputs, dim=2)
        return x, tuple(torch.stack(states) for states in zip(*final, strict=True))


class BatchNormLSTM(RecurrentBase):
    """LSTM whose products and cell state are batch-normalized, with statistics of their own at every time step.

        (i, f, g, o) = BN(W_h·h; γ_h) + BN(W_x·x; γ_x) + b
        c ← σ(f)·c + σ(i)·tanh(g)        h = σ(o)·tanh(BN(c; γ_c, β_c))

    Arguments, call and return are those of `torch.nn.LSTM`, unpacked, packed or with a mask; gates are in its order.
    In training step t is normalised by the mean and biased variance of the sequences still running at t, and
    row t of the running statistics moves towards them; in evaluation row t normalises. Row `max_steps` − 1 serves
    all later steps. A step that only one sequence reaches has no variance: its row normalises it and
    is not updated. In the reverse direction step 0 is a sequence's last. All steps share γ and β; products have γ
    alone, as one b shifts their sum. Statistics are accumulated and kept in float32 at least.

    Without `hx` W_h·h is 0 for all sequences at step 0: that step's variance is 0, and initial states that the
    batch shares have no effect in training. To continue sequences with `hx`, say so by `first_step`.

    Args:
        input_size: number of features of the input at each step.
        hidden_size: number of features of h, and of c.
        num_layers: how many layers run one on the outputs of the other.
        bias: whether there is b, of shape (gates·hidden_size,).
        batch_first: whether inputs and outputs are (batch, time, features) rather than (time, batch, features).
        dropout: probability from 0 to 1 of dropping an output of a layer before the next one, in training.
        bidirectional: whether a second network reads the sequences backwards; outputs are concatenated.
        proj_size: 0: networks with projections are not offered.
        device: where parameters and buffers are made.
        dtype: of the parameters; running statistics are float32 at least.
        normalize: "all" (Cooijmans), or "input" (Laurent): only W_x·x, by one set of statistics over all steps.
        max_steps: how many steps have statistics of their own.
        gamma: initial γ. With 1 the gates' derivatives start small, and gradients vanish.
        eps: finite number ≥ 0 that all norms add to their variances.
        momentum: weight of the new batch in all running statistics; None is the cumulative average.
        on_small_batch: a batch of one sequence in training: "error", or "running" to use the running statistics.
        on_nonfinite: "skip" keeps NaN and inf out of the running statistics; "propagate" does not.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> import torch
    >>> lstm = BatchNormLSTM(8, 16, num_layers=2, bidirectional=True, batch_first=True)
    >>> valid = torch.arange(5) < torch.tensor([[5], [3], [2]])
    >>> output, (h, c) = lstm(torch.randn(3, 5, 8), mask=valid)
    >>> output.shape, h.shape, output[1, 3:].abs().max().item()
    (torch.Size([3, 5, 32]), torch.Size([4, 3, 16]), 0.0)

    Source: Cooijmans et al. (2016), arXiv:1603.09025; Laurent et al. (2015), arXiv:1510.01378.
    """

    cell = LSTMCell


class BatchNormGRU(RecurrentBase):
    """GRU whose products are batch-normalized, with statistics of their own at every time step.

        r, z = σ(BN(W_x·x; γ_x) + BN(W_h·h; γ_h) + b)
        n = tanh(BN(W_x·x; γ_x) + r·BN(W_h·h; γ_h) + b)        h ← (1 − z)·n + z·h

    Arguments, call and return are those of `torch.nn.GRU`; there is one bias, outside of r·(…). Everything else is as
    in `BatchNormLSTM`, `hx` and the returned state being h alone.

    Raises:
        InputError: an argument or an input does not fit; says what was expected, and where.

    >>> import torch
    >>> gru = BatchNormGRU(8, 16)
    >>> output, h = gru(torch.randn(5, 3, 8))
    >>> output.shape, torch.equal(output[-1], h[0]), gru.l0.norm_hh.running_var.shape
    (torch.Size([5, 3, 16]), True, torch.Size([100, 48]))

    Source: as for `BatchNormLSTM`, applied to Cho et al. (2014), arXiv:1406.1078, in torch's form.
    """

    cell = GRUCell


def _name(layer: int, direction: int) -> str:
    """The name of a cell among the submodules."""
    return f"l{layer}_reverse" if direction else f"l{layer}"
