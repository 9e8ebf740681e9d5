"""`python -m bridge_diffusion.cli` is `bdm`."""

from bridge_diffusion.cli.main import main

main()
