"""A report per case, for a person who decides whether to believe the segmentation.

contents   what it says, as plain text, tables and pictures
figures    the pictures
page       report.html: one file that asks nothing of the network and runs nothing
pdf        report.pdf: the same on paper
"""
