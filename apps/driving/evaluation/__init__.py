"""How well a driver drives: criteria, scores, routes in processes of their own, intervals."""
