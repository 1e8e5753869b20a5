"""The three ways a job can stop (design: bad configuration, bad data, broken invariants).

All three carry one line a person can act on: the value found, what was expected, and the likely cure. The
command line prints that line and nothing else; everything that is not one of these is a bug and keeps its
traceback.
"""


class SuperbatchError(Exception):
    """Base of the errors whose message is written for the user."""


class ConfigError(SuperbatchError):
    """A setting that cannot work: raised when a config is constructed or a job is built, never later."""


class DataError(SuperbatchError):
    """Too much of the input was unusable, or an input is missing."""


class IntegrityError(SuperbatchError):
    """A stored artifact contradicts its manifest, its parents or itself."""


class Stopped(Exception):  # noqa: N818  nothing went wrong
    """A run was stopped on request, and has saved where it was."""
