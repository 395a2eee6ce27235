"""The one error a user sees: it names the place, what was found, what was expected and what to do."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Report input that cannot be used.

    Parameters
    ----------
    where
        The file (with ``:line`` if known) or the setting that is at fault.
    field
        What in it is at fault, such as ``"pixel size"``.
    found, expected
        The value met and the value that would have done, in words with units.
    remedy
        A sentence that says what to do.
    """

    def __init__(self, where: str | Path, field: str, *, found: object, expected: str, remedy: str = "") -> None:
        self.where, self.field, self.found = str(where), field, found
        self.expected, self.remedy = expected, remedy
        message = f"{self.where}: {field} is {found}; expected {expected}."
        super().__init__(f"{message} {remedy}".strip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way between processes, which keyword arguments would not."""
        return partial(InputError, found=self.found, expected=self.expected, remedy=self.remedy), (
            self.where,
            self.field,
        )


def check_range(where: str, low: float, high: float, /, **settings: float) -> None:
    """Raise ``InputError`` for the first setting that is not a number from ``low`` to ``high``."""
    for name, value in settings.items():
        if not low <= value <= high:
            raise InputError(where, name, found=value, expected=f"{low:g} to {high:g}")


def check_choice(where: str, field: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``InputError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InputError(where, field, found=repr(value), expected=f"one of {', '.join(choices)}")
