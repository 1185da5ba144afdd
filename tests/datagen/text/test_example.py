"""The example text: which pages it has, in which splits, and what is said where pip cannot get it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from datagen.text import example
from datagen.text.example import main, pages

PAGES = {
    "docs/servers/auth/oauth.mdx": "# OAuth\n",
    "docs/clients/tools.mdx": "# Tools\n",
    "docs/clients/roots.mdx": "# Roots: où\n",
}
OTHERS = ("docs/python-sdk/client.mdx", "docs/snippets/badge.mdx", "docs/changelog.mdx", "docs/logo.svg", "src/a.py")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    file = tmp_path / "fastmcp-2.12.0.tar.gz"
    with tarfile.open(file, "w:gz") as written:
        for name, text in {**PAGES, **dict.fromkeys(OTHERS, "other")}.items():
            member = tarfile.TarInfo(f"fastmcp-2.12.0/{name}")
            member.size = len(text.encode())
            written.addfile(member, io.BytesIO(text.encode()))
    return file


def test_pages_are_those_that_people_wrote(archive: Path) -> None:
    found = pages(archive)
    assert list(found) == ["clients-roots", "clients-tools", "servers-auth-oauth"]
    assert [(page["kind"], page["text"]) for page in found.values()] == [
        ("clients", "# Roots: où\n"),
        ("clients", "# Tools\n"),
        ("servers", "# OAuth\n"),
    ]


def test_held_out_pages_are_files_too(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "_download", lambda directory: archive)
    monkeypatch.setattr(example, "split_by_content", lambda text: "test" if b"Tools" in text else "train")
    assert main([str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out/pages.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["train", "test", "train"]
    (held_out,) = (tmp_path / "out/test").iterdir()
    assert held_out.name == "clients-tools.md" and held_out.read_text() == "# Tools\n"


def test_no_package_index_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main([str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "error: pip cannot get fastmcp 2.12.0 (" in said and "any text of your own can be imported" in said
    assert not (tmp_path / "out").exists()


def test_another_file_of_that_name_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    assert main([str(tmp_path / "out")]) == 1
    assert "pip cannot get fastmcp 2.12.0" in capsys.readouterr().err and not (tmp_path / "out").exists()
