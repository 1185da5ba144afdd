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
from sleepmodel.mixers.base import PAD
from sleepmodel.serialization.model_dir import load_directory


def check_prompts(config: ModelConfig, tokens: npt.NDArray[np.int64], n: int) -> None:
    """Raise ValueError if a model of `config` cannot generate n tokens after each row of `tokens`, integers [B, T]."""
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
    # pads before a row's first token fill places of its first window
    rooms = -(lengths + pads) % config.window
    for row, (length, room) in enumerate(zip(lengths.tolist(), rooms.tolist(), strict=True)):
        if length == 0:
            raise ValueError(f"row {row} has only pads; give each row a prompt of at least one token")
        if room == 0:
            limit = f"the last window of {config.window}: the answer's window must begin with a prompt token"
            raise ValueError(f"row {row}: its {length} tokens fill {limit}; add one, such as a query token")
        if not 1 <= n <= room:
            reason = f"row {row}'s {length} tokens leave {room} in a window of {config.window}"
            raise ValueError(f"n = {n}: must be 1 to {room}, as {reason}; use a smaller n or another prompt")
        if config.max_positions is not None and length + n > config.max_positions:
            limit = f"at most max_positions = {config.max_positions}"
            raise ValueError(
                f"row {row}: prompt and answer have {length + n} tokens: must have {limit}; shorten the prompt"
            )


class Refused(MlflowException, ValueError):
    """A request that the model cannot answer. MLflow's server returns HTTP 400 with its message."""


class Answers(PythonModel):
    """Greedy answers to prompts: the pyfunc that MLflow serves."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = load_directory(Path(context.artifacts["model"]))

    # MLflow rejects a type hint that says which inputs are possible
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> dict[str, npt.NDArray[np.int64]]:
        """Generate the n tokens that follow each row, greedily: {"tokens": int64 [B, T]} -> {"answer": int64 [B, n]}.

        model_input: a dict or a DataFrame, whose column `tokens` holds lists. -1 is a pad, as in Session.read.
        params: {"n": number of tokens}; the registered model has its own default, otherwise 1.
        Raises Refused, a ValueError, for prompts that the model cannot answer.
        """
        n = (params or {}).get("n", 1)
        try:
            tokens = _prompts(model_input)
            if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
                raise ValueError(f"n = {n!r:.200}: must be an integer of at least 1, the number of tokens to generate")
            check_prompts(self.model.config, tokens, int(n))
        except ValueError as error:
            raise Refused.invalid_parameter_value(str(error)) from error
        session = Session(self.model, len(tokens))
        session.read(torch.from_numpy(tokens.astype(np.int64)), last=True)
        return {"answer": session.generate(int(n)).numpy()}


def _prompts(model_input: pd.DataFrame | dict[str, Any]) -> npt.NDArray[Any]:
    """The prompts of a request, as an array of any shape and dtype. Raises ValueError if there is none."""
    if not isinstance(model_input, (dict, pd.DataFrame)):
        raise ValueError(f'input {type(model_input).__name__}: must be {{"tokens": integers [B, T]}}')
    if "tokens" not in model_input:
        raise ValueError(f'input {sorted(map(str, model_input))}: must be {{"tokens": integers [B, T]}}')
    rows = model_input["tokens"]
    try:
        return np.asarray(rows.tolist() if isinstance(rows, pd.Series) else rows)
    except (ValueError, TypeError, OverflowError) as error:
        allowed = "must be integers [B, T], all rows of one length"
        raise ValueError(f"tokens: {allowed} ({error}); pad with {PAD}") from error


set_model(Answers())
