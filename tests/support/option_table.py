"""The README's table of options, from the table of options: `python tests/support/option_table.py` writes it anew."""

from __future__ import annotations

import re
from pathlib import Path

from cutout.options import Encoding, RemoveOptions

README = Path(__file__).parents[2] / "README.md"
_BETWEEN = re.compile(r"(<!-- options -->\n).*?(<!-- end of options -->)", re.DOTALL)


def rows() -> str:
    """The table in Markdown."""
    lines = ["| option | default | |", "| --- | --- | --- |"]
    for name, row in (RemoveOptions.table | Encoding.table).items():
        if not row.panel:  # nobody's to choose
            continue
        default = "" if row.default is None or row.default is False else f"`{row.default}`"
        text = row.help(lambda other: f"`{other}`").replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def in_readme() -> str:
    """The table as it stands there."""
    found = _BETWEEN.search(README.read_text("utf-8"))
    assert found is not None
    return found[0].partition("\n")[2].rpartition("<!--")[0]


if __name__ == "__main__":
    README.write_text(_BETWEEN.sub(lambda found: found[1] + rows() + found[2], README.read_text("utf-8")), "utf-8")
