"""The verbs in order: `ingest`, `train`, `synthesize`, `publish`, and `nightly`, which runs them all."""
