"""The mistakes a user can mend: each says what was expected, what came and what to do."""


class NasflowError(Exception):
    """Base of every error whose message is enough; the command line prints it without a traceback, exit code 2."""
