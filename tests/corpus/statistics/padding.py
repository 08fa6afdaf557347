"""NS407: padding that enters the statistics of batch norm."""

from __future__ import annotations

from functools import partial

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

MAY = "403 404"
SHORT = partial(data.tokens, shortest=3)
"""Sentences of 3 to 16 words, padded to 16: four tenths are padding."""


def on(model: nn.Module, sentences: training.Pair, *, trained: bool = True) -> Given:
    """A network of words, trained on sentences."""
    training_set, held_out = data.split(sentences)
    if trained:
        training.train(model, training.epochs(training_set), 100, rate=1e-2)
    loss = F.cross_entropy
    batches = data.batches(training_set, most=7)
    return Given(
        model, batches, loss=loss, optimizer=training.adam, validate=training.validation(held_out, loss)
    )


@case("CNN", must="407", may=MAY, seen="text and audio models: batch norm over (N, C, T) with padded T")
def convolution_over_padded_words() -> Given:
    """A convolution and batch norm over all positions, padding included, before a masked mean."""
    return on(networks.Words(), SHORT())


class WordsGru(nn.Module):
    """Embedding, GRU, batch norm over all steps, mean over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, 16, padding_idx=0)
        self.rnn = nn.GRU(16, 24, batch_first=True)
        self.bn = nn.BatchNorm1d(24)
        self.head = nn.Linear(24, 2)

    def forward(self, words: Tensor) -> Tensor:
        valid = (words > 0)[..., None]
        x = self.rnn(self.embed(words))[0]
        x = self.bn(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x * valid).sum(1) / valid.sum(1))


@case("RNN", must="407", may=MAY, seen="recurrent taggers with batch norm on all outputs, padded ones too")
def gru_over_padded_words() -> Given:
    """The recurrent layer runs on over the padding, and batch norm averages what it says there."""
    return on(WordsGru(), SHORT())


class WordsTransformer(nn.Module):
    """Embedding, one attention block with batch norm and a key mask, mean over the words."""

    def __init__(self, norm: networks.Norm = networks.batch_norm) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, 16, padding_idx=0)
        self.norm1, self.norm2 = networks.OverTime(norm(16, 1)), networks.OverTime(norm(16, 1))
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, words: Tensor) -> Tensor:
        valid = words > 0
        x = self.embed(words)
        query, key, value = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, :]))
        x = x + self.mlp(self.norm2(x))
        return self.head((x * valid[..., None]).sum(1) / valid.sum(1, keepdim=True))


@case(
    "transformer-like",
    must="407",
    may=MAY,
    seen="transformers for time series with batch norm (TST, PatchTST) and padded series",
)
def transformer_over_padded_words() -> Given:
    """Attention masks the padding, batch norm does not."""
    return on(WordsTransformer(), SHORT())


class MaskedWords(networks.Words):
    """The network of words with norms of normsmith that are told what is padding."""

    def __init__(self) -> None:
        from normsmith.layers import BatchNorm1d

        super().__init__(lambda channels, _: BatchNorm1d(channels))

    def forward(self, words: Tensor) -> Tensor:
        from normsmith.layers import use_mask

        with use_mask(self, words > 0):
            return super().forward(words)


@case("CNN", must_not="407")
def masked_batch_norm() -> Given:
    """The same padding, but the norm gets the mask and leaves it out."""
    return on(MaskedWords(), SHORT())


class SelectedWords(WordsGru):
    """Only the words go through the norm, as a flat list."""

    def forward(self, words: Tensor) -> Tensor:
        valid = words > 0
        x = self.rnn(self.embed(words))[0]
        y = torch.zeros_like(x)
        y[valid] = self.bn(x[valid])
        return self.head(y.sum(1) / valid.sum(1, keepdim=True))


@case("RNN", must_not="407")
def norm_of_selected_words() -> Given:
    """The words are picked out before the norm and put back after it."""
    return on(SelectedWords(), SHORT())


@case("transformer-like", must_not="407")
def little_padding() -> Given:
    """Sentences of 15 or 16 words: three per cent of padding."""
    return on(WordsTransformer(), data.tokens(shortest=15))


@case("transformer-like", must_not="407")
def padding_without_batch_norm() -> Given:
    """Much padding, but the network normalises each word by itself."""

    def norm(channels: int, _: int) -> nn.Module:
        return nn.Sequential(Swap(), nn.LayerNorm(channels), Swap())

    return on(WordsTransformer(norm), SHORT())


class Swap(nn.Module):
    """(N, C, T) to (N, T, C) and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@case("CNN", may="401", must_not="407")
def black_background() -> Given:
    """Half of the pixels are exactly 0, but as background, which is data."""
    images, labels = data.raw_digits()
    training_set, held_out = data.split((images.reshape(-1, 1, 8, 8) / 6, labels))
    model = training.train(networks.Cnn(), training.epochs(training_set), 120, rate=2e-2)
    return Given(
        model, data.batches(training_set, most=10), loss=F.cross_entropy, optimizer=training.adam,
        validate=training.validation(held_out, F.cross_entropy),
    )  # fmt: skip
