"""`bdm evaluate`: measurements, with the numbers' intervals and the pictures."""

import typer

from bridge_diffusion.cli.evaluate.plugins import plugins
from bridge_diffusion.cli.evaluate.two_languages import two_languages
from bridge_diffusion.cli.evaluate.world import world

app = typer.Typer(name="evaluate", help="Measure a bridge on scored prompts.", no_args_is_help=True)
app.command("world")(world)
app.command("plugins")(plugins)
app.command("two-languages")(two_languages)
