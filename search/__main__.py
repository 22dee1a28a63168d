"""`python -m search` is `medcore`."""

from search.cli.main import main

main()
