"""The REST API of the control host: one table of routes, from which server and OpenAPI are made."""
