"""Traffic lights, and drivers that obey them."""
