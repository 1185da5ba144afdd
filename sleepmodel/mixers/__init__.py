"""The sequence mixers, and the registry of their names."""

from __future__ import annotations

from sleepmodel.mixers.attention import Attention
from sleepmodel.mixers.base import Mixer
from sleepmodel.mixers.gated_delta import Delta, GatedDelta, Linear
from sleepmodel.mixers.jet import Jet

MIXERS: dict[str, type[Mixer]] = {
    "attention": Attention,
    "gated_delta": GatedDelta,
    "delta": Delta,
    "linear": Linear,
    "jet": Jet,
}
