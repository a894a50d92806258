"""How vehicles and walkers move and meet, as arrays over all of them."""
