"""Cleaning: read a fetched month, conform its columns, check its rows, write the files, publish them."""
