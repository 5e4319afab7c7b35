"""What times this package beside others; not installed with it."""
