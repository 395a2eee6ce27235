"""Settings: what is unknown, of the wrong kind or out of range is named, and what is written is read back."""

import tomllib
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.config import RunConfig, TrainSettings
from verglas.errors import InputError
from verglas.gates import GuardSettings
from verglas.preprocess import Preprocess


def merged(**tree: object) -> RunConfig:
    return RunConfig().merged(tree, where="config.toml")


# --- what is refused ---


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train": {"stepz": 5}}, r"config\.toml: setting is train\.stepz; .*Did you mean train\.steps\?"),
        ({"trian": {"steps": 5}}, r"config\.toml: setting is trian; .*Did you mean train\?"),
        ({"train": {"xyzzy": 5}}, r"setting is train\.xyzzy; expected one of steps, batch, crop"),
        ({"model": {"Width": 8}}, r"setting is model\.Width; .*width"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(tree: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        merged(**tree)


def test_where_nothing_is_close_nothing_is_suggested() -> None:
    with pytest.raises(InputError) as caught:
        merged(train={"xyzzy": 5})
    assert caught.value.remedy == ""


@pytest.mark.parametrize(
    ("tree", "field", "found"),
    [
        ({"train": {"steps": "many"}}, "train.steps", "'many'"),
        ({"train": {"steps": 1.5}}, "train.steps", "1.5"),
        ({"train": {"steps": 0}}, "train.steps", "0"),
        ({"train": {"rate": -1e-3}}, "train.rate", "-0.001"),
        ({"train": {"rate": float("nan")}}, "train.rate", "nan"),
        ({"train": {"holdout": 0.0}}, "train.holdout", "0.0"),
        ({"train": {"holdout": 1.0}}, "train.holdout", "1.0"),
        ({"train": {"precision": "half"}}, "train.precision", "'half'"),
        ({"train": {"crop": 16}}, "train.crop", "16"),
        ({"data": {"labels_are": "some"}}, "data.labels_are", "'some'"),
        ({"data": {"diameter_px": 0}}, "data.diameter_px", "0"),
        ({"data": {"micrographs": "a.mrc"}}, "data.micrographs", "'a.mrc'"),
        ({"preprocess": {"working_diameter_px": 2}}, "preprocess.working_diameter_px", "2"),
        ({"model": {"norm": "layer"}}, "model.norm", "'layer'"),
        ({"search": {"separation": 3}}, "search.separation", "3"),
        ({"photometry": {"noise": "much"}}, "photometry.noise", "'much'"),
        ({"algorithm": {"options": 3}}, "algorithm.options", "3"),
        ({"guard": {"patience": 1.5}}, "guard.patience", "1.5"),
        ({"guard": {"active": "perhaps"}}, "guard.active", "'perhaps'"),
        ({"train": {"centred": 2}}, "train.centred", "2"),
        ({"train": 5}, "train", "5"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_named(tree: dict[str, object], field: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        merged(**tree)
    assert (caught.value.where, caught.value.field, str(caught.value.found)) == ("config.toml", field, found)
    assert caught.value.expected


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"loss": {"focal": 1.0, "focal_alpha": 0.25, "pos_weight": 5.0}},
            r"loss: class weighting is .* into one ratio, 1\.67 : 1",
        ),
        ({"loss": {"bce": 0, "dice": 0}}, "loss: sum of weights is 0"),
        ({"loss": {"bce": -1}}, "loss: bce is -1"),
        ({"geometry": {"overhang": 0.9}}, r"geometry: overhang is 0\.9; expected 0 to 0\.5"),
        ({"photometry": {"contrast": 0}}, "photometry: contrast is 0"),
        ({"target": {"core": 0}}, "target: core is 0"),
        ({"model": {"depth": 12}}, "model: depth is 12; expected 0 to 8"),
        ({"guard": {"earliest": 0.7}}, r"guard: latest is 0\.6; expected 0\.7 to 1"),
    ],
)
def test_what_a_part_refuses_is_said_in_its_own_words(tree: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        merged(**tree)


def test_crops_that_the_network_cannot_take_are_refused() -> None:
    with pytest.raises(InputError, match=r"crop is 100; expected a multiple of 16 pixels.*depth 3 and stem 2"):
        merged(train={"crop": 100})
    assert merged(train={"crop": 100}, model={"depth": 1}).train.crop == 100
    with pytest.raises(InputError, match="crop"):
        RunConfig().with_train(crop=100)


# --- what is taken ---


def test_merging_leaves_the_original_and_all_other_settings() -> None:
    config = RunConfig()
    other = config.merged({"train": {"steps": 7}, "data": {"labels": "a.star"}}, where="x")
    assert config == RunConfig()
    assert other == replace(config, train=replace(config.train, steps=7), data=replace(config.data, labels="a.star"))
    with pytest.raises(FrozenInstanceError):
        other.train.steps = 8  # type: ignore[misc]
    again = other.merged({"algorithm": {"options": {"weight": 1}}}, where="x")
    assert other.algorithm.options == {}
    assert again.merged({"algorithm": {"options": {"ramp": 2}}}, where="x").algorithm.options == {
        "weight": 1,
        "ramp": 2,
    }


def test_numbers_are_read_as_their_kind() -> None:
    config = merged(train={"rate": 1}, model={"width": 8.0})
    assert (type(config.train.rate), type(config.model.width)) == (float, int)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.steps=12", 12),
        ("train.steps = 12", 12),
        ("train.rate=3e-4", 3e-4),
        ("train.device=cuda:1", "cuda:1"),
        ("train.device='cpu'", "cpu"),
        ("train.device=a=b", "a=b"),
        ("geometry.rotate=true", True),
        ("guard.active=false", False),
        ("train.start_from=runs/first", "runs/first"),
        ("data.micrographs=['a/*.mrc', 'b.mrc']", ("a/*.mrc", "b.mrc")),
        ("data.labels=my labels.star", "my labels.star"),
        ("algorithm.options.weight=0.5", 0.5),
    ],
)
def test_settings_of_the_command_line(text: str, value: object) -> None:
    found: object = RunConfig().with_settings([text])
    for part in text.split("=")[0].strip().split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_settings_are_judged_together_and_the_last_wins() -> None:
    config = RunConfig().with_settings(["train.steps=5", "model.stem=5", "train.crop=200", "train.steps=9"])
    assert (config.train.steps, config.train.crop, config.model.stem) == (9, 200, 5)
    assert RunConfig().with_settings([]) == RunConfig()


@pytest.mark.parametrize("text", ["train.steps", "=5", "", " = 5"])
def test_a_setting_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--set: setting is .*expected section\.key=value"):
        RunConfig().with_settings([text])


@pytest.mark.parametrize("text", ["train.stepz=5", "steps=5", "train.steps.more=5", "train=5", "train.steps=many"])
def test_a_setting_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        RunConfig().with_settings([text])


# --- files ---


configs = st.builds(
    lambda steps, rate, crop, micrographs, labels, diameter, rotate, norm, options, bce: merged(
        train={"steps": steps, "rate": rate, "crop": crop},
        data={"micrographs": micrographs, "labels": labels, "diameter_px": diameter},
        geometry={"rotate": rotate}, model={"norm": norm}, algorithm={"options": options}, loss={"bce": bce},
        guard={"active": rotate, "skill": min(1.0, bce / 10)},
    ),
    st.integers(1, 10**9),
    st.floats(1e-12, 1e12),
    st.integers(2, 64).map(lambda k: 16 * k),
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])), max_size=3),
    st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    st.none() | st.floats(1e-3, 1e6),
    st.booleans(),
    st.sampled_from(["group", "batch", "none"]),
    st.dictionaries(st.text('ab_." é', max_size=4), st.floats(allow_nan=False) | st.booleans() | st.text("a\n\"'\\é")),
    st.floats(0.1, 10),
)  # fmt: skip


