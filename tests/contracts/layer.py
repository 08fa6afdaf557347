"""What every layer must do. A test class inherits `LayerContract` and says how to make the layer and its input."""

import copy
import pickle
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import normsmith.layers
from normsmith.errors import InputError

MAX_EXAMPLES = 15


class LayerContract:
    """Every public layer: `layer` is its class; `make` and `batch` may be overridden."""

    layer: ClassVar[type[nn.Module]]
    options: ClassVar[dict[str, Any]] = {}
    channels: ClassVar[int] = 3
    space: ClassVar[tuple[int, ...]] = ()

    def make(self, **options: Any) -> nn.Module:
        return self.layer(self.channels, **{**self.options, **options})

    def batch(self, rows: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(rows, self.channels, *self.space, dtype=dtype) * 2 + 1

    def trained(self, **options: Any) -> nn.Module:
        """A layer whose affine and statistics have moved."""
        layer = self.make(**options)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for _ in range(3):
            layer(self.batch(dtype=next(layer.buffers()).dtype))
        return layer

    def test_is_in_the_public_index(self):
        assert getattr(normsmith.layers, self.layer.__name__) is self.layer

    def test_repr_names_the_class_and_its_settings(self):
        assert repr(self.make()).startswith(f"{self.layer.__name__}({self.channels}, eps=1e-05, momentum=0.1")

    def test_copies_compute_the_same(self):
        layer = self.trained().eval()
        x = self.batch()
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert torch.equal(twin(x), layer(x))
            assert repr(twin) == repr(layer)
            twin.train()(x)
            assert not torch.equal(twin.running_mean, layer.running_mean)

    def test_state_goes_round_and_twins_agree(self):
        layer, twin = self.trained(), self.make()
        twin.load_state_dict(layer.state_dict())
        x = self.batch()
        assert torch.equal(twin(x), layer(x))
        assert torch.equal(twin.running_var, layer.running_var)

    def test_evaluation_changes_nothing(self):
        layer = self.trained().eval()
        before = copy.deepcopy(layer.state_dict())
        layer(self.batch())
        after = layer.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)

    def test_one_count_for_one_training_forward(self):
        layer = self.make()
        for _ in range(3):
            layer(self.batch(rows=5))
        assert layer.num_batches_tracked == 3

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes(self, dtype):
        layer = self.make()
        layer.running_mean.fill_(100.03)
        layer.to(dtype)
        assert layer.running_mean.dtype == torch.promote_types(dtype, torch.float32)
        assert abs(layer.running_mean[0].item() - 100.03) < 1e-4
        x = self.batch(dtype=dtype).requires_grad_()
        y = layer(x)
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.dtype == dtype
        assert layer.eval()(x).dtype == dtype

    def test_half_precision_checkpoints_keep_float32_statistics(self):
        layer = self.make()
        halves = {
            key: value.half() if value.is_floating_point() else value
            for key, value in layer.state_dict().items()
        }
        layer.load_state_dict(halves, assign=True)
        assert layer.running_var.dtype == torch.float32
        assert layer(self.batch().half()).dtype == torch.float16
        assert layer.eval()(self.batch().half()).dtype == torch.float16
        assert self.make(dtype=torch.bfloat16).running_mean.dtype == torch.float32

    @pytest.mark.parametrize("training", [True, False])
    def test_gradients(self, training):
        layer = self.trained(dtype=torch.float64).train(training)
        x = self.batch(rows=4, dtype=torch.float64).requires_grad_()
        names = [name for name, _ in layer.named_parameters()]
        start = copy.deepcopy(layer.state_dict())

        def run(x, *parameters):
            layer.load_state_dict(start)
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        inputs = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
        if not hasattr(layer, "schedule"):
            # renorm's r and d are constants of backward by definition: its own test compares with that
            assert torch.autograd.gradcheck(run, inputs)
            assert torch.autograd.gradgradcheck(run, inputs)
        y = run(*inputs)
        g = torch.randn_like(y)
        closed = torch.autograd.grad(y, inputs, g)
        with torch.enable_grad():
            composed = torch.autograd.grad(run(*inputs), inputs, g, create_graph=True)
        for one, other in zip(closed, composed, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    def test_one_value_per_channel(self):
        x = self.batch(rows=1)[(slice(None), slice(None), *[slice(1)] * len(self.space))]
        layer = self.trained()
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(InputError, match="expected more than one value per channel"):
            layer(x)
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())
        lenient = self.trained(on_small_batch="running")
        y = lenient(x)
        torch.testing.assert_close(y, copy.deepcopy(lenient).eval()(x))

    def test_no_rows(self):
        layer = self.trained()
        before = copy.deepcopy(layer.state_dict())
        x = self.batch(rows=0).requires_grad_()
        y = layer(x)
        assert y.shape == x.shape
        y.sum().backward()
        assert torch.equal(before["running_mean"], layer.running_mean)
        assert all(p.grad is None or p.grad.abs().sum() == 0 for p in layer.parameters())

    def test_meta_device(self):
        layer = self.make(device="meta")
        assert layer(self.batch().to("meta")).shape == self.batch().shape
        real = layer.to_empty(device="cpu")
        real.reset_parameters()
        assert real(self.batch()).isfinite().all()

    def test_channels_last(self):
        formats = {2: torch.channels_last, 3: torch.channels_last_3d}
        if len(self.space) not in formats:
            pytest.skip("no channels-last format for this rank")
        x = self.batch().to(memory_format=formats[len(self.space)]).requires_grad_()
        layer = self.make()
        for training in (True, False):
            y = layer.train(training)(x)
            assert y.is_contiguous(memory_format=formats[len(self.space)])
            y.backward(torch.ones_like(y))
            assert x.grad.is_contiguous(memory_format=formats[len(self.space)])

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda x: x[0, 0], "expected a .*-D"),
            (lambda x: x[:, :2], "expected 3 channels in dimension 1"),
            (lambda x: x.long(), "expected a floating-point input, got torch.int64"),
        ],
    )
    def test_refuses_what_does_not_fit(self, unchecked, make, says):
        layer = self.trained()
        net = nn.Sequential(nn.Identity(), layer)
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(InputError, match=says) as caught:
            net(make(self.batch()))
        assert "Sequential.1" in str(caught.value)
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())

    def test_a_mask_is_as_if_the_rest_were_not_there(self):
        # an inner function: hypothesis must not share one test among the classes that inherit it
        @given(rows=st.integers(2, 7), seed=st.integers(0, 2**16), share=st.floats(0, 1))
        @settings(max_examples=MAX_EXAMPLES, deadline=None, database=None)
        def check(rows, seed, share):
            self.check_mask(rows, seed, share)

        check()

    def check_mask(self, rows, seed, share):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, self.channels, *self.space, generator=generator, dtype=torch.float64)
        mask = torch.rand(rows, *self.space, generator=generator) < share
        padded = torch.where(mask.unsqueeze(1), x, torch.nan).requires_grad_()
        layer = self.trained(dtype=torch.float64)
        # the valid elements alone, as one long batch of positions
        valid = x.transpose(0, 1)[:, mask].T.reshape(-1, self.channels, *[1] * len(self.space))
        alone = copy.deepcopy(layer)
        y = layer(padded, mask=mask.to(torch.int64))
        assert (y.transpose(0, 1)[:, ~mask] == 0).all()
        y.square().sum().backward()
        assert (padded.grad.transpose(0, 1)[:, ~mask] == 0).all()
        assert padded.grad.isfinite().all()
        if len(valid) < 2:
            assert torch.equal(layer.running_mean, alone.running_mean)
            return
        valid.requires_grad_()
        want = alone(valid)
        want.square().sum().backward()
        torch.testing.assert_close(y.transpose(0, 1)[:, mask].T.reshape(want.shape), want)
        torch.testing.assert_close(padded.grad.transpose(0, 1)[:, mask].T.reshape(want.shape), valid.grad)
        torch.testing.assert_close(layer.running_mean, alone.running_mean)
        torch.testing.assert_close(layer.running_var, alone.running_var)

    def test_frozen_statistics_stay_frozen(self):
        layer = self.trained()
        net = nn.Sequential(layer)
        before, x = layer.running_mean.clone(), self.batch()
        layer.freeze()
        net.train()
        y = net(x)
        assert torch.equal(layer.running_mean, before)
        net.eval()
        assert torch.equal(net(x), y)
        assert copy.deepcopy(layer).policy == layer.policy
        layer.unfreeze()
        net.train()
        net(x)
        assert not torch.equal(layer.running_mean, before)

    @pytest.mark.compiles
    @pytest.mark.parametrize(
        ("momentum", "training"),
        [(0.1, True), (None, True), (0.1, False), pytest.param(None, False, marks=pytest.mark.full)],
    )
    def test_compiles_without_a_break(self, training, momentum):
        torch._dynamo.reset()
        layer = self.trained(momentum=momentum).train(training)
        twin = copy.deepcopy(layer)
        x, g = self.batch().requires_grad_(), torch.randn_like(self.batch())
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        y.backward(g)
        z = x.detach().clone().requires_grad_()
        want = twin(z)
        want.backward(g)
        torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x.grad, z.grad, rtol=1e-4, atol=1e-5)
        for key, value in twin.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[key], value, rtol=1e-5, atol=1e-6)
