"""Whatever is read from outside is right, or refused by an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.damage import damaged
from tests.hostile.surfaces import SURFACES

settings.register_profile("fuzz", max_examples=2000)
CASES = 200  # of each surface; `make fuzz` takes 2,000, by the profile of that name


@pytest.mark.parametrize("name", SURFACES)
def test_what_is_sound_is_read(name: str, tmp_path: Path) -> None:
    for content in SURFACES[name].valid(tmp_path)[:1]:
        assert SURFACES[name].check(content, tmp_path)


@pytest.mark.parametrize("name", SURFACES)
def test_what_was_damaged_is_right_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    surface, place = SURFACES[name], tmp_path_factory.mktemp("hostile")
    valid = surface.valid(place)

    @settings(
        max_examples=max(CASES, settings().max_examples),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def check(random: Random) -> None:
        surface.check(damaged(random.choice(valid), random), place)

    check()
