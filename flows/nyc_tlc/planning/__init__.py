"""What a month needs, many months, the space they take, and the record of a backfill."""
