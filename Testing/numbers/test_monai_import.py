"""Importing MONAI's bundles: the labels are MONAI's, and nothing of a bundle is run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
import yaml

from geometries import GEOMETRIES, Matrix, anisotropic, axis_aligned, scanner_lps
from monai_bundles import (
    CT_WINDOW,
    NETWORKS,
    configuration,
    metadata,
    network_of,
    probabilities_by_monai,
    train_briefly,
    write_bundle,
    write_image,
)
from ReCoKDLib import prediction
from ReCoKDLib.cli import main
from ReCoKDLib.errors import DatasetError, InputError, OutputError, PackageError, PlanError, ReCoKDError
from ReCoKDLib.exchange.monai_import import import_monai
from ReCoKDLib.exchange.nnunet_export import export_nnunet
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDLib.prediction import Prediction, Predictor
from ReCoKDLib.preprocessing import preprocess
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Z_SCORE = {"_target_": "NormalizeIntensityd", "keys": "@image_key", "nonzero": True, "channel_wise": True}
BRATS = ("Tumor core", "Whole tumor", "Enhancing tumor")


def predicted(package: Path, image: Path) -> Prediction:
    return Predictor.from_package(ModelPackage.open(package), "cpu").predict(read_volume(image), probabilities=True)


def difference(ours: Volume | None, theirs: Volume) -> float:
    """The largest of the probabilities; infinite where the two are not the same voxels in RAS."""
    assert ours is not None
    assert np.ptp(theirs.array) > 0.01
    return float(np.abs(ours.array - theirs.array).max()) if ours.same_grid(theirs) else float("inf")


def dice(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_are_monais_without_resampling(
    network: str, any_geometry: Matrix, two_blobs: TwoBlobs, tmp_path: Path
) -> None:
    """The volume is one patch, turned from any orientation to the bundle's LPS, and has the bundle's voxel size."""
    image = write_image(two_blobs(ijk_to_ras=any_geometry, shape=(16, 16, 16))[0], tmp_path / "image.nii.gz")
    config = configuration(network, axcodes="LPS", pixdim=None)
    bundle = write_bundle(tmp_path / "bundle", config)
    k, j, i = read_volume(image).reoriented("LPS").spacing
    package = import_monai(bundle, tmp_path / "teacher.recokd.zip", spacing=(i, j, k)).path
    theirs = probabilities_by_monai(config, network_of_file(config, bundle), image)
    found = difference(predicted(package, image).probabilities, theirs)
    print(f"{network}: {found:.2g}")
    assert found < 1e-4


def network_of_file(config: dict[str, Any], bundle: Path) -> torch.nn.Module:
    network = network_of(config)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    return network


@pytest.mark.parametrize("matrix", [axis_aligned, scanner_lps, anisotropic], ids=["axis-aligned", "lps", "anisotropic"])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_but_the_tiles_is_monais(
    network: str, matrix: Callable[[], Matrix], two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With resampling and several tiles: the same input to the network; with MONAI's tiles the same probabilities."""
    from monai.bundle.config_parser import ConfigParser
    from monai.inferers.utils import sliding_window_inference

    image = write_image(two_blobs(ijk_to_ras=matrix(), shape=(18, 26, 22))[0], tmp_path / "image.nii.gz")
    config = configuration(network)
    bundle = write_bundle(tmp_path / "bundle", config)
    package = ModelPackage.open(import_monai(bundle, tmp_path / "teacher.recokd.zip").path)
    parser = ConfigParser({key: config[key] for key in ("image_key", "preprocessing")})
    seen = parser.get_parsed_content("preprocessing")({"image": str(image)})["image"].numpy()
    ours = preprocess(read_volume(image).reoriented("RAS"), package.plan).data
    assert ours.shape == seen.shape
    np.testing.assert_allclose(ours, seen, atol=1e-5)

    def tiles(net: Any, data: torch.Tensor, patch: Sequence[int], *_: Any, **__: Any) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = sliding_window_inference(data[None], patch, 4, net, overlap=0.5)[0]
        return logits

    monkeypatch.setattr(prediction, "sliding_window_logits", tiles)
    theirs = probabilities_by_monai(config, network_of_file(config, bundle), image)
    found = difference(predicted(package.path, image).probabilities, theirs)
    print(f"{network}: {found:.2g}")
    assert found < 1e-4


