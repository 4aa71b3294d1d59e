"""New York's taxi trip records, month by month: fetched, cleaned, accounted for and loaded."""

__version__ = "0.1.0"
