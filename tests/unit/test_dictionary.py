"""The data dictionary's types are those of the warehouses."""

from nyc_tlc.descriptions.dictionary import TYPES
from nyc_tlc.warehouse import bigquery, duckdb, postgres


def test_the_types_are_those_of_the_warehouses() -> None:
    for name, (_, *in_warehouses) in TYPES.items():
        assert in_warehouses == [module.TYPES[name] for module in (duckdb, postgres, bigquery)]
