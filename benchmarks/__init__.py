"""What AutoPrune claims, measured: one command for each claim (see README.md). Not part of the wheel."""
