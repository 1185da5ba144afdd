"""The pretrained model that an experiment begins with: what its files decide, and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from datagen import Task
from datagen.checks import require
from datagen.storage import local_path
from datagen.task import TOKENIZER_FIELD
from datagen.tokenizer import stored_tokenizer
from sleepmodel import ModelConfig, SleepModel
from sleepmodel.hub import REGISTRY, Base, find_base
from sleepmodel.pretrained.insertion import begin_with
from sleepmodel.pretrained.reading import hybrid_config


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The pretrained model that every training without a `start` begins with, and its new layers.

    model: its directory, of Hugging Face's layout or one that `sleepmodel.save` wrote, on a disk or in an object store,
        or models:/<name>@<alias>. Identities have the checksum of its weights, not its path. A task without a
        tokenizer gets the one beside the weights. None: there is no such model, and weights are random.
    source: which model the experiment is made for, and where to get it; without `model` it can be planned, but not run.
    insert: layers of the model after which a new one stands, counted from 0; mixer: of the new ones.
    init: of the new ones, as in from_pretrained.
    """

    model: str | None = None
    source: str = ""
    insert: tuple[int, ...] = ()
    mixer: str = "jet"
    init: Literal["attention", "zero"] = "attention"

    def __post_init__(self) -> None:
        allowed = "a directory, s3://bucket/prefix, models:/<name>@<alias> or null"
        require(self.model != "", "model", self.model, allowed)
        if self.model is not None and "://" not in self.model and not self.model.startswith(REGISTRY):
            # trainings run in other working directories
            object.__setattr__(self, "model", str(local_path(self.model).absolute()))
        if not self.source:
            self.check_effect(Pretrained)

    def check_effect(self, before: Pretrained | type[Pretrained], prefix: str = "") -> None:
        """Raise ValueError where a field about new layers differs from that of `before`, but there is no model to put
        them into. prefix: of the field's name in the error."""
        for name in ("insert", "mixer", "init"):
            value, old = getattr(self, name), getattr(before, name)
            allowed = f"{old!r} without pretrained.model, as there is no model for new layers: set pretrained.model too"
            require(self.model is not None or value == old, f"{prefix}{name}", value, allowed)

    def applied(self, task: Task, model: ModelConfig, before: ModelConfig) -> tuple[Task, ModelConfig]:
        """The task with the model's tokenizer, and the config of the model with the new layers and with the fields of
        `model` that it does not give.

        before: the config that `model` was changed from. Raises ValueError if a field was changed that the pretrained
        model gives, or if the task has another tokenizer, and the errors of `find_base`.
        """
        assert self.model is not None
        base = find_base(self.model)
        for name, value in base.fields.items():
            given = getattr(model, name)
            if value is not None and given not in (value, getattr(before, name)):
                raise ValueError(f"model.{name} = {given}: is given by {self.model}; leave it out")
        if base.tokenizer is not None and getattr(task, TOKENIZER_FIELD, "") is None:
            task = replace(task, **{TOKENIZER_FIELD: base.tokenizer})
        self._check_tokenizer(task, base)
        decided = {*base.fields, "mixers", "inserted", "max_positions"}
        fields = {name: value for name, value in model.to_dict().items() if name not in decided}
        return task, hybrid_config(base.fields, dict.fromkeys(self.insert, self.mixer), fields, self.model)

    def _check_tokenizer(self, task: Task, base: Base) -> None:
        """Raise ValueError if the task's rows are tokens of another tokenizer than the model's."""
        ours, theirs = task.read_tokenizer(), stored_tokenizer(base.directory)
        if ours is not None and theirs is not None and ours.tokens != theirs.tokens:
            raise ValueError(
                f"task: its tokens are of {ours.source}, not of the tokenizer of {self.model}: make the dataset with "
                f"--tokenizer {self.model}, or leave task.{TOKENIZER_FIELD} out"
            )

    def check_start(self, model: ModelConfig) -> None:
        """Raise ValueError where a model of this config cannot begin with the pretrained one, if there is one."""
        if self.model is not None:
            base = SleepModel.without_weights(find_base(self.model).config)
            begin_with(SleepModel.without_weights(model), base, self.init)

    def start(self) -> dict[str, Any]:
        """The fields of a TrainingJob that make it begin with this model."""
        if self.model is None:
            return {}
        base = find_base(self.model)
        return {"start": base.directory, "weights": base.weights, "init": self.init}

    def identity(self) -> dict[str, Any]:
        """What trainings begin with, for the identities of their stages: empty for random weights."""
        if self.model is None:
            return {}
        return {"pretrained": {"weights": find_base(self.model).weights, "init": self.init}}
