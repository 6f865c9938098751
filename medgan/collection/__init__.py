"""The de-identified collection: packs of pixels and one table, in an Icechunk repository (docs/data-format.md)."""
