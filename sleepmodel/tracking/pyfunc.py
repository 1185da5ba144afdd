"""A SleepModel as an MLflow pyfunc. MLflow stores this file with the weights and runs it where the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from sleepmodel.config.model import ModelConfig
from sleepmodel.inference.session import Session
from sleepmodel.inference.text import decode_answer, encode_text, tokenizer_of
from sleepmodel.mixers.base import PAD
from sleepmodel.model import SleepModel
from sleepmodel.serialization.model_dir import load_directory

MAX_ANSWER = 4096  # tokens, where a session sleeps and goes on; more would hold the server for minutes


def check_prompts(config: ModelConfig, tokens: npt.NDArray[np.int64], n: int) -> None:
    """Raise ValueError if a model of `config` cannot generate n tokens after each row of `tokens`, integers [B, T].

    The answer of a model that sleeps on all windows may end in a later window than its prompt, as that of a text.
    """
    if tokens.ndim != 2 or 0 in tokens.shape or not np.issubdtype(tokens.dtype, np.integer):
        given = f"{tokens.dtype} {list(tokens.shape)}"
        raise ValueError(
            f"tokens: must be integers [B, T] with B and T at least 1, is {given}; give one row per prompt"
        )
    bad = np.argwhere((tokens >= config.vocab_size) | (tokens < PAD))
    if len(bad):
        row, column = map(int, bad[0])
        value, allowed = tokens[row, column], f"0 to {config.vocab_size - 1}, or {PAD} for a pad"
        raise ValueError(
            f"tokens[{row}, {column}] = {value}: must be in the vocabulary, {allowed}; encode the prompt again"
        )
    real = tokens >= 0
    lengths, pads = real.sum(1), (real.cumsum(1) == 0).sum(1)
    # pads before a row's first token fill positions of its first window
    rooms = -(lengths + pads) % config.window
    for row, (length, room) in enumerate(zip(lengths.tolist(), rooms.tolist(), strict=True)):
        if length == 0:
            raise ValueError(f"row {row} has only pads; give each row a prompt of at least one token")
        if config.sleep_on == "all":
            _check_answer(n)
        else:
            _check_room(config.window, row, length, room, n)
        _check_length(config, row, length + n)


def text_prompts(model: SleepModel, texts: list[Any], n: int, chat: bool) -> npt.NDArray[np.int64]:
    """The tokens of each text, padded to int64 [B, T]. chat: each text is a user's message.

    An answer may end in a later window than its prompt, as the session sleeps and goes on. Raises ValueError if the
    model cannot generate n tokens after each text.
    """
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"text: must be a list of strings, is {texts!r:.200}; give one string per prompt")
    _check_answer(n)
    prompts = []
    for row, text in enumerate(texts):
        try:
            prompts.append(encode_text(model, text, chat))
        except ValueError as error:
            raise ValueError(f"text[{row}]: {error}") from error
        _check_length(model.config, row, len(prompts[-1]) + n)
    tokens = np.full((len(prompts), max(map(len, prompts))), PAD, np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    return tokens


def _check_answer(n: int) -> None:
    if not 1 <= n <= MAX_ANSWER:
        raise ValueError(f"n = {n}: must be 1 to {MAX_ANSWER}; ask for fewer tokens")


def _check_room(window: int, row: int, length: int, room: int, n: int) -> None:
    """Of models that answer in one window. room: the positions behind the prompt in its last window."""
    if room == 0:
        limit = f"the last window of {window}: the answer's window must begin with a prompt token"
        raise ValueError(f"row {row}: its {length} tokens fill {limit}; add one, such as a query token")
    if not 1 <= n <= room:
        reason = f"row {row}'s {length} tokens leave {room} in a window of {window}"
        raise ValueError(f"n = {n}: must be 1 to {room}, as {reason}; use a smaller n or another prompt")


def _check_length(config: ModelConfig, row: int, length: int) -> None:
    if config.max_positions is not None and length > config.max_positions:
        limit = f"at most max_positions = {config.max_positions}"
        raise ValueError(f"row {row}: prompt and answer have {length} tokens: must have {limit}; shorten the prompt")


class Refused(MlflowException, ValueError):
    """A request that the model cannot answer. MLflow's server returns HTTP 400 with its message."""


class Answers(PythonModel):
    """Greedy answers to prompts: the pyfunc that MLflow serves."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = load_directory(Path(context.artifacts["model"]))

    # MLflow rejects a type hint that says which inputs are possible
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Generate the n tokens that follow each row, greedily.

        model_input: a dict or a DataFrame. {"tokens": int64 [B, T]}, or a column of lists, gives {"answer": int64
            [B, n]}; -1 is a pad, as in Session.read. {"text": B strings} gives {"answer": int64 [B, n], "text": B
            strings}, if the model has a tokenizer; after a token that ends the text, a row has pads.
        params: {"n": number of tokens}; the registered model has its own default, otherwise 1. {"chat": True} makes
            each text a user's message of a chat.
        Raises Refused, a ValueError, for prompts that the model cannot answer.
        """
        options = {"n": 1, "chat": False, **(params or {})}
        n = options["n"]
        try:
            if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
                raise ValueError(f"n = {n!r:.200}: must be an integer of at least 1, the number of tokens to generate")
            name = _input_name(model_input)
            if name == "text":
                tokens = text_prompts(self.model, _texts(model_input["text"]), int(n), bool(options["chat"]))
            elif options["chat"]:
                raise ValueError("chat = True: must be False for tokens; give text")
            else:
                tokens = _prompts(model_input["tokens"])
                check_prompts(self.model.config, tokens, int(n))
        except ValueError as error:
            raise Refused.invalid_parameter_value(str(error)) from error
        session = Session(self.model, len(tokens))
        session.read(torch.from_numpy(tokens.astype(np.int64)), last=True)
        if name == "tokens":
            return {"answer": session.generate(int(n)).numpy()}
        tokenizer = tokenizer_of(self.model)
        answer = session.generate(int(n), stop=tokenizer.ends).numpy()
        return {"answer": answer, "text": [decode_answer(tokenizer, row) for row in answer.tolist()]}


def _input_name(model_input: pd.DataFrame | dict[str, Any]) -> str:
    """Which input a request has: "tokens" or "text". Raises ValueError if it has neither or both."""
    wanted = 'must be {"tokens": integers [B, T]}, or {"text": strings} if the model has a tokenizer'
    if not isinstance(model_input, (dict, pd.DataFrame)):
        raise ValueError(f"input {type(model_input).__name__}: {wanted}")
    given = [name for name in ("tokens", "text") if name in model_input]
    if len(given) != 1:
        raise ValueError(f"input {sorted(map(str, model_input))}: {wanted}")
    return given[0]


def _prompts(rows: Any) -> npt.NDArray[Any]:
    """The tokens of a request, as an array of any shape and dtype. Raises ValueError if they are none."""
    try:
        return np.asarray(rows.tolist() if isinstance(rows, pd.Series) else rows)
    except (ValueError, TypeError, OverflowError) as error:
        allowed = "must be integers [B, T], all rows of one length"
        raise ValueError(f"tokens: {allowed} ({error}); pad with {PAD}") from error


def _texts(rows: Any) -> list[Any]:
    """The texts of a request, of any type. MLflow makes a list of strings one cell of a DataFrame."""
    if isinstance(rows, str):
        return [rows]
    cells = list(rows) if isinstance(rows, (list, tuple, np.ndarray, pd.Series)) else [rows]
    if len(cells) == 1 and isinstance(cells[0], (list, np.ndarray)):
        cells = list(cells[0])
    return cells


set_model(Answers())
