"""Reading imaging archives as they really are: sources, scan, instances, pixels, series, phantoms.

Everything here may hold identifiers, so nothing here leaves by a message, a log line, an exception
or a file name: what crosses the border of this package is a handle, a count or a digest.
"""
