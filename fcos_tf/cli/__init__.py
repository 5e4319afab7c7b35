"""The command-line tools: flags in, one call, text out."""
