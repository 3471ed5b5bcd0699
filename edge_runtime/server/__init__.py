"""The daemon's HTTP side: OpenAI-compatible routes over a `ModelHost`.

Read it in the order of a request: `app` (routes, middlewares) -> `guards` (who may ask) ->
`body` (which fields are served) -> `chat`, `completions`, `embeddings`, `classify`, `tokens` ->
`generation` (events to answers) -> `sse`. `fake_host` is the in-memory model host for tests.
"""
