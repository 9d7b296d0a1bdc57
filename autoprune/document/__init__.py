"""YAML documents with a position for every key, and the mistakes found in them."""
