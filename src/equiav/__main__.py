"""`python -m equiav` is `equiav`."""

from equiav.cli import main

main()
