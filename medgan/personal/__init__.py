"""Personalised training: a release and a few local cases to a downstream model, and what the release gained it."""
