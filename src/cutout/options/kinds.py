"""An option, described once: its type, default and bounds, its help, and how what is given becomes a value.

Options are fields of classes with frozen values (`options.RemoveOptions`, `options.Encoding`), made by the functions
here. The command line, the service's form and its description and the README's table follow from them.
"""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, dataclass_transform

from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import StrEnum
    from typing import Self

__all__ = ["Option", "Options", "flag", "percent", "pixels", "refused", "text", "whole", "with_names", "word"]

SERVICE_MOST = 10_000
"""Of any number in a request: neither results of any size nor hours of work must be had by asking."""


class Option(NamedTuple):
    """A row of the table of options.

    Attributes:
        about: One sentence for people; `{name}` stands for an option.
        panel: The group that it is shown in.
        names: Names on the command line beside its own: a short one, or how it is turned off.
        kind: What the command line passes: bool, int, str or an enumeration.
        default: As a user would write it.
        read: What was given as a value: its name and the value in, the value out, or a `UsageError`. None is read where
            it is not the default.
        takes: Kinds that a text of a request may be read as, the first that fits.
        metavar: What the help calls its value.
        least: Smallest number.
        most: Largest number.
        shown: Whether the largest is told in the help, not in the error alone.
        service_least: The smallest that a request may ask for.
        service_most: The largest; of percentages `service_percent`, where there is one.
        any_case: A word may be written in capitals.
        unit: Of a number, in the plural.
    """

    about: str
    panel: str
    names: tuple[str, ...]
    kind: Any
    default: Any
    read: Callable[[str, Any], Any]
    takes: tuple[Any, ...]
    metavar: str | None = None
    least: int | None = None
    most: int | None = None
    shown: bool = True
    service_least: int = 0
    service_most: float = SERVICE_MOST
    service_percent: float | None = None
    any_case: bool = False
    unit: str = ""

    def help(self, write: Callable[[str], str] = str) -> str:
        """The sentence, other options in it written so."""
        return with_names(self.about, write)


def with_names(text: str, write: Callable[[str], str] = str) -> str:
    """A text, the options that stand in braces in it written so."""
    return re.sub(r"\{(\w+)\}", lambda found: write(found[1]), text)


def flag(about: str, panel: str, *names: str, default: bool | None) -> Any:
    """Yes or no; None leaves it to somebody else."""
    return Option(about, panel, names, bool, default, lambda _name, value: value, (bool,))


def whole(about: str, panel: str, *, default: int | None, unit: str = "", **known: Any) -> Any:
    """A whole number of some unit, within bounds."""
    least, most = known.get("least", 0), known.get("most")
    bounds = f"be at least {least}{unit}" if most is None else f"lie between {least} and {most}{unit}"

    def read(name: str, value: Any) -> int:
        if not isinstance(value, Integral):  # numpy's too
            raise refused(name, value, "be a whole number")
        if value < least or (most is not None and value > most):
            raise refused(name, int(value), bounds)
        return int(value)

    known["unit"] = unit and f"{unit.strip(' s')}s"
    known["service_most"] = min(known.get("service_most", SERVICE_MOST), math.inf if most is None else most)
    return Option(about, panel, (), int, default, read, (int,), metavar="N", **{"least": 0, **known})


def pixels(about: str, panel: str, *, default: int, service_most: int) -> Any:
    """By how many an edge is moved or blurred: more than any edge has, and few enough for the memory of one picture."""
    return whole(about, panel, default=default, unit=" pixels", most=10_000, shown=False, service_most=service_most)


def percent(about: str, panel: str, *, default: float) -> Any:
    """A number from 0 to 100."""

    def read(name: str, value: Any) -> float:
        if not isinstance(value, Real) or not 0 <= float(value) <= 100:
            raise refused(name, value, "be a percentage")
        return float(value)

    return Option(about, panel, (), float, default, read, (float,), metavar="%")


def word(kind: type[StrEnum], about: str, panel: str, *, default: StrEnum | None, **known: Any) -> Any:
    """A word of an enumeration."""

    def read(name: str, value: Any) -> StrEnum:
        try:
            return kind(value)
        except ValueError:
            raise refused(name, value, f"be one of {', '.join(kind)}") from None

    return Option(about, panel, (), kind, default, read, (kind,), **known)


def text(
    parse: Callable[[Any], Any], about: str, panel: str, *names: str, default: str | None = None, **known: Any
) -> Any:
    """What a function parses, or refuses by a ValueError; what is parsed already is taken too."""

    def read(name: str, value: Any) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise refused(name, value, f"be {error}") from None

    return Option(about, panel, names, str, default, read, **{"takes": (str,), **known})


def refused(name: str, value: object, wanted: str) -> UsageError:
    """The error that a value is not what it must be."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:60]}… ({len(shown)} characters)"
    return UsageError(f"{name} is {shown}, but it must {wanted}", options=(name,))


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(flag, whole, pixels, percent, word, text)
)
class Options:
    """Frozen values that are given by name and parsed once; the fields of a subclass are rows of its table."""

    table: ClassVar[dict[str, Option]] = {}

    def __init_subclass__(cls) -> None:
        rows = {name: row for name, row in vars(cls).items() if isinstance(row, Option)}
        cls.table = {**cls.table, **rows}
        for name, row in rows.items():
            setattr(cls, name, None if row.default is None else row.read(name, row.default))
        lines = (f"        {name}: {row.help()}" for name, row in cls.table.items())
        cls.__doc__ = "\n".join((f"{cls.__doc__}".rstrip(), "", "    Options:", *lines, ""))

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            if name not in self.table:
                raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {name!r}")
            row = self.table[name]
            self.__dict__[name] = None if value is None and row.default is None else row.read(name, value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The option names, for callers that pass a mapping."""
        return tuple(cls.table)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """Options from a mapping; an unknown name is a `UsageError` that lists the known ones."""
        unknown = sorted(set(given) - set(cls.table))
        if unknown:
            raise UsageError(f"unknown option {', '.join(unknown)}", hint=f"known: {', '.join(cls.table)}")
        return cls(**given)

    def values(self) -> dict[str, Any]:
        """All values by their names."""
        return {name: getattr(self, name) for name in self.table}

    if not TYPE_CHECKING:  # a type checker would take it for leave to assign anything

        def __setattr__(self, name: str, value: object) -> None:
            raise FrozenInstanceError(f"cannot assign to {name!r}")

        def __delattr__(self, name: str) -> None:
            raise FrozenInstanceError(f"cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.values() == other.values() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self.values().items() if value != getattr(type(self), name))
        return f"{type(self).__name__}({', '.join(changed)})"
