"""Mistakes in the words of the interfaces: `--init-image` of the command line is `init_image`."""

import re

_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def as_line(message: object) -> str:
    """A message as one line that names fields where the command line has options."""
    text = " ".join(str(message).split())
    return _FLAG.sub(lambda match: match[1].replace("-", "_"), text)
