"""medgan: imaging archives nobody may share, turned into synthetic data sets that may be shared."""
