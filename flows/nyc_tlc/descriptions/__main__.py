"""Write the files that are generated from the contracts: ``python -m nyc_tlc.descriptions FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from nyc_tlc.descriptions.dbt_sources import describe_models, describe_plausible, describe_sources
from nyc_tlc.descriptions.dictionary import make_dictionary
from nyc_tlc.descriptions.external_tables import describe_external_tables

#: Paths below the folder, which is the clone or an empty one to compare with it.
FILES = {
    "docs/data-dictionary.md": make_dictionary,
    "docs/external-tables-bigquery.sql": describe_external_tables,
    "dbt/models/staging/sources.yml": describe_sources,
    "dbt/models/described.yml": describe_models,
    "dbt/macros/plausible.sql": describe_plausible,
}

for name, describe in FILES.items():
    path = Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(describe(), encoding="utf-8")
