"""How documents are imported. Needs only NumPy, as the command line lists these options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datagen.checks import require_one_of, require_whole
from datagen.task import SPLITS

Loss = Literal["completions", "all"]
LOSSES = ("completions", "all")
MAX_TOKENS = 8192


@dataclass(frozen=True)
class Options:
    """loss: on the tokens of completions and of what the assistant says, or on all tokens but the first of a document;
    None: on completions where there are any, else on all. split: of all documents; None: the one that a record names,
    else by a hash of the prompt or the plain text. max_tokens: of a document of plain text, which is cut where it is
    longer."""

    loss: Loss | None = None
    split: str | None = None
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        if self.loss is not None:
            require_one_of("loss", self.loss, LOSSES)
        if self.split is not None:
            require_one_of("split", self.split, SPLITS)
        require_whole("max_tokens", self.max_tokens, 2, 2**20)
