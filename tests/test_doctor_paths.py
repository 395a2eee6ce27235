"""From a micrograph to a batch: grey values, places and randomness, healthy and with faults planted in the way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn import functional

from verglas import data as loading
from verglas import picker as picking
from verglas import predict
from verglas.augment import Photometry, Placement
from verglas.doctor._base import DataCheck
from verglas.doctor._match import compared
from verglas.doctor._probes import LOUD, NEUTRAL, spots
from verglas.doctor.crops import Crops
from verglas.doctor.norm_parity import NormParity
from verglas.doctor.subject import Data
from verglas.doctor.views import Views
from verglas.preprocess import Preprocess
from verglas.types import Image

labelled, unlabelled = loading.labelled_batch, loading.unlabelled_batch
forward, prepare, cut, view = predict._forward, picking.Picker.prepare, Placement.cut, Photometry.view
recipe = Preprocess.prepare
AXES = (-2, -1)


SOFT, UNIMATCH = "algorithm.name='soft_teacher'", "algorithm.name='unimatch'"


@pytest.mark.parametrize("check", [NormParity(), Views(), Crops()], ids=lambda check: check.name)
@pytest.mark.parametrize(
    "settings",
    [
        [UNIMATCH],
        ["model.stem=1", "geometry.rotate=false", "geometry.scale=0.0", "geometry.overhang=0.0"],
        ["model.stem=3", "train.crop=96", "photometry.cutout=0.5", "train.centred=1.0"],
        [SOFT, "algorithm.options.cutmix=1.0"],
    ],
    ids=str,
)
def test_nothing_is_wrong_with_what_is_right(check: DataCheck, settings: list[str], given: Callable[..., Data]) -> None:
    found = check.check(given(*settings))
    assert found.verdict == "ok", found.sentence
    assert not found.code


@pytest.mark.parametrize("check", [NormParity(), Views(), Crops()], ids=lambda check: check.name)
def test_nor_with_clicks(check: DataCheck, given: Callable[..., Data]) -> None:
    assert check.check(given(labels_are="partial")).verdict == "ok"


@pytest.mark.parametrize("check", [NormParity(), Views(), Crops()], ids=lambda check: check.name)
def test_nor_where_most_of_a_micrograph_is_masked(check: DataCheck, given: Callable[..., Data]) -> None:
    def masked(self: Preprocess, data: np.ndarray, *, workers: int = 1) -> Image:
        image = recipe(self, data, workers=workers)
        valid = image.valid.copy()
        valid[:, : int(0.7 * valid.shape[1])] = False
        return Image(np.where(valid, image.data, 0), image.grid, valid)

    with patch.object(Preprocess, "prepare", masked):
        assert check.check(given(SOFT, "train.seed=1")).verdict == "ok"


# --- grey values


def changed_labelled(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def batch(*given: Any, **named: Any) -> Any:
        made = labelled(*given, **named)
        return replace(made, **{part: change(getattr(made, part)) for part, change in changes.items()})

    return patch.object(loading, "labelled_batch", batch)


def changed_unlabelled(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def batch(*given: Any, **named: Any) -> Any:
        made = unlabelled(*given, **named)
        return replace(made, **{part: change(getattr(made, part)) for part, change in changes.items()})

    return patch.object(loading, "unlabelled_batch", batch)


def by_itself(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(AXES, keepdim=True)) / x.std(AXES, keepdim=True).clamp(min=1e-6)


def prepared(change: Callable[[Image], Image]) -> Any:
    return patch.object(picking.Picker, "prepare", lambda self, micrograph: change(prepare(self, micrograph)))


GREY: dict[str, tuple[Any, str]] = {
    "predictions of x / 255": (
        patch.object(predict, "_forward", lambda model, data, precision: forward(model, data / 255, precision)),
        "validation multiplies them by 0.00392",
    ),
    "pictures of x + 0.2": (
        patch.object(predict, "_forward", lambda model, data, precision: forward(model, data + 0.2, precision)),
        "validation multiplies them by 1 and adds 0.2 SD",
    ),
    "a picker of its own": (
        prepared(lambda image: Image(1.3 * image.data, image.grid, image.valid)), "picking multiplies them by 1.3",
    ),
    "a picker of another scale": (
        prepared(lambda image: Image(image.data[:-1], image.grid, image.valid[:-1])), "picking works at another scale",
    ),
    "crops of x / 255": (changed_labelled(image=lambda x: x / 255), "training multiplies them by 0.00392"),
    "crops normalised": (changed_labelled(image=by_itself), "training scales each picture by itself"),
    "weak views normalised": (changed_unlabelled(weak=by_itself), "unlabelled scales each picture by itself"),
    "black crops": (changed_labelled(image=lambda x: 0 * x), "training scales each picture by itself"),
    "views normalised": (
        patch.object(Photometry, "view", lambda self, image, generator: by_itself(view(self, image, generator))),
        "training scales each picture by itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GREY)
def test_a_path_of_other_grey_values_is_named(name: str, given: Callable[..., Data]) -> None:
    fault, said = GREY[name]
    with fault:
        data = given(SOFT)
        found = NormParity().check(data)
        assert (found.verdict, found.code) == ("fail", "NORM_MISMATCH")
        assert said in found.sentence
        if name in ("crops normalised", "crops of x / 255"):
            assert Views().check(data).verdict == "ok", "grey values are not a matter of places"


def test_numbers_of_each_path_are_evidence(given: Callable[..., Data]) -> None:
    evidence = NormParity().check(given()).evidence
    for path in ("training", "unlabelled", "validation", "picking"):
        assert evidence[f"{path}_gain"] == pytest.approx(1, abs=1e-4)
        assert evidence[f"{path}_offset_sd"] == pytest.approx(0, abs=1e-4)
    assert evidence["validation_mean"] == pytest.approx(evidence["picking_mean"], abs=1e-5)
    assert evidence["validation_sd"] == pytest.approx(evidence["picking_sd"], abs=1e-5)


@pytest.mark.parametrize("setting", ["photometry.offset=8", "photometry.noise=8"])
def test_too_wild_an_augmentation_is_a_mismatch(setting: str, given: Callable[..., Data]) -> None:
    found = NormParity().check(given(setting))
    assert found.code == "NORM_MISMATCH"
    assert "photometry" in found.remedy


# --- places


def straight_masks(self: Placement, image: Any, masks: Any, size: int) -> Any:
    return cut(self, image, masks, size)[0], cut(replace(self, angle=0.0, mirrored=False), image, masks, size)[1]


def mirrored_beyond(self: Placement, image: Any, masks: Any, size: int) -> Any:
    real = functional.grid_sample

    def sample(*given: Any, mode: str, padding_mode: str, align_corners: bool) -> torch.Tensor:
        beyond = "reflection" if mode == "bicubic" else padding_mode
        return real(*given, mode=mode, padding_mode=beyond, align_corners=align_corners)

    with patch.object(functional, "grid_sample", sample):
        return cut(self, image, masks, size)


def turned(x: torch.Tensor) -> torch.Tensor:
    return torch.rot90(x, 1, AXES)


def mirrored(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1)


def weak_is_strong(*given: Any, **named: Any) -> Any:
    made = unlabelled(*given, **named)
    return replace(made, weak=made.strong[0])


VIEWS, WEAK = "VIEWS_MISALIGNED", "PL_PATH_MISALIGNED"
PLACES: dict[str, tuple[Any, str, str]] = {
    "strong turned": (changed_unlabelled(strong=turned), VIEWS, "strong overlaps by"),
    "strong mirrored": (changed_unlabelled(strong=mirrored), VIEWS, "turned or mirrored"),
    "strong moved": (changed_unlabelled(strong=lambda x: x.roll(4, -1)), VIEWS, "displaced by 4 px"),
    "strong moved by a logit": (changed_unlabelled(strong=lambda x: x.roll(2, -2)), VIEWS, "displaced by 2 px"),
    "mixed elsewhere": (changed_unlabelled(mixed=lambda x: ~x), VIEWS, "strong overlaps"),
    "target turned": (changed_labelled(target=turned), VIEWS, "target overlaps"),
    "known mirrored": (changed_labelled(known=mirrored), VIEWS, "known overlaps"),
    "all known": (changed_labelled(known=torch.ones_like), VIEWS, "known overlaps"),
    "unseen moved": (changed_labelled(unseen=lambda x: x.roll(2, -1)), VIEWS, "unseen overlaps"),
    "all valid": (changed_unlabelled(valid=torch.ones_like), VIEWS, "weak overlaps"),
    "masks not turned": (patch.object(Placement, "cut", straight_masks), VIEWS, "target overlaps"),
    "picture mirrored beyond the border": (patch.object(Placement, "cut", mirrored_beyond), VIEWS, "target overlaps"),
    "weak is strong": (patch.object(loading, "unlabelled_batch", weak_is_strong), WEAK, "changed grey values"),
    "weak turned": (changed_unlabelled(weak=turned), WEAK, "another place"),
    "target upside down": (changed_labelled(target=lambda x: 1 - x), "INVERTED", "no particle"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_view_of_another_place_is_named(name: str, given: Callable[..., Data]) -> None:
    fault, code, said = PLACES[name]
    with fault:
        data = given(SOFT)
        found = Views().check(data)
        assert (found.verdict, found.code) == ("fail", code)
        assert said in found.sentence
        if name in ("strong turned", "target turned"):
            assert NormParity().check(data).verdict == "ok", "places are not a matter of grey values"


def test_targets_that_are_not_at_the_labels_are_named(given: Callable[..., Data]) -> None:
    data = given("train.seed=2")
    for stored in data.materials.labelled:
        image, masks = stored.image(), stored.masks()
        moved = [np.roll(masks[0], 9, 1), *masks[1:-1]]
        loading.Stored.write(stored.folder, stored.name, image, moved, stored.centres)
    found = Views().check(data)
    assert found.code == "VIEWS_MISALIGNED"
    assert "labels lie in the target" in found.sentence


def test_a_mask_fits_its_picture_whatever_the_scale_and_level() -> None:
    mask = torch.from_numpy(np.stack([spots((96, 96), 4.0, seed) for seed in range(3)]))[:, None]
    found = compared(5 - 0.01 * mask.float() * -1, mask, 1, 0.5)
    assert (found.iou, found.shift_px, found.turned) == (1, 0, False)
    assert compared(mask.float().roll(3, -1), mask, 1, 0.5).shift_px == 3
    assert compared(mask.float().flip(-2), mask, 1, 0.5).turned
    assert compared(1 - mask.float(), mask, 1, 0.5).opposite == 1


def test_neutral_photometry_is_none_and_loud_drowns() -> None:
    image = torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(NEUTRAL.view(image, torch.Generator().manual_seed(1)), image)
    drowned = LOUD.view(image, torch.Generator().manual_seed(1))
    assert abs(float(torch.corrcoef(torch.stack([image.flatten(), drowned.flatten()]))[0, 1])) < 0.5


# --- randomness


def set_back(stored: Any, how: Any, generator: torch.Generator, *rest: Any, **named: Any) -> Any:
    return loading_crops(stored, how, torch.Generator().manual_seed(0), *rest, **named)


def one_for_all(stored: Any, how: Any, generator: torch.Generator, *rest: Any, **named: Any) -> Any:
    return [each[:1].expand_as(each) for each in loading_crops(stored, how, generator, *rest, **named)]


def every_third(stored: Any, how: Any, generator: torch.Generator, *rest: Any, **named: Any) -> Any:
    """Three workers with three seeds."""
    every_third.calls = (getattr(every_third, "calls", 0) + 1) % 3  # type: ignore[attr-defined]
    seeded = torch.Generator().manual_seed(every_third.calls)  # type: ignore[attr-defined]
    return loading_crops(stored, how, seeded, *rest, **named)


loading_crops = loading._crops


@pytest.mark.parametrize("fault", [set_back, one_for_all, every_third])
def test_a_loader_that_repeats_itself_is_named(fault: Callable[..., Any], given: Callable[..., Data]) -> None:
    with patch.object(loading, "_crops", fault):
        found = Crops().check(given(SOFT))
    assert (found.verdict, found.code) == ("fail", "DUPLICATE_CROPS")
    assert float(found.evidence["labelled_repeated_share"] or 0) >= 0.5
    assert "repeats itself" in found.sentence


def test_so_is_one_that_repeats_unlabelled_crops_only(given: Callable[..., Data]) -> None:
    def batch(stored: Any, how: Any, views: int, cutmix: float, generator: Any) -> Any:
        return unlabelled(stored, how, views, cutmix, torch.Generator().manual_seed(0))

    with patch.object(loading, "unlabelled_batch", batch):
        assert "unlabelled crops" in Crops().check(given(SOFT)).sentence


def test_so_is_one_that_leaves_a_micrograph_out(given: Callable[..., Data]) -> None:
    with patch.object(loading, "_crops", lambda stored, *rest, **named: loading_crops(stored[1:], *rest, **named)):
        found = Crops().check(given())
    assert found.code == "DUPLICATE_CROPS"
    assert found.evidence["fewest_turns_share"] == 0


@pytest.mark.parametrize("part", ["target", "known"])
def test_a_mask_that_is_wrong_is_no_repetition(part: str, given: Callable[..., Data]) -> None:
    with changed_labelled(**{part: lambda x: (x < 0.5).to(x)}):
        assert Crops().check(given()).verdict == "ok"


def test_nor_are_crops_normalised_each_by_itself(given: Callable[..., Data]) -> None:
    with changed_labelled(image=by_itself):
        assert Crops().check(given()).verdict == "ok"


def test_crops_as_small_as_the_micrograph_are_no_repetition(given: Callable[..., Data]) -> None:
    settings = ("train.crop=192", "geometry.rotate=false", "geometry.scale=0.0", "geometry.overhang=0.0")
    assert Crops().check(given(*settings)).verdict == "ok"
