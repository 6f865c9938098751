"""Releases: cleared synthetic cohorts as immutable, signed versions with a catalogue."""
