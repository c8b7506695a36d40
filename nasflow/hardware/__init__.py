"""Boards and processors: what is known of them, how they are asked, and what is foretold of them."""

from nasflow.hardware.device import Device, DeviceError, Unreachable, connect
from nasflow.hardware.profile import Fact, Profile, Reach, load_profile, profiles
from nasflow.hardware.timing import Comparison, Latency

__all__ = ["Comparison", "Device", "DeviceError", "Fact", "Latency", "Profile", "Reach", "Unreachable", "connect",
           "load_profile", "profiles"]  # fmt: skip
