"""A fetched month becomes clean and quarantined rows: read, conform, judge, write, publish."""
