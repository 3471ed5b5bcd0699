"""What a model bundle is: manifest, digests, and the store that activates it."""
