"""How good synthetic images are: every measure beside its floor, with counts and the extractor's digest."""
