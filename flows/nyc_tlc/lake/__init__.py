"""The data lake: object keys, manifests, publication of months, and the stores that keep them."""
