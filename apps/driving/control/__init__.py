"""From what a driver means to do to wheel and pedals."""
