"""What options are made of: fields that carry their help text, allowed values and limits, and values from text.

`tinyhd.options` has the options themselves.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from tinyhd.errors import OptionError


@dataclass(frozen=True)
class Choice:
    """What is known of an option besides its type and default."""

    help: str
    """One or two sentences, lower case at the start, no full stop at the end."""
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None
    bare: str | None = None
    """What the flag stands for where no value follows it; None: one has to."""
    advanced: bool = False
    """Forms show it only when asked for more."""
    runs_program: bool = False
    """It names a program, or what is passed to one: never taken from forms, lists or the web."""


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field with a `Choice`."""
    return dataclasses.field(default=default, metadata={"choice": Choice(help, **facts)})


class Options:
    """Base of the dataclasses below: making them from plain values, and checks: each raises `OptionError` at birth
    where a value is not allowed."""

    def __post_init__(self) -> None:
        for name, choice in choices(type(self)).items():
            _check(name, getattr(self, name), choice)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """From names and values, text included, as forms, files and web requests give them; None and "" take the
        default.

        Raises:
            OptionError: an unknown name, or a value that is not allowed.
        """
        known = field_types(cls)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise OptionError(f"there is no option {unknown[0]!r}; the options are {', '.join(known)}.")
        refuse_programs(cls, values)
        given = {name: value for name, value in values.items() if value is not None and value != ""}
        return cls(**{name: convert(name, value, known[name]) for name, value in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """All values by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


OptionsT = TypeVar("OptionsT", bound=Options)


def choices(cls: type) -> dict[str, Choice]:
    """The `Choice` of each field of a dataclass that has one, by name."""
    return {field.name: field.metadata["choice"] for field in dataclasses.fields(cls) if "choice" in field.metadata}


def refuse_programs(cls: type, values: Mapping[str, Any]) -> None:
    """Refuse values from elsewhere that would run a program. Raises `OptionError`."""
    for name, choice in choices(cls).items():
        if choice.runs_program and values.get(name) not in (None, ""):
            raise OptionError(f"{name} runs a program, so it can be given on the command line and in Python only.")


def field_types(cls: type) -> dict[str, type]:
    """The type of each field of a dataclass, without the None of optional ones."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: type) -> dict[str, type]:
    hints = typing.get_type_hints(cls)
    return {field.name: _not_none(hints[field.name]) for field in dataclasses.fields(cls)}


def _not_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        (hint,) = [part for part in hint.__args__ if part is not type(None)]
    return hint


def convert(name: str, value: Any, kind: type) -> Any:
    """A value, possibly text, as the type of an option.

    Raises:
        OptionError: it is none.
    """
    wanted = {int: "a whole number", float: "a number", bool: "yes or no"}
    try:
        if kind is bool:
            if isinstance(value, str):
                return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[value.lower()]
            if value not in (True, False):
                raise ValueError
            return bool(value)
        if kind is int and isinstance(value, float) and value != int(value):
            raise ValueError
        if kind in (int, float) and isinstance(value, bool):
            raise ValueError
        result = kind(value)
        if kind is float and not math.isfinite(result):
            raise ValueError
        return result
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise OptionError(f"{name} is {value!r}; it must be {wanted.get(kind, 'text')}.") from error


def _check(name: str, value: Any, choice: Choice) -> None:
    if value is None:
        return
    if choice.allowed and value not in choice.allowed:
        raise OptionError(f"{name} is {value!r}; it must be one of {', '.join(choice.allowed)}.")
    low, high = choice.minimum, choice.maximum
    too_low, too_high = low is not None and not value >= low, high is not None and not value <= high
    if too_low or too_high:
        limits = f"{high:g} or less" if low is None else f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
        raise OptionError(f"{name} is {value}; it must be {limits}.")
