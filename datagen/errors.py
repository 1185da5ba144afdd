"""What may be wrong with a dataset on disk. Each message names the path and what to do."""


class DatasetError(ValueError):
    """Any of the errors below."""


class DatasetNotFoundError(DatasetError):
    """There is no dataset.json where one was asked for, or it cannot be understood."""


class FormatVersionError(DatasetError):
    """The dataset was written in a newer format than this code reads."""


class ForeignDatasetError(DatasetError):
    """Where a dataset was to be made stands one of another task, config or seed."""


class SplitNotFoundError(DatasetError):
    """The dataset has no such split."""


class NotEnoughRowsError(DatasetError):
    """The split has fewer rows than asked for."""


class ShardMissingError(DatasetError):
    """dataset.json lists a shard whose file is not there."""


class ShardCorruptError(DatasetError):
    """The bytes of a shard are not those that dataset.json lists."""


class MalformedLinesError(DatasetError):
    """Lines of a file that was to be imported are not in its format."""
