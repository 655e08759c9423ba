from pathlib import Path

import pytest

from tracestore.pages import render_document, write_page


def test_parts_stand_in_order_and_titles_are_escaped():
    text = render_document("a < b", "<i>lead</i>", "<p>body</p>", "x & y")
    places = [
        text.index(part) for part in ("<title>a &lt; b", "<h1>a &lt; b", "<i>lead</i>", "<p>body</p>", "x &amp; y")
    ]
    assert places == sorted(places)
    assert "http" not in text


def test_file_is_replaced_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "page.html"
    for text in ("one", "two"):
        assert write_page(path, text).read_text() == text
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = write_page(tmp_path / "page.html", "old")

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_page(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
