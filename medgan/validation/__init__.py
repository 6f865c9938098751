"""Admission: what a collection and a cohort must be before anything is trained on them."""
