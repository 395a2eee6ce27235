"""Names that join files, and writing whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from verglas.io._base import micrograph_name, whole_file, write_text


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mic1.mrc", "mic1"),
        ("MotionCorr/job002/Movies/mic1.mrc", "mic1"),
        ("C:\\data\\mic1.tif", "mic1"),
        (Path("/data/mic1.MRCS"), "mic1"),
        ("mic1.mrc.gz", "mic1"),
        ("mic1.mrc.bz2", "mic1"),
        ("mic1_verglas.star", "mic1"),
        ("mic1_autopick.star", "mic1"),
        ("mic1_manualpick.star", "mic1"),
        ("mic1_topaz.txt", "mic1"),
        ("mic1_info.json", "mic1"),
        ("mic1_cryolo.cbox", "mic1"),
        ("mic1.v2.mrc", "mic1.v2"),
        ("mic1_DW.mrc", "mic1_DW"),
        ("mic1", "mic1"),
        ("mic.1", "mic.1"),
        ("my_information.star", "my_information"),
        ("topaz_mic.box", "topaz_mic"),
    ],
)
def test_the_name_of_a_micrograph(path: str | Path, name: str) -> None:
    assert micrograph_name(path) == name


def test_a_file_appears_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent, "a rename within one file system is atomic"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_written_is_on_disk_before_it_has_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, order = tmp_path / "a.txt", []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), rename(self, to))[1])
    write_text(path, "text")
    assert order == ["sync", "rename"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "text")
        assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
        assert os.umask(umask) == umask, "the mask itself is left as it was"
    finally:
        os.umask(before)


def test_text_is_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    for text in ("a much longer text", "Å"):
        write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_bytes() == "Å".encode()
