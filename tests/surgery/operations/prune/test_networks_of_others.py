"""Networks as their libraries make them, with random weights: transformers' ResNets, MONAI's U-Net and DenseNet."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.operations.prune.networks import lived_in, zeroed

from normsmith.surgery import prune


def assert_pruned(model, x, **options):
    """That something goes, and that the outputs are those of the zeroed network; a Hugging Face output has logits."""
    model = lived_in(model)
    plan = prune(model, x, share=0.3, **options)
    with torch.no_grad():
        outputs = [one(x) for one in (zeroed(model, plan), plan.apply(copy=True, partial=True))]
    expected, got = (getattr(output, "logits", output) for output in outputs)
    assert len(plan.operation.arguments["removed"]) >= 2
    if not plan.warnings:
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    return plan


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnets_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 24], depths=[1, 2, 1, 1], layer_type=kind, num_labels=5
    )
    model = transformers.ResNetForImageClassification(config)
    plan = assert_pruned(model, torch.randn(2, 3, 32, 32).double())
    assert plan.warnings == ()
    shortcut = next(path for path in plan.operation.arguments["removed"] if "shortcut" in path)
    last = shortcut.replace("shortcut", "layer.1" if kind == "basic" else "layer.2")
    assert plan.operation.arguments["removed"][shortcut] == plan.operation.arguments["removed"][last]


def test_unet_and_densenet_of_monai():
    nets = pytest.importorskip("monai.networks.nets")
    x = torch.randn(2, 1, 32, 32).double()
    unet = nets.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), norm="batch", act="relu")
    assert assert_pruned(unet, x).refusals  # transposed convolutions of stride 2 hold what is not 0
    residual = nets.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch")
    assert assert_pruned(residual, x, approximate="allow").warnings
    assert_pruned(nets.DenseNet(2, 1, 3, init_features=8, growth_rate=4, block_config=(2, 2), bn_size=2), x)
