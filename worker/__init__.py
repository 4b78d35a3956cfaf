"""RQ tasks over loaded generators."""
