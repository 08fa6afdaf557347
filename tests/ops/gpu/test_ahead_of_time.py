"""What the compiler makes of the kernels, known without a GPU: no local memory, and wide loads on the main shapes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from normsmith.ops import ACTIVATIONS, Renorm, Running, Sync
from normsmith.ops.call import Call, Update
from normsmith.ops.moments import ghost_groups

triton = pytest.importorskip("triton", minversion="3.6")  # older ones the row refuses
pytestmark = pytest.mark.compiles  # without the shape checker, which would rewrite the kernels

H200 = 132
"""Its multiprocessors, by which batches are cut."""


class Target:
    """A driver that compiles for an architecture and has no device."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture  # kernels are cached by device

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)


class Compiled(NamedTuple):
    """A launch that was compiled in place of started."""

    name: str
    programs: tuple[int, ...]
    ptx: str
    cubin: bytes


@pytest.fixture
def launched(request, monkeypatch):
    """Collects what the host code launches, compiled for the architecture: tensors are on no device at all."""
    from triton.runtime import driver

    from normsmith.ops.gpu import launch

    found: list[Compiled] = []

    def compiled(kernel, programs, *arguments, warps=4, **constants):
        made = kernel.warmup(*arguments, grid=programs, num_warps=warps, enable_fp_fusion=True, **constants)
        found.append(Compiled(kernel.__name__, programs, made.asm["ptx"], made.asm["cubin"]))

    monkeypatch.setattr(launch, "start", compiled)
    monkeypatch.setattr(launch, "processors", lambda device: H200)
    monkeypatch.setattr(driver, "_active", Target(request.param))
    return found


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers, stack and local memory, as the disassembler that comes with Triton reports them."""
    from triton.backends import nvidia

    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(nvidia.__path__[0]) / "bin" / "cuobjdump"
    report = subprocess.run(
        [tool, "--dump-resource-usage", path], capture_output=True, text=True, timeout=60, check=True
    )
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout)}


def run(
    shape, dtype, *, channels_last=False, activation=None, residual=False, mask=False, renorm=False, sync=None,
    ghost=None,
):  # fmt: skip
    """Forward and backward of the row, on tensors without storage."""
    from normsmith.ops.gpu.backend import Triton

    layout = torch.channels_last if channels_last else torch.contiguous_format
    with torch.device("meta"):
        x = torch.empty(shape, dtype=dtype).to(memory_format=layout)
        vectors = [torch.empty(shape[1]) for _ in range(4)]
        valid = torch.empty((shape[0], 1, *shape[2:]), dtype=torch.bool) if mask else None
        weights = None if valid is None else valid.float()
    z = torch.empty_like(x) if residual else None
    call = Call(
        valid=valid,
        weights=weights,
        renorm=Renorm(3.0, 5.0) if renorm else None,
        groups=ghost_groups(shape[0], x[0, 0].numel(), ghost),
        activation=None if activation is None else ACTIVATIONS[activation],
        sync=sync,
    )
    y, kept, _ = Triton().forward(x, *vectors[:2], z, Running(*vectors[2:]), call, Update(0.1, True))
    Triton().backward(torch.empty_like(y), x, z, kept, call, True)


class Pair(Sync):
    """A rank of two whose exchanges come back as they went: launches need no other rank."""

    def __init__(self) -> None:
        self.rank, self.ranks = 0, 2

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


THREE = ["measure_parts", "settle_parts", "apply", "reduce_parts", "settle_sums", "gradient"]
ONE = ["forward_at_once", "backward_at_once"]
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

MAIN = [
    pytest.param((32, 256, 56, 56), F32, {}, THREE, id="NCHW, 103 MB"),
    pytest.param((16, 64, 112, 112), BF16, {"activation": "relu"}, THREE, id="NCHW, few channels"),
    pytest.param((32, 256, 56, 56), BF16, {"channels_last": True, "activation": "relu"}, THREE, id="channels last"),
    pytest.param((32, 256, 56, 56), BF16, {"channels_last": True, "activation": "relu", "residual": True}, THREE,
                 id="the end of a residual block"),
    pytest.param((32, 64, 56, 56), F16, {"channels_last": True, "renorm": True}, THREE, id="renorm"),
    pytest.param((65536, 64), F32, {}, THREE, id="rows"),
    pytest.param((4_000_000, 8), F32, {}, THREE, id="rows, very few channels"),
    pytest.param((128, 64, 200), F32, {}, THREE, id="sequences, as strips"),
    pytest.param((1, 64, 512, 512), F32, {}, THREE, id="one sample"),
    pytest.param((2, 64, 256, 256), BF16, {"activation": "relu", "residual": True}, THREE, id="two samples"),
]  # fmt: skip

OTHERS = [
    pytest.param((64, 2048, 7, 7), F32, {}, ONE, id="small planes, held in registers"),
    pytest.param((32, 256, 14, 14), BF16, {"activation": "relu"}, ONE, id="small planes in bfloat16"),
    pytest.param((32, 2048, 7, 7), BF16, {"activation": "relu", "residual": True, "channels_last": True}, ONE,
                 id="the last residual block"),
    pytest.param((256, 512), F32, {}, ONE, id="rows, held in registers"),
    pytest.param((64, 512, 28, 28), F32, {"mask": True, "renorm": True}, THREE, id="masked"),
    pytest.param((32, 16, 14, 14), F32, {"mask": True, "residual": True, "activation": "relu"}, ONE,
                 id="masked, held in registers"),
    pytest.param((8, 3, 17, 19), BF16, {"activation": "gelu"}, ONE, id="odd sizes"),
    pytest.param((512, 512, 7, 7), F32, {}, ONE, id="small planes, read again"),
    pytest.param((64, 256, 16, 16), F32, {"activation": "gelu", "residual": True}, ONE, id="planes, with a residual"),
    pytest.param((64, 256, 14, 14), BF16, {"channels_last": True, "activation": "relu", "ghost": 3}, ONE,
                 id="ghost batches"),
    pytest.param((64, 512, 28, 28), F32, {"mask": True, "sync": Pair()}, THREE, id="across ranks, masked"),
    pytest.param((32, 256, 14, 14), BF16, {"sync": Pair(), "activation": "relu", "residual": True}, THREE,
                 id="across ranks"),
]  # fmt: skip


ON_BOTH = {
    "NCHW, 103 MB",
    "the end of a residual block",
    "small planes in bfloat16",
    "masked, held in registers",
}
"""Cases that are compiled for sm_80 too; sm_90 compiles all."""


def every(cases):
    """The cases for their architectures."""
    return pytest.mark.parametrize(
        ("launched", "shape", "dtype", "options", "names"),
        [
            pytest.param(architecture, *case.values, id=f"sm_{architecture}-{case.id}")
            for architecture in (80, 90)
            for case in cases
            if architecture == 90 or case.id in ON_BOTH
        ],
        indirect=["launched"],
    )


def wide(ptx: str, kind: str) -> int:
    """How many accesses move 128 bits; loads may be copies that run ahead."""
    copies = re.findall(r"\bcp\.async\.c[ag]\.shared\.global[^;]*, 0x10,", ptx) if kind == "ld" else []
    return len(re.findall(rf"\b{kind}\.global[\w.:]*\.v4\.b32", ptx)) + len(copies)


BATCHES = {  # how many tensors of the batch's size a kernel reads and writes, beside a residual
    "measure_parts": (1, 0),
    "apply": (1, 1),
    "reduce_parts": (2, 0),
    "gradient": (2, 1),
    "forward_at_once": (1, 1),
    "backward_at_once": (2, 1),
}


def in_registers(made: Compiled, folder: Path) -> bool:
    used = resources(made.cubin, folder)
    return used["REG"] > 0 and used["STACK"] + used["LOCAL"] == 0


@every(MAIN)
def test_main_shapes_move_in_wide_loads_and_stores_and_stay_in_registers(
    launched, tmp_path, shape, dtype, options, names
):
    run(shape, dtype, **options)
    assert [made.name for made in launched] == names
    for made in launched:
        reads, writes = BATCHES.get(made.name, (0, 0))
        assert wide(made.ptx, "ld") >= reads, made.name
        assert wide(made.ptx, "st") >= writes, made.name
        if (
            dtype != torch.float32 and made.name != "measure_parts"
        ):  # which looks at four rows, one by one, before
            assert not re.search(r"\b(ld|st)\.global[\w.:]*(?<!v4)\.b16", made.ptx), made.name
        assert in_registers(made, tmp_path), made.name
    if (
        "residual" in options
    ):  # backward reads bits in its place: a byte where it reads two or four wide words
        for made in launched[-3], launched[-1]:
            octets = len(re.findall(r"\bld\.global[\w.:]*\.b8", made.ptx))
            assert 0 < 2 * octets <= wide(made.ptx, "ld"), made.name


@every(OTHERS)
def test_other_shapes_stay_in_registers(launched, tmp_path, shape, dtype, options, names):
    run(shape, dtype, **options)
    assert [made.name for made in launched] == names
    assert [made.name for made in launched if not in_registers(made, tmp_path)] == []


@pytest.mark.parametrize("launched", [90], indirect=True)
@pytest.mark.parametrize("sync", [None, Pair()])
def test_programs_stand_in_one_dimension(launched, sync):
    """Of the others a device takes 65535 at most; ghost batches of a large batch are more."""
    run((200_000, 3), torch.float32, ghost=2, sync=sync)
    assert len(launched) >= 2
    assert all(len(made.programs) == 1 and made.programs[0] >= 100_000 for made in launched)


@pytest.mark.parametrize("launched", [90], indirect=True)
def test_the_gate_sees_what_does_not_fit(launched, tmp_path, monkeypatch):
    """256 values a thread: no architecture has the registers."""
    from normsmith.ops.gpu import launch, plan

    def narrow(*shape):
        found = plan.plan(*shape)
        return found._replace(tile=found.tile._replace(warps=1))

    monkeypatch.setattr(launch, "plan", narrow)
    run((32, 256, 14, 14), torch.float32)
    assert not in_registers(launched[0], tmp_path)
