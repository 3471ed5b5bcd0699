"""The frontier client: OpenAI-compatible endpoints, with money put aside before each call."""
