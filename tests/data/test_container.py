"""A folder and an archive of it are seen alike; what is damaged is said to be."""

import os
import tarfile
from pathlib import Path

import pytest

from nasflow.data import DataError
from nasflow.data.container import open_container, stamp


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for name in ("b/2.txt", "a/1.txt", "a/deep/3.txt", ".hidden/x.txt", "a/._1.txt", "__MACOSX/y.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name * 1000)
    (root / "empty").mkdir()
    return root


def packed(folder: Path, name: str) -> Path:
    archive = folder.parent / name
    with tarfile.open(archive, "w:gz" if name.endswith("gz") else "w") as tar:
        tar.add(folder, arcname=".")
    return archive


@pytest.mark.parametrize("kind", ["folder", "x.tar", "x.tar.gz", "x.TGZ"])
def test_a_folder_and_its_archives_are_seen_alike(folder, kind):
    container = open_container(folder if kind == "folder" else packed(folder, kind.lower()))
    assert container.files == ("a/1.txt", "a/deep/3.txt", "b/2.txt")
    assert container.folders == ("a", "a/deep", "b", "empty")
    names = ["b/2.txt", "a/1.txt"]
    assert dict(container.read(names)) == {i: (name * 1000).encode() for i, name in enumerate(names)}


def test_linked_folders_are_followed_once(folder):
    (folder / "c").symlink_to(folder / "b")
    (folder / "b" / "loop").symlink_to(folder)
    names = open_container(folder).files
    assert sum(name.endswith("2.txt") for name in names) == 1


def test_links_and_paths_that_lead_out_of_an_archive_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    assert open_container(archive).files == ()


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_an_archive_that_is_cut_short_is_said_to_be_damaged(folder, keep):
    for name in range(20):
        (folder / f"a/{name}.bin").write_bytes(os.urandom(2000))
    archive = packed(folder, "x.tar.gz")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=r"cannot be read as an archive .*; fetch it again"):
        list(open_container(archive).read(["a/19.bin"]))


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match="cannot be read as an archive"):
        open_container(tmp_path / "x.tar.gz")


@pytest.mark.parametrize("name", ["missing", "missing.tar.gz"])
def test_a_missing_path_is_an_error_that_says_so(tmp_path, name):
    with pytest.raises(DataError, match="which does not exist"):
        open_container(tmp_path / name)


def test_a_file_that_is_no_archive_is_an_error(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"expected a folder or a file ending in \.tar"):
        open_container(tmp_path / "x.zip")


def test_a_stamp_changes_with_any_file_and_with_nothing_else(folder):
    before = stamp(folder)
    assert stamp(folder) == before
    (folder / "a/1.txt").write_text("other")
    changed = stamp(folder)
    assert changed != before
    (folder / "a/new.txt").write_text("")
    assert stamp(folder) != changed


def test_a_link_that_leads_nowhere_is_an_error_that_names_it(folder):
    (folder / "a/lost.txt").symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match=r"lost\.txt cannot be read: No such file or directory"):
        list(open_container(folder).read(["a/lost.txt"]))
    with pytest.raises(DataError, match=r"lost\.txt cannot be read"):
        stamp(folder)
