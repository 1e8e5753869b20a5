"""docs/performance.md shows the stored results, and says so where it has no place for them."""

import json

import pytest

from benchmarks import performance_page as page

_PLACES = "".join(f"<!-- figures: {name} -->\n<!-- end of figures -->\n" for name in page.SECTIONS[page.PAGE])


@pytest.mark.parametrize("path", page.SECTIONS)
def test_the_page_shows_what_was_measured(path):
    written = path.read_text()
    assert page.rendered(written, path) == written


def test_every_result_file_has_its_section():
    measured = {path.stem for path in page.RESULTS.glob("*.json")} - {"headline"}  # of the study, as its folder is
    assert {name.rsplit("-", 1)[0] for name in measured} == {
        name for sections in page.SECTIONS.values() for name in sections
    }


def test_a_section_follows_its_file(tmp_path, monkeypatch):
    result = json.loads((page.RESULTS / "kill-cpu.json").read_text())
    (tmp_path / "kill-cpu.json").write_text(json.dumps(result | {"differences": ["selections/part-00000"]}))
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert "differ from the uninterrupted run's: **1**." in page.rendered(_PLACES)


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="0 places for the figures of 'selection'"):
        page.rendered("# Performance\n")
