"""dbt builds the models for real, in the months that are due."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from factories import JANUARY, make_month, trip, green_parquet
from nyc_tlc.contract.contract import read_contract
from nyc_tlc.lake.clean_file import CleanFile
from nyc_tlc.lake.folder import FolderLake
from nyc_tlc.months import Month
from nyc_tlc.orchestration import dbt
from nyc_tlc.warehouse.load import load_month
from nyc_tlc.warehouse.warehouse import Kind, Warehouse
