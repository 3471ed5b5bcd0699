"""Certificates for a quantised bundle: run it, calibrate a threshold, sign what was proved."""
