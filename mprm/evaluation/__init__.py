"""Step scores against step labels: predictions on disk, metrics, thresholds, baselines, intervals."""
