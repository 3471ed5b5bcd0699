"""Which of several bundles is the smallest that does the job."""