@pytest.mark.slow
def test_labels_of_a_trained_network_are_monais(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    """Several of our tiles against several of MONAI's, where also MONAI's grid is shifted on oblique images.

    Where the network is unsure of itself at the borders of tiles, MONAI's constant and Gaussian blending differ as
    much from each other: that is the measure there.
    """
    config = configuration("DynUNet", roi=(24, 24, 24))
    shape = (24, 28, 30)
    network = train_briefly(config, [two_blobs(ijk_to_ras=m(), shape=shape) for m in GEOMETRIES.values()], tmp_path)
    package = import_monai(write_bundle(tmp_path / "b", config, weights=network.state_dict()), tmp_path / "t").path
    blended = {**config, "inferer": {**config["inferer"], "mode": "gaussian"}}
    for name, matrix in GEOMETRIES.items():
        volume, truth = two_blobs(ijk_to_ras=matrix(), shape=shape, seed=1)
        image = write_image(volume, tmp_path / "image.nii.gz")
        theirs, other = (probabilities_by_monai(c, network, image) for c in (config, blended))
        ours = predicted(package, image).labels
        assert ours.same_grid(theirs)
        maps = [ours.array[0], theirs.array.argmax(0), other.array.argmax(0), truth.array[0]]
        agreement, own, right = (
            [dice(maps[a] == value, maps[b] == value) for value in (1, 2)] for a, b in ((0, 1), (1, 2), (0, 3))
        )
        print(f"{name}: ours and MONAI's {agreement}, MONAI's two blendings {own}, ours and the truth {right}")
        assert min(agreement) >= min(0.98, min(own) - 0.05)
        assert min(right) > (0.9 if name != "anisotropic" else 0.6)


def test_a_bundle_becomes_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "blobs_ct", configuration(intensities=[CT_WINDOW]))
    model = tmp_path / "Lehrer für alle.recokd.zip"
    assert main(["import", "monai", str(bundle), "--output", str(model)]) == 0
    assert "Imported Lehrer-f-r-alle" in capsys.readouterr().out
    package = ModelPackage.open(model)
    package.verify()
    card, plan = package.card, package.plan
    assert (card.role, card.orientation, card.mirror_axes) == ("teacher", "RAS", ())
    assert [(c.name, c.modality, c.unit) for c in card.channels] == [("image", "CT", "HU")]
    assert card.licences.weights == "Apache-2.0 (the bundle's LICENSE)"
    assert card.licences.attribution == "Somebody. Made-up blobs"
    assert "Imported from the MONAI bundle blobs_ct 0.5.9" in card.description
    assert card.intended_use == "Research use only. Not a medical device. This is an example."
    assert [(s.name, s.value) for s in package.label_set.segments] == [("anterior", 1), ("posterior", 2)]
    assert (plan.spacing, plan.patch_size, plan.transpose_forward) == ((1.2, 1.0, 1.4), (16, 16, 16), (2, 1, 0))
    assert plan.intensity_properties[0] == {
        **{"mean": 20.0, "std": 240.0, "percentile_00_5": 20.0, "percentile_99_5": 260.0}
    }
    assert Plan.from_nnunet(plan.to_nnunet()) == plan
    with pytest.raises(PlanError, match="prepares images as a MONAI bundle does, which nnU-Net cannot"):
        export_nnunet(package, tmp_path / "results")


