"""A policy stays true to a model that changes: re-certified, searched anew, or left as it is."""
