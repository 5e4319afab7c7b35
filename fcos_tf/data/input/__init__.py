"""Input: annotations and images -> batches."""
