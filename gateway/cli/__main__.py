"""`python -m gateway.cli` is the command `twinspan`."""

from gateway.cli.main import main

main()
