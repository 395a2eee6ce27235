"""The one error a user sees: it names the place, what was found, what was expected and what to do."""

from pathlib import Path


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


def check_range(where: str, low: float, high: float, /, **settings: float) -> None:
    """Raise ``InputError`` for the first setting that is not a number from ``low`` to ``high``."""
    for name, value in settings.items():
        if not low <= value <= high:
            raise InputError(where, name, found=value, expected=f"{low:g} to {high:g}")
