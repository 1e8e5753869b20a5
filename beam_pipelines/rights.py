"""What whoever publishes a dataset states about it: its licence, homepage, credit and date. Nothing is assumed.

Enters: the flags of a job, as given, or what a dataset's manifest records of them. Leaves: what they mean to Hugging
Face, to Croissant, to TFDS and to whoever reads a card. Licences that SPDX lists are known by its identifiers, in any
case; any other is a name or an address of the publisher's own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any, Self

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from beam_pipelines import markdown
from schemas.errors import ConfigError, IntegrityError

# Where Hugging Face has names of its own, and what SPDX calls those.
_FAMILIES = {"odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "c-uda": "C-UDA-1.0"}
# Its identifiers of licences for data and code; it refuses a card with another one.
_ON_THE_HUB = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl
    lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
_URL = re.compile(r"https?://[^\s<>\"'`()\\]+")
_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What is stated; None is not stated. Checked when constructed."""

    license: str | None = None
    homepage: str | None = None
    attribution: str | None = None
    published: str | None = None

    @classmethod
    def of(cls, config: Any) -> Self:
        """Takes them from a job's settings.

        Raises:
          ConfigError: one of them cannot be what it is for.
        """
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    @classmethod
    def recorded(cls, directory: str, settings: Mapping[str, Any]) -> Self:
        """Takes them from the settings in a manifest; those of jobs that do not know them state nothing.

        Raises:
          IntegrityError: one of them cannot be what it is for.
        """
        found = {field.name: settings.get(field.name) for field in fields(cls)}
        for name, value in found.items():
            if value is not None and not isinstance(value, str):
                raise IntegrityError(f"{directory}: the manifest records {name} {value!r}; it must be text")
        try:
            return cls(**found)
        except ConfigError as error:
            raise IntegrityError(f"{directory}: as its manifest records it, {error}") from None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not value.strip() or not value.isprintable() or len(value) > _LONGEST:
                raise ConfigError(
                    f"{field.name} is {value[:80]!r}; it must be one line of printable text, at most {_LONGEST} "
                    "characters. Leave the flag out to state nothing"
                )
        if self.homepage is not None and not _URL.fullmatch(self.homepage):
            raise ConfigError(
                f"homepage is {self.homepage!r}; it must be an address such as https://example.org/data, with "
                "spaces, quotes and brackets written as %20, %22, …"
            )
        if self.published is not None and not _is_date(self.published):
            raise ConfigError(f"published is {self.published!r}; it must be a date such as 2026-01-31")

    @property
    def spdx(self) -> str | None:
        """The SPDX identifier of the licence, in SPDX's spelling; None if it is not one that SPDX lists."""
        if self.license is None or not re.fullmatch(r"[A-Za-z0-9.+-]+", self.license):
            return None
        try:
            found = canonicalize_license_expression(_FAMILIES.get(self.license.lower(), self.license))
        except InvalidLicenseExpression:
            return None
        return None if found.startswith("LicenseRef-") else found

    @property
    def license_url(self) -> str | None:
        """Where the licence can be read, if that is known."""
        if self.spdx is not None:
            return f"https://spdx.org/licenses/{self.spdx}.html"
        return self.license if self.license is not None and _URL.fullmatch(self.license) else None

    def for_tfds(self) -> dict[str, str]:
        """What TFDS's metadata tell of it."""
        known = {"license": self.spdx or self.license, "homepage": self.homepage, "citation": self.attribution}
        return {name: value for name, value in known.items() if value is not None}

    def for_the_hub(self) -> dict[str, str]:
        """The fields of a Hugging Face card that tell the licence."""
        if self.license is None:
            return {"license": "unknown"}
        name = (self.spdx or self.license).lower()
        name = {spdx.lower(): family for family, spdx in _FAMILIES.items()}.get(name, name)
        if name in _ON_THE_HUB.split():
            return {"license": name}
        link = {"license_link": self.license_url} if self.license_url is not None else {}
        return {"license": "other", "license_name": self.license, **link}

    def as_markdown(self) -> str:
        """The section of a card that tells the licence."""
        said = []
        if self.license is None:
            said.append(
                "**The licence is not stated.** Until it is, assume no right to use or pass on these pictures and "
                "texts. Whoever has the rights states it with `superbatch curate --license=CC-BY-4.0 --attribution=… "
                "--homepage=… --published=…`, into a new directory: the rows and the fingerprint stay the same. Where "
                "this version is published already, a new `--version` is needed."
            )
        else:
            named = [] if self.license_url == self.license else [self.spdx or markdown.code(self.license)]
            found = [] if self.license_url is None else [markdown.link(self.license_url)]
            said.append(f"Licence, as the publisher states it: {', '.join([*named, *found])}.")
        if self.attribution is not None:
            said.append(f"Credit: {markdown.text(self.attribution)}")
        if self.homepage is not None:
            said.append(f"Homepage: {markdown.link(self.homepage)}")
        if self.published is not None:
            said.append(f"Published: {self.published}")
        said.append("`url` and `source` of every row tell where it came from; rights in single pictures may differ.")
        return "\n\n".join(said)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
