"""Copies of code: links stay links, and what goes wrong is said once."""

from pathlib import Path

import pytest

from agent.copying import copy_code


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "link").symlink_to("../secret")
    (tmp_path / "code" / "broken").symlink_to("nowhere")
    copy_code(tmp_path / "code", tmp_path / "copy")
    assert (tmp_path / "copy" / "link").readlink() == Path("../secret")
    assert (tmp_path / "copy" / "broken").is_symlink()


def test_of_many_causes_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    for number in range(20):
        (tmp_path / "code" / f"file-{number}").touch()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copystat", full)  # which each file is copied with
    with pytest.raises(OSError, match=r"file-\d+: .*No space left on device") as error:
        copy_code(tmp_path / "code", tmp_path / "copy")
    assert str(error.value).count("No space") == 1
