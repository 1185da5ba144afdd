"""A ceiling on the operators of a training step, each of which is at least one launch on a GPU.

If a change raises one of these numbers, look for a cast, a copy or a table that is made more often than it need be
(`python -m benchmarks.launches` names the operators). Lower the ceiling when you lower the number.
"""

from dataclasses import replace

import pytest

from benchmarks.launches import PRESET, count

CEILINGS = {
    1: {"forward": 944, "backward": 1272, "clip": 8, "optimizer": 105},
    4: {"forward": 2600, "backward": 4752, "clip": 8, "optimizer": 105},
}
# as many operators as at full width, in a tenth of the time where bfloat16 is emulated
NARROW = replace(PRESET.model, d_model=64)


@pytest.mark.parametrize("passes", CEILINGS)
def test_a_step_launches_no_more_than_it_did(passes: int) -> None:
    counted = {phase: sum(names.values()) for phase, names in count(passes, True, NARROW).items()}
    above = {phase: number for phase, number in counted.items() if number > CEILINGS[passes][phase]}
    assert not above, f"at most {CEILINGS[passes]}"
