"""Two cores are shared by the tests and by the processes they start: one thread each, set before torch is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
