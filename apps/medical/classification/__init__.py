"""Classes instead of masks: whole images, volumes and bags of features, patient by patient.

``networks`` (any backbone of core's, with DeiT's class and distillation tokens) and ``mil``
(R2T-MIL for bags) are what is trained; ``data`` reads, ``train`` and ``predict`` run, ``metrics``
and ``patients`` measure.  Importing this package imports nothing heavy.
"""
