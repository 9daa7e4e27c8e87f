"""Acting fast and elsewhere: compiled policies, exported files, a server."""
