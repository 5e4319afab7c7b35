"""How long a test waits for what must end."""

HANG = 1200  # seconds: more than anything takes on a busy machine, so that only a hang fails
