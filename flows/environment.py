"""What Prefect and MLflow find in the environment: nothing is reported to their makers, slow machines get time.

Both libraries read these when they are imported, so `flows/__init__.py` sets them before anything here
imports either.
"""

from __future__ import annotations

from collections.abc import MutableMapping

DEFAULTS = {
    "DO_NOT_TRACK": "true",  # Prefect's client and MLflow; MLflow knows the word "true" alone
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A tracking server that is away is asked again at the end of the run: no need to wait minutes for it before.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def prepare(environ: MutableMapping[str, str]) -> None:
    """Put the defaults into `environ`; whatever the user has set stays.

    >>> environ = {"DO_NOT_TRACK": "false"}
    >>> prepare(environ)
    >>> environ["DO_NOT_TRACK"], environ["MLFLOW_DISABLE_TELEMETRY"]
    ('false', 'true')
    """
    for name, value in DEFAULTS.items():
        environ.setdefault(name, value)
