"""`python -m cdcpipe` is `cdcpipe`."""

from cdcpipe.cli import main

main()
