"""Bytes by their sha256: the store on disk and the routes that serve it."""
