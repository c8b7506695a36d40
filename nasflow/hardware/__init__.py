"""Boards and processors: what is known of them, how they are asked, and what is foretold of them."""

from nasflow.hardware.device import Device, Lost, Measured, Progress, connect
from nasflow.hardware.profile import Fact, Profile, Reach, load_profile, profiles
from nasflow.hardware.timing import Comparison, Latency
from nasflow.hardware.transport import DeviceError, Refused, TimedOut, Unreachable

__all__ = ["Comparison", "Device", "DeviceError", "Fact", "Latency", "Lost", "Measured", "Profile", "Progress",
           "Reach", "Refused", "TimedOut", "Unreachable", "connect", "load_profile", "profiles"]  # fmt: skip
