"""Cleaning: read a fetched month, conform its columns, judge its rows, write the files, publish them."""
