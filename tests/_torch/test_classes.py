"""The bases of torch's layers are still what they are derived from."""

from __future__ import annotations

from torch import nn

from normsmith import _torch


def test_the_bases_are_those_of_torchs_layers() -> None:
    assert issubclass(nn.BatchNorm2d, _torch.TorchBatchNorm)
    assert issubclass(nn.SyncBatchNorm, _torch.TorchBatchNorm)
    assert issubclass(nn.LazyBatchNorm2d, (_torch.LazyNormBase, _torch.TorchBatchNorm))
    assert issubclass(nn.LazyInstanceNorm1d, _torch.LazyNormBase)
    assert issubclass(nn.InstanceNorm3d, _torch.TorchInstanceNorm)
    assert not issubclass(nn.InstanceNorm3d, _torch.TorchBatchNorm)
    assert issubclass(nn.InstanceNorm3d, _torch.NormBase)
    assert issubclass(_torch.TorchBatchNorm, _torch.NormBase)
    assert issubclass(nn.ConvTranspose2d, _torch.ConvTranspose)
    assert not issubclass(nn.Conv2d, _torch.ConvTranspose)
    for dropout in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout):
        assert issubclass(dropout, _torch.Dropout)


def test_norms_take_a_bias_where_they_say_so() -> None:
    if _torch.NORMS_TAKE_BIAS:
        assert nn.BatchNorm1d(2, bias=False).bias is None
    assert ("bias=" in repr(nn.BatchNorm1d(2))) is _torch.NORMS_TAKE_BIAS