@given(configs)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, config: RunConfig) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    config.save(path)
    assert RunConfig.load(path) == config


def test_every_setting_is_written(tmp_path: Path) -> None:
    RunConfig().save(tmp_path / "config.toml")
    tree = tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))
    assert set(tree) == {field.name for field in fields(RunConfig)}
    assert set(tree["train"]) == {field.name for field in fields(TrainSettings)} - {"centred"}, "None is left out"
    assert set(tree["guard"]) == {field.name for field in fields(GuardSettings)}
    assert "diameter_px" not in tree["data"]


def test_by_default_the_algorithm_suits_itself_to_the_data_under_guard() -> None:
    config = RunConfig()
    assert (config.algorithm.name, dict(config.algorithm.options)) == ("auto", {})
    assert config.guard.active
    assert config.train.start_from == "auto"


def test_a_file_may_say_little(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[train]\nsteps = 3\n")
    assert RunConfig.load(path) == RunConfig().with_train(steps=3)
    path.write_text("")
    assert RunConfig.load(path) == RunConfig()


@pytest.mark.parametrize("content", [b"[train", b"\xff\xfe", b"train = {steps = }"])
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.toml: configuration is .*expected a readable TOML file"):
        RunConfig.load(path)
    with pytest.raises(InputError, match="No such file"):
        RunConfig.load(tmp_path / "missing.toml")


def test_a_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[search]\nedge = 3\n")
    with pytest.raises(InputError, match=r"my\.toml: setting is search\.edge; .*Did you mean search\.edge_px\?"):
        RunConfig.load(path)


def test_settings_of_the_recipe_have_the_recipes_defaults() -> None:
    settings, recipe = RunConfig().preprocess, Preprocess(100.0)
    for field in fields(settings):
        assert getattr(settings, field.name) == getattr(recipe, field.name)
    assert {field.name for field in fields(recipe)} == {field.name for field in fields(settings)} | {"diameter_px"}


@pytest.mark.parametrize("value", ["-1", "atuo"])
def test_a_setting_of_several_kinds_is_named_as_it_is_written(value: str) -> None:
    with pytest.raises(InputError, match=r"--set: search\.edge_px is '?(-1|atuo)'?; .*greater than or equal to 0|auto"):
        RunConfig().with_settings([f"search.edge_px={value}"])
