"""The settings of `superbatch ingest`."""

from dataclasses import dataclass

from beam_pipelines import sources, texts
from beam_pipelines.normalise import ImageLimits
from beam_pipelines.texts import TextLimits
from schemas import job_config
from schemas import manifest as manifests
from schemas.errors import ConfigError
from schemas.job_config import content

SOURCE_FIELDS = ("source", "image_field", "text_field", "language_field", "url_field")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn a raw corpus into ArrayRecord shards: decode-checked, normalised, deduplicated, shuffled once."""

    source: str
    """webdataset:TARS, img2dataset:DIR, parquet:FILES, tfds:DIR or folder:DIR; files by wildcards or {00000..00099}"""
    name: str
    """name of the dataset; letters, digits and _ (TFDS's rule)"""
    output: str
    """directory of the corpus to make"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    split: str = "train"
    """TFDS split that the rows form"""
    image_field: str | None = None
    """of parquet and tfds: the column or feature of images; image if not given"""
    text_field: str | None = None
    """of parquet, tfds and img2dataset: the column or feature of texts; text if not given, img2dataset's caption"""
    language_field: str | None = None
    """of parquet, tfds and img2dataset: the column or feature of languages; language if not given"""
    url_field: str | None = None
    """of parquet, tfds and img2dataset: the column or feature of urls; url if not given"""
    shards: int = content(8)
    """number of shards"""
    seed: int = content(0)
    """key of the one global shuffle"""
    max_pixels: int = content(ImageLimits.max_pixels)
    """largest image accepted, width × height"""
    min_side: int = content(ImageLimits.min_side)
    """smallest image accepted: pixels of its shorter side"""
    max_aspect_ratio: float = content(ImageLimits.max_aspect_ratio)
    """longest image accepted: longer side over shorter"""
    max_text_characters: int = content(TextLimits.max_characters)
    """longest text accepted"""
    min_letters: int = content(TextLimits.min_letters)
    """letters or emoji that a text needs beside addresses, file names and numbers"""
    max_text_repeats: int | None = content(None)
    """texts that come with more different images than this are boilerplate (ALIGN took 10); any number if not given"""
    detect_language: float | None = content(None)
    """detect the language of texts that come without one, where the detector is surer than this (0 to 1); needs
    superbatch[language]"""
    max_rejected_fraction: float = 0.05
    """the job fails if a larger share of rows is rejected"""

    def __post_init__(self) -> None:
        self.parse_source()
        manifests.check_dataset_name("name", self.name)
        manifests.check_dataset_name("split", self.split)
        for field in (
            "shards",
            "max_pixels",
            "min_side",
            "max_aspect_ratio",
            "max_text_characters",
            "max_text_repeats",
        ):
            value = getattr(self, field)
            if value is not None and not value >= 1:
                raise ConfigError(f"{field} is {value}; it must be at least 1")
        if self.min_letters < 0:
            raise ConfigError(f"min_letters is {self.min_letters}; it must be at least 0, which accepts any text")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2³²)")
        manifests.check_version(self.version)
        if self.detect_language is not None:
            if not 0 <= self.detect_language <= 1:
                raise ConfigError(f"detect_language is {self.detect_language}; it is a probability, from 0 to 1")
            texts.check_detector()
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ConfigError(f"max_rejected_fraction is {self.max_rejected_fraction}; it must lie in [0, 1]")

    def parse_source(self) -> tuple[sources.Source, str]:
        """The format that is read, and where it lies.

        Raises:
          ConfigError: there is no such format, or it has no fields to name.
        """
        named = {name: getattr(self, f"{name}_field") for name in ("image", "text", "language", "url")}
        given = {name: field for name, field in named.items() if field is not None}
        return sources.parse(self.source, given)

    @property
    def dataset(self) -> manifests.DatasetInfo:
        """How TFDS names the rows."""
        return manifests.DatasetInfo(name=self.name, split=self.split)

    @property
    def identity(self) -> list[str]:
        """The fields that make two jobs on one output directory the same job."""
        return [*SOURCE_FIELDS, "name", "version", "split", *job_config.content_fields(self)]

    @property
    def text_limits(self) -> TextLimits:
        """Which texts are accepted."""
        return TextLimits(min_letters=self.min_letters, max_characters=self.max_text_characters)

    @property
    def image_limits(self) -> ImageLimits:
        """Which images are accepted."""
        return ImageLimits(max_pixels=self.max_pixels, min_side=self.min_side, max_aspect_ratio=self.max_aspect_ratio)
