"""The catalogue: static pages written at publish, no server, no request to anywhere else."""

from medgan.release.catalogue.site import write_registry, write_version

__all__ = ["write_registry", "write_version"]
