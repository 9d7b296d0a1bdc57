"""One file per strategy; each registers itself (see `search.strategy`)."""
