"""Lesion detection in bi-parametric prostate MRI: from three series to scored lesion candidates.

    inputs      T2W, ADC and high b-value, found in a DICOM study by rule, or given as files
    grid        one grid for all three, placed on the T2W image in world space
    candidates  a probability map to separate lesions, each with one confidence
    metrics     AP, AUROC and FROC by picai_eval, with bootstrap intervals
    picai       the PI-CAI challenge's file layout, made into a data set that ``train`` takes
    synthetic   painted lesions over a real study: exercises the path, says nothing of real lesions
    detect      what the command line runs

Research use only; not a medical device.
"""
