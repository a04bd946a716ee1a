"""`python -m equiav` is `equiav`."""

from equiav.cli.app import main

main()
