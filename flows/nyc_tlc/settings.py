"""Settings: variables with the prefix ``TLC_``, from the environment or from ``.env`` in the clone."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nyc_tlc.errors import ConfigurationError

#: The clone; where the package is installed without one, the working directory.
CLONE = Path(__file__).resolve().parents[2]
if not (CLONE / "prefect.yaml").is_file():
    CLONE = Path()


#: The schema or dataset of all tables, unless it is set.
DEFAULT_SCHEMA = "ny_taxi"
#: It stands without quotes in all SQL, where aliases have one letter; Postgres takes 63 characters.
SchemaName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,62}$")]


class Settings(BaseSettings):
    """The settings of a run besides its parameters; ``TLC_HOME`` sets ``home`` and so on."""

    model_config = SettingsConfigDict(
        env_prefix="TLC_", env_file=CLONE / ".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(
        Path("data"),
        validate_default=True,
        description="Folder of the local profile: lake, warehouse and scratch space",
    )
    source: str = Field("tlc", description="Where months come from, unless a flow's parameter says otherwise")
    profile: str = Field("local", description="Which set of blocks to use, unless a flow's parameter says otherwise")
    # A model can't have a field of the name schema.
    schema_name: SchemaName = Field(
        DEFAULT_SCHEMA,
        validation_alias="TLC_SCHEMA",
        description="Schema or dataset of the tables in all warehouses; a profile's file can name another",
    )
    rules: Path | None = Field(None, description="A file with rules of your own (docs/rules.md)")
    keep_versions: int = Field(
        3, ge=0, description="How many versions of a month are kept, besides the current one, when its source changes"
    )
    strict: bool = Field(False, description="Fail on columns the contract doesn't know instead of reporting them")
    max_rejected: float = Field(
        50, ge=0, le=100, description="Percent of a month's rows that may be rejected; more, and it is not published"
    )
    sample_rows: int = Field(100_000, ge=0, le=2**31 - 1, description="Rows of a month from the source `sample`")
    max_expansion: int = Field(50, ge=1, description="How many times its size a file may unpack to")
    verbose: bool = Field(False, description="Show every log line of a backfill at a terminal instead of bars")
    http_timeout: float = Field(60, gt=0, description="Seconds without a byte before a request counts as stalled")
    http_retries: int = Field(6, ge=0, description="Retries in a row, without any progress between them")
    http_backoff: float = Field(1, ge=0, description="Seconds before the second attempt; doubles, with jitter")
    http_deadline: float = Field(21_600, gt=0, description="Seconds after which a request or a download fails")
    publication_lag: int = Field(
        4, ge=0, description="Months after a month's end in which a source may not have it yet; later it is overdue"
    )
    source_patience: float = Field(
        2, ge=0, description="Days for which a catch-up waits for a source that is down before it says so"
    )
    source_schemes: str = Field(
        "https,http,file,sample", description="Schemes of URLs that months may come from, separated by commas"
    )
    gcs_give_up: float = Field(300, ge=0, description="Seconds after which a failing call to Google is not retried")
    warehouse_wait: float = Field(600, ge=0, description="Seconds that a load waits for other users of a warehouse")
    bigquery_location: str = Field("US", description="Where a missing dataset is created if there is no bucket")

    @field_validator("home", "rules")
    @classmethod
    def _start_in_clone(cls, path: Path | None) -> Path | None:
        # In the clone the path stays short, for what is printed.
        return path and (path.expanduser() if Path.cwd() == CLONE else CLONE / path.expanduser())

    @field_validator("source_schemes")
    @classmethod
    def _check_schemes(cls, schemes: str) -> str:
        names = [name.strip() for name in schemes.split(",")]
        if set(names) - {"https", "http", "file", "sample"}:
            raise ValueError("some of https, http, file, sample, separated by commas")
        return ",".join(names)

    @property
    def scratch(self) -> Path:
        """The folder for downloads while a month is cleaned."""
        return self.home / "nyc-tlc-scratch"


def read_settings() -> Settings:
    """Return the current settings. ``.env`` is read once, unless the environment changes.

    Raises:
        ConfigurationError: naming the variable that can't be used.
    """
    # A report reads them thousands of times, and to read them takes a millisecond.
    variables = tuple(item for item in os.environ.items() if item[0].upper().startswith("TLC_"))
    return _read_settings(variables, Path.cwd())


@lru_cache(1)
def _read_settings(_variables: tuple[tuple[str, str], ...], _folder: Path) -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"TLC_{str(first['loc'][0]).upper().removeprefix('TLC_')}"
        allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").partition(", unable")[0]
        raise ConfigurationError(
            f"the setting {name} is not usable", expected=allowed, got=str(first["input"])
        ) from None
