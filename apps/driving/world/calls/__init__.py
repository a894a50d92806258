"""What clients may ask of actors and of the scenery, by concern."""
