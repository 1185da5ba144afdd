"""Draw docs/pictures/sleep.svg, the diagram of the README: `python docs/diagram.py`. Standard library only.

The background is transparent and every colour is a mid-tone, so that the picture reads on a light and on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PATH = Path(__file__).parent / "pictures" / "sleep.svg"
TEXT, ATTENTION, FAST = "#77797f", "#3f7fbf", "#c2652a"  # text and lines, the KV cache, the fast weights
WIDTH, HEIGHT, COLUMN, MARGIN = 980, 330, 240, 16
CELL, WINDOW = 24, 8  # of a token in the window, and L as drawn
SQUARE, SIDE = 14, 4  # of an entry of the fast weights, and their rows and columns

# title, tokens in the window (None: evicted), how far the fast weights have come, and two lines below
PANELS: tuple[tuple[str, int | None, float, str, str], ...] = (
    ("1  Awake", 5, 0.25, "tokens are read one by one;", "each writes to both memories"),
    ("2  Full window", 8, 0.4, "the KV cache holds L tokens", "and has no room left"),
    ("3  Asleep", 8, 0.8, "N passes over the window", "refine the fast weights S"),
    ("4  Evicted", None, 0.8, "the KV cache is dropped;", "only S crosses the border"),
)


def text(x: float, y: float, words: str, size: int = 14, colour: str = TEXT, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{more}>{words}</text>'


def window(x: float, y: float, tokens: int | None) -> Iterator[str]:
    """The L places of the context window: filled, still free, or evicted."""
    for i in range(WINDOW):
        taken = tokens is not None and i < tokens
        style = f'fill="{ATTENTION}"' if taken else f'fill="none" stroke="{ATTENTION}" stroke-dasharray="3 3"'
        yield f'<rect x="{x + i * CELL:g}" y="{y:g}" width="{CELL - 4}" height="{CELL - 4}" rx="3" {style}/>'


def fast_weights(x: float, y: float, strength: float) -> Iterator[str]:
    """S as a small matrix, whose entries become stronger with what is written to them."""
    for row in range(SIDE):
        for column in range(SIDE):
            # a fixed pattern that looks like no order in particular
            opacity = strength * (0.45 + 0.55 * ((5 * row + 3 * column + row * column) % 7) / 6)
            yield (
                f'<rect x="{x + column * SQUARE:g}" y="{y + row * SQUARE:g}" width="{SQUARE - 1}" '
                f'height="{SQUARE - 1}" fill="{FAST}" fill-opacity="{opacity:.2f}"/>'
            )
    side = SQUARE * SIDE + 1
    yield f'<rect x="{x - 1:g}" y="{y - 1:g}" width="{side}" height="{side}" fill="none" stroke="{FAST}"/>'


def arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{TEXT}" stroke-width="2" marker-end="url(#head)"/>'


def panel(i: int) -> Iterator[str]:
    title, tokens, strength, first, second = PANELS[i]
    x = MARGIN + i * COLUMN
    yield text(x, 28, title, 17, more=' font-weight="bold"')
    yield from window(x, 64, tokens)
    yield text(x, 104, "KV cache (attention)", 12, ATTENTION)
    yield from fast_weights(x, 126, strength)
    yield text(x + 68, 150, "fast weights S", 12, FAST)
    yield text(x + 68, 168, "fixed size", 12, FAST)
    yield text(x, 218, first)
    yield text(x, 237, second)
    if i < len(PANELS) - 1:
        yield arrow(f"M {x + WINDOW * CELL + 8} 74 h 22")


def diagram() -> str:
    third, last = MARGIN + 2 * COLUMN, MARGIN + 3 * COLUMN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>Awake, full window, N passes of sleep, eviction</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{TEXT}"/></marker></defs>',
        *(part for i in range(len(PANELS)) for part in panel(i)),
        # the sleep: from the fast weights up to the window and back, N times
        arrow(f"M {third + 158} 168 C {third + 216} 168 {third + 216} 112 {third + 158} 94"),
        text(third + 150, 190, "N times", 14, TEXT, ' font-weight="bold"'),
        # and on with the next window
        arrow(f"M {last + 80} 252 V 282 H {MARGIN + 80} V 254"),
        text(WIDTH / 2, 308, "the next window begins: a question is answered in one ordinary pass", 14, TEXT).replace(
            "<text", '<text text-anchor="middle"'
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PATH.write_text(diagram())
