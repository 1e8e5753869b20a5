"""The settings of `superbatch curate`, and what its control samples record of them."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

from beam_pipelines import policies, similar
from beam_pipelines.quotas import QuotaBy, Shares, check_quotas
from beam_pipelines.rights import Rights
from schemas import manifest as manifests
from schemas.errors import ConfigError
from schemas.job_config import content

Control = Literal["uniform", "top_reference"]


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """Turn the selections of a distill run into a curated dataset of a given size."""

    corpus: str
    """directory of the corpus that was distilled"""
    selections: str
    """workdir of the distill run"""
    output: str
    """directory of the curated dataset to make"""
    budget: float = content()
    """rows to keep; a number below 1 is a fraction of the corpus"""
    name: str = "curated"
    """name of the dataset; letters, digits and _"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    policy: policies.Policy = content("visits")
    """visits: most often picked per offer; learnability: highest mean; recent: picked last; weighted: as visits, and
    each row keeps its visits per offer as selection/weight (of mean 1), which `superbatch train --weighted` uses"""
    control: str | None = None
    """also write uniform/ and top_reference/ samples of the same size below this directory"""
    embeddings: str | None = None
    """where the distill run's embeddings lie now, if not where it read them"""
    decontaminate: str | None = None
    """embeddings of an evaluation corpus by the same reference: rows whose images are like one of them are left out"""
    contaminated_similarity: float = content(0.95)
    """of --decontaminate: the cosine of two image embeddings from which on a row is left out; small references see many
    images alike and need more"""
    near_duplicates: float | None = content(None)
    """leave out rows whose images are so similar (cosine of their embeddings) to one that is taken already"""
    quota_by: QuotaBy | None = content(None)
    """what quotas are of: each row's language, or its source (the file it came from)"""
    quotas: Shares = content(default_factory=dict)
    """the share of the budget that rows may take at most, by the beginning of their language or source, as JSON:
    {"en": 0.5, "*": 0.1}; * is all others together"""
    shards: int = content(8)
    """number of shards"""
    seed: int = content(0)
    """key of the shuffle and of the uniform control"""
    license: str | None = None
    """licence of the datasets, for their cards: an SPDX identifier such as CC-BY-4.0, a name or an address"""
    homepage: str | None = None
    """address of a page about the datasets, for their cards"""
    attribution: str | None = None
    """whom to credit and how, for their cards"""
    published: str | None = None
    """date of publication, for their cards: YYYY-MM-DD"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget) and self.budget > 0) or (self.budget >= 1 and self.budget % 1):
            raise ConfigError(f"budget is {self.budget}; it must be a number of rows, or a fraction between 0 and 1")
        if self.shards < 1:
            raise ConfigError(f"shards is {self.shards}; it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2³²)")
        for field in ("contaminated_similarity", "near_duplicates"):
            value = getattr(self, field)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{field} is {value}; it is a cosine, above 0 and at most 1 (the same image)")
        check_quotas(self.quota_by, self.quotas)
        if self.looks_for_alike:
            similar.check_library()
        manifests.check_version(self.version)
        manifests.check_dataset_name("name", self.name)
        Rights.of(self)

    @property
    def looks_for_alike(self) -> bool:
        """Whether rows are left out because they resemble others."""
        return self.decontaminate is not None or self.near_duplicates is not None

    def rows_of(self, corpus_rows: int) -> int:
        """The budget in rows."""
        return int(self.budget) if self.budget >= 1 else max(1, round(self.budget * corpus_rows))

    def of_control(self, control: Control, rows: int) -> "ControlConfig":
        """What the manifest of a control sample records."""
        return ControlConfig(
            name=f"{self.name}_{control}", version=self.version, control=control, rows=rows,
            shards=self.shards, seed=self.seed,
            contaminated_similarity=self.contaminated_similarity, near_duplicates=self.near_duplicates,
            quota_by=self.quota_by, quotas=self.quotas,
            **asdict(Rights.of(self)),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """What a control sample's manifest records."""

    name: str
    version: str
    control: Control = content()
    rows: int = content()
    shards: int = content()
    seed: int = content()
    contaminated_similarity: float = content()
    near_duplicates: float | None = content()
    quota_by: QuotaBy | None = content()
    quotas: dict[str, float] = content()
    license: str | None = None
    homepage: str | None = None
    attribution: str | None = None
    published: str | None = None
