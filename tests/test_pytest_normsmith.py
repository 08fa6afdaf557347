"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
TESTS = """
from torch import nn

def network(momentum):
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, momentum=momentum), nn.Linear(8, 2))

def test_well(assert_healthy):
    assert assert_healthy(network(0.1)).clean

def test_wrong(assert_healthy):
    assert_healthy(network(0.99))
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest with the plugin in a folder with the tests above."""
    (tmp_path / "test_network.py").write_text(TESTS)

    def pytest_of(settings: str) -> str:
        (tmp_path / "pyproject.toml").write_text(settings)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "pytest_normsmith",
            "-p",
            "no:cacheprovider",
            "-q",
            ".",
        ]
        environment = {"PYTHONPATH": str(SOURCE), "PATH": "", "PYTEST_ADDOPTS": ""}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr

    return pytest_of


def test_a_fault_fails_its_test_alone(run):
    said = run("")
    assert "1 failed, 1 passed" in said
    assert "NS201 inverted-momentum" in said
    assert "cause:" in said


def test_settings_are_those_of_the_project(run):
    assert "2 passed" in run('[tool.normsmith]\nignore = ["NS201"]\n')


def test_a_session_without_a_model_imports_no_torch():
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import pytest_normsmith; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
