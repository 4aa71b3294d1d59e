"""Where a month is published, whether it is there, and how it comes to local disk; the generated sample."""
