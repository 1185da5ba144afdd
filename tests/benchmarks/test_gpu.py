"""What the first hour on a GPU refuses before it begins."""

import pytest

from benchmarks.gpu.__main__ import main


def test_a_training_of_unknown_rate_is_refused() -> None:
    """Its two steps would be kept as the whole training."""
    with pytest.raises(SystemExit, match=r"--parts training: .* add `steps`, or time them first"):
        main(["--device", "cpu", "--parts", "training"])
