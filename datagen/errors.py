"""Errors about stored datasets. Each message names the path and the fix."""


class DatasetError(ValueError):
    """Base class of the errors below."""


class DatasetNotFoundError(DatasetError):
    """The directory has no dataset.json, or the file is not valid."""


class FormatVersionError(DatasetError):
    """The dataset has a newer format version than this code can read."""


class ForeignDatasetError(DatasetError):
    """The target directory holds a dataset of another task, config or seed."""


class SplitNotFoundError(DatasetError):
    """The dataset has no such split."""


class NotEnoughRowsError(DatasetError):
    """The split has fewer rows than requested."""


class ShardMissingError(DatasetError):
    """dataset.json lists a shard whose file does not exist."""


class ShardCorruptError(DatasetError):
    """A shard does not match its checksum in dataset.json, or its content is not valid."""


class MalformedLinesError(DatasetError):
    """Lines of the file to import do not follow its format, or contradict themselves."""
