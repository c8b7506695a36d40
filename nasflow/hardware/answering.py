"""Which devices answer now: all are asked at once, and none is waited for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from nasflow.errors import NasflowError
from nasflow.hardware.device import Device, connect
from nasflow.hardware.profile import Profile

WITHIN_S = 10.0


def answering(
    profiles: Iterable[Profile], within_s: float = WITHIN_S, connect: Callable[[Profile], Device] = connect
) -> dict[str, str]:
    """Why each device does not answer, by name; empty for one that does.

    One that hangs, or that somebody measures on, is given up after `within_s` seconds; its thread dies with the
    process.
    """
    told: dict[str, str] = {}
    asked = []
    for profile in profiles:

        def ask(profile: Profile = profile) -> None:
            try:
                connect(profile).check()
                told[profile.name] = ""
            except NasflowError as error:
                told[profile.name] = str(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        asked.append((profile.name, thread))
    end = time.monotonic() + within_s
    for _, thread in asked:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {within_s:g} s; it hangs, or is in use: ask again later"
    return {name: told.get(name, f"{name}: {late}") for name, _ in asked}