@pytest.mark.parametrize("form", ["zip", "zip of a folder", "yaml", "safetensors", "in a dictionary", "half"])
def test_bundles_come_in_many_forms(form: str, tmp_path: Path) -> None:
    config = configuration()
    plain = ModelPackage.open(import_monai(write_bundle(tmp_path / "plain", config), tmp_path / "p").path)
    torch.manual_seed(0)
    weights = network_of(config).state_dict()
    if form == "in a dictionary":
        weights = {"model": {f"module.{key}": value for key, value in weights.items()}, "epoch": 3}
    if form == "half":
        weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    bundle = write_bundle(tmp_path / "outer" / "blobs", config, weights=weights)
    if form == "yaml":
        (bundle / "configs" / "inference.json").unlink()
        (bundle / "configs" / "inference.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if form == "safetensors":
        (bundle / "models" / "model.pt").unlink()
        safetensors.torch.save_file({k: v.clone() for k, v in weights.items()}, bundle / "models" / "model.safetensors")
    if form.startswith("zip"):
        root = bundle if form == "zip" else bundle.parent
        bundle = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", root))
    package = ModelPackage.open(import_monai(bundle, tmp_path / "q").path)
    assert package.plan == plain.plan
    for key, tensor in package.weights().items():
        torch.testing.assert_close(tensor, plain.weights()[key], atol=1e-3 if form == "half" else 0, rtol=1e-3)


@pytest.mark.parametrize("network", NETWORKS)
def test_regions_are_painted_in_the_order_that_is_told(network: str, two_blobs: TwoBlobs, tmp_path: Path) -> None:
    """In the form of the zoo's BraTS bundle: two channels, no resampling, a lambda that paints, which is not run."""
    config = configuration(network, channels=2, pixdim=None, axcodes=None, intensities=[Z_SCORE], sigmoid=True)
    after = config["postprocessing"]["transforms"]
    after.insert(3, {"_target_": "Lambdad", "keys": "pred", "func": f"$open({str(tmp_path / 'trace')!r}, 'w')"})
    meta = metadata(BRATS, ("T1c", "FLAIR"), "MR")
    bundle = write_bundle(tmp_path / "bundle", config, meta)
    with pytest.raises(InputError, match='--region-order .*"Tumor core,Whole tumor,Enhancing tumor"'):
        import_monai(bundle, tmp_path / "q", spacing=(1, 1, 1))
    order = ["whole tumor", "Tumor core", "Enhancing tumor"]
    with pytest.raises(InputError, match="name each of the bundle's regions once"):
        import_monai(bundle, tmp_path / "q", spacing=(1, 1, 1), region_order=order[:2])
    with pytest.raises(InputError, match="does not resample.*--spacing 1,1,1"):
        import_monai(bundle, tmp_path / "q", region_order=order)
    arguments = ["--region-order", ",".join(order), "--spacing", "1,1,1"]
    assert main(["import", "monai", str(bundle), "--output", str(tmp_path / "t"), *arguments]) == 0
    assert not (tmp_path / "trace").exists()

    volume = two_blobs(shape=(16, 16, 16), channels=2)[0]
    volume = volume.with_array(np.where(volume.array > 90, volume.array, 0))  # with a background of zeros
    image = write_image(volume, tmp_path / "image.nii.gz")
    theirs = probabilities_by_monai(config, network_of_file(config, bundle), image)
    package = ModelPackage.open(tmp_path / "t")
    assert [(s.name, s.value, s.region) for s in package.label_set.segments] == [
        ("Whole tumor", 1, (1, 2, 3)),
        ("Tumor core", 2, (2, 3)),
        ("Enhancing tumor", 3, (3,)),
    ]
    ours = Predictor.from_package(package, "cpu").predict(volume, probabilities=True)
    assert ours.probabilities is not None
    np.testing.assert_allclose(ours.probabilities.array, theirs.array[[1, 0, 2]], atol=1e-4)


@pytest.mark.parametrize(
    ("intensities", "scheme", "masked"),
    [
        ([{"_target_": "NormalizeIntensityd", "keys": "image"}], "ZScoreNormalization", False),
        ([{"_target_": "monai.transforms.NormalizeIntensityD", "keys": ["image"], "nonzero": True}], "ZScore", True),
        ([{"_target_": "ScaleIntensityd", "keys": "image"}], "RescaleTo01Normalization", False),
        (
            [{"_target_": "ScaleIntensityd", "keys": "image"}, {"_target_": "NormalizeIntensityd", "keys": "image"}],
            "ZScoreNormalization",
            False,
        ),
        ([], "NoNormalization", False),
    ],
    ids=["z-score", "z-score of non-zero voxels", "to 0..1", "to 0..1, then z-score", "none"],
)
def test_intensities_are_monais(
    intensities: list[dict[str, Any]], scheme: str, masked: bool, two_blobs: TwoBlobs, tmp_path: Path
) -> None:
    from monai.bundle.config_parser import ConfigParser

    # Not resampled where zeros count: MONAI's interpolation leaves 1e-14 for some of them, which it takes for non-zero.
    config = configuration(intensities=intensities, pixdim=None if masked else (1.2, 1.0, 1.4))
    spacing = (1.0, 1.0, 1.0) if masked else None
    bundle = write_bundle(tmp_path / "b", config)
    plan = ModelPackage.open(import_monai(bundle, tmp_path / "t", spacing=spacing).path).plan
    assert plan.normalization_schemes[0].startswith(scheme)
    assert plan.use_mask_for_norm == (masked,)
    volume = two_blobs()[0]
    volume = volume.with_array(np.where(volume.array > 90, volume.array, 0))
    image = write_image(volume, tmp_path / "image.nii.gz")
    parser = ConfigParser({key: config[key] for key in ("image_key", "preprocessing")})
    seen = parser.get_parsed_content("preprocessing")({"image": str(image)})["image"].numpy()
    np.testing.assert_allclose(preprocess(volume, plan).data, seen, atol=2e-4, rtol=1e-5)


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configuration()
    config["preprocessing"]["transforms"].insert(
        5, {"_target_": "CropForegroundd", "keys": ["@image_key"], "source_key": "@image_key", "mode": ["minimum"]}
    )
    config["postprocessing"]["transforms"].insert(
        3, {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2]}
    )
    bundle = write_bundle(tmp_path / "b", config)
    assert main(["import", "monai", str(bundle), "--output", str(tmp_path / "t")]) == 0
    told = capsys.readouterr().out
    assert "Not done here, but by the bundle: KeepLargestConnectedComponentd" in told
    assert "Not done here, but by the bundle: CropForegroundd (the whole image is segmented)" in told
    assert "KeepLargestConnectedComponentd is not done here" in ModelPackage.open(tmp_path / "t").card.description


