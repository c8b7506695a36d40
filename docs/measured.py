"""Writes what was measured, as far as it was, from benchmarks/results/ into the tables of docs/methods.md.

python docs/measured.py
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nasflow.files import write_text

DOCUMENT = Path(__file__).with_name("methods.md")
RESULTS = Path(__file__).parents[1] / "benchmarks/results"
MISSING = "not measured yet"

Result = Mapping[str, Any]


def filled(text: str, results: Path = RESULTS) -> str:
    """The document with the last cells of its rows as the results say; a row is known by its first code."""
    own, scores = read(results / "search-own_table.json"), read(results / "search-estimators.json")
    text = rewritten(text, "Strategies", 2, lambda name: strategy(own, name))
    text = rewritten(text, "auto", 3, lambda bar: auto(read(results / f"{bar}.json")))
    return rewritten(text, "Zero-cost scores", 1, lambda name: [score(scores, name)])


def read(file: Path) -> Result | None:
    """A result, None while it is not there."""
    return json.loads(file.read_text()) if file.is_file() else None


def strategy(result: Result | None, name: str) -> list[str]:
    """Shares on the way, and who won against random search how often."""
    said = (result or {"strategies": {}})["strategies"].get(name)
    if said is None or "shares" not in said:
        return [MISSING, ""]
    shares = " / ".join(f"{said['shares'][count]:.0%}".rstrip("%") for count in ("50", "100", "200"))
    if "wins" not in said:
        return [shares, "it is random"]
    verdict = "better" if said["beats_random"] else "not better"
    return [shares, f"{verdict}, {said['wins']} : {said['losses']}"]


def auto(result: Result | None) -> list[str]:
    """Evaluations over those of the best peer: on average, on the worst column, on those it was not chosen on."""
    if result is None:
        return [MISSING, "", ""]
    values = (result["value"], result["worst"], result["on_columns_not_chosen_on"])
    return ["-" if value is None else f"{value:.2f}" for value in values]


def score(result: Result | None, name: str) -> str:
    """Rank correlation with being good after training."""
    said = (result or {"estimators": {}})["estimators"].get(name.replace("-", "_"))
    return MISSING if said is None else f"{said['kendall']:.2f}"


def rewritten(text: str, heading: str, cells: int, say: Callable[[str], list[str]]) -> str:
    """The document with the last `cells` of every row of the table under a heading said anew."""

    def row(found: re.Match[str]) -> str:
        kept = [cell.strip() for cell in found[0].split("|")[1:-1]][:-cells]
        return f"| {' | '.join([*kept, *say(found[1])])} |"

    before, title, rest = text.partition(f"\n## {heading}\n")
    section, following, after = rest.partition("\n## ")
    section = re.sub(r"^\| `([\w-]+)`.*\|$", row, section, flags=re.MULTILINE)
    return f"{before}{title}{section}{following}{after}"


if __name__ == "__main__":
    write_text(DOCUMENT, filled(DOCUMENT.read_text()))
    print(DOCUMENT.name)
