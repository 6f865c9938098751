"""The light client: list, pull, verify and load releases with numpy and pandas; torch only on demand."""
