"""De-identification by DICOM PS3.15 Annex E: what leaves this room names nobody.

`profile` says what happens to each attribute, `apply` does it to one instance, `verify` looks for what
was left in the bytes, `labels` joins label tables by the same pseudonyms, `audit` writes down what was done.
"""
