"""The catalogue: static pages written at publish, no server, no request to anywhere else."""

from medgan.release.catalogue.site import registry_pages, write_version

__all__ = ["registry_pages", "write_version"]
