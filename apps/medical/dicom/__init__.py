"""DICOM in and out. Importing this package costs nothing; its modules import pydicom when used."""
