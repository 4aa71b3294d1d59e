"""What a colour's rows are: columns, layouts by era, rules and codes, as data (``datasets/``, ``codes.yaml``)."""
