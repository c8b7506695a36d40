"""`python runner.pyz spec.json > answer.json`, or the spec on stdin."""

from __future__ import annotations

import json
import os
import sys

from .answering import answer
from .network import CannotRun


def main() -> None:
    """Read a spec, write the answer: alone on stdout, whatever libraries print."""
    out = os.dup(1)
    os.dup2(2, 1)
    with open(sys.argv[1], "rb") if len(sys.argv) > 1 else sys.stdin.buffer as file:
        spec = json.load(file)
    try:
        told = answer(spec)
    except CannotRun as error:
        sys.exit(str(error))
    with os.fdopen(out, "w") as file:
        json.dump(told, file)


if __name__ == "__main__":
    main()
