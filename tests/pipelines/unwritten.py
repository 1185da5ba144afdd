"""What a dataset's dataset.json would say, of a task of which nothing is written."""

from datagen.schema import Dataset
from datagen.task import Task, task_identity


def about(task: Task) -> Dataset:
    identity = task_identity(task)
    return Dataset(1, identity["name"], identity["config"], task.vocabulary, 0, {})
