"""Who is in the world, and how a tick goes."""
