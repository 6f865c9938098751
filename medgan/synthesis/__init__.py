"""Synthetic cohorts: an attribute table first, then images that follow it, one Dask task a shard."""
