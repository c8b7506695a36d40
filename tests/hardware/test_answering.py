import threading
import time

import pytest

from nasflow.hardware import Profile, Unreachable
from nasflow.hardware.answering import answering

HANGING = threading.Event()


class Scripted:
    def __init__(self, name):
        self.name = name

    def check(self):
        if self.name == "hangs":
            HANGING.wait(20)
        if self.name == "away":
            raise Unreachable("away: no route to host")


@pytest.fixture(autouse=True)
def let_go():
    HANGING.clear()
    yield
    HANGING.set()


def test_every_device_is_asked_at_once_and_a_hanging_one_is_given_up():
    names = ["here", "away", "hangs"]
    asked = [Profile(name=name, description="a test", reach={"backend": "none"}) for name in names]
    began = time.monotonic()
    told = answering(asked, within_s=0.2, connect=lambda profile: Scripted(profile.name))
    assert time.monotonic() - began < 5
    assert list(told) == names and told["here"] == "" and told["away"] == "away: no route to host"
    assert told["hangs"].startswith("hangs: no answer within 0.2 s; it hangs, or is in use")


def test_a_device_without_a_connection_says_so():
    profile = Profile(name="board", description="a test", reach={"backend": "none"})
    assert "described but not connected" in answering([profile])["board"]
