"""`python -m search` is `medcore`."""

from search.cli.start import main

main()
