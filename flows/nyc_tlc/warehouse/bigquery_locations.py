"""Where BigQuery's datasets can be for a bucket at Google: not every location of buckets is one of datasets."""

from __future__ import annotations

from collections.abc import Sequence

#: The locations of multi-regions begin with this.
MULTI_REGIONS = {"US": "US-", "EU": "EUROPE-", "ASIA": "ASIA-"}
#: Where datasets can be for buckets in a location that datasets can't have; the first is for a new dataset.
DATASET_LOCATIONS = {
    "ASIA": ("ASIA-NORTHEAST1",),
    "ASIA1": ("ASIA-NORTHEAST1", "ASIA-NORTHEAST2"),
    "EUR4": ("EUROPE-WEST4", "EUROPE-NORTH1"),
    "EUR5": ("EUROPE-WEST1", "EUROPE-WEST2"),
    "EUR7": ("EUROPE-WEST3", "EUROPE-WEST2"),
    "EUR8": ("EUROPE-WEST3", "EUROPE-WEST6"),
    "NAM4": ("US-CENTRAL1", "US-EAST1"),
}


def list_places(bucket: str) -> Sequence[str]:
    """Return where datasets for a bucket can be; the first is for a new one."""
    return DATASET_LOCATIONS.get(bucket) or bucket.split("+")


def can_load(dataset: str, bucket: str) -> bool:
    """Return whether BigQuery can load: into US from anywhere, else from where the dataset is or within Europe or Asia.

    It refuses only what cannot be; of what is left, the load job itself can refuse more.
    """
    places = list_places(bucket)
    from_around = bucket in MULTI_REGIONS and dataset.startswith(MULTI_REGIONS[bucket])
    from_within = dataset == "EU" and all(place.startswith(MULTI_REGIONS["EU"]) for place in places)
    return dataset in ("US", *places) or from_around or from_within
