from tests.builders.published import published, template, zones

__all__ = ["published", "template", "zones"]
