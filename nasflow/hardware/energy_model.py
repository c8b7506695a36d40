"""An estimate of energy from arithmetic and memory alone. A model, never a measurement: use it to see which part of
a network costs, not what a board draws.

Energies of one operation in a 45 nm process at 0.9 V, in picojoules: Mark Horowitz, Computing's energy problem (and
what we can do about it), ISSCC 2014. Today's processes take less, and control and idling are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "model: 45 nm, Horowitz 2014"
MULTIPLY_PJ: Mapping[str, float] = {"int8": 0.2, "float16": 1.1, "float32": 3.7}
ADD_PJ: Mapping[str, float] = {"int8": 0.03, "float16": 0.4, "float32": 0.9}
DRAM_PJ_PER_BYTE = 640 / 4
SRAM_PJ_PER_BYTE = 10 / 4  # of 8 KB


@dataclass(frozen=True)
class Modelled:
    """Millijoules of one inference, by what they go into. `source` says that nobody measured them."""

    arithmetic_mj: float
    memory_mj: float
    source: str = SOURCE

    @property
    def energy_mj(self) -> float:
        return self.arithmetic_mj + self.memory_mj


def modelled(macs: int, dram_bytes: int, sram_bytes: int = 0, dtype: str = "float32") -> Modelled:
    """What `macs` multiply-adds of `dtype` and moving so many bytes from and to memory take.

    >>> round(modelled(macs=1_000_000, dram_bytes=1_000_000).energy_mj, 4)
    0.1646
    """
    if dtype not in MULTIPLY_PJ:
        raise ValueError(f"expected a type of {', '.join(MULTIPLY_PJ)}, got {dtype!r}")
    if min(macs, dram_bytes, sram_bytes) < 0:
        raise ValueError(f"expected counts of at least 0, got {macs}, {dram_bytes} and {sram_bytes}")
    return Modelled(
        arithmetic_mj=1e-9 * macs * (MULTIPLY_PJ[dtype] + ADD_PJ[dtype]),
        memory_mj=1e-9 * (dram_bytes * DRAM_PJ_PER_BYTE + sram_bytes * SRAM_PJ_PER_BYTE),
    )
