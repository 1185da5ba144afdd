"""What a wrong value is told, in the same words everywhere: its field, itself, and what is allowed."""

from __future__ import annotations

MOST = 2**31 - 1  # of anything that is counted


def require(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise the one error of a bad field: its name first, then its value and what is allowed."""
    if not ok:
        raise ValueError(f"{field} = {shortened(repr(value))}: must be {allowed}")


def require_whole(field: str, value: object, low: int, high: int = MOST) -> None:
    """`require` for an integer in low..high, bool not among them."""
    above = type(value) is int and value > high
    allowed = f"an integer of at least {low}" + (f", and at most {high}" if above or high < MOST else "")
    require(type(value) is int and low <= value <= high, field, value, allowed)


def shortened(text: str, length: int = 200) -> str:
    """A value in a message, which names it and does not print a file."""
    return text if len(text) <= length else text[:length] + "..."
