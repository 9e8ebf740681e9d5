"""Progress of what is done before a run: encoding data once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def counting(what: str, total: int, *, show: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many of `total` are done.

    A bar on a terminal, which vanishes at the end; one line at the end elsewhere. `show`: whether
    this process is the one that tells it.
    """
    console = Console(stderr=True, quiet=not show)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
    console.print(f"{what}: {total:,} done", highlight=False)
