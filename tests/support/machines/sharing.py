"""Which test files share a process, and in which order files begin.

Three processes run the suite, because many tests wait. What is costly to start (a Ray, a cluster, a tracking server) or
to import (MONAI, the packages of ONNX) is started or imported once if all files that need it run in one process. The
longest work begins first, so that all processes end at about the same time.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

#: Groups of files that share a resource, longest first. Other files start later, each as its own group.
GROUPS: dict[str, tuple[str, ...]] = {
    "local Ray": (
        "tests/search/driver/test_run.py",
        "tests/search/driver/test_resume.py",
        "tests/search/driver/test_scheduler.py",
        "tests/search/driver/test_ray_internals.py",
        "tests/system/test_end_to_end.py",
        "tests/search/commands/analyse/test_analyse.py",
        "tests/system/test_stopped_trials.py",
        "tests/system/nodes/test_group.py",
        "tests/search/driver/test_keep_alive.py",
        "tests/search/driver/test_placement.py",
        "tests/benchmarks/test_on_gpu.py",
        "tests/search/study/test_scoring.py",
    ),
    "cluster": (
        "tests/system/nodes/test_elastic.py",
        "tests/system/nodes/test_node_loss.py",
        "tests/system/nodes/test_odd_node.py",
        "tests/system/nodes/test_unlike_gpus.py",
    ),
    "ONNX and torchvision, which both import torch's compiler": (
        "tests/medcore/models/test_export.py",
        "tests/search/export/test_formats.py",
        "tests/search/export/test_huggingface.py",
        "tests/medcore/models/formats/test_huggingface.py",
        "tests/medcore/models/formats/test_random_edits.py",
        "tests/medcore/models/test_standalone.py",
        "tests/medcore/models/test_toy_arch.py",
    ),
    "tracking server": (
        "tests/search/export/test_pyfunc.py",
        "tests/search/tracking/server/test_outages.py",
        "tests/system/test_slow_tracking.py",
        "tests/system/test_mlflow_view.py",
    ),
    "MONAI": (
        "tests/medcore/quality/test_metrics.py",
        "tests/medcore/quality/test_metrics_mm.py",
        "tests/medcore/quality/cases/test_scores.py",
    ),
    "live cluster": ("tests/system/test_cluster_live.py",),
    "plugins": ("tests/system/test_plugins.py",),
    "killed searches": ("tests/search/driver/test_kills.py",),
}
_GROUP_OF = {file: name for name, files in GROUPS.items() for file in files}
_PLACES = {file: place for place, file in enumerate(_GROUP_OF)}


class Scheduling(LoadFileScheduling):
    """Hand out groups of files, in the order in which their tests are collected."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return _GROUP_OF.get(file, file)


def longest_first(items: list[pytest.Item]) -> None:
    """Bring the tests of the groups to the front."""
    items.sort(key=lambda item: _PLACES.get(item.nodeid.partition("::")[0], len(_PLACES)))


def make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """As xdist's own for `--dist loadfile`, with our groups."""
    config.option.loadscopereorder = False  # it would order by the number of tests
    return Scheduling(config, log)
