"""The one exception for mistakes that a user can mend."""


class BridgeError(ValueError):
    """A user's mistake, said in one line: what was got, what is allowed, how to mend it.

    The command line prints the line and exits with code 2; a server answers 422.
    """
