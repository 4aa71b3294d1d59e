"""The trips for people who write notebooks: DataFrames straight from the lake, without Prefect."""
