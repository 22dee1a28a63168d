"""Parts of `benchmarks.search_against_grid`."""
