"""What a test grants to what must end: time and memory."""

HANG = 1200  # seconds: more than anything takes on a busy machine, so that only a hang fails
MEMORY = 1 << 30  # bytes that a process needs at most for a small hostile file, libraries included

# For a child: the code after it dies of a hostile file instead of the machine.
LIMIT_MEMORY = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))
"""
