"""Where cached files go when folders are missing, read-only or unset."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from genflow import cache


@pytest.fixture(autouse=True)
def no_places(monkeypatch, tmp_path):
    """No place but those that a test sets; the temporary directory is the test's own."""
    for name in ("GENFLOW_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cache._report.cache_clear()


def unwritable(tmp_path):
    """A place below a plain file: nobody can make a folder there, root included."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


def test_places_in_order(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder("weights") == tmp_path / "home" / ".cache" / "genflow" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder("weights") == tmp_path / "xdg" / "genflow" / "weights"
    monkeypatch.setenv("GENFLOW_CACHE", str(tmp_path / "own"))
    assert cache.folder("weights") == tmp_path / "own" / "weights"
    assert cache.folder("weights").is_dir()
    assert capsys.readouterr().err == ""


def test_without_a_home_the_temporary_directory_serves_with_one_note(tmp_path, capsys):
    found = cache.folder("data")
    assert found.is_dir()
    assert found.parent.parent == tmp_path / "tmp"
    assert stat.S_IMODE(found.stat().st_mode) & 0o022 == 0
    note = capsys.readouterr().err
    assert "HOME: unset" in note
    assert "GENFLOW_CACHE" in note
    assert cache.folder("data") == found
    assert cache.folder("weights").parent == found.parent
    assert capsys.readouterr().err == ""


def test_an_unwritable_home_is_passed_over(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(unwritable(tmp_path)))
    assert cache.folder("data").is_relative_to(tmp_path / "tmp")
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_chosen_folder_is_never_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GENFLOW_CACHE", str(unwritable(tmp_path)))
    with pytest.raises(cache.CacheError, match="GENFLOW_CACHE is not writable"):
        cache.folder("data")


def test_no_place_at_all_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable(tmp_path)))
    with pytest.raises(cache.CacheError, match=r"HOME: unset; the temporary directory: .*set GENFLOW_CACHE"):
        cache.folder("data")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_trusted(tmp_path):
    place = Path(tempfile.gettempdir()) / f"genflow-{os.getuid()}" / "weights"
    place.mkdir(parents=True)
    os.chown(place, 12345, 12345)
    with pytest.raises(cache.CacheError, match="belongs to another user"):
        cache.folder("weights")


@pytest.mark.parametrize("kind", ["", "..", "a/../b", "/etc", "a b"])
def test_a_kind_is_a_plain_name(kind):
    with pytest.raises(ValueError, match="plain name"):
        cache.folder(kind)
