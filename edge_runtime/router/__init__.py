"""Answer here or escalate: policy, certificates, frontier endpoints, and who pays."""
