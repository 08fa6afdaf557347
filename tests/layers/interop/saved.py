"""States in the form in which sb3-contrib, SBX, torchrl and Keras save them; see `data/README.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"


def read(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def arrays(state: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(value, np.float32 if isinstance(value, list) else np.int64)
        for name, value in state.items()
    }


def sbx(collection: str) -> dict[str, Any]:
    return arrays(read("sbx")[collection]["VmapCritic_0"]["BatchRenorm_0"])
