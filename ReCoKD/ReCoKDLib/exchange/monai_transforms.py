"""What a MONAI bundle does before and after its network, in the terms of a plan.

Only the targets listed here are understood; what is not on the list is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import PackageError
from .monai_config import Configuration

# Arguments that change nothing for a volume of ours, and are never looked at.
_NEVER_READ = frozenset({"keys", "allow_missing_keys", "device", "track_meta", "data_type", "wrap_sequence", "_desc_"})
_LOADING = {
    "LoadImaged": {"reader", "image_only", "ensure_channel_first", "meta_keys", "meta_key_postfix", "dtype"},
    "EnsureChannelFirstd": {"strict_check", "channel_dim", "meta_keys", "meta_key_postfix"},
    "EnsureTyped": {"dtype"},
    "ToTensord": {"dtype"},
}
# "$torch.float32" is an expression; as a text it is as good as the name.
_FLOAT32 = (
    "float32",
    "torch.float32",
    "np.float32",
    "numpy.float32",
    "$torch.float32",
    "$np.float32",
    "$numpy.float32",
)
_ORDERS = {"bilinear": 1, "nearest": 0}
_CLEANING = ("KeepLargestConnectedComponentd", "FillHolesd", "RemoveSmallObjectsd")
_WRITING = ("Invertd", "SaveImaged", "EnsureTyped", "ToTensord", "DeleteItemsd")
_PREPROCESSING = (
    *_LOADING,
    *("CastToTyped", "Orientationd", "Spacingd", "ScaleIntensityRanged", "NormalizeIntensityd", "ScaleIntensityd"),
    "CropForegroundd",
)
_POSTPROCESSING = ("Activationsd", "AsDiscreted", *_WRITING, *_CLEANING)


@dataclass(frozen=True)
class Component:
    """One ``_target_`` with its arguments, still raw.

    Attributes:
        target: The class's own name, in MONAI's spelling with a final d for dictionary transforms.
        arguments: Raw.
        where: For messages.
    """

    target: str
    arguments: Mapping[str, Any]
    where: str


@dataclass
class Preprocessing:
    """What a bundle does to an image before the network.

    Attributes:
        orientation: Axis codes, or None.
        spacing: Voxel size along (x, y, z), mm; None when it does not resample.
        order: Of the interpolation of images.
        scheme: Of nnU-Net's normalisation schemes.
        masked: Whether statistics are those of the non-zero voxels.
        intensities: Of a CT scheme.
        left_out: What is not done, in words.
    """

    orientation: str | None = None
    spacing: tuple[float, float, float] | None = None
    order: int = 1
    scheme: str = "NoNormalization"
    masked: bool = False
    intensities: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def component(configuration: Configuration, raw: Any, where: str) -> Component:
    """A ``_target_`` of MONAI's.

    Raises:
        PackageError: There is none, or it is of another package.
    """
    value = configuration.part(raw, where)
    target = configuration.part(value.get("_target_"), where) if isinstance(value, Mapping) else None
    if not isinstance(target, str):
        raise PackageError(f"{where} of the bundle names no _target_. Correct the bundle.")
    package, _, name = target.rpartition(".")
    if package and package.split(".")[0] != "monai":
        raise PackageError(
            f"{where} of the bundle is {target!r}, code of its own. ReCoKD runs no code of a bundle, so this one "
            "cannot be imported."
        )
    if value.get("_mode_", "default") != "default":
        raise PackageError(f"{where} of the bundle has the _mode_ {value['_mode_']!r}, which is not understood.")
    known = ("_target_", "_mode_", "_disabled_", "_requires_")
    return Component(name, {key: item for key, item in value.items() if key not in known}, where)


def transforms(configuration: Configuration, key: str) -> list[Component]:
    """The members of a ``Compose`` that are not disabled; dictionary transforms are spelt with a final d.

    Raises:
        PackageError: There is none, or a member is no ``_target_`` of MONAI's.
    """
    if key not in configuration:
        raise PackageError(f"The bundle has no part {key!r}, so what it does is not known. Choose with --config.")
    whole = configuration.part(f"@{key}", key)
    if isinstance(whole, Mapping):
        compose = component(configuration, whole, key)
        if compose.target != "Compose":
            raise PackageError(f"{key} of the bundle is {compose.target!r}; only Compose is understood.")
        whole = configuration.part(compose.arguments.get("transforms"), f"{key}#transforms")
    if not isinstance(whole, list):
        raise PackageError(f"{key} of the bundle is no list of transforms. Correct the bundle.")
    found = []
    for index, raw in enumerate(whole):
        where = f"{key}#transforms#{index}"
        member = configuration.part(raw, where)
        if isinstance(member, Mapping) and configuration.part(member.get("_disabled_", False), where) in (True, "true"):
            continue
        each = component(configuration, member, where)
        name = each.target
        for ending in ("Dict", "D"):
            name = name.removesuffix(ending) + "d" if name.endswith(ending) else name
        found.append(Component(name, each.arguments, f"{name} ({where})"))
    return found


class _Arguments:
    """The arguments of one transform: each is asked for, and what nobody asked for is refused."""

    def __init__(self, configuration: Configuration, source: Component, ignored: frozenset[str] | set[str]) -> None:
        self._configuration = configuration
        self.source = source
        self._left = {key for key in source.arguments if key not in _NEVER_READ and key not in ignored}

    def get(self, key: str, default: Any = None) -> Any:
        self._left.discard(key)
        if key not in self.source.arguments:
            return default
        return self._configuration.value(self.source.arguments[key], f"{self.source.where}: {key}")

    def one_of(self, key: str, default: Any, *allowed: Any) -> Any:
        value = self.get(key, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value not in (default, *allowed):
            self.refuse(key, value)
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(key, value)
        return float(value)

    def ignore(self, *keys: str) -> None:
        self._left.difference_update(keys)

    def refuse(self, key: str, value: Any) -> NoReturn:
        raise PackageError(f"{self.source.where} of the bundle has {key} = {value!r}, which has no counterpart here.")

    def finish(self) -> None:
        if self._left:
            raise PackageError(
                f"{self.source.where} of the bundle has the argument {min(self._left)!r}, which is not understood."
            )


def read_preprocessing(configuration: Configuration, channels: int) -> Preprocessing:
    """Translate ``preprocessing``.

    Args:
        configuration: Of the bundle.
        channels: Of the network's input.

    Raises:
        PackageError: A transform, an argument or an order of them has no counterpart here.
    """
    result = Preprocessing()
    steps: list[str] = []
    keys: set[str] = set()
    for each in transforms(configuration, "preprocessing"):
        if each.target not in _PREPROCESSING:
            raise _unknown(each, _PREPROCESSING)
        given = configuration.value(each.arguments.get("keys", []), f"{each.where}: keys")
        keys.update(given if isinstance(given, list) else [str(given)])
        if len(keys) > 1:
            raise PackageError(
                f"The bundle prepares several images apart ({', '.join(sorted(keys))}). Only bundles with one image "
                "of one or more channels can be imported."
            )
        arguments = _Arguments(configuration, each, _LOADING.get(each.target, set()))
        if each.target == "CastToTyped":
            if each.arguments.get("dtype", "float32") not in _FLOAT32:
                arguments.refuse("dtype", each.arguments["dtype"])
            continue
        if each.target in _LOADING:
            arguments.finish()
            continue
        if each.target == "Orientationd":
            result.orientation = str(arguments.get("axcodes")).upper()
            arguments.one_of("as_closest_canonical", False)
            arguments.ignore("labels")
        elif each.target == "Spacingd":
            _read_spacing(arguments, result)
        elif each.target == "CropForegroundd":
            arguments.ignore("source_key", "mode", "margin", "k_divisible", "start_coord_key", "end_coord_key")
            result.left_out.append("CropForegroundd (the whole image is segmented)")
        else:
            _read_intensities(arguments, result, steps, channels)
        if each.target in ("Orientationd", "Spacingd", "CropForegroundd") and each.target in steps:
            raise PackageError(f"The bundle has {each.target} twice. Only once is understood.")
        if each.target == "Spacingd" and {"NormalizeIntensityd", "ScaleIntensityd", "ScaleIntensityRanged"} & {*steps}:
            raise PackageError("The bundle changes intensities before Spacingd; only the other order is understood.")
        arguments.finish()
        steps.append(each.target)
    return result


def _read_spacing(arguments: _Arguments, result: Preprocessing) -> None:
    pixdim = arguments.get("pixdim")
    values = pixdim if isinstance(pixdim, list) else [pixdim] * 3
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
    if len(values) != 3 or not numbers:
        arguments.refuse("pixdim", pixdim)
    result.spacing = (float(values[0]), float(values[1]), float(values[2]))
    result.order = _ORDERS[str(arguments.one_of("mode", "bilinear", "nearest")).lower()]
    arguments.one_of("padding_mode", "border")
    arguments.one_of("diagonal", False)
    arguments.one_of("scale_extent", False)
    arguments.ignore("align_corners", "recompute_affine", "dtype")


def _read_intensities(arguments: _Arguments, result: Preprocessing, steps: list[str], channels: int) -> None:
    """One of the three transforms of intensities; of two, only a rescaling before an unmasked z-score is understood."""
    target = arguments.source.target
    before = [step for step in steps if step in ("NormalizeIntensityd", "ScaleIntensityd", "ScaleIntensityRanged")]
    if target != "ScaleIntensityRanged" and "CropForegroundd" in steps:
        raise PackageError(
            f"The bundle crops before {target}, so its intensities depend on the cropping: not understood."
        )
    channel_wise = False if target == "ScaleIntensityRanged" else bool(arguments.get("channel_wise", False))
    if target != "ScaleIntensityRanged" and channels > 1 and not channel_wise:
        raise PackageError(
            f"{arguments.source.where} of the bundle normalises all {channels} channels together; only "
            "channel_wise = true has a counterpart here."
        )
    masked = bool(arguments.get("nonzero", False)) if target == "NormalizeIntensityd" else False
    if before and not (target == "NormalizeIntensityd" and before == ["ScaleIntensityd"] and not masked):
        raise PackageError(
            f"The bundle has {' and '.join(before)} before {target}; the two together are not understood."
        )
    if target == "NormalizeIntensityd":
        result.scheme, result.masked = "ZScoreNormalization", masked
        for key in ("subtrahend", "divisor"):
            arguments.one_of(key, None)
    elif target == "ScaleIntensityd":
        result.scheme = "RescaleTo01Normalization"
        arguments.one_of("minv", 0.0)
        arguments.one_of("maxv", 1.0)
        arguments.one_of("factor", None)
    else:
        low, high = arguments.number("a_min"), arguments.number("a_max")
        least, greatest = arguments.number("b_min"), arguments.number("b_max")
        if arguments.get("clip", False) is not True:
            arguments.refuse("clip", False)
        if low >= high or least >= greatest:
            arguments.refuse("a_min, a_max, b_min, b_max", [low, high, least, greatest])
        # (v - mean) / std = (v - low) / (high - low) * (greatest - least) + least
        std = (high - low) / (greatest - least)
        result.scheme = "CTNormalization"
        result.intensities = {
            "mean": low - least * std,
            "std": std,
            "percentile_00_5": low,
            "percentile_99_5": high,
        }
    arguments.ignore("dtype")


def read_roi(configuration: Configuration) -> tuple[int, int, int]:
    """The patch of the ``inferer``, which must be a ``SlidingWindowInferer``.

    Its overlap and blending are ReCoKD's own afterwards.

    Raises:
        PackageError: It is another, or its ``roi_size`` is not three sizes.
    """
    if "inferer" not in configuration:
        raise PackageError("The bundle has no part 'inferer', so its patch is not known. Choose with --config.")
    inferer = component(configuration, "@inferer", "inferer")
    if inferer.target != "SlidingWindowInferer":
        raise PackageError(
            f"The bundle's inferer is {inferer.target!r}. Only SlidingWindowInferer, which has a patch, is understood."
        )
    size = configuration.value(inferer.arguments.get("roi_size"), "inferer#roi_size")
    sizes = size if isinstance(size, list) else [size] * 3
    if len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise PackageError(f"The bundle's inferer has roi_size = {size!r}; three sizes above 0 are needed.")
    return sizes[0], sizes[1], sizes[2]


def read_postprocessing(configuration: Configuration) -> tuple[bool, list[str]]:
    """Whether outputs are overlapping regions (sigmoid), and what the bundle does besides that is left out.

    A ``Lambdad`` after the threshold of regions paints them into one label map; the order of painting is told
    otherwise, and it is not looked at.

    Raises:
        PackageError: It is not told, or a transform or an argument has no counterpart here.
    """
    regions: bool | None = None
    discrete = False
    left_out = []
    for each in transforms(configuration, "postprocessing"):
        arguments = _Arguments(configuration, each, set())
        if each.target == "Activationsd":
            softmax = arguments.one_of("softmax", False, True)
            regions = arguments.one_of("sigmoid", False, True)
            arguments.one_of("other", None)
            if softmax == regions:
                raise PackageError(f"{each.where} of the bundle is neither softmax nor sigmoid.")
            arguments.finish()
        elif each.target == "AsDiscreted":
            argmax = arguments.one_of("argmax", False, True)
            threshold = arguments.one_of("threshold", None, 0.5)
            discrete = True
            if regions is None and argmax:
                regions = False
            if regions is None or argmax == regions or regions != (threshold is not None):
                raise PackageError(f"{each.where} of the bundle does not fit what comes before it: not understood.")
        elif each.target == "Lambdad" and regions and discrete:
            continue
        elif each.target in _CLEANING:
            left_out.append(each.target)
        elif each.target not in _WRITING:
            raise _unknown(each, _POSTPROCESSING)
    if regions is None:
        raise PackageError("The bundle's postprocessing tells neither softmax nor sigmoid, so labels are not known.")
    return regions, left_out


def _unknown(each: Component, known: tuple[str, ...]) -> PackageError:
    return PackageError(f"{each.where} of the bundle is not understood. Known: {', '.join(known)}.")