def changed(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        inner: Any = config
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, list) and path[-1] == "add":
            inner.append(to)
        else:
            inner[path[-1]] = to

    return change


BEFORE, AFTER = ("preprocessing", "transforms"), ("postprocessing", "transforms")
REFUSALS: Mapping[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "network of its own": (changed("network_def", "_target_", to="scripts.net.Net"), r"'scripts\.net\.Net', code of"),
    "network with a known name": (changed("network_def", "_target_", to="scripts.net.UNet"), "code of its own"),
    "function": (changed("network_def", "_target_", to="os.mkdir"), r"'os\.mkdir', code of its own"),
    "unknown network": (
        changed("network_def", "_target_", to="SwinUNETR"),
        "'SwinUNETR'. Only UNet, SegResNet, DynUNet",
    ),
    "network expression": (changed("network_def", to="$TRACE"), r"network_def in .* is a Python expression: .*mkdir"),
    "argument expression": (changed("network_def", "channels", to="$TRACE"), "network_def#channels .* expression"),
    "referred expression": (changed("roi", to=["$TRACE", 16, 16]), "expression"),
    "target inside": (changed("network_def", "norm", to={"_target_": "os.mkdir"}), r"holds 'os\.mkdir'"),
    "unknown argument": (changed("network_def", "magic", to=1), "'magic', which is not known"),
    "2D": (changed("network_def", "spatial_dims", to=2), "spatial_dims = 2; only 3D"),
    "transform of its own": (
        changed(*BEFORE, "add", to={"_target_": "scripts.t.T"}),
        r"'scripts\.t\.T', code of its own",
    ),
    "unknown transform": (
        changed(*BEFORE, "add", to={"_target_": "GaussianSmoothd", "keys": "image"}),
        "GaussianSmoothd ",
    ),
    "transform expression": (changed(*BEFORE, 3, "pixdim", to="$TRACE"), r"Spacingd \(.*\): pixdim .* expression"),
    "no expression is disabled": (changed(*BEFORE, 3, "_disabled_", to="$TRACE"), "expression"),
    "unknown option": (changed(*BEFORE, 3, "max_pixdim", to=[2, 2, 2]), "'max_pixdim', which is not understood"),
    "spline": (changed(*BEFORE, 3, "mode", to=3), "mode = 3, which has no counterpart"),
    "intensities first": (
        lambda config: config["preprocessing"]["transforms"].insert(2, dict(CT_WINDOW)),
        "before Spacingd|the two together",
    ),
    "not clipped": (changed(*BEFORE, 4, "clip", to=False), "clip = False, which has no counterpart"),
    "two images": (changed(*BEFORE, 0, "keys", to=["t1", "t2"]), r"several images apart \(t1, t2\)"),
    "no inferer": (lambda config: config.pop("inferer"), "no part 'inferer'"),
    "another inferer": (
        changed("inferer", "_target_", to="SimpleInferer"),
        "'SimpleInferer'. Only SlidingWindowInferer",
    ),
    "inferer expression": (changed("inferer", "roi_size", to="$TRACE"), "inferer#roi_size .* expression"),
    "other decision": (changed(*AFTER, 0, "softmax", to=False), "neither softmax nor sigmoid"),
    "unknown end": (
        changed(*AFTER, "add", to={"_target_": "Lambdad", "func": "$TRACE"}),
        "Lambdad .* is not understood",
    ),
    "circle": (changed("roi", to="@roi"), "refers to itself"),
    "nothing": (changed("inferer", "roi_size", to="@no#where"), "refers to 'no#where', which is not there"),
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_not_understood_is_refused_and_nothing_is_run(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    config = configuration()
    weights = network_of(config).state_dict()
    change(config)
    text = json.dumps(config).replace("$TRACE", f"$__import__('os').mkdir('{trace.as_posix()}')")
    bundle = write_bundle(tmp_path / "bundle", json.loads(text), weights=weights)
    (bundle / "scripts").mkdir()
    for name in ("__init__", "net", "t"):
        (bundle / "scripts" / f"{name}.py").write_text(f"import os; os.mkdir({str(trace)!r})", encoding="utf-8")
    with pytest.raises(ReCoKDError, match=message):
        import_monai(bundle, tmp_path / "teacher.recokd.zip")
    assert not trace.exists()
    assert not (tmp_path / "teacher.recokd.zip").exists()


def test_references_that_swell_are_refused(tmp_path: Path) -> None:
    config = configuration()
    config["a0"] = [1, 1]
    for n in range(1, 40):
        config[f"a{n}"] = [f"@a{n - 1}", f"@a{n - 1}"]
    weights = network_of(config).state_dict()
    config["network_def"]["channels"] = "@a39"
    with pytest.raises(PackageError, match="refers to too much"):
        import_monai(write_bundle(tmp_path / "b", config, weights=weights), tmp_path / "t")


def test_scripts_beside_a_known_network_are_never_used(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", configuration())
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trace')!r})")
    import_monai(bundle, tmp_path / "t")
    assert not (tmp_path / "trace").exists()


class Attack:
    """Unpickled, it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_weights_that_do_not_fit_or_would_run_are_refused(tmp_path: Path) -> None:
    config = configuration()
    bundle = write_bundle(tmp_path / "b", config, weights={"x": Attack(tmp_path / "trace")})
    with pytest.raises(PackageError, match="could run any program"):
        import_monai(bundle, tmp_path / "t")
    assert not (tmp_path / "trace").exists()
    weights = network_of(configuration(heads=4)).state_dict()
    with pytest.raises(PlanError, match=r"do not fit the plan: model\.2\.0\.conv\.weight has shape"):
        import_monai(write_bundle(tmp_path / "b", config, weights=weights), tmp_path / "t")
    with pytest.raises(PackageError, match="holds no network"):
        import_monai(write_bundle(tmp_path / "b", config, weights={"epoch": 3}), tmp_path / "t")
    write_bundle(tmp_path / "b", config, file="models/a.pt")
    (tmp_path / "b" / "models" / "model.pt").unlink()
    (tmp_path / "b" / "models" / "b.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"several weights: models/a\.pt, models/b\.pt. Choose with --weights"):
        import_monai(tmp_path / "b", tmp_path / "t")
    assert import_monai(tmp_path / "b", tmp_path / "t", weights="models/a.pt").path.exists()


def test_labels_must_be_told(tmp_path: Path) -> None:
    for meta in (metadata(("background", "one")), metadata(("background", "one", "One")), {"version": "1"}):
        bundle = write_bundle(tmp_path / "b", configuration(), meta)
        with pytest.raises(DatasetError, match="does not tell what the 3 outputs of its network are"):
            import_monai(bundle, tmp_path / "t")
    with pytest.raises(DatasetError, match="must be called 'background'; the bundle's is called 'a'"):
        import_monai(write_bundle(tmp_path / "b", configuration(), metadata(("a", "b", "c"))), tmp_path / "t")
    with pytest.raises(InputError, match="do not overlap"):
        import_monai(write_bundle(tmp_path / "b", configuration()), tmp_path / "t", region_order=["a"])


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        import_monai(tmp_path / "nowhere", tmp_path / "t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is not a MONAI bundle: it has no configs/metadata\.json"):
        import_monai(tmp_path / "empty", tmp_path / "t")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(InputError, match="neither a folder nor a zip file"):
        import_monai(tmp_path / "text.zip", tmp_path / "t")
    bundle = write_bundle(tmp_path / "b", configuration())
    with pytest.raises(InputError, match=r"lacks configs/other\.json"):
        import_monai(bundle, tmp_path / "t", config="configs/other.json")
    (tmp_path / "t").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        import_monai(bundle, tmp_path / "t")
    (tmp_path / "t").rmdir()
    (bundle / "configs" / "inference.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not readable"):
        import_monai(bundle, tmp_path / "t")
    (bundle / "configs" / "inference.json").unlink()
    with pytest.raises(InputError, match=r"lacks configs/inference\.json"):
        import_monai(bundle, tmp_path / "t")
