"""The sections of a model card on what a model costs: parameters, time, memory, bytes, and what each block keeps."""

from __future__ import annotations

from collections.abc import Sequence

from medcore.models.cost import cost
from medcore.models.formats.precision import FLOAT32
from medcore.models.spec import DECODER, ENCODER, ModelSpec
from medcore.quality.timing import Timing
from results.pages.file_size import FileSize
from results.pages.markdown import plain, table
from results.stats.labels import text, title
from results.store.latency import Record


def model_cost(spec: ModelSpec, unpruned: ModelSpec) -> str:
    """Return parameters and FLOPs next to those of the unpruned model."""
    this, dense = cost(spec), cost(unpruned)
    names, rows = ["flops", "flops_paper", "encoder_params"], []
    if DECODER in spec.arch.parts:
        names += ["decoder_flops", "decoder_params", "call_flops"]
    for name in names:
        value, full = getattr(this, name), getattr(dense, name)
        rows.append((title(name), text(name, value), text(name, full), f"{value / full:.1%}"))
    return (
        table(("one image, one box", "this model", "dense model", "left"), rows)
        + "\n\nFLOPs are two for each multiply-add. The first row counts what runs, padded windows included; the "
        "second is the MedCore paper's count."
    )


def time_and_memory(records: Sequence[Record], note: str) -> str:
    """Return what was measured, with a warning where times are no fact; `note` says what was not measured."""
    advice = "Other machines differ: `medcore latency` measures a checkpoint on the one that matters."
    if not records:
        reason = plain(note) or "Not measured."
        return f"{reason} Fewer FLOPs are not the same share of time. {advice}"
    rows = []
    for record in records:
        images = "one image" if record.batch == 1 else f"{record.batch} images"
        for part, this, dense in (
            ("encoder", record.model.encoder, record.dense.encoder),
            ("whole call", record.model.whole, record.dense.whole),
        ):
            left = f"{this.median_ms / dense.median_ms:.1%}"
            times = ("not known",) * 3 if record.doubt else (_milliseconds(this), _milliseconds(dense), left)
            rows.append((f"{part}, {images}", *times))
            if this.cpu_ms is not None and dense.cpu_ms:
                left = f"{this.cpu_ms / dense.cpu_ms:.1%}"
                cells = (f"{this.cpu_ms:.4g} ms", f"{dense.cpu_ms:.4g} ms", left)
                rows.append((f"{part}, {images}, processor time", *cells))
        this_peak, dense_peak = (f"{each.peak_bytes / 1e6:.1f} MB" for each in (record.model, record.dense))
        left = f"{record.model.peak_bytes / record.dense.peak_bytes:.1%}"
        rows.append((f"peak memory, {images}", this_peak, dense_peak, left))
    return "\n\n".join(
        [
            table(("", "this model", "dense model", "left"), rows),
            f"Measured at the export in PyTorch on {plain(records[0].setup)}: medians of repeated calls, in "
            "brackets the interquartile range and the number of calls; the two models took turns. Processor time is "
            "that of all threads, and other programs hardly change it. A whole call is the encoder "
            "and, with a box for each image, the decoder. Memory is that of tensors at the worst moment of a whole "
            f"call, weights included. {advice}",
            *(f"Times of batch {one.batch} are not known: {one.doubt}." for one in records if one.doubt),
            *filter(None, [plain(note)]),
        ]
    )


def size_on_disk(size: FileSize) -> str:
    """Return bytes next to the dense model's of the same precision."""
    note = ""
    if size.precision != FLOAT32:
        note = f" The figures above are those of the float32 model; its masks and those of the {size.precision} "
        note += "file were compared at the export."
    return (
        table(("", "this model", f"dense model in {size.precision}", "left"), size.rows())
        + f"\n\nThe numbers are {size.precision} on disk. Loaders of medcore turn them into float32.{note}"
    )


def _milliseconds(timing: Timing) -> str:
    spread = "" if timing.iqr_ms is None else f"{timing.iqr_ms:.2g}; "
    return f"{timing.median_ms:.4g} ms ({spread}{timing.repeats})"


def structure(spec: ModelSpec) -> str:
    """Return what every block keeps."""
    sites, families = list(zip(spec.arch.sites, spec.widths, strict=True)), spec.arch.families
    inner = len(spec.arch.encoder_blocks) if ENCODER in spec.arch.parts else 0
    rows = []
    for number, block in enumerate(spec.arch.blocks):
        own = [(site, kept) for site, kept in sites if site.block == number]
        counts = [[f"{kept} of {site.width}" for site, kept in own if site.family == family] for family in families]
        name = str(number) if number < inner else f"{number}: {block.path.removeprefix('mask_decoder.')}"
        rows.append((name, block.area, *(", ".join(cells) or "–" for cells in counts)))
    whole = [site for site, kept in sites if site.width == 1 and not kept]
    within = {site.name for site in whole}
    empty = [site for site, kept in sites if not kept and site.width > 1 and site.within not in within]
    note = "".join(
        f"\n\n{words}: {', '.join(f'{site.family.title} of block {site.block}' for site in gone)}."
        for words, gone in (("Gone as a whole", whole), ("Empty, with nothing but the output bias left", empty))
        if gone
    )
    return (
        f"{plain(spec.arch.summary)}.\n\n" + table(("block", "attends to", *(f.title for f in families)), rows) + note
    )
