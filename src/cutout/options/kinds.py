"""What is known of an option, told once: its type, default and bounds, its help, and how what is given becomes a value.

Options are fields of frozen dataclasses (`options.RemoveOptions`, `options.Encoding`), made by the functions here. The
command line, the service's form and its description, the Python keywords and the README's table follow from them.
"""

from __future__ import annotations

import math
import re
from dataclasses import field, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

__all__ = ["Option", "describe", "flag", "refused", "table", "text", "whole", "with_names", "word"]

SERVICE_MOST = 10_000
"""Of any number in a request: neither results of any size nor hours of work must be had by asking."""


class Option:
    """A row of the table of options.

    Args:
        help: One sentence for people; `{name}` stands for an option.
        panel: The group that it is shown in.
        names: Names on the command line beside its own: a short one, or how it is turned off.
        kind: What the command line passes: bool, int, str or an enumeration.
        default: As it is said.
        takes: Kinds that a text may be read as, the first that fits; its own kind where none are named.
        read: What was given as a value: its name and the value in, the value out, or a `UsageError`.
        metavar: What the help calls its value.
        least: Smallest number.
        most: Largest number.
        shown: Whether the largest is told in the help, not in the error alone.
        service_least: The smallest that a request may ask for.
        service_most: The largest; of percentages `service_percent`.
        any_case: A word may be written in capitals.
    """

    def __init__(
        self,
        help: str,  # noqa: A002 - what everybody calls it
        panel: str,
        names: tuple[str, ...],
        kind: type,
        default: Any,
        read: Callable[[str, Any], Any],
        *,
        takes: tuple[Any, ...] = (),
        metavar: str | None = None,
        least: int | None = None,
        most: int | None = None,
        shown: bool = True,
        service_least: int = 0,
        service_most: float = SERVICE_MOST,
        service_percent: float | None = None,
        any_case: bool = False,
    ) -> None:
        self.help = help
        self.panel = panel
        self.names = names
        self.kind = kind
        self.default = default
        self.read = read
        self.takes = takes or (kind,)
        self.metavar = metavar
        self.least = least
        self.most = most
        self.shown = shown
        self.service_least = service_least
        self.service_most = min(service_most, math.inf if most is None else most)
        self.service_percent = self.service_most if service_percent is None else service_percent
        self.any_case = any_case

    def help_with(self, write: Callable[[str], str] = str) -> str:
        """The help, other options in it written so."""
        return with_names(self.help, write)


def with_names(text: str, write: Callable[[str], str] = str) -> str:
    """A text, the options that stand in braces in it written so."""
    return re.sub(r"\{(\w+)\}", lambda found: write(found[1]), text)


def table(owner: Any) -> dict[str, Option]:
    """The options of a dataclass, by their names."""
    if owner not in _tables:
        _tables[owner] = {each.name: each.metadata["option"] for each in fields(owner) if each.metadata}
    return _tables[owner]


_tables: dict[Any, dict[str, Option]] = {}


def describe(owner: type) -> None:
    """Add the options to the documentation of their class."""
    lines = (f"        {name}: {row.help_with()}" for name, row in table(owner).items())
    owner.__doc__ = "\n".join((f"{owner.__doc__}".rstrip(), "", "    Options:", *lines, ""))


def flag(help: str, panel: str, *names: str, default: bool | None = False) -> Any:  # noqa: A002
    """Yes or no; None leaves it to somebody else."""
    return _field(Option(help, panel, names, bool, default, lambda _name, value: value))


def whole(default: int | None, help: str, panel: str, *, unit: str = "", **known: Any) -> Any:  # noqa: A002
    """A whole number of some unit, within bounds; None only where that is the default."""
    least, most = known.get("least", 0), known.get("most")
    bounds = f"be at least {least}{unit}" if most is None else f"lie between {least} and {most}{unit}"

    def read(name: str, value: Any) -> int | None:
        if value is None and default is None:
            return None
        if not isinstance(value, Integral):  # numpy's too
            raise refused(name, value, "be a whole number")
        if value < least or (most is not None and value > most):
            raise refused(name, int(value), bounds)
        return int(value)

    return _field(Option(help, panel, (), int, default, read, metavar="N", **{"least": 0, **known}))


def word(kind: type[StrEnum], default: StrEnum | None, help: str, panel: str, **known: Any) -> Any:  # noqa: A002
    """A word of an enumeration; None only where that is the default."""

    def read(name: str, value: Any) -> StrEnum | None:
        try:
            return None if value is None and default is None else kind(value)
        except ValueError:
            raise refused(name, value, f"be one of {', '.join(kind)}") from None

    return _field(Option(help, panel, (), kind, default, read, **known))


def text(
    default: str | None,
    parse: Callable[[Any], Any],
    help: str,  # noqa: A002
    panel: str,
    *names: str,
    **known: Any,
) -> Any:
    """What a function of `values` parses; what is parsed already is taken too."""

    def read(name: str, value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise refused(name, value, f"be {error}") from None

    return _field(Option(help, panel, names, str, default, read, **known))


def refused(name: str, value: object, wanted: str) -> UsageError:
    """The error that a value is not what it must be."""
    said = repr(value)
    said = said if len(said) <= 80 else f"{said[:60]}… ({len(said)} characters)"
    return UsageError(f"{name} is {said}, but it must {wanted}", options=(name,))


def _field(option: Option) -> Any:
    default = None if option.default is None else option.read("", option.default)
    return field(default=default, metadata={"option": option})
