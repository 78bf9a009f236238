"""What the runtime says when it passes a provider over in silence.

ONNX Runtime writes why a provider cannot be made to the standard error of the process, raises nothing, and goes on
with the processor. To read it without touching our own streams, the same is done once more in a process of its own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from cutout.engines.graphs.tiny import tiny_model

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["what_it_says"]

_PROGRAM = """
import base64, json, sys, onnxruntime
if hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
settings = onnxruntime.SessionOptions()
settings.log_severity_level = 3
model, name, options = json.load(sys.stdin)
try:
    onnxruntime.InferenceSession(base64.b64decode(model), settings, providers=[(name, options)], enable_fallback=0)
except Exception as error:
    sys.stderr.write(f"[E:onnxruntime raised] {error}")
"""
_LINE = re.compile(r"\[E:onnxruntime[^\]]*\]\s*(.+)")
_SECONDS = 60.0


def what_it_says(entry: tuple[str, Mapping[str, Any]]) -> str:
    """The runtime's own reason why it does not use a provider; empty where it gives none.

    Args:
        entry: The provider and its options, as the runtime takes them.
    """
    if getattr(sys, "frozen", False):  # a program made of one file: its executable is no Python
        return ""
    question = json.dumps([base64.b64encode(tiny_model()).decode(), entry[0], dict(entry[1])])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=question.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = _LINE.findall(done.stderr.decode("utf-8", "replace"))
    return "\n".join(line.strip() for line in lines)
