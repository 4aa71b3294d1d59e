"""Sources: where a month is published, whether it is there, its download, and the generated sample."""
