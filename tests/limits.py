"""How long a test waits for what must end."""

HANG = 600  # seconds: more than anything takes on a busy machine, so that only a hang fails
