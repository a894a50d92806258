"""Training a driver on recorded drives: recipe, batches, losses and their balance, metrics.

from apps.driving.training.train import train
report = train([Path("drives")], model="small", out=Path("mine"), max_minutes=60)
"""
