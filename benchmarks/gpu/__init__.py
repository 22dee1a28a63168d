"""Parts of the check that a machine with a GPU runs, `benchmarks.on_gpu`."""
