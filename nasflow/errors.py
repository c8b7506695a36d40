"""The mistakes a user can mend: each says what was expected, what came and what to do."""


class NasflowError(Exception):
    """Base of every error whose message is enough; the command line prints it without a traceback, exit code 2."""


class Unavailable(NasflowError):
    """Something that every trial needs is away, a device for example: the search stops and can go on later."""


class Passing(NasflowError):
    """What may work the next time it is tried, as with a device that went away: a trial that fails of it says nothing
    about others. Whoever raises it bounds how often."""
