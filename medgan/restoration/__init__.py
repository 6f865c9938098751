"""Restoration of whole archives: learning restorers from collections, and derived DICOM instances out of them."""
