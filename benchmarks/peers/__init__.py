"""Other engines, each in a worker process, in an environment apart from the project's."""
