"""The console in the browser: a page and its assets, which ask the REST API and nothing else."""
