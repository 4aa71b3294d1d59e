"""Contracts: the columns, file layouts, rules and codes of each colour, as data (``datasets/``, ``codes.yaml``)."""
