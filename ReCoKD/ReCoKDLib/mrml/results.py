"""A student's run on volume nodes, and its result in the scene."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Cancelled, InputError
from ..interaction.corrections import Box
from ..package import ModelPackage
from ..part import Slices, block_of, region_of
from ..segment import SegmentationResult, segment
from ..students import find_student
from ..table import segment_mask
from ..volume import Volume
from .evidence import can_be_kept
from .first_result import forget_first
from .host import ensure_slicer
from .record import Known, Record, locked_ids, part_from_slices, set_volume_nodes, write_record
from .roi import bounding_voxels, box_from_node, voxels_inside
from .segmentations import ensure_segments, prepare_node, segmentation_to_node
from .sessions import run_ended
from .views import shown_planes
from .volumes import ijk_to_node, volume_from_nodes
from .voxels import Change, change_segments, read_labels

if TYPE_CHECKING:
    from ..preview import Plane


@dataclass(frozen=True)
class NodeResult(SegmentationResult):
    """What a student found in volume nodes; ``volume`` and ``labels`` are the whole volumes, in the world.

    Attributes:
        nodes: The volume nodes, a channel each.
        box: The region of interest: outside of it nothing is written.
        block: The part (k, j, i) of the volume that the student saw; None for all.
        checksum: Of the student's package.
        mirroring: Whether it averaged over flips.
    """

    nodes: tuple[Any, ...] = ()
    box: Box | None = None
    block: Slices | None = None
    checksum: str = ""
    mirroring: bool = False


@dataclass(frozen=True)
class Run:
    """A run on what was copied out of the scene. Calling it carries it out here; it may be carried out elsewhere.

    Attributes:
        volume: All of the volume.
        student: Package, path or name.
        options: Of :func:`ReCoKDLib.segment.segment`.
        nodes: The volume nodes.
        box: The region of interest.
        part: The block of ``volume`` that is asked for; None for all.
        look_at: The slices that views show.
    """

    volume: Volume
    student: Any
    options: Mapping[str, Any]
    nodes: tuple[Any, ...]
    box: Box | None
    part: Slices | None
    look_at: tuple[Plane, ...]

    @property
    def package(self) -> ModelPackage:
        """The student, opened.

        Raises:
            PackageError: It cannot be found or opened.
        """
        return self.student if isinstance(self.student, ModelPackage) else find_student(self.student)

    def all_options(self, package: ModelPackage) -> dict[str, Any]:
        """The options, what is asked for, and whether to keep probabilities where nothing was said of it."""
        names = self.options.get("labels")
        heads = len(package.label_set.subset(names)) + (0 if package.label_set.has_regions else 1)
        block = None if self.part is None else block_of(self.part)
        kept = can_be_kept(region_of(self.volume, block).shape, heads)
        return {"probabilities": kept, "region": block, "look_at": self.look_at, **self.options}

    def __call__(self, progress: Any = None, cancelled: Any = None, **options: Any) -> NodeResult:
        """Carry it out; needs nothing of the scene and may run in a thread.

        Args:
            progress: As of :func:`ReCoKDLib.segment.segment`.
            cancelled: As there.
            **options: ``preview`` and ``kept`` of that function.

        Raises:
            ReCoKDError: As of :func:`ReCoKDLib.segment.segment`.
        """
        package = self.package
        options = {**self.all_options(package), **options}
        return self.finish(segment(self.volume, package, progress=progress, cancelled=cancelled, **options), package)

    def finish(self, result: SegmentationResult, package: ModelPackage) -> NodeResult:
        """What was found, for the scene."""
        mirroring = bool(self.options.get("mirroring"))
        return _in_whole(result, self.volume, self.nodes, self.box, self.part, package.checksum, mirroring)


def prepare_run(nodes: Sequence[Any], student: Any, roi_node: Any = None, **options: Any) -> Run:
    """Copy what a run needs out of the scene.

    Args:
        nodes: Volume nodes, one for each channel.
        student: Package, path or name.
        roi_node: ``vtkMRMLMarkupsROINode`` that limits the answer to the voxels around it; None for the whole volume.
        **options: Of :func:`ReCoKDLib.segment.segment`.

    Raises:
        InputError: A volume is none or unfit, grids differ, or the region of interest holds no voxel.
    """
    volume = volume_from_nodes(nodes)
    box = None if roi_node is None else box_from_node(roi_node)
    part = None if box is None else bounding_voxels(box, volume)
    return Run(volume, student, options, tuple(nodes), box, part, tuple(shown_planes()))


def show_result(result: NodeResult, segmentation_node: Any = None, locked: Sequence[str] = ()) -> Any:
    """Put a result into the scene.

    Segments of the same names are replaced and all others kept. Outside of the region of interest, and where a locked
    segment lies, all stay as they are. Clicks that were made on the segmentation before are carried out anew by the
    next correction, on the new result.

    Args:
        result: Of :func:`prepare_run`.
        segmentation_node: Where the segments go; None, or one that was removed meanwhile, for a new one.
        locked: Names or ids of segments to leave as they are, besides those that are marked as completed.

    Returns:
        The ``vtkMRMLSegmentationNode``.

    Raises:
        Cancelled: The volume was removed meanwhile.
        InputError: There is no segment that is to be locked, or the segmentation is under a warp.
    """
    slicer = ensure_slicer()
    scene = slicer.mrmlScene
    if not all(scene.IsNodePresent(node) for node in result.nodes):
        raise Cancelled("The volume was removed meanwhile, so nothing was added.")
    node = segmentation_node if segmentation_node is not None and scene.IsNodePresent(segmentation_node) else None
    if node is None and locked:
        raise InputError("There are no segments to lock in a new segmentation. Give the segmentation that has them.")
    for warning in result.warnings:
        logging.warning("ReCoKD: %s", warning)
    keep = [] if node is None else locked_ids(node, locked)
    if node is None or (result.box is None and not keep):
        node = segmentation_to_node(result.labels, result.label_set, result.nodes[0], node)
    else:
        _write_into(result, node, keep)
    _record(result, node)
    return node


def _in_whole(
    result: SegmentationResult,
    volume: Volume,
    nodes: tuple[Any, ...],
    box: Box | None,
    part: Slices | None,
    checksum: str,
    mirroring: bool,
) -> NodeResult:
    given = {field.name: getattr(result, field.name) for field in fields(SegmentationResult)}
    given.update(nodes=nodes, box=box, checksum=checksum, mirroring=mirroring)
    if box is not None and part is not None:
        whole = np.zeros((1, *volume.shape), result.labels.array.dtype)
        whole[(0, *part)] = np.where(voxels_inside(box, volume, part), result.labels.array[0], 0)
        given.update(labels=volume.with_array(whole), volume=volume, block=part)
    return NodeResult(**given)


def _write_into(result: NodeResult, node: Any, keep: Sequence[str]) -> None:
    """Change an existing segmentation only where the region of interest and the locks allow it."""
    prepare_node(result.nodes[0], node)
    ids = ensure_segments(node, result.label_set)
    k, j, i = result.block or (slice(0, n) for n in result.volume.shape)
    here = result.labels.cropped((k, j, i))
    free = np.ones(here.shape, bool) if result.box is None else voxels_inside(result.box, result.volume, (k, j, i))
    if keep:
        free &= read_labels(node, [(segment_id, 1) for segment_id in keep], here) == 0
    changes = {}
    for each in result.label_set.segments:
        segment_id = ids[each.name]
        if segment_id in keep:
            continue
        was = read_labels(node, [(segment_id, 1)], here) > 0
        now = segment_mask(here.array[0], each)
        changes[segment_id] = Change(now & ~was & free, was & ~now & free)
    change_segments(node, changes, result.volume.ijk_to_ras, (k.start, j.start, i.start))


def _record(result: NodeResult, node: Any) -> None:
    """Keep with the node what corrections need."""
    ids = ensure_segments(node, result.label_set)
    known = [Known(ids[s.name], s.name, s.value, tuple(s.region)) for s in result.label_set.segments]
    set_volume_nodes(node, result.nodes)
    forget_first(node)
    local = replace(result.volume, ijk_to_ras=ijk_to_node(result.nodes[0]))
    record = Record(
        student=result.student,
        checksum=result.checksum,
        mirroring=result.mirroring,
        segments=tuple(known),
        from_student=len(known),
        has_regions=result.label_set.has_regions,
        part=None if result.block is None else part_from_slices(result.block, local),
    )
    write_record(node, record.with_others(node))
    run_ended(node, result.probabilities)
