"""One page that answers: which network do I ship, and why.

Everything is drawn from the run's summary (what summary.json holds) and from nothing else, so a report can
be made again at any time, also of a run that is still going, failed, or left half of its parts out.
"""

from nasflow.report.figures import front_svg
from nasflow.report.page import render
from nasflow.report.words import answer

__all__ = ["answer", "front_svg", "render"]
