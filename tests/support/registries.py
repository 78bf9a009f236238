"""How tests get packages that are not among their own environment's."""

from __future__ import annotations

import subprocess
import sys


def pip() -> list[str]:
    """The command pip: this environment's, else the one on the path."""
    here = [sys.executable, "-m", "pip"]
    has_one = subprocess.run([*here, "--version"], capture_output=True, check=False).returncode == 0
    return [*(here if has_one else ["pip"]), "--disable-pip-version-check"]
