"""Entry point of `python -m search.cli`."""

from search.cli.main import main

main()
