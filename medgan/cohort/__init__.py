"""The cohort: images of one shape and one table, selected from a collection and split by patient."""
