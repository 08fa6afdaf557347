"""NS409: the output of one sample depends on others of its batch, in evaluation too."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

MAY = "403 404 406"


class FirstIsBatch(nn.Module):
    """torch's encoder layer at its default, which takes the first dimension for time."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


@case("transformer-like", must="409", may=MAY, seen="nn.TransformerEncoderLayer without batch_first=True")
def attention_across_the_batch() -> Given:
    """(batch, time, channels) goes into a layer that expects time first: samples attend to each other."""
    return training.fitted(FirstIsBatch(batch_first=False), "transformer")


class TimeFirst(nn.Module):
    """A GRU at its default, which takes the first dimension for time."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


@case("RNN", must="409", may=MAY, seen="nn.GRU and nn.LSTM without batch_first=True")
def recurrence_across_the_batch() -> Given:
    """The recurrent layer carries its state from one sample to the next."""
    return training.fitted(TimeFirst(), "gru")


class Standardised(nn.Module):
    """A network that standardises its batch by hand."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - x.mean(0)) / (x.std(0) + 0.1))


@case("MLP", must="409", may=MAY, seen="standardising the batch at the top of forward()")
def batch_standardised_by_hand() -> Given:
    """Each batch is standardised by its own mean and deviation, in evaluation as well."""
    return training.fitted(Standardised(networks.mlp()), "mlp")


class Reshaped(networks.Cnn):
    """Features are flattened in the wrong order."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        mixed = features.transpose(0, 1).reshape(len(x), -1)
        return self.head(mixed.unflatten(1, (24, -1)).mean(2))


@case(
    "CNN",
    must="409",
    may=MAY + " 501 502 503 504",
    seen="view() after a transpose: 'my network does not learn'",
)
def channels_and_samples_exchanged() -> Given:
    """Channels and samples are exchanged before a reshape to (samples, …): rows are of many samples."""
    return training.fitted(Reshaped(), "cnn")


@case("transformer-like", must_not="409")
def attention_within_samples() -> Given:
    """The same layer with batch_first=True."""
    return training.fitted(FirstIsBatch(batch_first=True), "transformer")


class Folded(networks.Transformer):
    """Time is folded into the batch for the head, and taken out again."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embed(x) + self.position))
        samples, steps, _ = x.shape
        return self.head(x.reshape(samples * steps, -1)).unflatten(0, (samples, steps)).mean(1)


@case("transformer-like", must_not="409")
def reshaped_and_back() -> Given:
    """Steps are folded into the batch and back, in order."""
    return training.fitted(Folded(), "transformer")


@case("CNN", must_not="409")
def batch_norm_mixes_in_training_alone() -> Given:
    """Batch norm mixes samples in training, as it is meant, and not in evaluation."""
    return training.trained("resnet")


@case("MLP", must_not="409")
def loss_that_compares_samples() -> Given:
    """A contrastive loss compares the samples of a batch; the network does not."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        similar = torch.nn.functional.normalize(output) @ torch.nn.functional.normalize(output).T / 0.2
        same = (target[:, None] == target[None]).float().fill_diagonal_(0)
        without_self = similar.masked_fill(torch.eye(len(output), dtype=torch.bool), -1e9)
        likely = without_self.log_softmax(1)
        return -(likely * same).sum() / same.sum()

    return training.around(training.trained("mlp").model, "mlp", loss=loss, validate=None)
