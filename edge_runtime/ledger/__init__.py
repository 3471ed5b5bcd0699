"""Cost, tokens, energy and task outcomes of one box: append-only, durable, exact."""
