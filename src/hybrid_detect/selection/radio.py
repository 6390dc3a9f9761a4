"""What sending costs in energy: a radio is paid by the bit, and for being awake meanwhile."""

from __future__ import annotations

from typing import NamedTuple

from hybrid_detect.types import Medium

__all__ = ["COST_PER_JOULE", "RADIOS", "Radio"]

COST_PER_JOULE = 0.3
"""What a joule costs, in perfect answers. Derived from what a look on a Raspberry Pi 5 is taken to
cost, 0.03: it lasts 50 ms and draws some 2 W more than an idle board, 0.1 J."""

AWAKE_S = 0.2
"""A frame keeps the radio awake until the next one, at most for so long: its transfer, and 100 ms
after which LTE lets it doze (the inactivity timer that Huang et al. found, see `RADIOS`)."""


class Radio(NamedTuple):
    """What a transmitter draws."""

    joules_per_bit: float
    base_w: float
    """While it is awake, in watts."""

    def awake_j(self, interval_s: float) -> float:
        """Joules for being awake because of one frame, the next of which comes in `interval_s`."""
        return self.base_w * min(interval_s, AWAKE_S)


RADIOS = {
    Medium.CELLULAR: Radio(joules_per_bit=438.39e-9, base_w=1.288),
    Medium.WIFI: Radio(joules_per_bit=283.17e-9, base_w=0.133),
    Medium.WIRED: Radio(joules_per_bit=0.0, base_w=0.0),
    Medium.UNKNOWN: Radio(joules_per_bit=0.0, base_w=0.0),
}
"""By medium. A wired network costs nothing beyond what it costs anyway, and what is unknown is not
made up.

Source: Huang et al., "A Close Examination of Performance and Power Characteristics of 4G LTE
Networks", MobiSys 2012, table 4, uplink of LTE and of WiFi. Its 3G takes twice as much by the bit
and two thirds of the base. A phone of 2020 (Narayanan et al., "A Variegated Look at 5G in the
Wild", SIGCOMM 2021, the published measurements of LTE uplinks) drew 3.2 W as a whole at 5 Mbit/s
and 4.5 W at 17: a quarter by the bit, so that the base is most of it.

A simplification: a frame is charged for its own time, as if the radio slept otherwise. That is
right where all frames are sent, or none; it is too cheap for a frame now and then, after which LTE
dozes for 11.6 s at up to 1.06 W before it sleeps."""
