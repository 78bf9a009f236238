"""rembg's commands in the words of this one, for those who type them from habit; nothing is run."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from cutout.errors import UsageError
from cutout.models.registry import find_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "in_our_words"]

COMMANDS = frozenset({"rembg", "i", "p", "b", "s", "d"})

_OPTIONS = (  # rembg's short and long name, ours, how many values follow; those that are not here have none
    ("-m", "--model", "--model", 1),
    ("-a", "--alpha-matting", "--matting", 0),
    ("-af", "--alpha-matting-foreground-threshold", "--matting-foreground", 1),
    ("-ab", "--alpha-matting-background-threshold", "--matting-background", 1),
    ("-ae", "--alpha-matting-erode-size", "--matting-erode", 1),
    ("-om", "--only-mask", "--mask", 0),
    ("-ppm", "--post-process-mask", "--post-process", 0),
    ("-bgc", "--bgcolor", "--background", 4),
    ("-x", "--extras", "", 1),
    ("-p", "--port", "--port", 1),
    ("-h", "--host", "--host", 1),
    ("-l", "--log_level", "", 1),
    ("-t", "--threads", "", 1),
    ("-o", "--output_specifier", "", 1),
)


def in_our_words(args: Sequence[str]) -> str:
    """What to type instead of a command of rembg, such as `i -om in.jpg out.png`, with or without its `rembg`."""
    words = [word for word in args if word != "rembg"] if args[0] == "rembg" else list(args)
    command, rest = (words[0], words[1:]) if words else ("i", ["INPUT", "OUTPUT"])
    names: list[str] = []
    options: list[str] = []
    while rest:
        word, _, joined = rest.pop(0).partition("=")
        if not word.startswith("-") or word == "-":
            names.append(word + "=" * bool(joined) + joined)
            continue
        ours, count = next(((ours, count) for short, long, ours, count in _OPTIONS if word in {short, long}), ("", 0))
        values = [joined] if joined else rest[:count]
        rest = rest if joined else rest[count:]
        options += _option(ours, values) if joined or len(values) == count else []
    match command:
        case "b":
            return "ffmpeg -i VIDEO frames/%05d.png, then: cutout remove frames -o OUTPUT"
        case "s":
            return shlex.join(["cutout", "serve", *options])
        case "d":
            return shlex.join(["cutout", "models", "pull", *(names or ["--all"])])
    if not names:
        names = ["-", "-"] if command == "i" else ["INPUT", "OUTPUT"]
    elif len(names) == 1 and not sys.stdout.isatty():
        names.append("-")
    return shlex.join(["cutout", "remove", names[0], *options, *(part for name in names[1:2] for part in ("-o", name))])


def _option(ours: str, values: list[str]) -> list[str]:
    """An option in our words; nothing where there is none, or it says what is so anyway."""
    if ours == "--background":
        numbers = [int(value) for value in values if value.isdecimal() and int(value) < 256]
        return [ours, "#" + bytes(numbers).hex()] if len(numbers) == 4 and numbers[3] else []
    if ours == "--model" and values:
        try:
            find_spec(values[0])
        except UsageError:
            values = ["FILE.onnx" if values[0].endswith("_custom") else f"rembg:{values[0]}"]
    return [ours, *values] if ours else []
