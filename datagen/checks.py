"""Checks of config fields. Every error names the field, its value and what is allowed."""

from __future__ import annotations

MOST = 2**31 - 1  # the default limit of a count


def require(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise ValueError unless `ok`: "<field> = <value>: must be <allowed>"."""
    if not ok:
        raise ValueError(f"{field} = {shortened(repr(value))}: must be {allowed}")


def require_whole(field: str, value: object, low: int, high: int = MOST) -> None:
    """Raise ValueError unless the value is an integer in low..high. A bool is not an integer here."""
    above = type(value) is int and value > high
    allowed = f"an integer of at least {low}" + (f", and at most {high}" if above or high < MOST else "")
    require(type(value) is int and low <= value <= high, field, value, allowed)


def require_real(field: str, value: object, low: float, high: float, allowed: str) -> None:
    """Raise ValueError unless the value is a number in low..high, which `allowed` says in words."""
    require(type(value) in (int, float) and low <= value <= high, field, value, allowed)  # type: ignore[operator]


def require_bool(field: str, value: object) -> None:
    """Raise ValueError unless the value is True or False. An integer is not a bool here."""
    require(type(value) is bool, field, value, "true or false")


def require_one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of `allowed`."""
    require(value in allowed, field, value, f"one of {', '.join(allowed)}")


def shortened(text: str, length: int = 200) -> str:
    """The text, cut off after `length` characters for use in a message."""
    return text if len(text) <= length else text[:length] + "..."
