"""Pages for people: summaries of months, anomalies, coverage, trips, charts."""
