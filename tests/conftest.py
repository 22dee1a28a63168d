"""Two cores are shared by the tests and by the processes they start: one thread each, set before torch is imported.

Ray would let its workers have only what all others leave over, and a test that waits for one would wait in vain.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")
