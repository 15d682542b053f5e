"""Metrics from features: FID, KID, inception score, precision and recall, with intervals."""
