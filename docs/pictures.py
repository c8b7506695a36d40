"""Draws the README's pictures from a finished run: docs/report.png (with a headless Chromium) and docs/front.svg.

python docs/pictures.py runs/digits
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from nasflow import runs
from nasflow.errors import NasflowError
from nasflow.files import write_bytes, write_text
from nasflow.report import front_svg, render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = (1100, 1220)  # CSS pixels: the answer and the front
DEADLINE_S = 120


def draw(folder: Path, out: Path) -> list[Path]:
    """The pictures of the run in `folder`, written into `out`."""
    summary = runs.summary(folder)
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "report.html"
        page.write_text(render(summary))
        write_bytes(out / "report.png", photograph(page))
    write_text(out / "front.svg", front_svg(summary) + "\n")
    return [out / "report.png", out / "front.svg"]


def photograph(page: Path) -> bytes:
    """What a browser shows of the top of a page, as PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise NasflowError(f"expected a browser to photograph the report with: one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile) / "page.png"
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            f"--user-data-dir={profile}/profile", f"--window-size={WINDOW[0]},{WINDOW[1]}",
            f"--screenshot={picture}", page.resolve().as_uri(),
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        if not picture.exists():
            raise NasflowError(f"{browser} took no picture: {ended.stderr.strip()[-500:]}")
        return picture.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="the run's folder, or its name under runs/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to, else docs/")
    asked = parser.parse_args()
    for file in draw(runs.find(asked.run), asked.out):
        print(file)


if __name__ == "__main__":
    main()
