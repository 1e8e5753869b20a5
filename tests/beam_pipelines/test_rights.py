"""What a publisher states: as Hugging Face, SPDX and Croissant spell it, and refused where it cannot be meant."""

import re

import pytest

from beam_pipelines.rights import Rights
from schemas.errors import ConfigError, IntegrityError


@pytest.mark.parametrize(
    ("stated", "hub", "url"),
    [
        (None, {"license": "unknown"}, None),
        ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}, "https://spdx.org/licenses/CC-BY-SA-4.0.html"),
        ("cc0-1.0", {"license": "cc0-1.0"}, "https://spdx.org/licenses/CC0-1.0.html"),
        ("odc-by", {"license": "odc-by"}, "https://spdx.org/licenses/ODC-By-1.0.html"),
        ("ODbL-1.0", {"license": "odbl"}, "https://spdx.org/licenses/ODbL-1.0.html"),
        (
            "CC-BY-ND-3.0",  # SPDX lists it, Hugging Face does not
            {
                "license": "other",
                "license_name": "CC-BY-ND-3.0",
                "license_link": "https://spdx.org/licenses/CC-BY-ND-3.0.html",
            },
            "https://spdx.org/licenses/CC-BY-ND-3.0.html",
        ),
        ("Our own: ask us", {"license": "other", "license_name": "Our own: ask us"}, None),
        ("LicenseRef-Ours", {"license": "other", "license_name": "LicenseRef-Ours"}, None),
        (
            "https://example.org/terms",
            {
                "license": "other",
                "license_name": "https://example.org/terms",
                "license_link": "https://example.org/terms",
            },
            "https://example.org/terms",
        ),
    ],
)
def test_a_licence_is_spelled_as_each_reader_knows_it(stated, hub, url):
    rights = Rights(license=stated)
    assert rights.for_the_hub() == hub
    assert rights.license_url == url


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("license", "", "license is ''; it must be one line of printable text"),
        ("license", "two\nlines", "one line of printable text"),
        ("attribution", "x" * 1001, "at most 1000 characters"),
        ("attribution", "a\u202eb", "one line of printable text"),
        ("homepage", "javascript:alert(1)", "it must be an address such as https://example.org/data"),
        ("homepage", "https://a.example/> <script>", "written as %20"),
        ("published", "24.11.2026", "published is '24.11.2026'; it must be a date such as 2026-01-31"),
        ("published", "20261124", "it must be a date"),
    ],
)
def test_what_cannot_be_meant_is_refused(field, value, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        Rights(**{field: value})


def test_what_a_manifest_records_is_taken_from_it_and_refused_where_it_cannot_be_meant():
    assert Rights.recorded("d", {"license": "mit", "budget": 3}) == Rights(license="mit")
    assert Rights.recorded("d", {"source": "folder:raw"}) == Rights()  # as ingest records it
    with pytest.raises(IntegrityError, match="d: the manifest records license 3; it must be text"):
        Rights.recorded("d", {"license": 3})
    with pytest.raises(IntegrityError, match=r"d: as its manifest records it, homepage is 'javascript:alert\(1\)'"):
        Rights.recorded("d", {"homepage": "javascript:alert(1)"})
