"""Reports for people: summaries of months, HTML pages, trends, warnings about odd months, the catalog."""
