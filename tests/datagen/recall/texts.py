"""Texts to recall."""

from __future__ import annotations

from pathlib import Path
from random import Random

LETTERS = "abcdefghijklmnopqrstuvwxyzéß漢🙂"


def write_documents(directory: Path, characters: int = 250_000, seed: int = 0) -> Path:
    """A folder of files, some of them in folders, of random words in sentences and paragraphs."""
    random = Random(seed)
    words = ["".join(random.choices(LETTERS, k=random.randint(1, 7))) for _ in range(400)]
    for number in range(5):
        file = directory / ("deep/er" if number % 2 else ".") / f"{number}.{'md' if number % 3 else 'TXT'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = f"# Part {number}"
        while len(text) < characters // 5:
            said = " ".join(random.choices(words, k=random.randint(2, 12))).capitalize()
            text += random.choice([" ", " ", " ", "\n", "\n\n"]) + said + random.choice(".?!")
        file.write_text(text + "\n", encoding="utf-8")
    (directory / "picture.png").write_bytes(b"\x89PNG")
    return directory
