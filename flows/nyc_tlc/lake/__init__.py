"""The data lake: object keys, manifests, and the publication of a month over the stores that hold it."""
