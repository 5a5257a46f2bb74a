"""On what a run was made: date, machine and versions, for its report."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from spa_compiler.execution.cpu import name_processor
from spa_compiler.execution.parallel import PROCESSORS


def describe_environment() -> dict[str, Any]:
    """Date in universal time, system, processor and its cores, and the versions of what ran."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": name_processor(),
        "cores": PROCESSORS,
        "versions": {
            "python": platform.python_version(),
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }
