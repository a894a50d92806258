"""From where the car should go to its pedals and wheel."""
