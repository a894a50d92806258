"""Routes: what to drive (files, random samples), how to get there (planner), where one is (plan)."""
