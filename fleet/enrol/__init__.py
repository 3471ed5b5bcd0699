"""How a box gets in, and how it is put out: claims, approval, credentials, the broker's files."""
