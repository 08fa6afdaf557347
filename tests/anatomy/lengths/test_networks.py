"""Whole networks of others on padded batches: each sample is what it is alone, to 1e-5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unpadded import assert_as_alone, padded

from normsmith import convert, use_lengths
from normsmith.errors import LengthsError
from normsmith.layers import BatchNorm1d, BatchNorm2d


class EachStep(nn.Module):
    """Runs layers on (time·samples, features), as DeepSpeech does."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        time, samples = x.size(0), x.size(1)
        return self.layers(x.view(time * samples, -1)).view(time, samples, -1)


class DeepSpeech(nn.Module):
    """Convolutions over spectrograms, bidirectional LSTMs with a batch norm between, a classifier of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 4, (11, 5), (2, 2), (5, 2)), BatchNorm2d(4), nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(4, 4, (5, 3), (2, 1), (2, 1)), BatchNorm2d(4), nn.Hardtanh(0, 20, inplace=True),
        )  # fmt: skip
        self.first = nn.LSTM(16, 8, bidirectional=True)
        self.between = EachStep(BatchNorm1d(8))
        self.second = nn.LSTM(8, 8, bidirectional=True)
        self.classify = EachStep(BatchNorm1d(8), nn.Linear(8, 6, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3]).permute(2, 0, 1).contiguous()
        x = self.both_ways(self.first(x)[0])
        x = self.both_ways(self.second(self.between(x))[0])
        return F.log_softmax(self.classify(x).transpose(0, 1), dim=-1)

    @staticmethod
    def both_ways(x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)


def fitted(net: nn.Module, *batches: Tensor) -> nn.Module:
    """A network whose running statistics are no longer 0 and 1."""
    net.train()
    for batch in batches:
        net(batch)
    return net.eval()


def test_deepspeech() -> None:
    net = fitted(DeepSpeech(), torch.randn(4, 1, 16, 30))
    assert_as_alone(net, [torch.randn(1, 1, 16, n) for n in (21, 14, 40)])


def test_deepspeech_learns_as_it_does_from_unpadded_samples() -> None:
    """Gradients in evaluation, where samples do not see each other."""
    net = fitted(DeepSpeech(), torch.randn(4, 1, 16, 30))
    samples = [torch.randn(1, 1, 16, n) for n in (21, 14, 40)]
    sum(net(sample).square().sum() for sample in samples).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    with use_lengths(net, [21, 14, 40]):
        net(padded(samples)).square().sum().backward()
    for parameter, wanted in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("positions", "norm"),
    [("rotary", "group"), ("relative", "layer")],
)
def test_conformer_of_hugging_face(positions: str, norm: str) -> None:
    """Relative positions are shifted by a trick of reshaping that needs a rule; rotary ones do not."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2ConformerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(3, 2), conv_kernel=(5, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, position_embeddings_type=positions, feat_extract_norm=norm,
        max_source_positions=100, conv_depthwise_kernel_size=5, apply_spec_augment=False,
    )  # fmt: skip
    net = convert(transformers.Wav2Vec2ConformerModel(config), to="batch").eval()
    samples = [torch.randn(1, n) for n in (100, 61, 150)]
    batch = padded(samples, more=0)
    attention = torch.arange(150) < torch.tensor([[100], [61], [150]])
    rules = {"encoder.layers.*.self_attn": lambda lengths: lengths, "encoder.embed_positions": None}
    if positions == "relative":
        with (
            pytest.raises(LengthsError, match=r"encoder\.embed_positions cannot be followed"),
            use_lengths(net, attention),
        ):
            net(batch, attention_mask=attention.long())
    with (
        torch.no_grad(),
        use_lengths(net, attention, rules=rules if positions == "relative" else None) as lengths,
    ):
        states = net(batch, attention_mask=attention.long()).last_hidden_state
    for i, sample in enumerate(samples):
        with torch.no_grad():
            alone = net(sample).last_hidden_state[0]
        assert lengths.lengths_of(states)[i] == len(alone)
        torch.testing.assert_close(states[i, : len(alone)], alone, rtol=0, atol=1e-5)


SIZES = [(32, 16), (16, 48), (48, 32)]


@pytest.mark.parametrize(
    ("norm", "upsample"),
    [("batch", "deconv"), ("instance", "nontrainable")],
)
def test_unets_of_monai(norm: str, upsample: str) -> None:
    """Interpolation with aligned corners depends on the size of each image by itself."""
    nets = pytest.importorskip("monai.networks.nets")
    net = nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4), norm=norm, upsample=upsample)
    if norm == "batch":
        net = fitted(convert(net, to="batch"), torch.randn(4, 1, 32, 32))
    assert_as_alone(net, [torch.randn(1, 1, *size) for size in SIZES], (-2, -1), more=16)


def test_sizes_that_do_not_divide_are_refused() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    net = nets.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 8, 4)).eval()
    with (
        pytest.raises(LengthsError, match=r"upcat_2 .* divide by its total stride"),
        use_lengths(net, [(32, 16), (18, 48)]),
    ):
        net(torch.zeros(2, 1, 32, 48))
