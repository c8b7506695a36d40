"""Times network files where it runs. Needs Python 3.9, NumPy and a runtime, and nothing of nasflow: this folder is
sent to a board as one file (nasflow/hardware/bundle.py). What it is asked and what it answers: answering.py."""
