"""What the tools do, once their flags are read: a config in, the files of a run out."""
