"""Multivariate classification: which class does a whole series belong to?"""
