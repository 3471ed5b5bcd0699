"""Other engines, each in a worker process and an environment of its own."""
