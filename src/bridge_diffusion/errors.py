"""The one exception for mistakes that a user can mend."""


class BridgeError(ValueError):
    """A user's mistake, said in one line: what was got, what is allowed, how to mend it.

    The command line prints the line and exits with code 2; a server answers 422.
    """

    def __init__(self, message: str, code: str = "", **values: object) -> None:
        """
        Args:
            message: The line, in English.
            code: A stable name of the mistake, for who says it in another language; "" for one
                that has none.
            values: What such a text needs, as JSON values. `field` names the field of a request
                that is to blame.
        """
        super().__init__(message)
        self.code = code
        self.values = values
