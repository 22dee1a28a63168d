"""Cost and quality of other promptable models, with the source of every figure.

Encoder parameters and FLOPs are counted on the public modules with `torch.utils.flop_counter` at the input size that
the model is made for; two FLOPs are a multiply-add. A paper's own figure may leave the attention products out.
"""

from __future__ import annotations

from dataclasses import dataclass

from results.stats.labels import si
from results.store.trial_row import TrialRow

_EDGE_SAM = "EdgeSAM's table (arXiv 2312.06660), boxes of ViTDet-H"
_SWIFT = "SwiftMedSAM, CVPR 2024 challenge: segment anything in medical images on laptop"
_MEDCORE = "MedCore (arXiv 2605.13688), polyps, fine-tuned, in its own frame"


@dataclass(frozen=True)
class System:
    """A model of others.

    Attributes:
        name: The model.
        side: Side of the square input in pixels.
        params: Parameters of the image encoder.
        flops: FLOPs of the image encoder as they run, for one image; None if they are not known.
        flops_paper: The same by the MedCore paper's count; None where that count does not apply.
        quality: What its authors or others report; empty if nothing comparable is known.
        source: Where the quality comes from, and what else a reader must know.
    """

    name: str
    side: int
    params: float
    flops: float | None
    flops_paper: float | None = None
    quality: str = ""
    source: str = ""


SYSTEMS = (
    System("SAM ViT-H", 1024, 637_026_048, 5961.082830848e9, 5620.7e9, "COCO mask AP 46.1", _EDGE_SAM),
    System("SAM ViT-B, MedSAM", 1024, 89_670_912, 972.077334528e9, 926.5e9, source="SAM (arXiv 2304.02643)"),
    System("MedCore 60 %", 1024, 35.9e6, None, 385.4e9, "Dice 0.9549, Boundary F1 0.6388, HD95 5.14 px", _MEDCORE),
    System("MedCore 86.6 %", 1024, 12.0e6, None, 90.4e9, source=_MEDCORE),
    System("MobileSAM", 1024, 5_743_892, 77.536590848e9, None, "COCO mask AP 39.4", _EDGE_SAM),
    System(
        "EfficientSAM-Ti",
        1024,
        6_163_840,
        204.547817472e9,
        None,
        "some 4 AP on COCO and LVIS above other fast models",
        "its abstract (arXiv 2312.00863)",
    ),
    System("EfficientSAM-S", 1024, 22_353_664, 491.23688448e9, None, source="arXiv 2312.00863"),
    System(
        "SlimSAM-50 (uniform)",
        1024,
        23_897_216,
        306.920914944e9,
        None,
        "SA-1B mIoU 72.33",
        "arXiv 2312.05284; the quality is of the paper's own model",
    ),
    System(
        "SlimSAM-77 (uniform)",
        1024,
        5_658_968,
        93.114230784e9,
        None,
        "SA-1B mIoU 67.40",
        "arXiv 2312.05284; the quality is of the paper's own model, for which it counts 23 G multiply-adds",
    ),
    System("LiteMedSAM", 256, 5_726_740, 74.948706e9, None, "DSC 74.73, NSD 73.64, nine modalities", _SWIFT),
    System("SwiftMedSAM v1", 256, 5_102_700, 68.333318e9, None, "DSC 74.68, NSD 75.64, nine modalities", _SWIFT),
    System("SwiftMedSAM v2", 256, 4_442_436, 57.120972e9, None, "DSC 75.31, NSD 76.37, nine modalities", _SWIFT),
)

#: What a reader must know before reading the table.
CAPTION = (
    "Figures of others, on other data, with other prompts and other definitions of quality: they say what such a size "
    "can be worth, not which model is better on your images. Encoder parameters and FLOPs are those of the public "
    "modules at their own input size, by torch's counter."
)


def system_cells(chosen: TrialRow, quality: str) -> list[dict[str, str]]:
    """Return the rows of a table for people: the chosen model of a study, then the others.

    Args:
        chosen: The trial of the chosen model.
        quality: Its quality in words.
    """
    own = {
        "system": f"this study, trial {chosen.trial_id}",
        "input": "–",
        "parameters": _cell(chosen.figure("encoder_params")),
        "flops": _cell(chosen.figure("flops")),
        "flops_paper": _cell(chosen.figure("flops_paper")),
        "quality": quality,
        "source": "this report",
    }
    others = [
        {
            "system": system.name,
            "input": f"{system.side}\N{NO-BREAK SPACE}px",
            "parameters": _cell(system.params),
            "flops": _cell(system.flops),
            "flops_paper": _cell(system.flops_paper),
            "quality": system.quality or "–",
            "source": system.source,
        }
        for system in SYSTEMS
    ]
    return [own, *others]


def _cell(value: float | None) -> str:
    return "–" if value is None else si(value)
