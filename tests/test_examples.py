"""Every example runs as its first lines say, and prints what it is there to show."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    """What an example prints; within the time that a reader would wait."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_here(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What an example prints that changes nothing of this process; it starts at once."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", text)]


def test_masked_sequence() -> None:
    masked, unmasked = numbers(run("masked_sequence"))
    assert masked < 1e-10
    assert unmasked > 0.01


def test_small_batch() -> None:
    lines = run("small_batch").splitlines()[1:]
    table = {int(line.split()[0]): numbers(line) for line in lines}
    assert set(table) == {2, 4, 32}
    batch_norm, renorm = table[2]
    assert renorm > batch_norm + 5, "renorm helps where there are two samples"
    batch_norm, renorm = table[32]
    assert abs(renorm - batch_norm) < 5, "and changes little where there are many"
    assert min(table[32]) > 85


def test_averaged() -> None:
    printed = run("averaged")
    network, average, mended = (float(share) for share in re.findall(r"([\d.]+)%", printed))
    assert average < network - 10
    assert mended > network - 2
    assert re.findall("^error (NS[0-9]+)", printed, re.MULTILINE) == ["NS403", "NS405"]


def test_distributed() -> None:
    printed = run("distributed")
    assert "all ranks agree: True" in printed
    assert "equal to one process: True" in printed


def test_crossq() -> None:
    random, learned = numbers(run("crossq"))
    assert random < -40
    assert learned > random / 4


def test_clients(capsys: pytest.CaptureFixture[str]) -> None:
    averaged, merged, advice, exchanged = run_here("clients", capsys).splitlines()
    assert numbers(averaged)[0] < 0.5
    first, *deeper = numbers(merged)
    assert first < 1e-6
    assert max(deeper) > 0.01
    assert "2 of 3 layers are approximate (4, 7)" in advice
    assert numbers(exchanged)[0] < 1e-6


def test_two_cameras(capsys: pytest.CaptureFixture[str]) -> None:
    one, each, mixed, plain = run_here("two_cameras", capsys).splitlines()
    assert min(numbers(one)) < min(numbers(each)) - 10
    assert min(numbers(each)) > 90
    assert numbers(mixed)[0] > 90
    assert plain.endswith("True")


def test_padded_batch(capsys: pytest.CaptureFixture[str]) -> None:
    outputs, followed, statistics, statistics_followed = map(
        numbers, run_here("padded_batch", capsys).splitlines()
    )
    assert max(followed[0], statistics_followed[0]) < 1e-5
    assert min(outputs[0], statistics[0]) > 0.01


def test_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    trained, title, pruned, again = run_here("pruned", capsys).splitlines()
    assert title.startswith("prune 64 channels")
    assert numbers(pruned)[1] < 1e-4
    assert numbers(again)[0] > numbers(trained)[0] - 5


def test_every_example_is_run_here() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text(encoding="utf-8")
