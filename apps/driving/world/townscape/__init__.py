"""What a town looks like: its painted ground and what stands beside the roads."""
